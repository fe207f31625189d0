//! CREATE and DROP: plan, make the catalog durable, then change the running system.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use millstream_connectors::SourceConfig;
use millstream_sql::plan::{IncNode, IncOp, IncPlan, RelationId, build};
use millstream_sql::statement::{
    ColumnDef, CreateStream, CreateTable, CreateView, EmitClause, ObjectKind, ObjectName, Options,
};

use super::provider::{Bindings, CatalogRelations, rename};
use super::query::{PlanContext, deep, sqlparser_ast};
use super::{command, command_with, notice};
use crate::api::{Notice, Outcome, Session, Subscription};
use crate::catalog::{Body, Catalog, Generated, Meta, Relation, SYSTEM_SCHEMA, TEMP_SCHEMA, USER_SCHEMA};
use crate::coord::{
    EngineInner, arrival, check_common, create_view as start_view, drop_relations, new_relation, open_source,
    persist_catalog,
};
use crate::error::{Error, Result, ResultExt as _, SqlState};

pub(super) fn schema_name(name: &ObjectName) -> Result<String> {
    match name.schema.as_deref() {
        None | Some(USER_SCHEMA) => Ok(USER_SCHEMA.into()),
        Some(SYSTEM_SCHEMA) => Err(Error::new(SqlState::WRONG_OBJECT_TYPE, "schema \"ms\" belongs to the system")),
        Some(other) => Err(Error::new(SqlState::UNDEFINED_OBJECT, format!("schema \"{other}\" does not exist"))
            .hint("Relations live in schema \"public\".")),
    }
}

/// `Some(outcome)` if the name is taken and IF NOT EXISTS says that is fine.
fn taken(catalog: &Catalog, name: &ObjectName, if_not_exists: bool) -> Result<Option<Outcome>> {
    if !catalog.taken(&name.name) {
        return Ok(None);
    }
    let message = format!("relation \"{}\" already exists", name.name);
    if if_not_exists {
        return Ok(Some(command_with("CREATE", vec![notice(format!("{message}, skipping"))])));
    }
    Err(Error::new(SqlState::DUPLICATE_TABLE, message))
}

/// An option nobody reads is an error, not a wish.
fn no_options(options: &millstream_sql::statement::Options, what: &str, hint: &str) -> Result<()> {
    match options.keys().next() {
        None => Ok(()),
        Some(key) => {
            Err(Error::new(SqlState::INVALID_PARAMETER_VALUE, format!("unknown option \"{key}\" of a {what}"))
                .hint(hint))
        }
    }
}

fn key_positions(schema: &Schema, key: &[String]) -> Result<Vec<usize>> {
    key.iter()
        .map(|k| {
            schema.index_of(k).map_err(|_| {
                Error::new(SqlState::UNDEFINED_COLUMN, format!("column \"{k}\" named in key does not exist"))
            })
        })
        .collect()
}

fn schema_of(columns: &[ColumnDef], key: &[String]) -> Result<Arc<Schema>> {
    let mut seen = BTreeSet::new();
    for c in columns {
        if !seen.insert(&c.name) {
            return Err(Error::new(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{}\" specified more than once", c.name),
            ));
        }
    }
    Ok(Arc::new(Schema::new(
        columns
            .iter()
            .map(|c| Field::new(&c.name, c.data_type.clone(), c.nullable && !key.contains(&c.name)))
            .collect::<Vec<_>>(),
    )))
}

