//! A DataFusion plan that is made once and run many times over other rows.
//!
//! Single partition, leaves without statistics (a plan that folded `count(*)` over three rows into `3` would be wrong
//! on the next tick), no dynamic filters (they outlive a run). Its rows come from [`Leaf`]s that are refilled before
//! every run. It runs to its end on the calling thread.

use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableScan};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _, collect};
use parking_lot::Mutex;

use crate::error::{Error, Result, ResultExt as _};
use crate::ops::eval::evaluation_error;

/// DataFusion's operators like batches of about this size.
const LEAF_BATCH_ROWS: usize = 8192;

/// A placeholder table: yields the rows of this run.
pub(crate) struct Leaf {
    schema: SchemaRef,
    rows: Mutex<Option<RecordBatch>>,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PartitionStream for Leaf {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }
    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.rows.lock().clone();
        let pieces = rows.into_iter().flat_map(|rows| {
            (0..rows.num_rows())
                .step_by(LEAF_BATCH_ROWS)
                .map(move |at| Ok(rows.slice(at, LEAF_BATCH_ROWS.min(rows.num_rows() - at))))
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), futures::stream::iter(pieces)))
    }
}

/// Leaves by number; one that no scan refers to has no table.
#[derive(Default)]
struct Leaves {
    all: Vec<Option<Arc<Leaf>>>,
}

impl Leaves {
    /// The source of a scan of table `t<n>`.
    fn of(&mut self, scan: &TableScan) -> DfResult<Arc<Leaf>> {
        let name = scan.table_name.table();
        let number = name.strip_prefix('t').and_then(|n| n.parse::<usize>().ok()).filter(|n| *n < self.all.len());
        let Some(number) = number else {
            return Err(DataFusionError::Internal(format!("stored plan reads \"{name}\", which is no input")));
        };
        let schema = scan.source.schema();
        let leaf = self.all[number]
            .get_or_insert_with(|| Arc::new(Leaf { schema: Arc::clone(&schema), rows: Mutex::new(None) }));
        if leaf.schema != schema {
            return Err(DataFusionError::Internal(format!("two scans of \"{name}\" differ in their columns")));
        }
        Ok(Arc::clone(leaf))
    }
}

/// See the module.
pub(crate) struct CachedPlan {
    state: SessionState,
    logical: LogicalPlan,
    physical: Arc<dyn ExecutionPlan>,
    leaves: Vec<Option<Arc<Leaf>>>,
    /// The plan cannot be reset (recursion): it is made anew for every run.
    make_anew: bool,
    driver: Driver,
}

impl CachedPlan {
    /// Plans `logical` over `inputs` leaves `t0, t1, ..`. The plan is optimised already; if DataFusion cannot run it as
    /// it is, it is optimised again.
    pub(crate) fn new(state: &SessionState, logical: &LogicalPlan, inputs: usize) -> Result<Self> {
        let state = single_partition(state);
        let mut leaves = Leaves { all: vec![None; inputs] };
        let logical = bind(logical.clone(), &mut leaves).map_err(evaluation_error)?;
        let mut driver = Driver::default();
        let (logical, physical) = match driver.drive(make_physical(&state, &logical))? {
            Ok(physical) => (logical, physical),
            Err(_) => {
                let logical = state.optimize(&logical).map_err(evaluation_error)?;
                let physical = driver.drive(make_physical(&state, &logical))?.map_err(evaluation_error)?;
                (logical, physical)
            }
        };
        let mut make_anew = false;
        let visited = physical.apply(|p| {
            make_anew |= p.name() == "RecursiveQueryExec";
            driver.spawns |= p.output_partitioning().partition_count() > 1;
            Ok(TreeNodeRecursion::Continue)
        });
        visited.map_err(evaluation_error)?;
        Ok(Self { state, logical, physical, leaves: leaves.all, make_anew, driver })
    }

    /// Columns of the result.
    pub(crate) fn schema(&self) -> SchemaRef {
        self.physical.schema()
    }

    /// Runs the plan over these rows, one batch for each input.
    pub(crate) fn run(&mut self, inputs: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
        for (leaf, rows) in self.leaves.iter().zip(inputs) {
            if let Some(leaf) = leaf {
                let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
                let columns = rows.columns().to_vec();
                let rows = RecordBatch::try_new_with_options(Arc::clone(&leaf.schema), columns, &options)
                    .map_err(|e| Error::internal(format!("input of a stored plan: {e}")))?;
                *leaf.rows.lock() = Some(rows);
            }
        }
        let result = self.execute();
        for leaf in self.leaves.iter().flatten() {
            *leaf.rows.lock() = None;
        }
        result
    }

