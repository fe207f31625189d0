//! INSERT, UPDATE, DELETE and COPY FROM: a delta of one table, durable, then visible.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, ExprSchemable as _, LogicalPlanBuilder, cast, lit};
use futures::TryStreamExt as _;
use millstream_sql::session::plan_expression;
use millstream_sql::statement::ObjectName;

use super::query::{PlanContext, Planned, execute, parameter_types, sqlparser_ast as ast};
use super::{command, wrong_kind};
use crate::api::{CopyIn, Outcome, Session};
use crate::catalog::{Body, Relation};
use crate::coord::{EngineInner, write};
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::time::Epoch;
use crate::zset::{Weights, ZBatch};

/// What INSERT does about a primary key that exists.
#[derive(Debug, Clone)]
pub(crate) enum OnConflict {
    /// Fail with 23505.
    Error,
    /// Keep the old row.
    DoNothing,
    /// Take these columns from the new row.
    Update(Vec<usize>),
}

fn folded(name: &ast::ObjectName) -> Result<ObjectName> {
    let part = |p: &ast::ObjectNamePart| match p {
        ast::ObjectNamePart::Identifier(i) if i.quote_style.is_none() => Ok(i.value.to_ascii_lowercase()),
        ast::ObjectNamePart::Identifier(i) => Ok(i.value.clone()),
        ast::ObjectNamePart::Function(_) => Err(Error::unsupported("a function as a table name")),
    };
    let parts = name.0.iter().map(part).collect::<Result<Vec<_>>>()?;
    match parts.as_slice() {
        [n] => Ok(ObjectName { schema: None, name: n.clone() }),
        [s, n] | [_, s, n] => Ok(ObjectName { schema: Some(s.clone()), name: n.clone() }),
        _ => Err(Error::new(SqlState::SYNTAX_ERROR, format!("improper relation name \"{name}\""))),
    }
}

fn ident(i: &ast::Ident) -> String {
    if i.quote_style.is_none() { i.value.to_ascii_lowercase() } else { i.value.clone() }
}

fn table(session: &Session, name: &ast::ObjectName, update: bool) -> Result<Arc<Relation>> {
    let relation = session.engine.inner.lock().catalog.get(&folded(name)?)?.clone();
    match &relation.body {
        Body::Table { .. } if relation.meta.late_of.is_some() => Err(wrong_kind(&relation.name, "stream", "a table")
            .hint("It has the late rows of another stream; nobody else writes to it.")),
        Body::Table { append_only, .. } if relation.schema_name == crate::catalog::USER_SCHEMA => {
            if update && *append_only {
                return Err(wrong_kind(&relation.name, "stream", "a table").hint("Rows of a stream cannot be changed."));
            }
            Ok(relation)
        }
        Body::Connector { .. } => Err(wrong_kind(&relation.name, "stream over a connector", "a table")
            .hint("Write to its origin, or CREATE STREAM without a connector.")),
        _ => Err(wrong_kind(&relation.name, relation.kind().noun(), "a table")),
    }
}

/// Types of `$n` in a DML statement.
pub(crate) async fn parameters(
    session: &Session,
    statement: &ast::Statement,
    text: &str,
) -> Result<Vec<Option<DataType>>> {
    if let ast::Statement::Insert(insert) = statement {
        let target = insert_target(session, insert)?;
        let mut types: Vec<Option<DataType>> = Vec::new();
        let mut set = |name: &str, t: Option<DataType>| {
            if let Some(i) = name.strip_prefix('$').and_then(|n| n.parse::<usize>().ok()).filter(|i| *i > 0) {
                if types.len() < i {
                    types.resize(i, None);
                }
                if t.is_some() {
                    types[i - 1] = t;
                }
            }
        };
        if let Some(q) = &insert.source
            && let ast::SetExpr::Values(v) = q.body.as_ref()
        {
            for row in &v.rows {
                for (e, c) in row.iter().zip(&target.columns) {
                    if let ast::Expr::Value(v) = e
                        && let ast::Value::Placeholder(p) = &v.value
                    {
                        set(p, Some(target.relation.schema.field(*c).data_type().clone()));
                    }
                }
            }
        }
        if let Some(q) = &insert.source {
            let planned = PlanContext::of(session).plan(q, text).await?;
            for (i, t) in parameter_types(&planned.plan)?.into_iter().enumerate() {
                let known = types.get(i).is_some_and(Option::is_some);
                if types.len() <= i {
                    types.resize(i + 1, None);
                }
                if !known {
                    types[i] = t;
                }
            }
        }
        return Ok(types);
    }
    let (_, planned, _) = change_plan(session, statement, text).await?;
    parameter_types(&planned.plan)
}