/// CREATE STREAM, with or without a connector.
pub(crate) async fn create_stream(session: &mut Session, c: &CreateStream, text: &str) -> Result<Outcome> {
    let inner = session.engine.inner.clone();
    let schema_name = schema_name(&c.name)?;
    if c.or_replace {
        return Err(Error::unsupported("CREATE OR REPLACE STREAM").hint("DROP STREAM .. CASCADE, then CREATE STREAM."));
    }
    let _ddl = inner.ddl.lock().await;
    let catalog = inner.lock().catalog.clone();
    if let Some(done) = taken(&catalog, &c.name, c.if_not_exists)? {
        return Ok(done);
    }
    let (c, arrival) = arrival::declared(c.clone())?;
    let c = &c;
    let mut notices = Vec::new();
    let mut given = c.options.clone();
    let keep_late = keeps_late_rows(&mut given, c.watermark.is_some())?;
    let options: BTreeMap<String, String> = given.clone().into_iter().collect();
    if c.options.contains_key("connector") && check_common(&options)? && c.watermark.is_none() {
        notices.push(notice("idle_timeout has no effect on a stream without WATERMARK"));
    }
    let mut catalog = Catalog::clone(&catalog);
    let id = catalog.allocate();
    let relation = if c.options.contains_key("connector") {
        let metadata: Vec<&ColumnDef> = c.columns.iter().filter(|c| c.metadata.is_some()).collect();
        let generated: Vec<&ColumnDef> = c.columns.iter().filter(|c| c.generated.is_some()).collect();
        let physical: Vec<ColumnDef> =
            c.columns.iter().filter(|c| c.metadata.is_none() && c.generated.is_none()).cloned().collect();
        let declared = if physical.is_empty() { None } else { Some(schema_of(&physical, &c.primary_key)?) };
        let meta = |c: &&ColumnDef| (c.name.clone(), c.metadata.clone().unwrap_or_default(), c.data_type.clone());
        let config = SourceConfig {
            name: c.name.name.clone(),
            options: options.clone(),
            schema: declared,
            metadata: metadata.iter().map(meta).collect(),
            primary_key: c.primary_key.clone(),
            base_dir: inner.options.base_dir.clone(),
        };
        let source = open_source(config, &inner.options.environment).await?;
        let start = source.start_positions().await.e()?;
        let source_schema = source.schema();
        let decoded = source_schema.fields().len() - metadata.len();
        let physical_schema = Arc::new(Schema::new(source_schema.fields()[..decoded].to_vec()));
        // Declared order where columns are declared; otherwise what was inferred, then metadata and computed ones.
        let fields: Vec<Arc<Field>> = if physical.is_empty() {
            let extra = c.columns.iter().map(|c| Arc::new(Field::new(&c.name, c.data_type.clone(), true)));
            physical_schema.fields().iter().cloned().chain(extra).collect()
        } else {
            schema_of(&c.columns, &c.primary_key)?.fields().iter().cloned().collect()
        };
        let schema = Arc::new(Schema::new(fields));
        let proctime = arrival.as_ref().and_then(|p| schema.index_of(p).ok());
        let relation = Relation {
            id,
            schema_name,
            name: c.name.name.clone(),
            primary_key: key_positions(&schema, &c.primary_key)?,
            schema,
            definition: text.to_owned(),
            inputs: Vec::new(),
            body: Body::Connector {
                options,
                start,
                physical: physical_schema,
                metadata: metadata.iter().map(|c| (c.name.clone(), c.metadata.clone().unwrap_or_default())).collect(),
                generated: generated
                    .iter()
                    .filter_map(|c| {
                        c.generated.as_ref().map(|e| Generated { name: c.name.clone(), expr: e.to_string() })
                    })
                    .collect(),
            },
            meta: Meta { proctime, ..Meta::default() },
        };
        // Computed columns must plan now, not at the first record.
        crate::coord::ingest_exprs(&inner.session_template, &relation, &source_schema)?;
        relation
    } else {
        no_options(
            &given,
            "stream without a connector",
            "A stream over Kafka, files or a generator needs connector = '..'.",
        )?;
        if c.columns.is_empty() {
            return Err(Error::new(SqlState::SYNTAX_ERROR, format!("stream \"{}\" has no columns", c.name))
                .hint("Give columns, or a connector whose data they can be inferred from."));
        }
        table_relation(id, schema_name, &c.name, &c.columns, &c.primary_key, text, true)?
    };
    let mut relation = relation;
    relation.meta.proctime = arrival.as_ref().and_then(|p| relation.schema.index_of(p).ok());
    let mut made = vec![id];
    if let Some(def) = &c.watermark {
        let mut watermark = crate::coord::event_time::check_watermark(&inner.session_template, &relation.schema, def)?;
        if keep_late {
            let late = late_relation(catalog.allocate(), &relation, watermark.column);
            let name = ObjectName { schema: None, name: late.name.clone() };
            taken(&catalog, &name, false).map_err(|e| {
                e.detail(format!("The late rows of stream \"{}\" are kept under this name.", relation.name))
                    .hint("Choose another name for the stream, or on_late = 'drop' to count late rows only.")
            })?;
            watermark.late = Some(late.id);
            made.push(late.id);
            add_relation(&inner, &late)?;
            catalog.insert(late);
        }
        relation.meta.watermark = Some(watermark);
    }
    add_relation(&inner, &relation)?;
    catalog.insert(relation);
    if let Err(e) = persist_catalog(&inner, catalog).await {
        let mut st = inner.lock();
        for id in made {
            st.relations.remove(&id);
        }
        return Err(e);
    }
    Ok(command_with("CREATE STREAM", notices))
}

