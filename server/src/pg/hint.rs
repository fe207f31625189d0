//! Types of parameters as the statement's own casts give them: `$1::bigint`, `CAST($2 AS text)`. The planner infers a
//! type from comparisons and assignments only; Postgres takes the cast as well, and drivers rely on it.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{DataType, Expr, TimezoneInfo, Value, Visit, Visitor};
use millstream::statement::Statement;

use super::types::oid;

/// Type by parameter, from the first cast of it; 0 where there is none.
pub fn from_casts(statement: &Statement) -> Vec<u32> {
    let mut casts = Casts(Vec::new());
    // The visitor never breaks.
    let _ = match statement {
        Statement::Query(q) => q.visit(&mut casts),
        Statement::Dml(s) => s.visit(&mut casts),
        Statement::CopyOut { query, .. } => query.visit(&mut casts),
        _ => ControlFlow::Continue(()),
    };
    casts.0
}

struct Casts(Vec<u32>);

/// More parameters than a Bind message can carry are not looked at.
const PARAMETERS_MAX: usize = 65_535;

impl Visitor for Casts {
    type Break = ();

    fn pre_visit_expr(&mut self, e: &Expr) -> ControlFlow<()> {
        let Expr::Cast { expr, data_type, .. } = e else { return ControlFlow::Continue(()) };
        let Expr::Value(v) = expr.as_ref() else { return ControlFlow::Continue(()) };
        let Value::Placeholder(name) = &v.value else { return ControlFlow::Continue(()) };
        let number = name.strip_prefix('$').and_then(|n| n.parse::<usize>().ok());
        if let (Some(n @ 1..=PARAMETERS_MAX), Some(type_oid)) = (number, oid_of(data_type)) {
            if self.0.len() < n {
                self.0.resize(n, 0);
            }
            if self.0[n - 1] == 0 {
                self.0[n - 1] = type_oid;
            }
        }
        ControlFlow::Continue(())
    }
}

fn oid_of(t: &DataType) -> Option<u32> {
    Some(match t {
        DataType::Boolean | DataType::Bool => oid::BOOL,
        DataType::SmallInt(_) | DataType::Int2(_) => oid::INT2,
        DataType::Int(_) | DataType::Integer(_) | DataType::Int4(_) => oid::INT4,
        DataType::BigInt(_) | DataType::Int8(_) => oid::INT8,
        DataType::Real | DataType::Float4 => oid::FLOAT4,
        DataType::Double(_) | DataType::DoublePrecision | DataType::Float8 => oid::FLOAT8,
        DataType::Text | DataType::Varchar(_) | DataType::CharacterVarying(_) | DataType::String(_) => oid::TEXT,
        DataType::Bytea => oid::BYTEA,
        DataType::Date => oid::DATE,
        DataType::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => oid::TIME,
        DataType::Timestamp(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => oid::TIMESTAMP,
        DataType::Timestamp(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => oid::TIMESTAMPTZ,
        DataType::Interval { .. } => oid::INTERVAL,
        DataType::Numeric(_) | DataType::Decimal(_) | DataType::Dec(_) => oid::NUMERIC,
        DataType::Uuid => oid::UUID,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::{ast, dialect::PostgreSqlDialect, parser::Parser};

    #[test]
    fn casts_of_parameters_give_their_types() {
        let sql = "SELECT $1::bigint, CAST($3 AS text) FROM t WHERE a = $2 AND b > $1::int AND c = $4::timestamptz";
        let mut s = Parser::parse_sql(&PostgreSqlDialect {}, sql).expect("parses");
        let Some(ast::Statement::Query(q)) = s.pop() else { panic!("a query") };
        assert_eq!(from_casts(&Statement::Query(q)), [oid::INT8, 0, oid::TEXT, oid::TIMESTAMPTZ]);
    }
}
