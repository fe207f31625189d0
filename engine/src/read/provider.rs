//! Catalog relations as DataFusion tables.
//!
//! Planning sees [`RelationTable`]s without data. Between planning and execution the query learns which relations it
//! names, takes one epoch for all of them, and binds their versions; a scan reads what is bound.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{CatalogProvider, SchemaProvider, Session as DfSession, TableProvider};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::datasource::{MemTable, ViewTable};
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::StreamExt as _;
use millstream_connectors::{ErrorKind, Positions, Source, SourceEvent};
use millstream_sql::plan::{ChangelogKind, RelationId};
use millstream_sql::session::VersionTimes;
use parking_lot::Mutex;

use crate::catalog::{Body, Catalog, Meta, Relation, SYSTEM_SCHEMA, USER_SCHEMA};
use crate::coord::arrival::stamp_rows;
use crate::coord::event_time::{OnTime, Rule};
use crate::coord::{EngineInner, IngestMap, SYSTEM_TABLES, Version};
use crate::error::{Error, IntoError as _};
use crate::time::Timestamp;
use crate::zset::ZBatch;

/// Name of the one DataFusion catalog.
pub(crate) const CATALOG: &str = "millstream";

/// What a query reads, fixed after planning.
pub(crate) enum Bound {
    /// A stored relation at the query's epoch.
    Version(Arc<Version>),
    /// A stream: read from its start to where it ended when the query began.
    Range {
        source: Arc<dyn Source>,
        map: Arc<IngestMap>,
        rule: Option<Arc<Rule>>,
        arrival: Option<(usize, Timestamp)>,
        from: Positions,
        to: Positions,
    },
}

/// The bindings of one query.
#[derive(Default)]
pub(crate) struct Bindings {
    bound: OnceLock<HashMap<RelationId, Bound>>,
    /// Relations planning asked for by name.
    named: Mutex<BTreeSet<RelationId>>,
    /// The plan is for maintenance: nothing in it may depend on indexes.
    of_view: bool,
}

impl Bindings {
    /// For planning a view.
    pub(crate) fn of_view() -> Self {
        Self { of_view: true, ..Self::default() }
    }
    /// Binds; once.
    pub(crate) fn bind(&self, bound: HashMap<RelationId, Bound>) {
        // A second call would be a second epoch for one query; the first stays.
        let _ = self.bound.set(bound);
    }
    /// Relations the query names, through plain views too, whether or not its plan reads them.
    pub(crate) fn named(&self) -> Vec<RelationId> {
        self.named.lock().iter().copied().collect()
    }
}

/// A stored relation or stream in a plan.
pub(crate) struct RelationTable {
    pub(crate) relation: Arc<Relation>,
    bindings: Arc<Bindings>,
}

impl std::fmt::Debug for RelationTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RelationTable({})", self.relation.display_name())
    }
}