/// Runs INSERT, UPDATE or DELETE.
pub(crate) async fn run(
    session: &mut Session,
    statement: &ast::Statement,
    text: &str,
    parameters: &[ScalarValue],
) -> Result<Outcome> {
    match statement {
        ast::Statement::Insert(insert) => {
            let target = insert_target(session, insert)?;
            let conflict = conflict_of(insert, &target.relation)?;
            let Some(source) = &insert.source else {
                return Err(Error::unsupported("INSERT without VALUES or SELECT"));
            };
            let planned = insert_plan(session, &target, source, text).await?;
            let batches = rows_of(session, planned, parameters).await?;
            let rows = arrow::compute::concat_batches(&nullable(&target.relation.schema), &batches).e()?;
            check_not_null(&target.relation, &rows)?;
            let rows = RecordBatch::try_new(target.relation.schema.clone(), rows.columns().to_vec()).e()?;
            let inner = session.engine.inner.clone();
            let (epoch, n) = insert_rows(&inner, &target.relation, rows, conflict).await?;
            session.read_floor = session.read_floor.max(epoch);
            Ok(command(format!("INSERT 0 {n}")))
        }
        ast::Statement::Update(_) | ast::Statement::Delete(_) => {
            // The rows to change are read and written with no other change of the table between.
            let (relation, planned, updates) = change_plan(session, statement, text).await?;
            let inner = session.engine.inner.clone();
            let lock = table_lock(&inner, &relation);
            let _guard = lock.lock().await;
            session.read_floor = session.read_floor.max(inner.lock().sealed);
            let batches = rows_of(session, planned, parameters).await?;
            let n: usize = batches.iter().map(RecordBatch::num_rows).sum();
            let tag = if updates { "UPDATE" } else { "DELETE" };
            if n > 0 {
                let delta = change_delta(&relation, &batches, updates)?;
                if updates && !relation.primary_key.is_empty() {
                    check_updated_keys(&inner, &relation, &delta)?;
                }
                let epoch = write(&inner, vec![(relation.id, delta)]).await?;
                session.read_floor = session.read_floor.max(epoch);
            }
            Ok(command(format!("{tag} {n}")))
        }
        other => Err(Error::unsupported(format!("statement {}", first_words(&other.to_string())))),
    }
}

