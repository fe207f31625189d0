//! Formats: bytes to Arrow batches and poison records.
