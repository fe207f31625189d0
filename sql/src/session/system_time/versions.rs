//! What says when a version of a relation began.
//!
//! The rows of a stream with a watermark are versions: each is in force from the time in its watermark column until the next
//! row of its key. So are the rows of a view that picks and filters them, as long as it keeps that column.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::TableReference;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr as PlanExpr, LogicalPlan};
use sqlparser::ast::{Ident, ObjectName, Query, TableFactor, TableVersion, Visit, Visitor};

use super::super::from_datafusion;
use super::is_proctime;
use crate::error::{Result, SqlError};
use crate::session::visible;

/// What a catalog knows of the versions of a stored relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionTime {
    /// Its rows are versions from the time in this column on.
    Column(usize),
    /// Several columns are in order of time.
    Several,
    /// Nothing says when a row began to be valid.
    Unknown,
}

/// Asks the catalog about a stored relation: an extension of the session's configuration.
pub struct VersionTimes(pub Arc<dyn Fn(&TableReference) -> VersionTime + Send + Sync>);

impl fmt::Debug for VersionTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VersionTimes")
    }
}

/// A column of a relation.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) position: usize,
    pub(super) name: String,
}

/// The relations of a query that are joined as of a time of the left side.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// By name as it is written; `None` of one that is not there.
    found: HashMap<String, std::result::Result<Option<Column>, SqlError>>,
}

impl Versions {
    pub(super) async fn of(query: &Query, state: &SessionState) -> Result<Self> {
        let mut names = Names::default();
        // It never breaks off.
        let _ = query.visit(&mut names);
        let mut found = HashMap::new();
        for name in names.versioned {
            let parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident()).map(normal).collect();
            let column = match parts.as_slice() {
                [one] if names.common.contains(one) => Err(of_with(one)),
                _ => time_of(state, &parts).await,
            };
            found.insert(name.to_string(), column);
        }
        Ok(Self { found })
    }

    /// The time of a relation's versions.
    pub(super) fn column(&self, name: &ObjectName) -> Result<Option<&Column>> {
        match self.found.get(&name.to_string()) {
            Some(Ok(column)) => Ok(column.as_ref()),
            Some(Err(e)) => Err(e.clone()),
            None => Ok(None),
        }
    }
}

/// Names of relations that are joined as of a time, and of the queries of all WITHs.
#[derive(Default)]
struct Names {
    versioned: Vec<ObjectName>,
    common: HashSet<String>,
}

impl Visitor for Names {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let common = query.with.iter().flat_map(|w| &w.cte_tables).map(|c| normal(&c.alias.name));
        self.common.extend(common);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, version: Some(TableVersion::ForSystemTimeAsOf(time)), .. } = factor
            && !is_proctime(time)
        {
            self.versioned.push(name.clone());
        }
        ControlFlow::Continue(())
    }
}

fn normal(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

fn of_with(name: &str) -> SqlError {
    SqlError::unsupported(format!("\"{name}\" of WITH has no versions FOR SYSTEM_TIME AS OF a time"))
        .hint(by_asof(name, "CREATE VIEW of it, if it keeps the watermark column of a stream"))
}

/// The way out where no column says when a version began.
fn by_asof(name: &str, first: &str) -> String {
    format!(
        "{first}; or name the time yourself: .. ASOF JOIN {name} ON a.k = {name}.k AND a.ts >= {name}.ts, where ts is \
         the time from which a row of {name} is valid."
    )
}

async fn time_of(state: &SessionState, parts: &[String]) -> Result<Option<Column>> {
    let reference = match parts {
        [table] => TableReference::bare(table.as_str()),
        [schema, table] => TableReference::partial(schema.as_str(), table.as_str()),
        [catalog, schema, table] => TableReference::full(catalog.as_str(), schema.as_str(), table.as_str()),
        _ => return Ok(None),
    };
    let Ok(schema) = state.schema_for_ref(reference.clone()) else { return Ok(None) };
    let Some(table) = schema.table(reference.table()).await.map_err(from_datafusion)? else { return Ok(None) };
    let name = reference.table();
    let asked = |of: &TableReference| match state.config().get_extension::<VersionTimes>() {
        Some(times) => (times.0)(of),
        None => VersionTime::Unknown,
    };
    let position = match table.get_logical_plan() {
        None => match asked(&reference) {
            VersionTime::Column(c) => c,
            other => return Err(unknown(name, other)),
        },
        Some(plan) => {
            let times = times_of(&plan, &asked);
            let mut columns = times.iter().enumerate().filter(|(_, is)| **is).map(|(i, _)| i);
            match (columns.next(), columns.next()) {
                (Some(one), None) => one,
                (Some(_), Some(_)) => return Err(unknown(name, VersionTime::Several)),
                (None, _) => return Err(of_view(name)),
            }
        }
    };
    let schema = table.schema();
    let field = schema.fields().get(position);
    let field = field.ok_or_else(|| SqlError::internal(format!("\"{name}\" has no column {position}")))?;
    Ok(Some(Column { position, name: visible(field.name()).to_owned() }))
}

fn unknown(name: &str, why: VersionTime) -> SqlError {
    let no =
        |what: &str| SqlError::unsupported(format!("\"{name}\" has no versions FOR SYSTEM_TIME AS OF a time: {what}"));
    match why {
        VersionTime::Several => no("several of its columns are in order of time")
            .hint(by_asof(name, "Join a view with one of them")),
        _ => no("no column of it is bounded by a watermark").hint(by_asof(
            name,
            "Versions are the rows of a stream with a watermark: CREATE STREAM s (.., WATERMARK FOR ts AS ts - INTERVAL '5 seconds')",
        )),
    }
}

fn of_view(name: &str) -> SqlError {
    SqlError::unsupported(format!(
        "view \"{name}\" has no versions FOR SYSTEM_TIME AS OF a time: it does not just pick rows and columns, the \
         watermark column among them, of a stream"
    ))
    .hint(by_asof(
        name,
        "Join the stream itself, each of its rows is a version: a view of the last row of each key has forgotten the others",
    ))
}

/// Which columns of a plan are the time of the versions that its rows are.
fn times_of(plan: &LogicalPlan, asked: &dyn Fn(&TableReference) -> VersionTime) -> Vec<bool> {
    let none = || vec![false; plan.schema().fields().len()];
    match plan {
        LogicalPlan::TableScan(scan) => match asked(&scan.table_name) {
            VersionTime::Column(time) => match &scan.projection {
                Some(columns) => columns.iter().map(|c| *c == time).collect(),
                None => (0..scan.source.schema().fields().len()).map(|c| c == time).collect(),
            },
            VersionTime::Several | VersionTime::Unknown => none(),
        },
        LogicalPlan::SubqueryAlias(a) => times_of(&a.input, asked),
        LogicalPlan::Filter(f) => times_of(&f.input, asked),
        LogicalPlan::Projection(p) => {
            let input = times_of(&p.input, asked);
            let is_time = |e: &PlanExpr| match e.clone().unalias() {
                PlanExpr::Column(c) => {
                    p.input.schema().maybe_index_of_column(&c).and_then(|i| input.get(i).copied()).unwrap_or(false)
                }
                _ => false,
            };
            p.expr.iter().map(is_time).collect()
        }
        _ => none(),
    }
}
