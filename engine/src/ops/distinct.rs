//! The distinct operator.
