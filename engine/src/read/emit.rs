//! EMIT clauses of views: which streams' time they go by, and where late rows go.

use datafusion::common::TableReference;
use millstream_sql::plan::emit::{LateInput, interval_micros, with_emit, with_lateness};
use millstream_sql::plan::time::{Bound, Bounds, TimeRules};
use millstream_sql::plan::{IncPlan, RelationId};
use millstream_sql::session::VersionTime;
use millstream_sql::statement::{CreateView, Emit, EmitClause};

use super::ddl::ViewPlan;
use crate::catalog::{Body, Catalog, Relation, StoredEmit};
use crate::coord::arrival::add_bound;
use crate::coord::event_time::{LATE_WATERMARK, bounds_of};
use crate::error::{Error, Result, SqlState};

impl From<&EmitClause> for StoredEmit {
    fn from(c: &EmitClause) -> Self {
        let (on_close, every) = match &c.when {
            Emit::OnUpdate => (false, None),
            Emit::OnWindowClose => (true, None),
            Emit::Every(text) => (false, Some(text.clone())),
        };
        Self { on_close, every, lateness: c.lateness.clone() }
    }
}

impl StoredEmit {
    fn when(&self) -> Emit {
        match (&self.every, self.on_close) {
            (Some(text), _) => Emit::Every(text.clone()),
            (None, true) => Emit::OnWindowClose,
            (None, false) => Emit::OnUpdate,
        }
    }
}

/// The columns of a relation that watermarks bound, whatever their bounds are.
pub(crate) fn time_columns(catalog: &Catalog, id: RelationId) -> Bounds {
    let Some(r) = catalog.relations.get(&id) else { return Bounds::new() };
    match &r.body {
        Body::MaterializedView { plan, .. } => match TimeRules::new(plan) {
            Ok(rules) => {
                let nodes = rules.propagate(plan, &|id| time_columns(catalog, id));
                nodes.get(plan.output.0 as usize).map(|n| n.columns.clone()).unwrap_or_default()
            }
            Err(_) => Bounds::new(),
        },
        _ => {
            let timed = r.meta.watermark.is_some() || r.meta.late_of.is_some();
            let mut bounds = if timed { bounds_of(r, Some(0)) } else { Bounds::new() };
            add_bound(r, Some(0), &mut bounds);
            bounds
        }
    }
}

/// The column from whose time on a row of a relation is in force, until the next one of its key.
pub(super) fn version_time(catalog: &Catalog, name: &TableReference) -> VersionTime {
    let Some(relation) = catalog.find(name.schema(), name.table()) else { return VersionTime::Unknown };
    if relation.meta.late_of.is_some() {
        return VersionTime::Unknown;
    }
    let bounds = time_columns(catalog, relation.id);
    let mut columns = bounds.iter().enumerate().filter(|(_, b)| matches!(b, Some(Bound::At(_)))).map(|(i, _)| i);
    match (columns.next(), columns.next()) {
        (Some(one), None) => VersionTime::Column(one),
        (Some(_), Some(_)) => VersionTime::Several,
        (None, _) => VersionTime::Unknown,
    }
}

/// True if what a plan says is final may still be corrected.
fn corrected(catalog: &Catalog, plan: &IncPlan) -> bool {
    plan.relations().iter().filter_map(|id| catalog.relations.get(id)).any(|r| match &r.body {
        Body::MaterializedView { plan, .. } => corrected(catalog, plan),
        _ => r.meta.late_of.is_some(),
    })
}

/// Applies a clause to a view that is about to be made.
pub(super) fn apply(catalog: &Catalog, view: ViewPlan, emit: &StoredEmit) -> Result<ViewPlan> {
    let ViewPlan { mut plan, named, .. } = view;
    if let Some(text) = &emit.lateness {
        let micros = interval_micros(text)?;
        if micros < 0 {
            return Err(Error::new(SqlState::INVALID_PARAMETER_VALUE, "ALLOW LATENESS must not be negative"));
        }
        late_streams(catalog, &plan, "ALLOW LATENESS")?;
        plan = with_lateness(plan, micros, &|id| late_input(catalog, id));
    }
    let corrected = corrected(catalog, &plan);
    let plan = with_emit(plan, &emit.when(), corrected, &|id| time_columns(catalog, id))?;
    Ok(ViewPlan { inputs: plan.relations(), plan, named })
}

fn late_input(catalog: &Catalog, id: RelationId) -> Option<LateInput> {
    let stream = catalog.relations.get(&id)?;
    let watermark = stream.meta.watermark.as_ref()?;
    let late = catalog.relations.get(&watermark.late?)?;
    Some(LateInput {
        relation: late.id,
        time: watermark.column,
        watermark: late.schema.index_of(LATE_WATERMARK).ok()?,
        data_type: stream.schema.field(watermark.column).data_type().clone(),
    })
}

/// The streams with watermarks that a plan reads; an error if there is none, or one that keeps no late rows.
fn late_streams<'c>(catalog: &'c Catalog, plan: &IncPlan, clause: &str) -> Result<Vec<&'c Relation>> {
    let mut streams = Vec::new();
    for id in plan.relations() {
        let Some(r) = catalog.relations.get(&id) else { continue };
        let Some(w) = &r.meta.watermark else { continue };
        if w.late.is_none() {
            return Err(Error::unsupported(format!("{clause}: stream \"{}\" does not keep its late rows", r.name))
                .hint("Create the stream with on_late = 'keep', which is the default."));
        }
        streams.push(r.as_ref());
    }
    if streams.is_empty() {
        return Err(Error::unsupported(format!("{clause}: the view reads no stream with a watermark itself"))
            .hint("CREATE STREAM s (.., WATERMARK FOR ts AS ts - INTERVAL '5 seconds') .., and read s in this view."));
    }
    Ok(streams)
}

/// The statement that makes the relation of LATE ROWS TO: the rows that are too late for the view.
pub(super) fn late_view(catalog: &Catalog, view: &CreateView, plan: &IncPlan) -> Result<Option<String>> {
    let Some(clause) = &view.emit else { return Ok(None) };
    let Some(target) = &clause.late_rows else { return Ok(None) };
    let streams = late_streams(catalog, plan, "LATE ROWS TO")?;
    let [stream] = streams.as_slice() else {
        return Err(Error::unsupported("LATE ROWS TO of a view over several streams with watermarks")
            .hint("The late rows of each stream s are in s_late.")
            .at(clause.position));
    };
    let late = stream.meta.watermark.as_ref().and_then(|w| Some((w, catalog.relations.get(&w.late?)?)));
    let Some((watermark, late)) = late else {
        return Err(Error::internal(format!("the late rows of \"{}\" are not there", stream.name)));
    };
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut sql = format!("CREATE MATERIALIZED VIEW {} AS SELECT * FROM {}", quoted(&target.name), quoted(&late.name));
    if let Some(lateness) = &clause.lateness {
        let time = quoted(stream.schema.field(watermark.column).name());
        sql.push_str(&format!(" WHERE {time} < {LATE_WATERMARK} - INTERVAL '{}'", lateness.replace('\'', "''")));
    }
    Ok(Some(sql))
}
