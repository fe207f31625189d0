//! SELECT: plan, take one epoch for all relations, run.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::SchemaProvider;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{StreamExt as _, TryStreamExt as _};
use millstream_sql::optimize::RoundsMax;
use millstream_sql::plan::RelationId;
use millstream_sql::session::visible_schema;
use sqlparser_ast::Query;

use super::provider::{Bindings, Bound, scanned, with_relations};
use super::show::ROUNDS_SETTING;
use crate::api::Session;
use crate::catalog::{Body, Catalog, Relation};
use crate::coord::{EngineInner, wait_for_frontier};
use crate::error::{Error, IntoError as _, Result, ResultExt as _, SqlState};
use crate::time::Epoch;

/// sqlparser's AST, by the version DataFusion has.
pub(crate) use datafusion::sql::sqlparser::ast as sqlparser_ast;

/// Planner threads get a stack that deep statements fit on: a stack overflow would kill the process.
const PLANNER_STACK_BYTES: usize = 64 << 20;

/// A query planned against one version of the catalog.
pub(crate) struct Planned {
    pub(crate) state: SessionState,
    pub(crate) plan: LogicalPlan,
    pub(crate) bindings: Arc<Bindings>,
}

/// Plans on a thread with a large stack.
pub(crate) async fn deep<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T> {
    let (done, result) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("millstream-planner".into())
        .stack_size(PLANNER_STACK_BYTES)
        .spawn(move || {
            // Nobody waits any more if the statement was cancelled.
            let _ = done.send(runtime.block_on(work));
        })
        .map_err(|e| Error::internal(format!("cannot start a planner thread: {e}")))?;
    result.await.map_err(|_| Error::internal("panic while planning the statement"))
}

/// What planning needs of a session, owned.
#[derive(Clone)]
pub(crate) struct PlanContext {
    inner: Arc<EngineInner>,
    pub(crate) catalog: Arc<Catalog>,
    extra_schemas: Vec<(String, Arc<dyn SchemaProvider>)>,
    extra_functions: Vec<Arc<datafusion::logical_expr::ScalarUDF>>,
    /// Rounds a recursive query may take, where the session says so.
    rounds_max: Option<RoundsMax>,
}

impl PlanContext {
    pub(crate) fn of(session: &Session) -> Self {
        Self {
            inner: session.engine.inner.clone(),
            catalog: session.engine.inner.lock().catalog.clone(),
            extra_schemas: session.extra_schemas.clone(),
            extra_functions: session.extra_functions.clone(),
            rounds_max: session.settings.get(ROUNDS_SETTING).and_then(|v| v.trim().parse().ok()).map(RoundsMax),
        }
    }

    /// The same over a catalog that may become true.
    pub(crate) fn with_catalog(self, catalog: Arc<Catalog>) -> Self {
        Self { catalog, ..self }
    }

    /// A session state over the catalog.
    pub(crate) fn state(&self, bindings: &Arc<Bindings>) -> Result<SessionState> {
        let catalog = self.catalog.clone();
        let mut state = with_relations(
            &self.inner.session_template,
            self.inner.clone(),
            catalog,
            bindings.clone(),
            &self.extra_schemas,
        );
        for f in &self.extra_functions {
            datafusion::logical_expr::registry::FunctionRegistry::register_udf(&mut state, f.clone()).e()?;
        }
        if let Some(max) = self.rounds_max {
            state.config_mut().set_extension(Arc::new(max));
        }
        Ok(state)
    }

    pub(crate) async fn plan(&self, query: &Query, text: &str) -> Result<Planned> {
        let (context, query, text) = (self.clone(), query.clone(), text.to_owned());
        deep(async move {
            let bindings = Arc::new(Bindings::default());
            let state = context.state(&bindings)?;
            let plan = millstream_sql::session::plan_query(&state, &query, &text).await?;
            Ok(Planned { state, plan, bindings })
        })
        .await?
    }
}

/// Parameter types and columns of a query.
pub(crate) async fn describe(
    session: &Session,
    query: &Query,
    text: &str,
) -> Result<(Vec<Option<DataType>>, Option<SchemaRef>)> {
    let planned = PlanContext::of(session).plan(query, text).await?;
    let types = parameter_types(&planned.plan)?;
    let schema = visible_schema(planned.plan.schema().as_arrow());
    Ok((types, Some(schema)))
}

/// `$1..` in order; `None` where nothing says the type.
pub(crate) fn parameter_types(plan: &LogicalPlan) -> Result<Vec<Option<DataType>>> {
    let by_name = plan.get_parameter_types().e()?;
    let mut types = Vec::new();
    for (name, data_type) in by_name {
        let Some(i) = name.strip_prefix('$').and_then(|n| n.parse::<usize>().ok()).filter(|i| *i > 0) else { continue };
        if types.len() < i {
            types.resize(i, None);
        }
        types[i - 1] = data_type;
    }
    Ok(types)
}