#[async_trait]
impl TableProvider for RelationTable {
    fn schema(&self) -> SchemaRef {
        self.relation.schema.clone()
    }
    fn table_type(&self) -> TableType {
        TableType::Base
    }
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        // An index narrows, it does not decide: conditions are evaluated again over what it gives.
        let use_of = |f: &&Expr| match !self.bindings.of_view && super::index::useful(f, &self.relation) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(use_of).collect())
    }
    async fn scan(
        &self,
        state: &dyn DfSession,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let bound = self.bindings.bound.get().and_then(|b| b.get(&self.relation.id)).ok_or_else(|| {
            DataFusionError::Internal(format!("relation {} is not bound", self.relation.display_name()))
        })?;
        match bound {
            Bound::Version(version) => {
                let version = version.clone();
                let schema = self.schema();
                let narrowed = super::index::choose(&self.relation, &version, filters);
                let description = narrowed.as_ref().map(|n| n.description.clone());
                // Consolidating a large version is work for a blocking thread.
                let partitions = tokio::task::spawn_blocking(move || {
                    let expand = |rows: Vec<ZBatch>| {
                        rows.iter().map(|z| z.expand().map_err(|e| e.into_error())).collect::<crate::Result<Vec<_>>>()
                    };
                    match narrowed {
                        Some(n) => Ok(vec![expand(n.read(&version)?)?]),
                        None => version.shards.iter().map(|s| expand(s.scan()?)).collect(),
                    }
                })
                .await
                .map_err(|e| DataFusionError::External(Box::new(e)))?
                .map_err(|e| DataFusionError::External(Box::new(e)))?;
                let partitions = partitions
                    .into_iter()
                    .map(|p| p.into_iter().map(|b| retype(&b, &schema)).collect::<DfResult<Vec<_>>>())
                    .collect::<DfResult<Vec<_>>>()?;
                let scan = MemTable::try_new(schema, partitions)?.scan(state, projection, filters, limit).await?;
                Ok(match description {
                    Some(d) => Arc::new(super::index::IndexScanExec::new(d, scan)),
                    None => scan,
                })
            }
            Bound::Range { source, map, rule, arrival, from, to } => {
                let stream = RangeStream {
                    schema: self.schema(),
                    source: source.clone(),
                    map: map.clone(),
                    rule: rule.clone(),
                    arrival: *arrival,
                    from: from.clone(),
                    to: to.clone(),
                };
                let table = StreamingTable::try_new(self.schema(), vec![Arc::new(stream)])?;
                table.scan(state, projection, filters, limit).await
            }
        }
    }
}

/// The same columns under the declared schema (operators may differ in nullability and metadata).
fn retype(batch: &RecordBatch, schema: &SchemaRef) -> DfResult<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)?)
}

/// A bounded read of a connector stream.
struct RangeStream {
    schema: SchemaRef,
    source: Arc<dyn Source>,
    map: Arc<IngestMap>,
    /// Which rows are late, and so none of the stream's.
    rule: Option<Arc<Rule>>,
    /// The column of the time of arrival, and that time.
    arrival: Option<(usize, Timestamp)>,
    from: Positions,
    to: Positions,
}

impl std::fmt::Debug for RangeStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RangeStream")
    }
}

/// Rows a bounded read asks for at once.
const READ_ROWS: usize = 16 * 1024;
const READ_WAIT: std::time::Duration = std::time::Duration::from_millis(500);
const RETRY_PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

impl PartitionStream for RangeStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }
    fn execute(&self, _ctx: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (source, map, from, to) = (self.source.clone(), self.map.clone(), self.from.clone(), self.to.clone());
        let schema = self.schema.clone();
        let arrival = self.arrival;
        let on_time = self.rule.clone().map(|r| OnTime::new(r, BTreeMap::new()));
        let external = |e: Error| DataFusionError::External(Box::new(e));
        let opened = async move {
            let readers = source.open(&from, Some(&to), 1).await.map_err(|e| external(e.into_error()))?;
            let start = (readers, map, schema, on_time);
            let batches = futures::stream::unfold(start, move |(mut readers, map, schema, mut on_time)| async move {
                loop {
                    let reader = readers.last_mut()?;
                    match reader.poll(READ_ROWS, READ_WAIT).await {
                        Ok(SourceEvent::Chunk(mut chunk)) => {
                            let batch = map
                                .apply_quietly(&mut chunk)
                                .and_then(|z| match &mut on_time {
                                    Some(t) => t.keep(&chunk.split, z),
                                    None => Ok(z),
                                })
                                .and_then(|z| match arrival {
                                    Some((column, at)) => stamp_rows(&z.rows, column, at),
                                    None => Ok(z.rows),
                                })
                                .map_err(|e| DataFusionError::External(Box::new(e)))
                                .and_then(|rows| retype(&rows, &schema));
                            return Some((batch, (readers, map, schema, on_time)));
                        }
                        Ok(SourceEvent::Idle) => {}
                        Ok(SourceEvent::End) => {
                            readers.pop();
                        }
                        Err(e) if e.kind == ErrorKind::Retryable => tokio::time::sleep(RETRY_PAUSE).await,
                        Err(e) => {
                            readers.clear();
                            let e = DataFusionError::External(Box::new(e.into_error()));
                            return Some((Err(e), (readers, map, schema, on_time)));
                        }
                    }
                }
            });
            Ok::<_, DataFusionError>(batches)
        };
        let stream = futures::stream::once(opened).flat_map(|opened| match opened {
            Ok(batches) => batches.boxed(),
            Err(e) => futures::stream::iter([Err(e)]).boxed(),
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), stream))
    }
}

