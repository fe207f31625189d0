//! CREATE INDEX, DROP INDEX, SHOW INDEXES; and how a SELECT finds the index that narrows what it reads.
//!
//! An index is used for conditions that compare its first columns with constants: any number of them by equality (`=`,
//! `IN`), then one by a range. What it gives is never less than what the conditions let through, and they are evaluated
//! again, so an index changes how much is read and nothing else. Primary keys are found in the table's own rows.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::ArrayRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::utils::{split_binary, split_conjunction};
use datafusion::logical_expr::{Expr, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use millstream_sql::statement::{CreateIndex, ObjectName};

use super::ddl::schema_name;
use super::show::text_table;
use super::{command_with, notice};
use crate::api::{Outcome, Session};
use crate::catalog::{Body, Catalog, Index, Relation};
use crate::coord::{Version, install_index, persist_catalog, remove_index};
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::state::ordered::{Lookup, can_order};
use crate::zset::ZBatch;

/// Lookups a list of constants may become; longer ones are read by a scan.
const LOOKUPS_MAX: usize = 1000;

/// CREATE INDEX.
pub(crate) async fn create(session: &mut Session, c: &CreateIndex) -> Result<Outcome> {
    const TAG: &str = "CREATE INDEX";
    let inner = session.engine.inner.clone();
    let _ddl = inner.ddl.lock().await;
    let catalog = inner.lock().catalog.clone();
    let relation = catalog.get(&c.on)?.clone();
    schema_name(&ObjectName { schema: Some(relation.schema_name.clone()), name: relation.name.clone() })?;
    if !matches!(relation.body, Body::Table { .. } | Body::MaterializedView { .. }) {
        let is = if relation.kind().noun() == "view" { "view" } else { "stream over a connector" };
        return Err(super::wrong_kind(&relation.name, is, "a table or materialized view")
            .hint("Its rows are not stored: create a materialized view over it, and an index on that."));
    }
    let name = match &c.name {
        Some(name) => name.clone(),
        None => {
            let base = format!("{}_{}_idx", relation.name, c.columns.join("_"));
            let numbered = (1..).map(|n| format!("{base}{n}"));
            std::iter::once(base.clone()).chain(numbered).find(|n| !catalog.taken(n)).unwrap_or(base)
        }
    };
    if catalog.taken(&name) {
        let message = format!("relation \"{name}\" already exists");
        if c.if_not_exists {
            return Ok(command_with(TAG, vec![notice(format!("{message}, skipping"))]));
        }
        return Err(Error::new(SqlState::DUPLICATE_TABLE, message));
    }
    let mut columns = Vec::new();
    for column in &c.columns {
        let at = relation
            .schema
            .index_of(column)
            .map_err(|_| Error::new(SqlState::UNDEFINED_COLUMN, format!("column \"{column}\" does not exist")))?;
        let t = relation.schema.field(at).data_type();
        if !can_order(t) {
            let shown = millstream_sql::types::display_name(t);
            return Err(Error::unsupported(format!("an index on column \"{column}\" of type {shown}")));
        }
        columns.push(at);
    }
    if relation.meta.paused != crate::catalog::Paused::No {
        return Err(Error::new(SqlState::OBJECT_NOT_IN_STATE, format!("\"{}\" is paused", relation.name)));
    }
    let mut next = Catalog::clone(&catalog);
    let id = next.allocate();
    next.update(relation.id, |r| r.meta.indexes.push(Index { id, name, columns: columns.clone() }));
    persist_catalog(&inner, next).await?;
    if let Err(e) = install_index(&inner, relation.id, id, &columns).await {
        let mut next = Catalog::clone(&inner.lock().catalog);
        next.update(relation.id, |r| r.meta.indexes.retain(|i| i.id != id));
        persist_catalog(&inner, next).await?;
        return Err(e);
    }
    Ok(command_with(TAG, Vec::new()))
}

/// DROP INDEX.
pub(crate) async fn drop(session: &mut Session, if_exists: bool, names: &[String]) -> Result<Outcome> {
    let inner = session.engine.inner.clone();
    let _ddl = inner.ddl.lock().await;
    let mut next = Catalog::clone(&inner.lock().catalog);
    let mut notices = Vec::new();
    let mut gone = Vec::new();
    for name in names {
        match next.index(name).map(|(r, i)| (r.id, i.id)) {
            Some((relation, index)) => {
                next.update(relation, |r| r.meta.indexes.retain(|i| i.id != index));
                gone.push((relation, index));
            }
            None if if_exists => notices.push(notice(format!("index \"{name}\" does not exist, skipping"))),
            None => {
                return Err(Error::new(SqlState::UNDEFINED_OBJECT, format!("index \"{name}\" does not exist")));
            }
        }
    }
    if !gone.is_empty() {
        persist_catalog(&inner, next).await?;
    }
    for (relation, index) in gone {
        remove_index(&inner, relation, index).await?;
    }
    Ok(command_with("DROP INDEX", notices))
}

/// SHOW INDEXES.
pub(crate) fn show(catalog: &Catalog, of: Option<&ObjectName>) -> Result<arrow::array::RecordBatch> {
    let only = of.map(|n| catalog.get(n).map(|r| r.id)).transpose()?;
    let mut rows = Vec::new();
    for r in catalog.relations.values().filter(|r| only.is_none_or(|id| id == r.id)) {
        if r.schema_name != crate::catalog::USER_SCHEMA {
            continue;
        }
        let names = |columns: &[usize]| -> String {
            columns.iter().map(|c| r.schema.field(*c).name().as_str()).collect::<Vec<_>>().join(", ")
        };
        if !r.primary_key.is_empty() {
            let name = format!("{}_pkey", r.name);
            rows.push(vec![Some(name), Some(r.name.clone()), Some(names(&r.primary_key)), Some("yes".to_owned())]);
        }
        for i in &r.meta.indexes {
            rows.push(vec![Some(i.name.clone()), Some(r.name.clone()), Some(names(&i.columns)), Some("no".to_owned())]);
        }
    }
    text_table(&["name", "on", "columns", "primary"], rows)
}

/// What a condition says about one column.
#[derive(Debug, Default)]
struct Condition {
    /// The column is one of these.
    equal: Option<Vec<ScalarValue>>,
    /// Lower end, and whether it belongs to the range.
    from: Option<(ScalarValue, bool)>,
    /// Upper end.
    to: Option<(ScalarValue, bool)>,
}

/// A literal as a value of a column's type, if it is one without change.
fn value(e: &Expr, relation: &Relation, column: usize) -> Option<ScalarValue> {
    let Expr::Literal(v, _) = e else { return None };
    let t = relation.schema.field(column).data_type();
    if v.is_null() {
        return None;
    }
    if v.data_type() == *t {
        return Some(v.clone());
    }
    let there = v.cast_to(t).ok().filter(|x| !x.is_null())?;
    let back = there.cast_to(&v.data_type()).ok()?;
    (back == *v).then_some(there)
}

fn column(e: &Expr, relation: &Relation) -> Option<usize> {
    let Expr::Column(c) = e else { return None };
    relation.schema.index_of(&c.name).ok()
}

/// Takes note of a condition; false if it is of no use to an index.
fn note(e: &Expr, relation: &Relation, found: &mut BTreeMap<usize, Condition>) -> bool {
    match e {
        // A short list is written as `a = 1 OR a = 2`.
        Expr::BinaryExpr(b) if b.op == Operator::Or => {
            let Some((at, values)) = alternatives(e, relation) else { return false };
            let c = found.entry(at).or_default();
            c.equal = c.equal.take().or(Some(values));
            true
        }
        Expr::BinaryExpr(b) => {
            let (at, op, v) = match (column(&b.left, relation), column(&b.right, relation)) {
                (Some(c), None) => (c, b.op, value(&b.right, relation, c)),
                (None, Some(c)) => match b.op.swap() {
                    Some(op) => (c, op, value(&b.left, relation, c)),
                    None => return false,
                },
                _ => return false,
            };
            let Some(v) = v else { return false };
            let floating = relation.schema.field(at).data_type().is_floating();
            let c = found.entry(at).or_default();
            match op {
                Operator::Eq => c.equal = c.equal.take().or(Some(vec![v])),
                // The order of NaN depends on who compares.
                _ if floating => return false,
                Operator::Gt => c.from = Some((v, false)),
                Operator::GtEq => c.from = Some((v, true)),
                Operator::Lt => c.to = Some((v, false)),
                Operator::LtEq => c.to = Some((v, true)),
                _ => return false,
            }
            true
        }
        Expr::InList(l) if !l.negated && l.list.len() <= LOOKUPS_MAX => {
            let Some(at) = column(&l.expr, relation) else { return false };
            // NULL in the list lets nothing more through.
            let nulls = |e: &&Expr| !matches!(e, Expr::Literal(v, _) if v.is_null());
            let values: Option<Vec<ScalarValue>> =
                l.list.iter().filter(nulls).map(|e| value(e, relation, at)).collect();
            let Some(mut values) = values else { return false };
            let mut seen = std::collections::HashSet::new();
            values.retain(|v| seen.insert(v.clone()));
            let c = found.entry(at).or_default();
            c.equal = c.equal.take().or(Some(values));
            true
        }
        Expr::Between(b) if !b.negated => {
            let Some(at) = column(&b.expr, relation) else { return false };
            let (low, high) = (value(&b.low, relation, at), value(&b.high, relation, at));
            let (Some(low), Some(high)) = (low, high) else { return false };
            if relation.schema.field(at).data_type().is_floating() {
                return false;
            }
            let c = found.entry(at).or_default();
            c.from = Some((low, true));
            c.to = Some((high, true));
            true
        }
        _ => false,
    }
}

/// The values of `a = 1 OR a = 2 OR ..`, all of one column.
fn alternatives(e: &Expr, relation: &Relation) -> Option<(usize, Vec<ScalarValue>)> {
    let mut of = None;
    let mut values: Vec<ScalarValue> = Vec::new();
    for part in split_binary(e, Operator::Or) {
        if matches!(part, Expr::Literal(v, _) if v.is_null()) {
            continue;
        }
        let mut found = BTreeMap::new();
        let is_or = matches!(part, Expr::BinaryExpr(b) if b.op == Operator::Or);
        if is_or || !note(part, relation, &mut found) || found.len() != 1 {
            return None;
        }
        let (at, condition) = found.pop_first()?;
        if of.is_some_and(|o| o != at) {
            return None;
        }
        of = Some(at);
        values.extend(condition.equal?);
    }
    let mut seen = std::collections::HashSet::new();
    values.retain(|v| seen.insert(v.clone()));
    of.map(|at| (at, values))
}

/// True if a condition may let an index of the relation narrow a read.
pub(super) fn useful(e: &Expr, relation: &Relation) -> bool {
    let mut found = BTreeMap::new();
    if !note(e, relation, &mut found) {
        return false;
    }
    let indexed =
        |c: &usize| relation.primary_key.contains(c) || relation.meta.indexes.iter().any(|i| i.columns.contains(c));
    found.keys().any(indexed)
}

/// How a read is narrowed.
pub(super) struct Narrowed {
    /// `i on t (a = 1)`.
    pub description: String,
    way: Way,
}

enum Way {
    /// By the key that the table's rows are stored by.
    Key(Vec<ArrayRef>),
    /// By an index.
    Index(usize, Vec<Lookup>),
}

/// The best way to read what these conditions let through; `None`: all of it.
pub(super) fn choose(relation: &Relation, version: &Version, filters: &[Expr]) -> Option<Narrowed> {
    let mut found: BTreeMap<usize, Condition> = BTreeMap::new();
    for f in filters.iter().flat_map(split_conjunction) {
        note(f, relation, &mut found);
    }
    let name = |c: usize| relation.schema.field(c).name();
    let shown = |v: &[ScalarValue]| v.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let describe = |columns: &[usize], equal: &[Vec<ScalarValue>], c: Option<&Condition>| {
        let mut parts: Vec<String> = columns
            .iter()
            .zip(equal)
            .map(|(c, v)| match v.as_slice() {
                [v] => format!("{} = {v}", name(*c)),
                v => format!("{} in ({})", name(*c), shown(&v[..v.len().min(8)])),
            })
            .collect();
        if let (Some(c), Some(at)) = (c, columns.get(equal.len())) {
            let end = |e: &Option<(ScalarValue, bool)>, op: &str| {
                e.as_ref().map(|(v, i)| format!("{} {op}{} {v}", name(*at), if *i { "=" } else { "" }))
            };
            parts.extend(end(&c.from, ">").into_iter().chain(end(&c.to, "<")));
        }
        parts.join(" and ")
    };
    let equals = |columns: &[usize]| -> Vec<Vec<ScalarValue>> {
        let mut lookups = 1;
        let mut out = Vec::new();
        for c in columns {
            let Some(values) = found.get(c).and_then(|f| f.equal.clone()) else { break };
            lookups *= values.len().max(1);
            if lookups > LOOKUPS_MAX {
                break;
            }
            out.push(values);
        }
        out
    };
    let key = &relation.primary_key;
    if !key.is_empty() {
        let equal = equals(key);
        if equal.len() == key.len() {
            let rows = combinations(&equal);
            let columns: Option<Vec<ArrayRef>> =
                (0..key.len()).map(|c| ScalarValue::iter_to_array(rows.iter().map(|r| r[c].clone())).ok()).collect();
            let fits = |columns: &Vec<ArrayRef>| {
                columns.iter().zip(key).all(|(a, c)| a.data_type() == relation.schema.field(*c).data_type())
            };
            if let Some(columns) = columns.filter(|c| !rows.is_empty() && fits(c)) {
                let description =
                    format!("{}_pkey on {} ({})", relation.name, relation.name, describe(key, &equal, None));
                return Some(Narrowed { description, way: Way::Key(columns) });
            }
        }
    }
    let mut best: Option<(usize, Narrowed)> = None;
    for (at, (id, snapshot)) in version.indexes.iter().enumerate() {
        let Some(index) = relation.meta.indexes.iter().find(|i| i.id == *id) else { continue };
        let columns = snapshot.columns();
        let equal = equals(columns);
        let range = columns.get(equal.len()).and_then(|c| found.get(c)).filter(|c| c.from.is_some() || c.to.is_some());
        let score = 2 * equal.len() + usize::from(range.is_some());
        if score == 0 || best.as_ref().is_some_and(|(s, _)| *s >= score) {
            continue;
        }
        let bound = |b: &Option<(ScalarValue, bool)>| -> Option<Option<(ArrayRef, bool)>> {
            match b {
                None => Some(None),
                Some((v, inclusive)) => Some(Some((v.to_array().ok()?, *inclusive))),
            }
        };
        let lookups: Option<Vec<Lookup>> = combinations(&equal)
            .into_iter()
            .map(|row| {
                let equal: Option<Vec<ArrayRef>> = row.iter().map(|v| v.to_array().ok()).collect();
                let (from, to) = match range {
                    Some(c) => (bound(&c.from)?, bound(&c.to)?),
                    None => (None, None),
                };
                Some(Lookup { equal: equal?, from, to })
            })
            .collect();
        if let Some(lookups) = lookups {
            let what = describe(columns, &equal, range);
            let description = format!("{} on {} ({what})", index.name, relation.name);
            best = Some((score, Narrowed { description, way: Way::Index(at, lookups) }));
        }
    }
    best.map(|(_, n)| n)
}

/// Every way to take one of each.
fn combinations(values: &[Vec<ScalarValue>]) -> Vec<Vec<ScalarValue>> {
    let mut rows: Vec<Vec<ScalarValue>> = vec![Vec::new()];
    for column in values {
        rows = rows
            .iter()
            .flat_map(|row| column.iter().map(move |v| row.iter().cloned().chain([v.clone()]).collect()))
            .collect();
    }
    rows
}

impl Narrowed {
    /// The rows.
    pub(super) fn read(&self, version: &Version) -> Result<Vec<ZBatch>> {
        match &self.way {
            Way::Key(keys) => version.shards.iter().map(|s| s.lookup(keys)).collect(),
            Way::Index(at, lookups) => {
                let (_, index) =
                    version.indexes.get(*at).ok_or_else(|| Error::internal("the index left its version"))?;
                lookups.iter().map(|l| index.read(l)).collect()
            }
        }
    }
}

/// A scan that an index narrowed: its rows are those of its child.
#[derive(Debug)]
pub(super) struct IndexScanExec {
    description: String,
    child: Arc<dyn ExecutionPlan>,
}

impl IndexScanExec {
    pub(super) fn new(description: String, child: Arc<dyn ExecutionPlan>) -> Self {
        Self { description, child }
    }
}

impl DisplayAs for IndexScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IndexScanExec: {}", self.description)
    }
}

