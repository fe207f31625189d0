//! The recompute operator.
