//! Types that have to agree: the branches of CASE, the arguments of COALESCE and its like, the columns of a union.
//!
//! DataFusion brings what differs to text. Postgres refuses it (42804), except for literals: those are of the type of the
//! others, and an error if they cannot be.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::logical_plan::{Projection, Union};
use datafusion::logical_expr::{Case, Expr, ExprSchemable, LogicalPlan};

use super::operators::typed;
use crate::error::{SqlError, SqlState};
use crate::types::display_name;

/// Types that become each other by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Text,
    Number,
    Boolean,
    Moment,
    Time,
    Interval,
    Bytes,
}

fn family(t: &DataType) -> Option<Family> {
    Some(match t {
        t if t.is_numeric() => Family::Number,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Family::Text,
        DataType::Boolean => Family::Boolean,
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => Family::Moment,
        DataType::Time32(_) | DataType::Time64(_) => Family::Time,
        DataType::Interval(_) | DataType::Duration(_) => Family::Interval,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Family::Bytes,
        _ => return None,
    })
}

fn is_literal(e: &Expr) -> bool {
    match e {
        Expr::Alias(a) => is_literal(&a.expr),
        Expr::Literal(value, _) => !value.is_null() && family(&value.data_type()) == Some(Family::Text),
        _ => false,
    }
}

/// The type that literals take, if there are any beside other types; an error if types do not go together.
fn common(types: &[(DataType, bool)], what: &str) -> Result<Option<DataType>> {
    let mut first: Option<(&DataType, Family)> = None;
    for (t, literal) in types {
        let (false, Some(f)) = (*literal, family(t)) else { continue };
        match first {
            None => first = Some((t, f)),
            Some((_, known)) if known == f => {}
            Some((other, _)) => {
                let message = format!("{what} types {} and {} cannot be matched", display_name(other), display_name(t));
                return Err(DataFusionError::External(Box::new(SqlError::new(SqlState::DATATYPE_MISMATCH, message))));
            }
        }
    }
    let literals = types.iter().any(|(_, literal)| *literal);
    Ok(first.filter(|(_, f)| literals && *f != Family::Text).map(|(t, _)| t.clone()))
}

/// The expressions with literals in the type of the others; `None` if nothing changes.
pub(super) fn expressions<'a>(
    all: impl IntoIterator<Item = &'a Expr>,
    schema: &DFSchema,
    what: &str,
) -> Result<Option<Vec<Expr>>> {
    let all: Vec<&Expr> = all.into_iter().collect();
    // The type of a parameter may not be known yet.
    let Ok(types) = all.iter().map(|e| Ok((e.get_type(schema)?, is_literal(e)))).collect::<Result<Vec<_>>>() else {
        return Ok(None);
    };
    let Some(to) = common(&types, what)? else { return Ok(None) };
    all.into_iter()
        .map(|e| if is_literal(e) { typed(e.clone(), &to) } else { Ok(e.clone()) })
        .collect::<Result<_>>()
        .map(Some)
}

/// A CASE whose results agree.
pub(super) fn case(case: &Case, schema: &DFSchema) -> Result<Option<Case>> {
    let results = case.when_then_expr.iter().map(|(_, then)| &**then).chain(case.else_expr.as_deref());
    let Some(results) = expressions(results, schema, "CASE")? else { return Ok(None) };
    let mut new = case.clone();
    let mut results = results.into_iter();
    for ((_, then), result) in new.when_then_expr.iter_mut().zip(results.by_ref()) {
        **then = result;
    }
    if let (Some(e), Some(result)) = (&mut new.else_expr, results.next()) {
        **e = result;
    }
    Ok(Some(new))
}

/// The expression that gives a column of a query, where the query says it.
fn column(plan: &LogicalPlan, i: usize) -> Option<&Expr> {
    match plan {
        LogicalPlan::Projection(p) => p.expr.get(i),
        _ => None,
    }
}

/// A union whose columns agree; `None` if nothing changes.
pub(super) fn union(u: &Union) -> Result<Option<Union>> {
    let width = u.schema.fields().len();
    if u.inputs.iter().any(|input| input.schema().fields().len() != width) {
        return Ok(None);
    }
    let mut inputs = u.inputs.clone();
    let mut changed = false;
    for i in 0..width {
        let types: Vec<(DataType, bool)> = u
            .inputs
            .iter()
            .map(|input| (input.schema().field(i).data_type().clone(), column(input, i).is_some_and(is_literal)))
            .collect();
        let Some(to) = common(&types, "UNION")? else { continue };
        for (input, (_, literal)) in inputs.iter_mut().zip(&types) {
            if let (true, LogicalPlan::Projection(p)) = (*literal, input.as_ref()) {
                let mut exprs = p.expr.clone();
                let (qualifier, field) = p.schema.qualified_field(i);
                exprs[i] = typed(exprs[i].clone().unalias(), &to)?.alias_qualified(qualifier.cloned(), field.name());
                *input = Arc::new(LogicalPlan::Projection(Projection::try_new(exprs, Arc::clone(&p.input))?));
                changed = true;
            }
        }
    }
    Ok(changed.then(|| Union { inputs, schema: Arc::clone(&u.schema) }))
}