fn table_relation(
    id: RelationId,
    schema_name: String,
    name: &ObjectName,
    columns: &[ColumnDef],
    primary_key: &[String],
    text: &str,
    append_only: bool,
) -> Result<Relation> {
    if let Some(c) = columns.iter().find(|c| c.generated.as_ref().is_some_and(millstream_sql::session::has_proctime)) {
        return Err(Error::unsupported(format!("column \"{}\": PROCTIME() in a table", c.name))
            .hint("Rows of a stream arrive: CREATE STREAM. Of a table's, a column at TIMESTAMPTZ DEFAULT now() says when they were written."));
    }
    if let Some(c) = columns.iter().find(|c| c.generated.is_some() || c.metadata.is_some()) {
        return Err(Error::unsupported(format!(
            "column \"{}\": computed and metadata columns need a connector",
            c.name
        )));
    }
    if append_only && !primary_key.is_empty() {
        return Err(Error::unsupported("PRIMARY KEY on a stream without a connector").hint("Use CREATE TABLE."));
    }
    let schema = schema_of(columns, primary_key)?;
    Ok(Relation {
        id,
        schema_name,
        name: name.name.clone(),
        primary_key: key_positions(&schema, primary_key)?,
        schema,
        definition: text.to_owned(),
        inputs: Vec::new(),
        body: Body::Table {
            append_only,
            defaults: columns
                .iter()
                .filter_map(|c| c.default.as_ref().map(|d| (c.name.clone(), d.to_string())))
                .collect(),
        },
        meta: Meta::default(),
    })
}

/// The option `on_late`, which no connector looks at: whether a stream keeps its late rows.
fn keeps_late_rows(options: &mut Options, watermark: bool) -> Result<bool> {
    match options.shift_remove("on_late").map(|v| v.to_ascii_lowercase()).as_deref() {
        None => Ok(true),
        Some(_) if !watermark => {
            Err(Error::new(SqlState::INVALID_PARAMETER_VALUE, "on_late has no meaning for a stream without WATERMARK")
                .hint("Add WATERMARK FOR ts AS ts - INTERVAL '5 seconds' to its columns."))
        }
        Some("keep") => Ok(true),
        Some("drop") => Ok(false),
        Some(other) => Err(Error::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid value \"{other}\" for option \"on_late\""),
        )
        .hint("Values are: keep (in <stream>_late), drop (counted only).")),
    }
}

/// Where the rows of a stream go that come after their watermark.
fn late_relation(id: RelationId, stream: &Relation, time: usize) -> Relation {
    Relation {
        id,
        schema_name: stream.schema_name.clone(),
        name: format!("{}_late", stream.name),
        schema: crate::coord::event_time::late_schema(&stream.schema, time),
        primary_key: Vec::new(),
        definition: format!("-- the late rows of stream {}", stream.name),
        inputs: Vec::new(),
        body: Body::Table { append_only: true, defaults: BTreeMap::new() },
        meta: Meta { late_of: Some(stream.id), ..Meta::default() },
    }
}

