//! Schema inference from a sample of records.
