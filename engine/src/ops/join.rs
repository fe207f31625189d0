//! The join operator.