pub(super) fn add_relation(inner: &Arc<EngineInner>, relation: &Relation) -> Result<()> {
    let now = inner.options.clock.now();
    let time = crate::coord::event_time::EventTime::of(&inner.session_template, relation, Default::default(), now)?;
    let mut st = inner.lock();
    let frontier = st.sealed;
    let mut rt = new_relation(relation, frontier);
    rt.time = time;
    st.relations.insert(relation.id, rt);
    Ok(())
}

/// CREATE TABLE.
pub(crate) async fn create_table(session: &mut Session, c: &CreateTable, text: &str) -> Result<Outcome> {
    let inner = session.engine.inner.clone();
    let schema_name = schema_name(&c.name)?;
    let _ddl = inner.ddl.lock().await;
    let catalog = inner.lock().catalog.clone();
    if let Some(done) = taken(&catalog, &c.name, c.if_not_exists)? {
        return Ok(done);
    }
    no_options(&c.options, "table", "Tables have no options yet.")?;
    let mut catalog = Catalog::clone(&catalog);
    let id = catalog.allocate();
    let relation = table_relation(id, schema_name, &c.name, &c.columns, &c.primary_key, text, false)?;
    add_relation(&inner, &relation)?;
    catalog.insert(relation);
    if let Err(e) = persist_catalog(&inner, catalog).await {
        inner.lock().relations.remove(&id);
        return Err(e);
    }
    Ok(command("CREATE TABLE"))
}

/// A query planned as a view: its plan, its columns, what it reads.
pub(crate) struct ViewPlan {
    pub(crate) plan: IncPlan,
    pub(crate) inputs: Vec<RelationId>,
    /// Everything the query names.
    pub(crate) named: Vec<RelationId>,
}

/// Plans a query for maintenance.
pub(crate) async fn plan_view(
    session: &Session,
    query: &sqlparser_ast::Query,
    text: &str,
    columns: &[String],
) -> Result<ViewPlan> {
    plan_in(PlanContext::of(session), query, text, columns).await
}

/// Plans what CREATE VIEW says, with its EMIT clause.
pub(super) async fn plan_created(session: &Session, c: &CreateView, text: &str) -> Result<ViewPlan> {
    let planned = plan_view(session, &c.query, text, &c.columns).await?;
    let Some(clause) = &c.emit else { return Ok(planned) };
    let catalog = session.engine.inner.lock().catalog.clone();
    super::emit::apply(&catalog, planned, &clause.into()).map_err(|e| match e.position {
        Some(_) => e,
        None => e.at(clause.position),
    })
}

/// [`plan_view`] over a given catalog.
pub(super) async fn plan_in(
    context: PlanContext,
    query: &sqlparser_ast::Query,
    text: &str,
    columns: &[String],
) -> Result<ViewPlan> {
    let columns = columns.to_vec();
    plan_shaped(context, query, text, move |logical| {
        if columns.len() > logical.schema().fields().len() {
            return Err(Error::new(SqlState::SYNTAX_ERROR, "the view has more column names than columns"));
        }
        rename(logical, &columns).e()
    })
    .await
}

/// [`plan_in`] of some columns of the query.
pub(super) async fn plan_projected(
    context: PlanContext,
    query: &sqlparser_ast::Query,
    text: &str,
    keep: Vec<Expr>,
) -> Result<ViewPlan> {
    let project = move |logical: LogicalPlan| LogicalPlanBuilder::from(logical).project(keep).e()?.build().e();
    plan_shaped(context, query, text, project).await
}

async fn plan_shaped(
    context: PlanContext,
    query: &sqlparser_ast::Query,
    text: &str,
    shape: impl FnOnce(LogicalPlan) -> Result<LogicalPlan> + Send + 'static,
) -> Result<ViewPlan> {
    let (query, text) = (query.clone(), text.to_owned());
    deep(async move {
        let bindings = Arc::new(Bindings::of_view());
        let state = context.state(&bindings)?;
        let logical = millstream_sql::session::plan_query(&state, &query, &text).await?;
        let logical = shape(logical)?;
        let plan = build::build(&state, logical, &CatalogRelations(context.catalog.clone()))
            .map_err(|e| build::placed(e, &text))?;
        let inputs = plan.relations();
        Ok(ViewPlan { plan, inputs, named: bindings.named() })
    })
    .await?
}