/// One schema of the catalog for one query.
pub(crate) struct RelationSchema {
    inner: Arc<EngineInner>,
    catalog: Arc<Catalog>,
    bindings: Arc<Bindings>,
    name: String,
    /// To plan the views in it; the same one the query uses, without this provider's cycle.
    state: SessionState,
}

impl std::fmt::Debug for RelationSchema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RelationSchema({})", self.name)
    }
}

impl RelationSchema {
    /// `FROM 'people.csv'`, where that is allowed.
    fn is_file(&self, name: &str) -> bool {
        const ENDINGS: &[&str] = &[".csv", ".json", ".ndjson", ".jsonl", ".parquet"];
        self.inner.options.file_tables && self.name == USER_SCHEMA && ENDINGS.iter().any(|e| name.ends_with(e))
    }
}

/// A file as a stream nobody created: its columns are inferred, it is read once.
async fn file_relation(path: &str, base_dir: Option<std::path::PathBuf>) -> crate::Result<Relation> {
    let mut options: BTreeMap<String, String> =
        [("connector", "file"), ("path", path), ("follow", "false")].map(|(k, v)| (k.into(), v.into())).into();
    if path.ends_with(".csv") {
        // Names must come from somewhere: the first line, as in other tools that query files.
        options.insert("header".into(), "true".into());
    }
    let config = millstream_connectors::SourceConfig {
        name: path.into(),
        options: options.clone(),
        schema: None,
        metadata: Vec::new(),
        primary_key: Vec::new(),
        base_dir,
    };
    let source = millstream_connectors::open_source(config).await.map_err(|e| e.into_error())?;
    let schema = source.schema();
    Ok(Relation {
        // Outside of what a catalog hands out; a query tells its files apart by it.
        id: RelationId((1 << 63) | (xxhash_rust::xxh3::xxh3_64(path.as_bytes()) >> 1)),
        schema_name: USER_SCHEMA.into(),
        name: path.into(),
        schema: schema.clone(),
        primary_key: Vec::new(),
        definition: path.into(),
        inputs: Vec::new(),
        body: Body::Connector {
            options,
            start: Positions::new(),
            physical: schema,
            metadata: Vec::new(),
            generated: Vec::new(),
        },
        meta: Meta::default(),
    })
}

#[async_trait]
impl SchemaProvider for RelationSchema {
    fn table_names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.catalog.relations.values().filter(|r| r.schema_name == self.name).map(|r| r.name.clone()).collect();
        if self.name == SYSTEM_SCHEMA {
            names.extend(SYSTEM_TABLES.iter().map(|s| (*s).to_owned()));
        }
        names
    }
    fn table_exist(&self, name: &str) -> bool {
        self.catalog.find(Some(&self.name), name).is_some()
            || (self.name == SYSTEM_SCHEMA && SYSTEM_TABLES.contains(&name))
            || self.is_file(name)
    }
    async fn table(&self, name: &str) -> DfResult<Option<Arc<dyn TableProvider>>> {
        let Some(relation) = self.catalog.find(Some(&self.name), name) else {
            if self.name == SYSTEM_SCHEMA {
                let external = |e: Error| DataFusionError::External(Box::new(e));
                if let Some(batch) = crate::coord::system_table(&self.inner, name).map_err(external)? {
                    return Ok(Some(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?)));
                }
            }
            if self.is_file(name) {
                let relation = file_relation(name, self.inner.options.base_dir.clone())
                    .await
                    .map_err(|e| DataFusionError::External(Box::new(e)))?;
                return Ok(Some(Arc::new(RelationTable {
                    relation: Arc::new(relation),
                    bindings: self.bindings.clone(),
                })));
            }
            return Ok(None);
        };
        self.bindings.named.lock().insert(relation.id);
        if let Body::View { query, columns } = &relation.body {
            let state =
                with_relations(&self.state, self.inner.clone(), self.catalog.clone(), self.bindings.clone(), &[]);
            let plan = plan_text(&state, query).await.map_err(|e| DataFusionError::External(Box::new(e)))?;
            let plan = rename(plan, columns)?;
            return Ok(Some(Arc::new(ViewTable::new(plan, Some(query.clone())))));
        }
        Ok(Some(Arc::new(RelationTable { relation: relation.clone(), bindings: self.bindings.clone() })))
    }
}