/// Runs a query.
pub(crate) async fn run(
    session: &mut Session,
    query: &Query,
    text: &str,
    parameters: &[ScalarValue],
) -> Result<(SchemaRef, SendableRecordBatchStream)> {
    let planned = PlanContext::of(session).plan(query, text).await?;
    execute(session, planned, parameters).await
}

/// Binds one epoch and executes a planned query.
pub(crate) async fn execute(
    session: &mut Session,
    planned: Planned,
    parameters: &[ScalarValue],
) -> Result<(SchemaRef, SendableRecordBatchStream)> {
    let (physical, state) = physical_plan(session, planned, parameters).await?;
    let schema = visible_schema(&physical.schema());
    let renamed = schema != physical.schema();
    let stream = execute_stream(physical, state.task_ctx()).e()?;
    let mapped = stream
        .map(move |batch| batch.and_then(|b| if renamed { named_visibly(&b) } else { Ok(b) }))
        .map_err(|e| datafusion::error::DataFusionError::External(Box::new(e.into_error())))
        .boxed();
    Ok((schema.clone(), Box::pin(RecordBatchStreamAdapter::new(schema, mapped))))
}

fn named_visibly(batch: &RecordBatch) -> datafusion::error::Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let schema = visible_schema(batch.schema_ref());
    Ok(RecordBatch::try_new_with_options(schema, batch.columns().to_vec(), &options)?)
}

/// Binds one epoch for a planned query and makes it executable.
pub(crate) async fn physical_plan(
    session: &mut Session,
    planned: Planned,
    parameters: &[ScalarValue],
) -> Result<(Arc<dyn ExecutionPlan>, SessionState)> {
    let Planned { mut state, plan, bindings } = planned;
    // One moment for every now() of the statement. Views never get one: conditions with now() follow the clock of epochs.
    let now = session.engine.inner.options.clock.now();
    if let Some(now) = chrono::DateTime::from_timestamp_micros(now.0) {
        let props = state.execution_props_mut();
        *props = props.clone().with_query_execution_start_time(now);
    }
    let plan = if parameters.is_empty() {
        plan
    } else {
        plan.with_param_values(ParamValues::from(parameters.to_vec())).e()?
    };
    let relations = scanned(&plan).e()?;
    bind(session, &relations, &bindings).await?;
    deep(async move {
        let physical = state.create_physical_plan(&plan).await.e()?;
        Ok((physical, state))
    })
    .await?
}

/// Keeps an epoch readable, and makes every group stop at it, while a query collects its versions.
struct ReadHold {
    inner: Arc<EngineInner>,
    epoch: Epoch,
}

impl ReadHold {
    fn new(inner: &Arc<EngineInner>, st: &mut crate::coord::State) -> Self {
        let epoch = st.sealed;
        st.add_cut(epoch);
        st.add_hold(epoch);
        Self { inner: inner.clone(), epoch }
    }
}

impl Drop for ReadHold {
    fn drop(&mut self) {
        let mut st = self.inner.lock();
        st.remove_cut(self.epoch);
        st.remove_hold(self.epoch);
        self.inner.advance(&mut st);
    }
}

/// What a read waits for, by the setting `consistency`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consistency {
    /// Every write that was acknowledged to anybody.
    Strict,
    /// What this session wrote and read.
    Session,
    /// Nothing.
    Latest,
}

impl Consistency {
    /// Names of the values, the default first.
    pub(crate) const NAMES: &[(&str, Self)] =
        &[("strict", Self::Strict), ("session", Self::Session), ("latest", Self::Latest)];

    pub(crate) fn of(session: &Session) -> Self {
        let name = session.settings.get("consistency");
        let known = name.and_then(|n| Self::NAMES.iter().find(|(k, _)| k.eq_ignore_ascii_case(n)));
        known.map_or(Self::Strict, |(_, c)| *c)
    }
}