pub(super) fn unique_columns(schema: &Schema) -> Result<()> {
    let mut seen = BTreeSet::new();
    for f in schema.fields() {
        if !seen.insert(f.name()) {
            return Err(Error::new(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{}\" specified more than once", f.name()),
            )
            .hint("Give the columns of the view different names with AS."));
        }
    }
    Ok(())
}

/// CREATE [MATERIALIZED] VIEW.
pub(crate) async fn create_view(session: &mut Session, c: &CreateView, text: &str) -> Result<Outcome> {
    let inner = session.engine.inner.clone();
    let schema_name = schema_name(&c.name)?;
    let tag = if c.materialized { "CREATE MATERIALIZED VIEW" } else { "CREATE VIEW" };
    no_options(&c.options, if c.materialized { "materialized view" } else { "view" }, "Views have no options yet.")?;
    let mut notices: Vec<Notice> = Vec::new();
    let ddl = inner.ddl.lock().await;
    let catalog = inner.lock().catalog.clone();
    let replaced = if c.or_replace { catalog.find(Some(USER_SCHEMA), &c.name.name).cloned() } else { None };
    if let Some(old) = &replaced {
        let same_kind =
            matches!((&old.body, c.materialized), (Body::MaterializedView { .. }, true) | (Body::View { .. }, false));
        if !same_kind {
            return Err(super::wrong_kind(
                &old.name,
                old.kind().noun(),
                if c.materialized { "a materialized view" } else { "a view" },
            ));
        }
    } else if let Some(done) = taken(&catalog, &c.name, c.if_not_exists)? {
        return Ok(done);
    }
    let with_default = match session.settings.get("freshness") {
        Some(interval) if c.materialized && c.emit.is_none() && interval != "0" => {
            let when = millstream_sql::statement::Emit::Every(interval.clone());
            let emit = EmitClause { when, lateness: None, late_rows: None, position: 1 };
            Some(CreateView { emit: Some(emit), ..c.clone() })
        }
        _ => None,
    };
    let c = with_default.as_ref().unwrap_or(c);
    let planned = plan_created(session, c, text).await?;
    unique_columns(planned.plan.schema())?;
    if !planned.plan.read_order.is_empty() {
        notices.push(notice("ORDER BY of a view does not order later reads of it"));
    }
    let unordered =
        |n: &IncNode| matches!(&n.op, IncOp::TopN { partition, order, .. } if partition.is_empty() && order.is_empty());
    if planned.plan.nodes.iter().any(unordered) {
        notices.push(notice("LIMIT without ORDER BY keeps the first rows in the order of all their columns"));
    }
    notices.extend(super::limits::check(session, &catalog, &planned.plan, c.materialized)?);
    if let Some(old) = replaced {
        std::mem::drop(ddl);
        notices.extend(super::replace::replace(session, c, text, &old, planned).await?);
        return Ok(command_with(tag, notices));
    }
    if let Some(sql) = super::emit::late_view(&catalog, c, &planned.plan)? {
        // First, so that a name that is taken stops both.
        std::mem::drop(ddl);
        let late = millstream_sql::parse::parse(&sql)?.into_iter().map(|p| p.statement).next();
        let Some(millstream_sql::statement::Statement::CreateView(late)) = late else {
            return Err(Error::internal("the view of LATE ROWS TO does not parse"));
        };
        Box::pin(create_view(session, &late, &sql)).await?;
        let main = CreateView { emit: c.emit.clone().map(|e| EmitClause { late_rows: None, ..e }), ..c.clone() };
        let made = Box::pin(create_view(session, &main, text)).await;
        if made.is_err() {
            Box::pin(drop(session, ObjectKind::MaterializedView, true, &[late.name], false)).await?;
        }
        return made;
    }
    let mut next = Catalog::clone(&catalog);
    let id = next.allocate();
    let relation = Relation {
        id,
        schema_name,
        name: c.name.name.clone(),
        schema: planned.plan.schema().clone(),
        primary_key: Vec::new(),
        definition: text.to_owned(),
        inputs: planned.inputs.clone(),
        body: if c.materialized {
            Body::MaterializedView { query: c.query_text.clone(), plan: Arc::new(planned.plan) }
        } else {
            Body::View { query: c.query_text.clone(), columns: c.columns.clone() }
        },
        meta: Meta { named: planned.named, emit: c.emit.as_ref().map(Into::into), ..Meta::default() },
    };
    add_relation(&inner, &relation)?;
    if let Some(r) = inner.lock().relations.get_mut(&id).filter(|_| c.materialized) {
        r.backfilling = true;
    }
    next.insert(relation);
    if let Err(e) = persist_catalog(&inner, next).await {
        inner.lock().relations.remove(&id);
        return Err(e);
    }
    if !c.materialized {
        return Ok(command_with(tag, notices));
    }
    std::mem::drop(ddl);
    let background = session.settings.get("background_ddl").is_some_and(|v| v == "on" || v == "true");
    if background {
        let task = inner.clone();
        inner.tasks.spawn(async move {
            if let Err(e) = start_view(&task, id, false).await {
                tracing::error!(view = id.0, "view could not be built: {}", e.message);
                quarantine(&task, id, e);
            }
        });
        return Ok(command_with(tag, notices));
    }
    // If the client goes away while it waits, the build is undone.
    let mut undo = Undo { inner: inner.clone(), id, armed: true };
    let built = start_view(&inner, id, true).await;
    if let Err(e) = built {
        undo.armed = false;
        remove_failed(&inner, id).await?;
        return Err(e);
    }
    undo.armed = false;
    if let Some(what) = crate::coord::waits_for(&inner, id) {
        let hint = format!("EXPLAIN STALL {} says more; the option idle_timeout bounds the wait.", c.name.name);
        notices.push(Notice { hint: Some(hint), ..notice(what) });
    }
    Ok(command_with(tag, notices))
}