/// Plans stored query text.
pub(crate) async fn plan_text(
    state: &SessionState,
    text: &str,
) -> crate::Result<datafusion::logical_expr::LogicalPlan> {
    let parsed = millstream_sql::parse::parse(text)?;
    match parsed.first().map(|p| &p.statement) {
        Some(millstream_sql::statement::Statement::Query(q)) => {
            millstream_sql::session::plan_query(state, q, text).await
        }
        _ => Err(Error::internal("stored view text is not a query")),
    }
}

/// Gives the columns of a plan new names.
pub(crate) fn rename(
    plan: datafusion::logical_expr::LogicalPlan,
    columns: &[String],
) -> DfResult<datafusion::logical_expr::LogicalPlan> {
    if columns.is_empty() {
        return Ok(plan);
    }
    let exprs: Vec<Expr> = plan
        .schema()
        .columns()
        .into_iter()
        .enumerate()
        .map(|(i, c)| match columns.get(i) {
            Some(name) => Expr::Column(c).alias(name),
            None => Expr::Column(c),
        })
        .collect();
    datafusion::logical_expr::LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

/// A session state that sees the relations of a catalog.
pub(crate) fn with_relations(
    template: &SessionState,
    inner: Arc<EngineInner>,
    catalog: Arc<Catalog>,
    bindings: Arc<Bindings>,
    extra: &[(String, Arc<dyn SchemaProvider>)],
) -> SessionState {
    let provider = datafusion::catalog::MemoryCatalogProvider::new();
    for name in [USER_SCHEMA, SYSTEM_SCHEMA, crate::catalog::TEMP_SCHEMA] {
        let schema = RelationSchema {
            inner: inner.clone(),
            catalog: catalog.clone(),
            bindings: bindings.clone(),
            name: name.into(),
            state: template.clone(),
        };
        // Registering into a fresh provider replaces nothing.
        let _ = provider.register_schema(name, Arc::new(schema));
    }
    for (name, schema) in extra {
        let _ = provider.register_schema(name, schema.clone());
    }
    let catalogs = datafusion::catalog::MemoryCatalogProviderList::new();
    datafusion::catalog::CatalogProviderList::register_catalog(&catalogs, CATALOG.into(), Arc::new(provider));
    let mut state = datafusion::execution::SessionStateBuilder::new_from_existing(template.clone())
        .with_catalog_list(Arc::new(catalogs))
        .build();
    let times = VersionTimes(Arc::new(move |of| super::emit::version_time(&catalog, of)));
    state.config_mut().set_extension(Arc::new(times));
    state
}

/// What the plan builder asks about relations.
pub(crate) struct CatalogRelations(pub(crate) Arc<Catalog>);

impl millstream_sql::plan::build::Relations for CatalogRelations {
    fn resolve(&self, name: &datafusion::common::TableReference) -> Option<(RelationId, ChangelogKind)> {
        let r = self.0.find(name.schema(), name.table())?;
        Some((r.id, r.changelog()))
    }
}

/// Relations a plan scans.
pub(crate) fn scanned(plan: &datafusion::logical_expr::LogicalPlan) -> DfResult<Vec<Arc<Relation>>> {
    use datafusion::common::tree_node::TreeNodeRecursion;
    let mut found: Vec<Arc<Relation>> = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let datafusion::logical_expr::LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = datafusion::datasource::source_as_provider(&scan.source)
            && let Some(t) = (provider.as_ref() as &dyn Any).downcast_ref::<RelationTable>()
            && !found.iter().any(|r| r.id == t.relation.id)
        {
            found.push(t.relation.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}