impl ExecutionPlan for IndexScanExec {
    fn name(&self) -> &'static str {
        "IndexScanExec"
    }
    fn properties(&self) -> &Arc<PlanProperties> {
        self.child.properties()
    }
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.child]
    }
    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let child = children.into_iter().next().unwrap_or_else(|| self.child.clone());
        Ok(Arc::new(Self { description: self.description.clone(), child }))
    }
    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }
    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        self.child.execute(partition, context)
    }
}

/// The indexes a physical plan reads by.
pub(super) fn used(plan: &Arc<dyn ExecutionPlan>, out: &mut Vec<String>) {
    if let Some(scan) = (plan.as_ref() as &dyn Any).downcast_ref::<IndexScanExec>() {
        out.push(scan.description.clone());
    }
    plan.children().into_iter().for_each(|c| used(c, out));
}

/// Whether any of these relations has an index or a primary key.
pub(super) fn any(relations: &[Arc<Relation>]) -> bool {
    relations.iter().any(|r| !r.primary_key.is_empty() || !r.meta.indexes.is_empty())
}

/// The lines that EXPLAIN adds for a SELECT that reads by index; none if it cannot be planned now.
pub(super) async fn explain(
    session: &mut Session,
    query: &super::query::sqlparser_ast::Query,
    text: &str,
) -> Result<Vec<String>> {
    let planned = super::query::PlanContext::of(session).plan(query, text).await?;
    if !any(&super::provider::scanned(&planned.plan).e()?) {
        return Ok(Vec::new());
    }
    let (plan, _) = super::query::physical_plan(session, planned, &[]).await?;
    let mut found = Vec::new();
    used(&plan, &mut found);
    Ok(found.into_iter().map(|d| format!("SELECT reads by index {d}")).collect())
}