fn first_words(s: &str) -> String {
    s.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

struct Target {
    relation: Arc<Relation>,
    /// Table columns the source gives, in its order.
    columns: Vec<usize>,
}

fn insert_target(session: &Session, insert: &ast::Insert) -> Result<Target> {
    let ast::TableObject::TableName(name) = &insert.table else {
        return Err(Error::unsupported("INSERT into something other than a table"));
    };
    if insert.returning.is_some() {
        return Err(Error::unsupported("RETURNING is not supported yet"));
    }
    let relation = table(session, name, false)?;
    let columns = if insert.columns.is_empty() {
        given_columns(&relation)
    } else {
        insert
            .columns
            .iter()
            .map(|c| folded(c).and_then(|n| written_column(&relation, &n.name)))
            .collect::<Result<Vec<_>>>()?
    };
    Ok(Target { relation, columns })
}

/// Columns that clients write: the time of arrival is the engine's.
fn given_columns(relation: &Relation) -> Vec<usize> {
    (0..relation.schema.fields().len()).filter(|c| relation.meta.proctime != Some(*c)).collect()
}

fn written_column(relation: &Relation, name: &str) -> Result<usize> {
    let column = column_index(relation, name)?;
    if relation.meta.proctime == Some(column) {
        let message = format!("column \"{name}\" cannot be written: it is the time of arrival");
        return Err(Error::new(SqlState("428C9"), message).hint("Leave it out of the columns of the INSERT."));
    }
    Ok(column)
}

fn column_index(relation: &Relation, name: &str) -> Result<usize> {
    relation.schema.index_of(name).map_err(|_| {
        Error::new(
            SqlState::UNDEFINED_COLUMN,
            format!("column \"{name}\" of relation \"{}\" does not exist", relation.name),
        )
    })
}

fn conflict_of(insert: &ast::Insert, relation: &Relation) -> Result<OnConflict> {
    match &insert.on {
        None => Ok(OnConflict::Error),
        Some(ast::OnInsert::OnConflict(c)) => match &c.action {
            ast::OnConflictAction::DoNothing => Ok(OnConflict::DoNothing),
            ast::OnConflictAction::DoUpdate(u) => {
                let mut columns = Vec::new();
                for a in &u.assignments {
                    let ast::AssignmentTarget::ColumnName(name) = &a.target else {
                        return Err(Error::unsupported("ON CONFLICT DO UPDATE of a tuple"));
                    };
                    let name = folded(name)?.name;
                    let excluded = matches!(&a.value, ast::Expr::CompoundIdentifier(parts)
                        if parts.len() == 2 && ident(&parts[0]) == "excluded" && ident(&parts[1]) == name);
                    if !excluded || u.selection.is_some() {
                        return Err(Error::unsupported(
                            "ON CONFLICT DO UPDATE other than SET column = excluded.column",
                        ));
                    }
                    columns.push(column_index(relation, &name)?);
                }
                Ok(OnConflict::Update(columns))
            }
        },
        Some(_) => Err(Error::unsupported("ON DUPLICATE KEY UPDATE").hint("Write ON CONFLICT DO UPDATE.")),
    }
}

/// Constants of INSERT .. VALUES are read as their column's type, each for itself: what stands in other rows of the column
/// does not matter.
fn typed_values(target: &Target, source: &ast::Query) -> ast::Query {
    let mut source = source.clone();
    if let ast::SetExpr::Values(values) = source.body.as_mut() {
        for row in &mut values.rows {
            for (e, column) in row.iter_mut().zip(&target.columns) {
                if is_constant(e)
                    && let Some(data_type) = syntax_of(target.relation.schema.field(*column).data_type())
                {
                    let expr = Box::new(e.clone());
                    *e = ast::Expr::Cast { kind: ast::CastKind::Cast, expr, data_type, array: false, format: None };
                }
            }
        }
    }
    source
}

fn is_constant(e: &ast::Expr) -> bool {
    match e {
        ast::Expr::Value(v) => {
            matches!(v.value, ast::Value::Number(..) | ast::Value::SingleQuotedString(_) | ast::Value::Boolean(_))
        }
        ast::Expr::UnaryOp { op: ast::UnaryOperator::Minus | ast::UnaryOperator::Plus, expr } => {
            matches!(expr.as_ref(), ast::Expr::Value(v) if matches!(v.value, ast::Value::Number(..)))
        }
        _ => false,
    }
}

/// How SQL writes a type; `None` where the usual rules of VALUES do as well.
fn syntax_of(t: &DataType) -> Option<ast::DataType> {
    use ast::DataType as T;
    Some(match t {
        DataType::Int16 => T::SmallInt(None),
        DataType::Int32 => T::Integer(None),
        DataType::Int64 => T::BigInt(None),
        DataType::Float32 => T::Real,
        DataType::Float64 => T::DoublePrecision,
        DataType::Boolean => T::Boolean,
        DataType::Date32 => T::Date,
        DataType::Decimal128(p, s) | DataType::Decimal256(p, s) => {
            T::Numeric(ast::ExactNumberInfo::PrecisionAndScale(u64::from(*p), i64::from(*s)))
        }
        _ => return None,
    })
}

async fn insert_plan(session: &Session, target: &Target, source: &ast::Query, text: &str) -> Result<Planned> {
    let mut planned = PlanContext::of(session).plan(&typed_values(target, source), text).await?;
    let given = planned.plan.schema().columns();
    if given.len() != target.columns.len() {
        let what = if given.len() > target.columns.len() {
            "expressions than target columns"
        } else {
            "target columns than expressions"
        };
        return Err(Error::new(SqlState::SYNTAX_ERROR, format!("INSERT has more {what}")));
    }
    let Body::Table { defaults, .. } = &target.relation.body else {
        return Err(Error::internal("insert target is not a table"));
    };
    let schema = planned.plan.schema().clone();
    let empty = datafusion::common::DFSchema::empty();
    let exprs = target
        .relation
        .schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, f)| {
            let expr = match target.columns.iter().position(|c| *c == i) {
                Some(at) => {
                    let column = Expr::Column(given[at].clone());
                    let from = column.get_type(&*schema).e()?;
                    if from == *f.data_type() { column } else { cast(column, f.data_type().clone()) }
                }
                None => match defaults.get(f.name()) {
                    Some(text) => cast(plan_expression(&planned.state, text, &empty)?, f.data_type().clone()),
                    None => lit(ScalarValue::try_from(f.data_type()).e()?),
                },
            };
            Ok(expr.alias(f.name()))
        })
        .collect::<Result<Vec<Expr>>>()?;
    planned.plan = LogicalPlanBuilder::from(planned.plan).project(exprs).e()?.build().e()?;
    Ok(planned)
}

