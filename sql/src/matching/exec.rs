//! MATCH_RECOGNIZE in a SELECT: all rows are read, ordered and matched.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::{Distribution, EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, common};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};

use super::{MatchNode, Matcher, internal, sort};

type Plan = Arc<dyn ExecutionPlan>;

/// Plans [`MatchNode`]s.
#[derive(Debug)]
pub struct MatchPlanner;

#[async_trait]
impl ExtensionPlanner for MatchPlanner {
    async fn plan_extension(
        &self,
        _planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical: &[&LogicalPlan],
        physical: &[Plan],
        _session: &dyn Session,
        _context: &PhysicalPlanningContext,
    ) -> Result<Option<Plan>> {
        let Some(node) = MatchNode::of(node) else { return Ok(None) };
        let input = physical.first().ok_or_else(|| internal("MATCH_RECOGNIZE without an input"))?;
        let output: SchemaRef = Arc::new(node.schema.as_arrow().clone());
        let matcher = Matcher::new(node.spec()?, &input.schema(), output)?;
        let text = node.shape.pattern.text(&node.shape.variables);
        Ok(Some(Arc::new(MatchExec::new(Arc::new(matcher), text, Arc::clone(input)))))
    }
}

/// See the module.
struct MatchExec {
    matcher: Arc<Matcher>,
    pattern: String,
    input: Plan,
    properties: Arc<PlanProperties>,
}

impl MatchExec {
    fn new(matcher: Arc<Matcher>, pattern: String, input: Plan) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&matcher.output)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { matcher, pattern, input, properties: Arc::new(properties) }
    }
}

impl fmt::Debug for MatchExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MatchExec").field("pattern", &self.pattern).field("input", &self.input).finish_non_exhaustive()
    }
}

impl DisplayAs for MatchExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MatchExec: pattern=({})", self.pattern)
    }
}

impl ExecutionPlan for MatchExec {
    fn name(&self) -> &str {
        "MatchExec"
    }
    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }
    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition]
    }
    fn children(&self) -> Vec<&Plan> {
        vec![&self.input]
    }
    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
    fn with_new_children(self: Arc<Self>, mut children: Vec<Plan>) -> Result<Plan> {
        match children.pop() {
            Some(input) if children.is_empty() => {
                Ok(Arc::new(Self::new(Arc::clone(&self.matcher), self.pattern.clone(), input)))
            }
            _ => Err(internal("MatchExec has one input")),
        }
    }
    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return Err(internal("MatchExec has one partition"));
        }
        let input = self.input.execute(0, context)?;
        let matcher = Arc::clone(&self.matcher);
        let rows = async move {
            let schema = input.schema();
            let batches = common::collect(input).await?;
            let rows = arrow::compute::concat_batches(&schema, &batches)?;
            let (rows, pieces) = sort::partitions(&matcher.spec.shape, &rows)?;
            Ok(matcher.run(&rows, &pieces)?.rows)
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.matcher.output), futures::stream::once(rows))))
    }
}
