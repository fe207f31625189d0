//! Filter and projection, fused. `MapOp::new(input_schema, predicates, exprs, output_schema)`.