async fn rows_of(session: &mut Session, planned: Planned, parameters: &[ScalarValue]) -> Result<Vec<RecordBatch>> {
    let (_, stream) = execute(session, planned, parameters).await?;
    stream.try_collect().await.e()
}

/// For UPDATE: the old rows, then the new values, side by side. For DELETE: the rows.
async fn change_plan(
    session: &Session,
    statement: &ast::Statement,
    text: &str,
) -> Result<(Arc<Relation>, Planned, bool)> {
    let (from, selection, assignments) = match statement {
        ast::Statement::Update(u) => {
            if u.from.is_some() || u.returning.is_some() {
                return Err(Error::unsupported("UPDATE .. FROM and RETURNING are not supported yet"));
            }
            (&u.table, u.selection.as_ref(), u.assignments.as_slice())
        }
        ast::Statement::Delete(d) => {
            if d.using.is_some() || d.returning.is_some() {
                return Err(Error::unsupported("DELETE .. USING and RETURNING are not supported yet"));
            }
            let (ast::FromTable::WithFromKeyword(t) | ast::FromTable::WithoutKeyword(t)) = &d.from;
            match t.as_slice() {
                [t] => (t, d.selection.as_ref(), &[][..]),
                _ => return Err(Error::unsupported("DELETE from several tables")),
            }
        }
        _ => return Err(Error::internal("not a change")),
    };
    let ast::TableFactor::Table { name, alias, .. } = &from.relation else {
        return Err(Error::unsupported("changing something other than a table"));
    };
    let relation = table(session, name, true)?;
    let quote = |s: &str| format!("\"{}\"", s.replace('"', "\"\""));
    let prefix = alias.as_ref().map_or_else(|| quote(&relation.name), |a| a.name.to_string());
    let mut items: Vec<String> =
        relation.schema.fields().iter().map(|f| format!("{prefix}.{}", quote(f.name()))).collect();
    let mut new_values: BTreeMap<usize, &ast::Expr> = BTreeMap::new();
    for a in assignments {
        let ast::AssignmentTarget::ColumnName(column) = &a.target else {
            return Err(Error::unsupported("UPDATE of a tuple"));
        };
        new_values.insert(column_index(&relation, &folded(column)?.name)?, &a.value);
    }
    let updates = matches!(statement, ast::Statement::Update(_));
    if updates {
        for (i, f) in relation.schema.fields().iter().enumerate() {
            match new_values.get(&i) {
                Some(e) => items.push(format!("({e}) AS {}", quote(&format!("__new_{i}")))),
                None => items.push(format!("{prefix}.{} AS {}", quote(f.name()), quote(&format!("__new_{i}")))),
            }
        }
    }
    let condition = selection.map(|s| format!(" WHERE {s}")).unwrap_or_default();
    let select = format!("SELECT {} FROM {from}{condition}", items.join(", "));
    let parsed = millstream_sql::parse::parse(&select)?;
    let Some(millstream_sql::statement::Statement::Query(q)) = parsed.first().map(|p| &p.statement) else {
        return Err(Error::internal("the rows of a change are not a query"));
    };
    let mut planned = PlanContext::of(session).plan(q, text).await?;
    if updates {
        let n = relation.schema.fields().len();
        let exprs: Vec<Expr> = planned
            .plan
            .schema()
            .columns()
            .into_iter()
            .enumerate()
            .map(|(i, c)| {
                if i < n {
                    Expr::Column(c)
                } else {
                    cast(Expr::Column(c), relation.schema.field(i - n).data_type().clone())
                        .alias(format!("__new_{}", i - n))
                }
            })
            .collect();
        planned.plan = LogicalPlanBuilder::from(planned.plan).project(exprs).e()?.build().e()?;
    }
    Ok((relation, planned, updates))
}

