//! Private per-key state of one operator.
