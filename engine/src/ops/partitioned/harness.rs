//! Operators over partitions compared with their queries: a relation `t`, the plan of a view over it, and the answer over
//! all rows at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use millstream_sql::parse::parse_query;
use millstream_sql::plan::build::{Relations, build};
use millstream_sql::plan::{ChangelogKind, IncOp, IncPlan, RelationId};
use millstream_sql::session::{plan_query, session_state_for_views};

use crate::error::Result;
use crate::ops::aggregate::harness::text;
use crate::ops::eval::evaluation_error;
use crate::zset::{Weights, ZBatch};

/// Rows of `t`.
pub(in crate::ops) trait TestRow: Copy {
    fn schema() -> SchemaRef;
    fn columns(rows: &[Self]) -> Vec<ArrayRef>;
}

fn schema_of(fields: [(&str, DataType); 4]) -> SchemaRef {
    Arc::new(Schema::new(fields.map(|(name, t)| Field::new(name, t, true)).to_vec()))
}

/// p, o, x, s.
pub(in crate::ops) type Row = (Option<i64>, Option<i64>, Option<f64>, Option<&'static str>);

impl TestRow for Row {
    fn schema() -> SchemaRef {
        schema_of([("p", DataType::Int64), ("o", DataType::Int64), ("x", DataType::Float64), ("s", DataType::Utf8)])
    }
    fn columns(rows: &[Self]) -> Vec<ArrayRef> {
        vec![
            Arc::new(rows.iter().map(|r| r.0).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|r| r.2).collect::<Float64Array>()),
            Arc::new(rows.iter().map(|r| r.3).collect::<StringArray>()),
        ]
    }
}

/// p, ts in milliseconds, x, s.
pub(in crate::ops) type TimedRow = (Option<i64>, Option<i64>, Option<i64>, Option<&'static str>);

impl TestRow for TimedRow {
    fn schema() -> SchemaRef {
        let time = DataType::Timestamp(TimeUnit::Millisecond, None);
        schema_of([("p", DataType::Int64), ("ts", time), ("x", DataType::Int64), ("s", DataType::Utf8)])
    }
    fn columns(rows: &[Self]) -> Vec<ArrayRef> {
        vec![
            Arc::new(rows.iter().map(|r| r.0).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|r| r.1).collect::<TimestampMillisecondArray>()),
            Arc::new(rows.iter().map(|r| r.2).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|r| r.3).collect::<StringArray>()),
        ]
    }
}

fn rows<R: TestRow>(rows: &[R]) -> RecordBatch {
    RecordBatch::try_new(R::schema(), R::columns(rows)).unwrap()
}

/// Changes of `t`.
pub(in crate::ops) fn batch<R: TestRow>(changes: &[(R, i64)]) -> ZBatch {
    let all: Vec<R> = changes.iter().map(|c| c.0).collect();
    let weights: Vec<i64> = changes.iter().map(|c| c.1).collect();
    ZBatch::new(rows(&all), Weights::Dense(weights.into()))
}

struct T;

impl Relations for T {
    fn resolve(&self, _: &datafusion::common::TableReference) -> Option<(RelationId, ChangelogKind)> {
        Some((RelationId(1), ChangelogKind::Retract))
    }
}

fn context<R: TestRow>(content: &[R]) -> SessionContext {
    let context = SessionContext::new_with_state(session_state_for_views());
    let table = MemTable::try_new(R::schema(), vec![vec![rows(content)]]).unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    context
}

fn block<F: Future>(f: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(f)
}

fn logical(context: &SessionContext, sql: &str) -> LogicalPlan {
    let query = parse_query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    block(plan_query(&context.state(), &query, sql)).unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// The plan of a view. Nothing is computed below its operator, so that rows of `t` are its input.
pub(in crate::ops) fn plan<R: TestRow>(sql: &str) -> Arc<IncPlan> {
    let context = context::<R>(&[]);
    let plan = build(&context.state(), logical(&context, sql), &T).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let computed = plan.nodes.iter().any(|n| matches!(n.op, IncOp::Map { .. }) && n.inputs[0].0 == 0);
    assert!(!computed, "a map over the source");
    Arc::new(plan)
}

/// What the query gives over all rows at once.
pub(in crate::ops) fn direct<R: TestRow>(sql: &str, content: &[R]) -> Result<BTreeMap<String, i64>> {
    let context = context(content);
    let frame = block(context.execute_logical_plan(logical(&context, sql))).unwrap();
    let batches = block(frame.collect()).map_err(evaluation_error)?;
    let mut out = BTreeMap::new();
    for b in &batches {
        for i in 0..b.num_rows() {
            *out.entry(text(b, i)).or_default() += 1;
        }
    }
    Ok(out)
}