fn change_delta(relation: &Relation, batches: &[RecordBatch], updates: bool) -> Result<ZBatch> {
    let n = relation.schema.fields().len();
    let mut deltas = Vec::new();
    for b in batches {
        let part = |from: usize| -> Result<RecordBatch> {
            RecordBatch::try_new(nullable(&relation.schema), b.columns()[from..from + n].to_vec()).e()
        };
        deltas.push(ZBatch::retractions(part(0)?));
        if updates {
            let new = part(n)?;
            check_not_null(relation, &new)?;
            deltas.push(ZBatch::inserts(new));
        }
    }
    let all = ZBatch::concat(&nullable(&relation.schema), &deltas).e()?.consolidate().e()?;
    Ok(all.with_rows(RecordBatch::try_new(relation.schema.clone(), all.rows.columns().to_vec()).e()?))
}

fn nullable(schema: &Schema) -> arrow::datatypes::SchemaRef {
    Arc::new(Schema::new(
        schema.fields().iter().map(|f| Arc::new(Field::clone(f).with_nullable(true))).collect::<Vec<_>>(),
    ))
}

fn check_not_null(relation: &Relation, rows: &RecordBatch) -> Result<()> {
    for (i, f) in relation.schema.fields().iter().enumerate() {
        let must = !f.is_nullable() || relation.primary_key.contains(&i);
        if must && rows.column(i).logical_null_count() > 0 {
            return Err(Error::new(
                SqlState::NOT_NULL_VIOLATION,
                format!(
                    "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                    f.name(),
                    relation.name
                ),
            ));
        }
    }
    Ok(())
}

/// Serialises changes that depend on what the table holds.
fn table_lock(inner: &Arc<EngineInner>, relation: &Relation) -> Arc<tokio::sync::Mutex<()>> {
    inner.table_locks.lock().entry(relation.id).or_default().clone()
}

/// Checks and writes rows of the table's columns. Returns the epoch and how many rows were inserted or updated.
pub(crate) async fn insert_rows(
    inner: &Arc<EngineInner>,
    relation: &Arc<Relation>,
    rows: RecordBatch,
    conflict: OnConflict,
) -> Result<(Epoch, usize)> {
    let columns = relation
        .schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, f)| {
            if relation.meta.proctime == Some(i) {
                return Ok(arrow::array::new_null_array(f.data_type(), rows.num_rows()));
            }
            let column = rows.column_by_name(f.name()).ok_or_else(|| {
                Error::new(SqlState::UNDEFINED_COLUMN, format!("rows have no column \"{}\"", f.name()))
            })?;
            if column.data_type() == f.data_type() {
                Ok(column.clone())
            } else {
                arrow::compute::cast_with_options(
                    column,
                    f.data_type(),
                    &arrow::compute::CastOptions { safe: false, ..Default::default() },
                )
                .e()
            }
        })
        .collect::<Result<Vec<ArrayRef>>>()?;
    let loose = RecordBatch::try_new(nullable(&relation.schema), columns).e()?;
    check_not_null(relation, &loose)?;
    let rows = RecordBatch::try_new(relation.schema.clone(), loose.columns().to_vec()).e()?;
    if rows.num_rows() == 0 {
        let sealed = inner.lock().sealed;
        return Ok((sealed, 0));
    }
    if relation.primary_key.is_empty() {
        let n = rows.num_rows();
        return Ok((write(inner, vec![(relation.id, ZBatch::inserts(rows))]).await?, n));
    }
    let lock = table_lock(inner, relation);
    let _guard = lock.lock().await;
    let (delta, n) = resolve_keys(inner, relation, rows, &conflict)?;
    if delta.is_empty() {
        let sealed = inner.lock().sealed;
        return Ok((sealed, n));
    }
    Ok((write(inner, vec![(relation.id, delta)]).await?, n))
}

