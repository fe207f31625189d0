//! The aggregate operator.
