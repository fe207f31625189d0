//! A recursive query that does not end fails at a limit, in ad-hoc SELECT as in views.
//!
//! DataFusion runs the recursive term until it gives no row. A physical rule puts a [`Rounds`] above the two terms of every
//! recursion: it counts how often the recursive term is started and how many rows it gives, and starts to count anew
//! with the base term (a recursion inside of another runs many times).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use datafusion::prelude::SessionConfig;
use futures::Stream;

use crate::error::{SqlError, SqlState};

/// Rounds of a recursive query, unless the session says otherwise.
pub const ROUNDS_MAX: u32 = 100_000;
/// Rows of one round of a recursive query.
pub const ROUND_ROWS_MAX: u64 = 1 << 24;

/// How many rounds a recursive query may take: an extension of a session's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundsMax(pub u32);

/// The limit of this session.
pub fn rounds_max(config: &SessionConfig) -> u32 {
    config.get_extension::<RoundsMax>().map_or(ROUNDS_MAX, |max| max.0)
}

/// The error of a recursion that takes more rounds than `max`.
pub fn too_many_rounds(max: u32) -> SqlError {
    SqlError::new(SqlState::STATEMENT_TOO_COMPLEX, format!("a recursive query did not end after {max} rounds"))
        .detail("Its recursive term gave new rows in every round.".to_owned())
        .hint(
            "Use UNION instead of UNION ALL where the data has cycles, bound the depth in its WHERE, or raise \
             recursion_rounds_max.",
        )
}

/// The error of a recursion with a round of more than [`ROUND_ROWS_MAX`] rows.
pub fn too_many_rows() -> SqlError {
    let message = format!("one round of a recursive query has more than {ROUND_ROWS_MAX} rows");
    SqlError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, message)
        .hint("Use UNION instead of UNION ALL where the data has cycles, or bound the depth in its WHERE.")
}

/// Puts a [`Rounds`] above both terms of every recursion.
#[derive(Debug)]
pub(super) struct CountRounds;

impl PhysicalOptimizerRule for CountRounds {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let counted = plan.transform_up(|node| {
            let Some(recursion) = node.downcast_ref::<RecursiveQueryExec>() else { return Ok(Transformed::no(node)) };
            let count = Arc::new(AtomicU64::new(0));
            let term = |input: &Arc<dyn ExecutionPlan>, base| -> Arc<dyn ExecutionPlan> {
                Arc::new(Rounds { input: Arc::clone(input), base, count: Arc::clone(&count) })
            };
            let children = vec![term(recursion.static_term(), true), term(recursion.recursive_term(), false)];
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Ok(Transformed::yes(node.replace_children(children, options)?))
        })?;
        Ok(counted.data)
    }
    fn name(&self) -> &str {
        "count_rounds"
    }
    fn schema_check(&self) -> bool {
        true
    }
}

/// Passes rows on and counts.
#[derive(Debug)]
struct Rounds {
    input: Arc<dyn ExecutionPlan>,
    /// Above the base term.
    base: bool,
    /// How often the recursive term was started since the base term was.
    count: Arc<AtomicU64>,
}

impl DisplayAs for Rounds {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rounds")
    }
}

impl ExecutionPlan for Rounds {
    fn name(&self) -> &str {
        "Rounds"
    }
    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }
    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(input) if children.is_empty() => {
                Ok(Arc::new(Self { input, base: self.base, count: Arc::clone(&self.count) }))
            }
            _ => Err(DataFusionError::Internal("Rounds has one input".into())),
        }
    }
    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if self.base {
            self.count.store(0, Ordering::Relaxed);
        } else {
            let max = rounds_max(context.session_config());
            if self.count.fetch_add(1, Ordering::Relaxed) >= u64::from(max) {
                return Err(DataFusionError::External(Box::new(too_many_rounds(max))));
            }
        }
        Ok(Box::pin(Counted { input: self.input.execute(partition, context)?, rows: 0 }))
    }
}

/// The rows of one round.
struct Counted {
    input: SendableRecordBatchStream,
    rows: u64,
}

impl Stream for Counted {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(self.input.as_mut().poll_next(cx));
        if let Some(Ok(batch)) = &next {
            self.rows += batch.num_rows() as u64;
            if self.rows > ROUND_ROWS_MAX {
                return Poll::Ready(Some(Err(DataFusionError::External(Box::new(too_many_rows())))));
            }
        }
        Poll::Ready(next)
    }
}

impl RecordBatchStream for Counted {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}