/// Order-preserving bytes of the key of each row, to find duplicates among new rows.
fn key_bytes(relation: &Relation, rows: &RecordBatch) -> Result<arrow::row::Rows> {
    let keys: Vec<ArrayRef> = relation.primary_key.iter().map(|c| rows.column(*c).clone()).collect();
    let fields = keys.iter().map(|k| arrow::row::SortField::new(k.data_type().clone())).collect();
    arrow::row::RowConverter::new(fields).e()?.convert_columns(&keys).e()
}

/// Rows of the table now that have one of these keys.
fn existing(inner: &Arc<EngineInner>, relation: &Relation, rows: &RecordBatch) -> Result<RecordBatch> {
    let keys: Vec<ArrayRef> = relation.primary_key.iter().map(|c| rows.column(*c).clone()).collect();
    let version = {
        let st = inner.lock();
        st.relation(relation.id)?.version_at(st.sealed)
    };
    let Some((_, version)) = version else { return Ok(RecordBatch::new_empty(relation.schema.clone())) };
    let found = version.shards.iter().map(|s| s.lookup(&keys)).collect::<Result<Vec<_>>>()?;
    let found = ZBatch::concat(&relation.schema, &found).e()?.consolidate().e()?;
    found.expand().e()
}

fn duplicate(relation: &Relation, rows: &RecordBatch, row: usize) -> Error {
    let values = relation
        .primary_key
        .iter()
        .map(|c| arrow::util::display::array_value_to_string(rows.column(*c), row).unwrap_or_default())
        .collect::<Vec<_>>()
        .join(", ");
    let names: Vec<&str> = relation.primary_key.iter().map(|c| relation.schema.field(*c).name().as_str()).collect();
    Error::new(
        SqlState::UNIQUE_VIOLATION,
        format!("duplicate key value violates unique constraint \"{}_pkey\"", relation.name),
    )
    .detail(format!("Key ({})=({values}) already exists.", names.join(", ")))
}

/// The delta of inserting rows into a table with a primary key.
fn resolve_keys(
    inner: &Arc<EngineInner>,
    relation: &Relation,
    rows: RecordBatch,
    conflict: &OnConflict,
) -> Result<(ZBatch, usize)> {
    let old = existing(inner, relation, &rows)?;
    let (new_keys, old_keys) = (key_bytes(relation, &rows)?, key_bytes(relation, &old)?);
    let old_by_key: HashMap<Vec<u8>, usize> =
        old_keys.iter().enumerate().map(|(i, k)| (k.data().to_vec(), i)).collect();
    let mut last: HashMap<Vec<u8>, usize> = HashMap::new();
    for i in 0..rows.num_rows() {
        let key = new_keys.row(i).data().to_vec();
        let taken = last.contains_key(&key) || old_by_key.contains_key(&key);
        match conflict {
            OnConflict::Error if taken => return Err(duplicate(relation, &rows, i)),
            // Which of the two rows stays would depend on their order.
            OnConflict::Update(_) if last.contains_key(&key) => {
                return Err(Error::new(
                    SqlState("21000"),
                    "ON CONFLICT DO UPDATE command cannot affect row a second time",
                )
                .hint("Give each key once in one statement."));
            }
            OnConflict::DoNothing if taken => {}
            _ => drop(last.insert(key, i)),
        }
    }
    let mut chosen: Vec<usize> = last.values().copied().collect();
    chosen.sort_unstable();
    let take: UInt32Array = chosen.iter().map(|i| *i as u32).collect();
    let mut fresh = arrow::compute::take_record_batch(&rows, &take).e()?;
    let n = fresh.num_rows();
    let mut deltas = Vec::new();
    if let OnConflict::Update(columns) = conflict {
        // Columns not named keep the old row's value.
        let pick: Vec<(usize, usize)> = chosen
            .iter()
            .enumerate()
            .map(|(at, i)| match old_by_key.get(new_keys.row(*i).data()) {
                Some(o) => (1, *o),
                None => (0, at),
            })
            .collect();
        let merged = (0..relation.schema.fields().len())
            .map(|c| {
                if columns.contains(&c) || relation.primary_key.contains(&c) {
                    return Ok(fresh.column(c).clone());
                }
                arrow::compute::interleave(&[fresh.column(c).as_ref(), old.column(c).as_ref()], &pick).e()
            })
            .collect::<Result<Vec<_>>>()?;
        fresh = RecordBatch::try_new(relation.schema.clone(), merged).e()?;
        let touched: BooleanArray = old_keys.iter().map(|k| Some(last.contains_key(k.data()))).collect();
        deltas.push(ZBatch::retractions(arrow::compute::filter_record_batch(&old, &touched).e()?));
    }
    deltas.push(ZBatch::inserts(fresh));
    let delta = ZBatch::concat(&relation.schema, &deltas).e()?.consolidate().e()?;
    Ok((delta, n))
}

