//! Names of output columns as Postgres gives them: `count` for `count(*)`, `case` for CASE, `?column?` for what has no
//! name, and two columns of one name where the query asks for them.
//!
//! DataFusion needs different names. So the second column of a name gets a [`MARK`] and a number after its name, which
//! no identifier of a user has; [`visible`] takes it off again where columns are shown. Names are given in the syntax
//! tree, before planning, to the select lists whose names can be seen: of the query, of set operations, CTEs and
//! derived tables.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use sqlparser::ast::{
    self, AccessExpr, DataType, Expr, Ident, ObjectName, Query, Select, SelectItem, SetExpr, TableFactor,
    TrimWhereField, VisitMut, VisitorMut,
};

/// Between a name and the number that tells it from others of the same name.
const MARK: char = '\u{1}';

const NAMELESS: &str = "?column?";

/// The name as the user knows it.
pub fn visible(name: &str) -> &str {
    name.split(MARK).next().unwrap_or(name)
}

/// The columns with the names the user knows.
pub fn visible_schema(schema: &Schema) -> SchemaRef {
    let field = |f: &Arc<Field>| match f.name().contains(MARK) {
        true => Arc::new(Field::clone(f).with_name(visible(f.name()))),
        false => Arc::clone(f),
    };
    Arc::new(Schema::new_with_metadata(
        schema.fields().iter().map(field).collect::<Vec<_>>(),
        schema.metadata().clone(),
    ))
}

/// A text without marks.
pub(super) fn visible_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            MARK => while chars.next_if(char::is_ascii_digit).is_some() {},
            c => out.push(c),
        }
    }
    out
}

/// Which columns of a select list must not keep their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clashes {
    /// Those written twice.
    Written,
    /// Also all that stand beside a `*`, which may give a column of that name.
    BesideWildcards,
}

/// Names the columns of every select list whose names can be seen. True if some stand beside a wildcard and have kept
/// their names.
pub(super) fn assign(query: &mut Query, clashes: Clashes) -> bool {
    let mut namer = Namer { clashes, beside: false };
    // The visitor never breaks.
    let _ = query.visit(&mut namer);
    namer.query(query);
    namer.beside
}

struct Namer {
    clashes: Clashes,
    beside: bool,
}

impl VisitorMut for Namer {
    type Break = ();

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Derived { subquery, .. } = factor {
            self.query(subquery);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        for cte in query.with.iter_mut().flat_map(|w| &mut w.cte_tables) {
            self.query(&mut cte.query);
        }
        ControlFlow::Continue(())
    }
}

impl Namer {
    fn query(&mut self, query: &mut Query) {
        self.set(&mut query.body);
        // SELECT DISTINCT is ordered by its columns: an expression that is one of them is called by its name.
        let SetExpr::Select(select) = query.body.as_ref() else { return };
        let Some(ast::OrderByKind::Expressions(order)) = query.order_by.as_mut().map(|o| &mut o.kind) else { return };
        if !matches!(select.distinct, Some(ast::Distinct::Distinct)) {
            return;
        }
        for item in &select.projection {
            let SelectItem::ExprWithAlias { expr, alias } = item else { continue };
            for o in order.iter_mut().filter(|o| o.expr == *expr && qualifier(expr).is_none()) {
                o.expr = Expr::Identifier(alias.clone());
            }
        }
    }

    fn set(&mut self, body: &mut SetExpr) {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::SetOperation { left, right, .. } => {
                self.set(left);
                self.set(right);
            }
            SetExpr::Query(query) => self.query(query),
            _ => {}
        }
    }

    fn select(&mut self, select: &mut Select) {
        let wildcard = |i: &SelectItem| matches!(i, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        let beside = select.projection.iter().any(wildcard);
        let marked = beside && self.clashes == Clashes::BesideWildcards;
        self.beside |= beside && !marked;
        // The plain columns of each name seen so far; `None` among them for anything else.
        let mut seen: HashMap<String, Vec<Option<String>>> = HashMap::new();
        for item in &mut select.projection {
            let (name, plain) = match item {
                SelectItem::UnnamedExpr(e) => (name_of(e).unwrap_or_else(|| NAMELESS.to_owned()), qualifier(e)),
                SelectItem::ExprWithAlias { alias, .. } => (folded(alias), None),
                _ => continue,
            };
            let others = seen.entry(name.clone()).or_default();
            // Columns of different relations are told apart by their relation.
            let apart = |o: &Option<String>| match (o, &plain) {
                (Some(a), Some(b)) => !a.is_empty() && !b.is_empty() && a != b,
                _ => false,
            };
            let clash = marked || !others.iter().all(apart);
            let given = if clash { format!("{name}{MARK}{}", others.len() + 1) } else { name };
            others.push(plain.clone());
            if !clash && (plain.is_some() || matches!(item, SelectItem::ExprWithAlias { .. })) {
                continue;
            }
            let alias = Ident::with_quote('"', given);
            match item {
                SelectItem::UnnamedExpr(e) => {
                    let expr = std::mem::replace(e, Expr::Identifier(Ident::new("_")));
                    *item = SelectItem::ExprWithAlias { expr, alias };
                }
                SelectItem::ExprWithAlias { alias: old, .. } => *old = alias,
                _ => {}
            }
        }
    }
}

fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// `Some` for a plain column: its relation, or nothing.
fn qualifier(e: &Expr) -> Option<String> {
    match e {
        Expr::Identifier(_) => Some(String::new()),
        Expr::CompoundIdentifier(parts) => {
            Some(parts[..parts.len().saturating_sub(1)].iter().map(folded).collect::<Vec<_>>().join("."))
        }
        _ => None,
    }
}

fn name_of(e: &Expr) -> Option<String> {
    figure(e).map(|f| f.name)
}

/// A name, and if it is better than that of a type (which a cast or CASE around it would replace).
struct Figured {
    name: String,
    strong: bool,
}

fn strong(name: impl Into<String>) -> Option<Figured> {
    Some(Figured { name: name.into(), strong: true })
}

fn weak(name: impl Into<String>) -> Option<Figured> {
    Some(Figured { name: name.into(), strong: false })
}

fn last_part(name: &ObjectName) -> Option<String> {
    name.0.last().and_then(|p| p.as_ident()).map(folded)
}

/// Postgres' FigureColname.
fn figure(e: &Expr) -> Option<Figured> {
    match e {
        Expr::Identifier(i) => strong(folded(i)),
        Expr::CompoundIdentifier(parts) => strong(folded(parts.last()?)),
        Expr::CompoundFieldAccess { root, access_chain } => match access_chain.last() {
            Some(AccessExpr::Dot(Expr::Identifier(i))) => strong(folded(i)),
            _ => figure(root),
        },
        Expr::Nested(inner) => figure(inner),
        Expr::Collate { expr, .. } => figure(expr),
        Expr::Function(f) => strong(last_part(&f.name)?),
        Expr::Cast { expr, data_type, .. } => match figure(expr) {
            Some(f) if f.strong => Some(f),
            _ => weak(type_name(data_type)),
        },
        Expr::TypedString(t) => weak(type_name(&t.data_type)),
        Expr::Interval(_) => weak("interval"),
        Expr::Case { else_result, .. } => match else_result.as_deref().and_then(figure) {
            Some(f) if f.strong => Some(f),
            _ => weak("case"),
        },
        Expr::Exists { .. } => strong("exists"),
        Expr::Subquery(query) => strong(first_name(&query.body)?),
        Expr::Array(_) => strong("array"),
        Expr::Tuple(_) | Expr::Struct { .. } => strong("row"),
        Expr::Extract { .. } => strong("extract"),
        Expr::Ceil { .. } => strong("ceil"),
        Expr::Floor { .. } => strong("floor"),
        Expr::Position { .. } => strong("position"),
        Expr::Substring { .. } => strong("substring"),
        Expr::Overlay { .. } => strong("overlay"),
        Expr::Trim { trim_where, .. } => strong(match trim_where {
            Some(TrimWhereField::Leading) => "ltrim",
            Some(TrimWhereField::Trailing) => "rtrim",
            _ => "btrim",
        }),
        Expr::AtTimeZone { .. } => strong("timezone"),
        _ => None,
    }
}

/// The name of a subquery's first column.
fn first_name(body: &SetExpr) -> Option<String> {
    match body {
        SetExpr::Select(s) => match s.projection.first()? {
            SelectItem::UnnamedExpr(e) => name_of(e),
            SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
            _ => None,
        },
        SetExpr::SetOperation { left, .. } => first_name(left),
        SetExpr::Query(q) => first_name(&q.body),
        SetExpr::Values(_) => Some("column1".to_owned()),
        _ => None,
    }
}