fn quarantine(inner: &Arc<EngineInner>, id: RelationId, e: Error) {
    let mut st = inner.lock();
    if let Some(r) = st.relations.get_mut(&id) {
        r.backfilling = false;
        r.quarantined = Some(e.message);
    }
    inner.advance(&mut st);
}

/// Undoes a view whose client cancelled the statement that was creating it.
struct Undo {
    inner: Arc<EngineInner>,
    id: RelationId,
    armed: bool,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if self.armed {
            let (inner, id) = (self.inner.clone(), self.id);
            self.inner.tasks.spawn(async move {
                if let Err(e) = remove_failed(&inner, id).await {
                    tracing::warn!("a cancelled view could not be removed: {}", e.message);
                }
            });
        }
    }
}

async fn remove_failed(inner: &Arc<EngineInner>, id: RelationId) -> Result<()> {
    let _ddl = inner.ddl.lock().await;
    let mut next = Catalog::clone(&inner.lock().catalog);
    next.remove(id);
    if let Err(e) = persist_catalog(inner, next).await
        && inner.failure().is_none()
    {
        return Err(e);
    }
    drop_relations(inner, &[id]).await
}

/// DROP of any kind.
pub(crate) async fn drop(
    session: &mut Session,
    kind: ObjectKind,
    if_exists: bool,
    names: &[ObjectName],
    cascade: bool,
) -> Result<Outcome> {
    let inner = session.engine.inner.clone();
    let _ddl = inner.ddl.lock().await;
    let catalog = inner.lock().catalog.clone();
    let mut notices = Vec::new();
    let mut doomed: BTreeSet<RelationId> = BTreeSet::new();
    let mut roots: BTreeSet<RelationId> = BTreeSet::new();
    for name in names {
        let relation = match catalog.get(name) {
            Ok(r) => r,
            Err(_) if if_exists => {
                notices.push(notice(format!("{} \"{name}\" does not exist, skipping", kind.noun())));
                continue;
            }
            Err(e) => return Err(e),
        };
        schema_name(&ObjectName { schema: Some(relation.schema_name.clone()), name: relation.name.clone() })?;
        if relation.kind() != kind {
            let article = if kind == ObjectKind::MaterializedView { "a materialized view" } else { kind.noun() };
            return Err(super::wrong_kind(&relation.name, relation.kind().noun(), article)
                .hint(format!("Use DROP {}.", relation.kind().noun().to_uppercase())));
        }
        if let Some(stream) = relation.meta.late_of.and_then(|s| catalog.relations.get(&s)) {
            return Err(Error::new(
                SqlState::DEPENDENT_OBJECTS,
                format!("cannot drop {} \"{}\" because stream {} requires it", kind.noun(), relation.name, stream.name),
            )
            .hint(format!("DROP STREAM {} drops it too.", stream.name)));
        }
        roots.insert(relation.id);
        let mut stack = vec![relation.id];
        if let Some(late) = relation.meta.watermark.as_ref().and_then(|w| w.late) {
            roots.insert(late);
            stack.push(late);
        }
        while let Some(id) = stack.pop() {
            if doomed.insert(id) {
                stack.extend(catalog.dependents(id).iter().map(|d| d.id));
            }
        }
    }
    let extra: Vec<_> = doomed.difference(&roots).filter_map(|id| catalog.relations.get(id)).collect();
    if !extra.is_empty() {
        let list: Vec<String> = extra.iter().map(|r| format!("{} {}", r.kind().noun(), r.name)).collect();
        if !cascade {
            let named = names.first().map(ToString::to_string).unwrap_or_default();
            return Err(Error::new(
                SqlState::DEPENDENT_OBJECTS,
                format!("cannot drop {} {named} because other objects depend on it", kind.noun()),
            )
            .detail(format!("Dependent objects: {}.", list.join(", ")))
            .hint("Use DROP ... CASCADE to drop the dependent objects too."));
        }
        notices.push(notice(format!("drop cascades to {}", list.join(", "))));
    }
    if !doomed.is_empty() {
        let mut next = Catalog::clone(&catalog);
        doomed.iter().for_each(|id| next.remove(*id));
        persist_catalog(&inner, next).await?;
        // Ids grow from upstream to downstream.
        let order: Vec<RelationId> = doomed.into_iter().rev().collect();
        drop_relations(&inner, &order).await?;
    }
    Ok(command_with(format!("DROP {}", kind.noun().to_uppercase()), notices))
}

