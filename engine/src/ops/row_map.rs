//! Row-wise DataFusion plans (UNNEST).