/// Postgres' internal name of a type.
fn type_name(t: &DataType) -> String {
    use DataType as T;
    let name = match t {
        T::TinyInt(_) => "tinyint",
        T::SmallInt(_) | T::Int2(_) => "int2",
        T::Int(_) | T::Integer(_) | T::Int4(_) => "int4",
        T::BigInt(_) | T::Int8(_) => "int8",
        T::Real | T::Float4 => "float4",
        T::Float(_) | T::Float8 | T::Double(_) | T::DoublePrecision => "float8",
        T::Bool | T::Boolean => "bool",
        T::Numeric(_) | T::Decimal(_) | T::Dec(_) => "numeric",
        T::Char(_) | T::Character(_) => "bpchar",
        T::Varchar(_) | T::CharVarying(_) | T::CharacterVarying(_) => "varchar",
        T::Timestamp(_, ast::TimezoneInfo::Tz | ast::TimezoneInfo::WithTimeZone) => "timestamptz",
        T::Timestamp(..) => "timestamp",
        T::Time(..) => "time",
        T::Interval { .. } => "interval",
        T::Array(inner) => {
            return match inner {
                ast::ArrayElemTypeDef::AngleBracket(t)
                | ast::ArrayElemTypeDef::SquareBracket(t, _)
                | ast::ArrayElemTypeDef::Parenthesis(t) => type_name(t),
                ast::ArrayElemTypeDef::None => "array".to_owned(),
            };
        }
        T::Custom(name, _) => return last_part(name).unwrap_or_else(|| NAMELESS.to_owned()),
        other => {
            let text = other.to_string().to_lowercase();
            return text.split(['(', ' ']).next().unwrap_or(NAMELESS).to_owned();
        }
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlparser::dialect::PostgreSqlDialect;
    use sqlparser::parser::Parser;

    fn named(sql: &str, clashes: Clashes) -> String {
        let mut parsed = Parser::parse_sql(&PostgreSqlDialect {}, sql).expect(sql);
        let ast::Statement::Query(query) = &mut parsed[0] else { panic!("not a query: {sql}") };
        assign(query, clashes);
        query.to_string().replace(MARK, "#")
    }

    fn check(items: &str, expected: &[&str]) {
        let sql = format!("SELECT {items} FROM t");
        let mut parsed = Parser::parse_sql(&PostgreSqlDialect {}, &sql).expect(&sql);
        let ast::Statement::Query(query) = &mut parsed[0] else { panic!("not a query: {sql}") };
        assign(query, Clashes::Written);
        let SetExpr::Select(select) = query.body.as_ref() else { panic!("not a select: {sql}") };
        let names: Vec<String> = select
            .projection
            .iter()
            .map(|i| match i {
                SelectItem::UnnamedExpr(e) => name_of(e).unwrap_or_default(),
                SelectItem::ExprWithAlias { alias, .. } => visible(&alias.value).to_owned(),
                other => other.to_string(),
            })
            .collect();
        assert_eq!(names, expected, "{items}");
    }

    #[test]
    fn columns_are_named_as_postgres_names_them() {
        check("count(*), sum(x), lower(s), pg_catalog.version()", &["count", "sum", "lower", "version"]);
        check("1, 'a', x + 1, NOT b, x IS NULL, x IN (1)", &["?column?"; 6]);
        check("x::text, 1::int, '2020-01-01'::date, DATE '2020-01-01'", &["x", "int4", "date", "date"]);
        check("CAST(a + b AS DOUBLE PRECISION), lower(s)::varchar(3)", &["float8", "lower"]);
        check("CASE WHEN a THEN b END, CASE WHEN a THEN 1 ELSE x END", &["case", "x"]);
        check("(SELECT max(y) FROM u), EXISTS (SELECT 1), ARRAY[1, 2]", &["max", "exists", "array"]);
        check("coalesce(a, b), nullif(a, 1), greatest(a, b)", &["coalesce", "nullif", "greatest"]);
        check("extract(year FROM ts), trim(s), ts AT TIME ZONE 'UTC'", &["extract", "btrim", "timezone"]);
        check("INTERVAL '1 day', t.\"Name\", Name", &["interval", "Name", "name"]);
        check("row_number() OVER (ORDER BY a), sum(a) FILTER (WHERE b)", &["row_number", "sum"]);
        check("l[1], (a)", &["l", "a"]);
    }

    #[test]
    fn the_second_column_of_a_name_is_marked() {
        assert_eq!(named("SELECT v, v FROM t", Clashes::Written), "SELECT v, v AS \"v#2\" FROM t");
        assert_eq!(named("SELECT a.id, b.id FROM a, b", Clashes::Written), "SELECT a.id, b.id FROM a, b");
        assert_eq!(named("SELECT 1 AS x, 2 AS x", Clashes::Written), "SELECT 1 AS x, 2 AS \"x#2\"");
        assert_eq!(named("SELECT v, * FROM t", Clashes::Written), "SELECT v, * FROM t");
        assert_eq!(named("SELECT v, * FROM t", Clashes::BesideWildcards), "SELECT v AS \"v#1\", * FROM t");
    }

    #[test]
    fn names_are_given_where_they_can_be_seen() {
        let q = "WITH c AS (SELECT count(*) FROM t) SELECT * FROM c, (SELECT sum(x) FROM t) AS s WHERE EXISTS (SELECT max(x) FROM t)";
        let expected = "WITH c AS (SELECT count(*) AS \"count\" FROM t) SELECT * FROM c, (SELECT sum(x) AS \"sum\" FROM t) AS s WHERE EXISTS (SELECT max(x) FROM t)";
        assert_eq!(named(q, Clashes::Written), expected);
    }

    #[test]
    fn marks_are_not_shown() {
        assert_eq!(visible("v\u{1}2"), "v");
        assert_eq!(visible_text("column \"v\u{1}12\" and w"), "column \"v\" and w");
    }
}
