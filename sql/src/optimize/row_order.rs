//! Ties of an order are broken by the whole row, in ad-hoc SELECT as in views.
//!
//! SQL leaves open which of two rows that tie comes first, and DataFusion leaves it to how rows were spread over threads.
//! A view has to decide, because it must be able to take its decision back, so both decide alike: below a window function
//! and below LIMIT, rows are sorted by the order asked for and then by all of their columns, ascending, NULLs first. What
//! counts as peers (`rank()`, RANGE and GROUPS frames) is still what the query's own ORDER BY says.
//!
//! Two physical rules do it. The first hides from DataFusion that the input of a window is sorted already: otherwise
//! the function might be evaluated backwards over an existing order, ties included. The second, last of all, completes
//! the sorts.

use std::fmt;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, PlanProperties,
    ReplaceChildrenOptions,
};

type Plan = Arc<dyn ExecutionPlan>;

/// DataFusion's physical rules with those of this module among them, and the one that bounds recursions.
pub fn physical_rules(
    rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>>,
) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut out: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> = Vec::with_capacity(rules.len() + 3);
    for rule in rules {
        match rule.name() {
            "EnsureRequirements" => out.push(Arc::new(HideOrder)),
            "SanityCheckPlan" => out.push(Arc::new(CompleteOrder)),
            _ => {}
        }
        out.push(rule);
    }
    out.push(Arc::new(super::rounds::CountRounds));
    out
}

/// Puts an [`Unordered`] below every window.
#[derive(Debug)]
struct HideOrder;

/// Completes sorts, and takes the [`Unordered`] out again.
#[derive(Debug)]
struct CompleteOrder;

impl PhysicalOptimizerRule for HideOrder {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        let hidden = plan.transform_up(|node| {
            let Some(input) = window_input(&node) else { return Ok(Transformed::no(node)) };
            let below: Plan = Arc::new(Unordered::new(Arc::clone(input)));
            Ok(Transformed::yes(with_input(node, below)?))
        })?;
        Ok(hidden.data)
    }
    fn name(&self) -> &str {
        "hide_order_below_windows"
    }
    fn schema_check(&self) -> bool {
        true
    }
}

impl PhysicalOptimizerRule for CompleteOrder {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        Ok(plan.transform_up(complete)?.data)
    }
    fn name(&self) -> &str {
        "complete_order"
    }
    fn schema_check(&self) -> bool {
        true
    }
}

fn complete(node: Plan) -> Result<Transformed<Plan>> {
    if let Some(hidden) = node.downcast_ref::<Unordered>() {
        return Ok(Transformed::yes(Arc::clone(&hidden.input)));
    }
    if let Some(sort) = node.downcast_ref::<SortExec>() {
        return Ok(match sort.fetch() {
            Some(_) => Transformed::yes(completed_sort(sort)),
            None => Transformed::no(node),
        });
    }
    if let Some(merge) = node.downcast_ref::<SortPreservingMergeExec>() {
        // Below it a sort may have been completed: ties between its partitions are decided by the same columns.
        let below = merge.input().output_ordering().filter(|o| o.len() > merge.expr().len() && merge.fetch().is_some());
        return Ok(match below.cloned() {
            Some(order) => Transformed::yes(Arc::new(
                SortPreservingMergeExec::new(order, Arc::clone(merge.input())).with_fetch(merge.fetch()),
            )),
            None => Transformed::no(node),
        });
    }
    let Some(input) = window_input(&node) else { return Ok(Transformed::no(node)) };
    let sorted = completed_input(&node, input)?;
    Ok(Transformed::yes(with_input(node, sorted)?))
}

/// The input of a window, sorted completely.
fn completed_input(window: &Plan, input: &Plan) -> Result<Plan> {
    if let Some(sort) = input.downcast_ref::<SortExec>().filter(|s| s.fetch().is_none()) {
        return Ok(completed_sort(sort));
    }
    if let Some(merge) = input.downcast_ref::<SortPreservingMergeExec>().filter(|m| m.fetch().is_none())
        && let Some(sort) = merge.input().downcast_ref::<SortExec>().filter(|s| s.fetch().is_none())
    {
        let sorted = completed_sort(sort);
        if let Some(order) = sorted.output_ordering().cloned() {
            return Ok(Arc::new(SortPreservingMergeExec::new(order, sorted)));
        }
    }
    let needed = window.required_input_ordering().swap_remove(0).map(|o| o.into_single());
    let first = needed.into_iter().flatten().map(PhysicalSortExpr::from);
    Ok(match completed(first, input) {
        Some(order) => Arc::new(SortExec::new(order, Arc::clone(input)).with_preserve_partitioning(true)),
        None => Arc::clone(input),
    })
}

fn completed_sort(sort: &SortExec) -> Plan {
    let order = completed(sort.expr().iter().cloned(), sort.input()).unwrap_or_else(|| sort.expr().clone());
    let preserve = sort.preserve_partitioning();
    let new = SortExec::new(order, Arc::clone(sort.input())).with_preserve_partitioning(preserve);
    Arc::new(new.with_fetch(sort.fetch()))
}

/// The order, then all columns.
fn completed(first: impl Iterator<Item = PhysicalSortExpr>, input: &Plan) -> Option<LexOrdering> {
    let schema = input.schema();
    let columns = schema.fields().iter().enumerate().filter(|(_, f)| has_order(f.data_type())).map(|(i, f)| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(f.name(), i));
        PhysicalSortExpr::new(column, SortOptions { descending: false, nulls_first: true })
    });
    LexOrdering::new(first.chain(columns))
}

fn has_order(t: &DataType) -> bool {
    match t {
        DataType::Map(..) | DataType::Union(..) | DataType::ListView(_) | DataType::LargeListView(_) => false,
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) => has_order(f.data_type()),
        DataType::Struct(fields) => fields.iter().all(|f| has_order(f.data_type())),
        _ => true,
    }
}

fn window_input(node: &Plan) -> Option<&Plan> {
    let window =
        node.downcast_ref::<WindowAggExec>().is_some() || node.downcast_ref::<BoundedWindowAggExec>().is_some();
    if window { node.children().first().copied() } else { None }
}

fn with_input(node: Plan, input: Plan) -> Result<Plan> {
    node.replace_children(vec![input], ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// Passes rows on without a promise about their order.
#[derive(Debug)]
struct Unordered {
    input: Plan,
    properties: Arc<PlanProperties>,
}

impl Unordered {
    fn new(input: Plan) -> Self {
        let of = input.properties();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            of.partitioning.clone(),
            of.emission_type,
            of.boundedness,
        );
        Self { input, properties: Arc::new(properties) }
    }
}

impl DisplayAs for Unordered {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unordered")
    }
}

impl ExecutionPlan for Unordered {
    fn name(&self) -> &str {
        "Unordered"
    }
    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
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
            Some(input) if children.is_empty() => Ok(Arc::new(Self::new(input))),
            _ => Err(DataFusionError::Internal("Unordered has one input".into())),
        }
    }
    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }
}