/// An UPDATE must leave every key at most once.
fn check_updated_keys(inner: &Arc<EngineInner>, relation: &Relation, delta: &ZBatch) -> Result<()> {
    let added: BooleanArray = (0..delta.len()).map(|i| Some(delta.weight(i) > 0)).collect();
    let new = delta.filter(&added).e()?.rows;
    let old = existing(inner, relation, &new)?;
    let all = ZBatch::concat(
        &relation.schema,
        &[ZBatch::inserts(old), ZBatch::new(delta.rows.clone(), delta.weights.clone())],
    )
    .e()?
    .consolidate()
    .e()?;
    let keys = key_bytes(relation, &all.rows)?;
    let mut counts: HashMap<&[u8], i64> = HashMap::new();
    let rows: Vec<arrow::row::Row<'_>> = keys.iter().collect();
    for (i, k) in rows.iter().enumerate() {
        let n = counts.entry(k.data()).or_insert(0);
        *n += match &all.weights {
            Weights::AllOne => 1,
            Weights::Dense(w) => w[i].max(0),
        };
        if *n > 1 {
            return Err(duplicate(relation, &all.rows, i));
        }
    }
    Ok(())
}

/// Checks the target of COPY FROM.
pub(crate) fn copy_target(
    session: &Session,
    name: &ObjectName,
    columns: &[String],
    csv: bool,
    header: bool,
) -> Result<Outcome> {
    let relation = session.engine.inner.lock().catalog.get(name)?.clone();
    if !matches!(relation.body, Body::Table { .. }) || relation.schema_name != crate::catalog::USER_SCHEMA {
        return Err(wrong_kind(&relation.name, relation.kind().noun(), "a table"));
    }
    let idx = match columns {
        [] => given_columns(&relation),
        _ => columns.iter().map(|c| written_column(&relation, c)).collect::<Result<Vec<_>>>()?,
    };
    let schema = Arc::new(relation.schema.project(&idx).e()?);
    Ok(Outcome::CopyIn(CopyIn { table: name.to_string(), schema, csv, header }))
}

/// Writes the rows of a COPY FROM as one epoch.
pub(crate) async fn copy_in(session: &mut Session, target: &CopyIn, rows: Vec<RecordBatch>) -> Result<u64> {
    let name = match target.table.split_once('.') {
        Some((s, n)) => ObjectName { schema: Some(s.into()), name: n.into() },
        None => ObjectName { schema: None, name: target.table.clone() },
    };
    let inner = session.engine.inner.clone();
    let relation = inner.lock().catalog.get(&name)?.clone();
    let all = arrow::compute::concat_batches(&target.schema, &rows).e()?;
    let columns = relation
        .schema
        .fields()
        .iter()
        .map(|f| match all.column_by_name(f.name()) {
            Some(c) => c.clone(),
            None => arrow::array::new_null_array(f.data_type(), all.num_rows()),
        })
        .collect();
    let full = RecordBatch::try_new(nullable(&relation.schema), columns).e()?;
    let (epoch, n) = insert_rows(&inner, &relation, full, OnConflict::Error).await?;
    session.read_floor = session.read_floor.max(epoch);
    Ok(n as u64)
}
