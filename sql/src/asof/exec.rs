//! ASOF joins of SELECT: the right side is collected and put in order, the left side streams past it.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array as _, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::{Distribution, EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, InputDistributionRequirements, PlanProperties,
};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use futures::{StreamExt as _, TryStreamExt as _};

use super::nearest::{Nearest, Places};
use super::{AsOf, AsOfCompare};

type Plan = Arc<dyn ExecutionPlan>;
type Exprs = Vec<Arc<dyn PhysicalExpr>>;

/// Plans ASOF joins.
pub(crate) struct AsOfPlanner;

#[async_trait]
impl ExtensionPlanner for AsOfPlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Plan],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> Result<Option<Plan>> {
        let Some(join) = AsOf::of(node) else { return Ok(None) };
        let [left, right] = physical_inputs else {
            return Err(DataFusionError::Internal("an ASOF join has two inputs".into()));
        };
        let (mut lefts, mut rights) = (Vec::new(), Vec::new());
        for (l, r) in join.on.iter().chain([&join.time]) {
            lefts.push(planner.create_physical_expr(l, join.left.schema(), session, context)?);
            rights.push(planner.create_physical_expr(r, join.right.schema(), session, context)?);
        }
        let schema = Arc::clone(join.schema.inner());
        let inputs = [Arc::clone(left), Arc::clone(right)];
        Ok(Some(Arc::new(AsOfExec::new(inputs, [lefts, rights], join.compare, join.outer, schema))))
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct AsOfExec {
    inputs: [Plan; 2],
    /// Of each side: the keys, then the time.
    places: [Exprs; 2],
    compare: AsOfCompare,
    outer: bool,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl AsOfExec {
    fn new(inputs: [Plan; 2], places: [Exprs; 2], compare: AsOfCompare, outer: bool, schema: SchemaRef) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { inputs, places, compare, outer, schema, properties: Arc::new(properties) }
    }
}

impl DisplayAs for AsOfExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsOfExec: {}", if self.outer { "left " } else { "" })?;
        let [left, right] = &self.places;
        for (i, (l, r)) in left.iter().zip(right).enumerate() {
            let sign = if i + 1 == left.len() { self.compare.sql() } else { "=" };
            write!(f, "{}{l} {sign} {r}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl ExecutionPlan for AsOfExec {
    fn name(&self) -> &str {
        "AsOfExec"
    }
    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }
    fn children(&self) -> Vec<&Plan> {
        self.inputs.iter().collect()
    }
    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition; 2])
    }
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false; 2]
    }
    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let mut next = TreeNodeRecursion::Continue;
        for e in self.places.iter().flatten() {
            next = next.visit_sibling(|| f(e))?;
        }
        Ok(next)
    }
    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        let inputs: [Plan; 2] =
            children.try_into().map_err(|_| DataFusionError::Internal("an ASOF join has two inputs".into()))?;
        let schema = Arc::clone(&self.schema);
        Ok(Arc::new(Self::new(inputs, self.places.clone(), self.compare, self.outer, schema)))
    }
    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let [left, right] = &self.inputs;
        let lefts = left.execute(partition, Arc::clone(&context))?;
        let rights = right.execute(partition, Arc::clone(&context))?;
        let [left_places, right_places] = self.places.clone();
        let (compare, outer, right_schema) = (self.compare, self.outer, right.schema());
        let reservation = MemoryConsumer::new("AsOfExec").register(context.memory_pool());
        let schema = Arc::clone(&self.schema);
        let joined = async move {
            let mut rights = rights;
            let mut batches = Vec::new();
            while let Some(batch) = rights.try_next().await? {
                reservation.try_grow(batch.get_array_memory_size())?;
                batches.push(batch);
            }
            let rows = compute::concat_batches(&right_schema, &batches)?;
            drop(batches);
            let nearest = Nearest::new(compare, &rows, &evaluate(&right_places, &rows)?)?;
            reservation.try_resize(rows.get_array_memory_size() + nearest.bytes())?;
            let right = Right { rows, nearest, _reservation: reservation };
            Ok::<_, DataFusionError>(lefts.map(move |batch| right.join(&batch?, &left_places, outer, &schema)))
        };
        let joined = futures::stream::once(joined).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), joined)))
    }
}

/// The right side.
struct Right {
    rows: RecordBatch,
    nearest: Nearest,
    _reservation: MemoryReservation,
}

impl Right {
    fn join(&self, left: &RecordBatch, places: &Exprs, outer: bool, schema: &SchemaRef) -> Result<RecordBatch> {
        let found = self.nearest.find(&evaluate(places, left)?)?;
        let (left, found): (RecordBatch, UInt32Array) = if outer {
            (left.clone(), found.into_iter().collect())
        } else {
            let kept: BooleanArray = found.iter().map(|f| Some(f.is_some())).collect();
            (compute::filter_record_batch(left, &kept)?, found.into_iter().flatten().collect())
        };
        let mut columns = left.columns().to_vec();
        for c in self.rows.columns() {
            columns.push(match c.is_empty() {
                true => new_null_array(c.data_type(), found.len()),
                false => compute::take(c.as_ref(), &found, None)?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(found.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
    }
}

fn evaluate(exprs: &Exprs, rows: &RecordBatch) -> Result<Places> {
    let one = |e: &Arc<dyn PhysicalExpr>| e.evaluate(rows)?.into_array(rows.num_rows());
    Ok(Places { columns: exprs.iter().map(one).collect::<Result<_>>()?, rows: rows.num_rows() })
}