/// One epoch for all relations of a query: the session never goes back, and several relations agree.
async fn bind(session: &mut Session, relations: &[Arc<Relation>], bindings: &Bindings) -> Result<()> {
    let inner = session.engine.inner.clone();
    let stored: Vec<&Arc<Relation>> =
        relations.iter().filter(|r| matches!(r.body, Body::Table { .. } | Body::MaterializedView { .. })).collect();
    let consistency = Consistency::of(session);
    let mut bound = HashMap::new();
    if !stored.is_empty() {
        let mut still = Versions::new();
        let resumed =
            |st: &mut crate::coord::State| stored.iter().all(|r| !st.resuming.contains(&r.id)).then_some(Ok(()));
        inner.wait(resumed).await?;
        let now = {
            let mut st = inner.lock();
            // A paused view answers as of the epoch it was paused at, whatever the others are read at.
            let (paused, ids): (BTreeSet<RelationId>, BTreeSet<RelationId>) =
                stored.iter().map(|r| r.id).partition(|id| st.relations.get(id).is_some_and(|r| r.paused));
            for id in paused {
                let at = st.relation(id)?.frontier;
                still.extend(collect(&st, &BTreeSet::from([id]), at)?);
            }
            let floor = match consistency {
                Consistency::Strict => session.read_floor.max(st.write_floor(ids.iter().copied())),
                Consistency::Session => session.read_floor,
                Consistency::Latest => Epoch(0),
            };
            let frontiers: BTreeSet<Epoch> =
                ids.iter().filter_map(|id| st.relations.get(id).map(|r| r.frontier)).collect();
            let building = ids.iter().any(|id| st.relations.get(id).is_none_or(|r| r.backfilling));
            let agreed = frontiers
                .first()
                .copied()
                .filter(|f| !building && *f >= floor && (ids.len() == 1 || (frontiers.len() == 1 && *f == st.sealed)));
            match agreed {
                Some(e) => Ok((e, collect(&st, &ids, e)?)),
                None if ids.is_empty() => Ok((Epoch(0), Versions::new())),
                None => Err((ReadHold::new(&inner, &mut st), ids)),
            }
        };
        let (epoch, mut versions) = match now {
            Ok(v) => v,
            Err((hold, ids)) => {
                wait_for_frontier(&inner, &ids, hold.epoch).await?;
                let st = inner.lock();
                (hold.epoch, collect(&st, &ids, hold.epoch)?)
            }
        };
        versions.extend(still);
        session.read_floor = session.read_floor.max(epoch);
        let skip = session.settings.get("on_error").is_some_and(|v| v == "skip");
        for r in stored {
            let Some(v) = versions.get(&r.id) else { continue };
            if !skip && let Some(((code, message, row), n)) = v.errors.entries.iter().next() {
                return Err(view_error(r, code, message, row, *n, v.errors.entries.len()));
            }
            bound.insert(r.id, Bound::Version(v.clone()));
        }
    }
    for r in relations.iter().filter(|r| matches!(r.body, Body::Connector { .. })) {
        let Body::Connector { start, .. } = &r.body else { continue };
        let source = crate::coord::open_relation_source(&inner, r).await?;
        let to = source.end_positions().await.e()?;
        let map = Arc::new(crate::coord::ingest_exprs(&inner.session_template, r, &source.schema())?);
        // A file that a query names is no relation of the catalog.
        let rule = inner.lock().relations.get(&r.id).and_then(|r| r.time.as_ref().map(|t| t.rule()));
        // Who reads a connector's rows now sees them arrive now.
        let arrival = r.meta.proctime.map(|column| (column, inner.options.clock.now()));
        bound.insert(r.id, Bound::Range { source, map, rule, arrival, from: start.clone(), to });
    }
    bindings.bind(bound);
    Ok(())
}

type Versions = HashMap<RelationId, Arc<crate::coord::Version>>;

fn collect(st: &crate::coord::State, ids: &BTreeSet<RelationId>, epoch: Epoch) -> Result<Versions> {
    ids.iter()
        .map(|id| {
            let r = st.relation(*id)?;
            if let Some(reason) = &r.quarantined {
                return Err(Error::new(SqlState::OBJECT_NOT_IN_STATE, format!("a view is quarantined: {reason}")));
            }
            let (_, v) = r
                .version_at(epoch)
                .ok_or_else(|| Error::internal(format!("no version of relation {} at epoch {epoch}", id.0)))?;
            Ok((*id, v))
        })
        .collect()
}

fn view_error(r: &Relation, code: &str, message: &str, row: &str, n: i64, kinds: usize) -> Error {
    const KNOWN: &[SqlState] = &[
        SqlState::CARDINALITY_VIOLATION,
        SqlState::DIVISION_BY_ZERO,
        SqlState::NUMERIC_OUT_OF_RANGE,
        SqlState::INVALID_TEXT_REPRESENTATION,
        SqlState::INVALID_DATETIME_FORMAT,
        SqlState::DATETIME_OVERFLOW,
        SqlState::INVALID_REGULAR_EXPRESSION,
        SqlState::CARDINALITY_VIOLATION,
        SqlState::DATA_EXCEPTION,
    ];
    let code = KNOWN.iter().copied().find(|k| k.0 == code).unwrap_or(SqlState::DATA_EXCEPTION);
    Error::new(code, format!("{} \"{}\" has rows that cannot be computed: {message}", r.kind().noun(), r.name))
        .detail(format!("{n} time(s) for row {row}; {kinds} such entries in ms.view_errors."))
        .hint("Correct the rows, or read without them after SET on_error = 'skip'.")
}