    fn execute(&mut self) -> Result<Vec<RecordBatch>> {
        let plan = if self.make_anew {
            self.driver.drive(make_physical(&self.state, &self.logical))?
        } else {
            reset_plan_states(Arc::clone(&self.physical))
        };
        let plan = plan.map_err(evaluation_error)?;
        self.driver.drive(collect(plan, self.state.task_ctx()))?.map_err(evaluation_error)
    }
}

async fn make_physical(state: &SessionState, logical: &LogicalPlan) -> DfResult<Arc<dyn ExecutionPlan>> {
    state.query_planner().create_physical_plan(logical, state).await
}

/// The options of a plan that runs on one thread and may be run again.
fn single_partition(state: &SessionState) -> SessionState {
    let mut state = state.clone();
    let options = state.config_mut().options_mut();
    options.execution.target_partitions = 1;
    options.execution.collect_statistics = false;
    let o = &mut options.optimizer;
    o.enable_dynamic_filter_pushdown = false;
    o.enable_topk_dynamic_filter_pushdown = false;
    o.enable_join_dynamic_filter_pushdown = false;
    o.enable_aggregate_dynamic_filter_pushdown = false;
    o.enable_round_robin_repartition = false;
    o.repartition_aggregations = false;
    o.repartition_joins = false;
    o.repartition_windows = false;
    o.repartition_sorts = false;
    state
}

/// Puts leaves in the place of the placeholder tables, in subqueries as well.
fn bind(plan: LogicalPlan, leaves: &mut Leaves) -> DfResult<LogicalPlan> {
    let bound = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::TableScan(scan) => bind_scan(scan, leaves).map(Transformed::yes),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(bound.data)
}

fn bind_scan(mut scan: TableScan, leaves: &mut Leaves) -> DfResult<LogicalPlan> {
    // The recursive part of a recursive CTE reads its own last result.
    if source_as_provider(&scan.source).is_ok_and(|p| p.downcast_ref::<CteWorkTable>().is_some()) {
        return Ok(LogicalPlan::TableScan(scan));
    }
    let leaf = leaves.of(&scan)?;
    let table = StreamingTable::try_new(Arc::clone(&leaf.schema), vec![leaf as Arc<dyn PartitionStream>])?;
    let source = provider_as_source(Arc::new(table));
    let Some(filter) = conjunction(std::mem::take(&mut scan.filters)) else {
        return Ok(LogicalPlan::TableScan(TableScan { source, fetch: None, ..scan }));
    };
    // The leaf does not filter: what was pushed into the scan is done above it.
    let columns: Vec<Expr> = scan.projected_schema.columns().into_iter().map(Expr::Column).collect();
    let all = LogicalPlan::TableScan(TableScanBuilder::new(scan.table_name, source).build()?);
    LogicalPlanBuilder::from(all).filter(filter)?.project(columns)?.build()
}

/// Runs futures of DataFusion to their end on the calling thread.
///
/// Plans whose operators have one partition everywhere await nothing but each other. Those with a union spawn tasks;
/// they get a current-thread runtime, so even they run in one order.
#[derive(Default)]
struct Driver {
    spawns: bool,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Driver {
    fn drive<F: Future<Output: Send> + Send>(&mut self, future: F) -> Result<F::Output> {
        // The budget of a task of tokio's would never be refilled while we poll.
        let future = tokio::task::unconstrained(future);
        let ambient = tokio::runtime::Handle::try_current().is_ok();
        if ambient && !self.spawns {
            return Ok(futures::executor::block_on(future));
        }
        if self.runtime.is_none() {
            let built = tokio::runtime::Builder::new_current_thread().build();
            self.runtime = Some(built.map_err(|e| Error::internal(format!("no runtime for a plan: {e}")))?);
        }
        let Some(runtime) = &self.runtime else { return Err(Error::internal("no runtime for a plan")) };
        if !ambient {
            return Ok(runtime.block_on(future));
        }
        // A thread that belongs to one runtime must not enter another.
        std::thread::scope(|scope| match scope.spawn(|| runtime.block_on(future)).join() {
            Ok(output) => Ok(output),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Dropping a runtime waits, which is not allowed on a thread of another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// All rows of a result as one batch of its schema.
pub(crate) fn concat(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch> {
    match batches {
        [one] => Ok(one.clone()),
        many => arrow::compute::concat_batches(schema, many).e(),
    }
}