/// `SUBSCRIBE (SELECT ..)`: a view nobody can name, for the life of the subscription.
pub(crate) async fn subscribe_query(
    session: &mut Session,
    query: &sqlparser_ast::Query,
    text: &str,
    snapshot: bool,
) -> Result<Subscription> {
    let inner = session.engine.inner.clone();
    let planned = plan_view(session, query, text, &[]).await?;
    let (id, relation) = {
        let _ddl = inner.ddl.lock().await;
        let mut next = Catalog::clone(&inner.lock().catalog);
        let id = next.allocate();
        let relation = Relation {
            id,
            schema_name: TEMP_SCHEMA.into(),
            name: format!("subscribe_{}", id.0),
            schema: planned.plan.schema().clone(),
            primary_key: Vec::new(),
            definition: text.to_owned(),
            inputs: planned.inputs,
            body: Body::MaterializedView { query: text.to_owned(), plan: Arc::new(planned.plan) },
            meta: Meta { named: planned.named, ..Meta::default() },
        };
        next.insert(relation.clone());
        inner.lock().catalog = Arc::new(next);
        add_relation(&inner, &relation)?;
        (id, relation)
    };
    if let Some(r) = inner.lock().relations.get_mut(&id) {
        r.backfilling = true;
    }
    let mut undo = Undo { inner: inner.clone(), id, armed: true };
    start_view(&inner, relation.id, false).await?;
    undo.armed = false;
    crate::coord::subscribe_id(&inner, id, snapshot, Some(id)).await
}
