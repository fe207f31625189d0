//! The top_n operator.
