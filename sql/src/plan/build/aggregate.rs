//! GROUP BY.

use arrow::datatypes::DataType;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::logical_plan::Aggregate;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::{Builder, IncOp, NodeId, PlanExpr, Planned, arrow_schema, positional, positional_all, recompute};
use crate::plan::{AggCall, AggFunc, RecomputeKeys};

impl Builder<'_> {
    pub(super) fn aggregate(&mut self, a: &Aggregate) -> Planned {
        if a.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_))) {
            return recompute("grouping sets");
        }
        let input_schema = a.input.schema();
        // The input's columns of the aggregate: keys first, then arguments and filters, each expression once.
        let keys = positional_all(&a.group_expr, input_schema)?;
        let mut columns: Vec<PlanExpr> = Vec::new();
        let mut column = |e: PlanExpr| match columns.iter().position(|c| *c == e) {
            Some(i) => i,
            None => {
                columns.push(e);
                columns.len() - 1
            }
        };
        let keys: Vec<usize> = keys.into_iter().map(&mut column).collect();
        let mut aggs = Vec::with_capacity(a.aggr_expr.len());
        for (i, e) in a.aggr_expr.iter().enumerate() {
            let Expr::AggregateFunction(f) = e.clone().unalias() else {
                return recompute("an aggregate of this form");
            };
            let output = a.schema.field(keys.len() + i).data_type().clone();
            let Some(func) = native_function(&f) else { return recompute(format!("aggregate {}", f.func.name())) };
            let filter = match &f.params.filter {
                Some(e) => Some(column(positional(e, input_schema)?)),
                None => None,
            };
            let arg = match (func, f.params.args.first()) {
                (AggFunc::CountStar, _) | (_, None) => None,
                (_, Some(e)) => Some(column(positional(e, input_schema)?)),
            };
            aggs.push(AggCall { func, arg, filter, distinct: f.params.distinct && arg.is_some(), output });
        }
        let input = self.plan(&a.input)?;
        let names = self.schema(input);
        let mapped = self.typed(input, &columns, |i| columns[i].as_column().map(|c| names.field(c).name().clone()))?;
        for agg in &aggs {
            let arg = agg.arg.map(|i| mapped.field(i).data_type());
            if !is_native_argument(agg.func, arg) {
                let shown = arg.map(ToString::to_string).unwrap_or_default();
                return recompute(format!("aggregate {:?} of {shown}", agg.func).to_lowercase());
            }
        }
        // `count(*)` alone reads no column: any row will do as it is.
        let input = if columns.is_empty() { input } else { self.map(input, Vec::new(), Some(columns), mapped)? };
        let schema = arrow_schema(&a.schema);
        if aggs.is_empty() && !keys.is_empty() {
            let distinct = self.distinct(input);
            return self.keep_columns(distinct, keys, schema);
        }
        let input = if keys.is_empty() { self.single(input) } else { self.hashed(input, keys.clone()) };
        Ok(self.add(IncOp::Aggregate { keys, aggs }, vec![input], schema))
    }

    /// Keyed by the group columns.
    pub(super) fn recompute_aggregate(
        &mut self,
        a: &Aggregate,
        plan: &LogicalPlan,
        reason: &str,
    ) -> Planned<Option<NodeId>> {
        let sets = a.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_)));
        if a.group_expr.is_empty() || sets {
            return Ok(None);
        }
        let keys = positional_all(&a.group_expr, a.input.schema())?;
        let input = self.plan(&a.input)?;
        let (input, keys) = self.with_columns(input, &keys)?;
        let stored = self.over_leaf(plan, &a.input, input)?;
        let keys = RecomputeKeys { output: (0..keys.len()).collect(), inputs: vec![keys] };
        Ok(Some(self.add_recompute(plan, stored, vec![input], Some(keys), reason.to_owned())))
    }
}

fn native_function(f: &AggregateFunction) -> Option<AggFunc> {
    let p = &f.params;
    if p.null_treatment.is_some() || p.args.len() > 1 {
        return None;
    }
    Some(match (f.func.name(), p.args.first()) {
        ("count", None) => AggFunc::CountStar,
        ("count", Some(Expr::Literal(v, _))) if !v.is_null() && !p.distinct => AggFunc::CountStar,
        (_, None) => return None,
        ("count", _) => AggFunc::Count,
        ("sum", _) => AggFunc::Sum,
        ("avg", _) => AggFunc::Avg,
        ("min", _) => AggFunc::Min,
        ("max", _) => AggFunc::Max,
        ("bool_and", _) => AggFunc::BoolAnd,
        ("bool_or", _) => AggFunc::BoolOr,
        _ => return None,
    })
}

fn is_native_argument(func: AggFunc, arg: Option<&DataType>) -> bool {
    use DataType::*;
    let Some(t) = arg else { return func == AggFunc::CountStar };
    match func {
        AggFunc::CountStar => false,
        AggFunc::Count => true,
        AggFunc::Sum => matches!(t, Int64 | UInt64 | Float64 | Decimal128(..) | Decimal256(..) | Duration(_)),
        AggFunc::Avg => matches!(t, Float64 | Decimal128(..) | Decimal256(..)),
        AggFunc::Min | AggFunc::Max => !t.is_nested() && !matches!(t, Interval(_) | Null),
        AggFunc::BoolAnd | AggFunc::BoolOr => *t == Boolean,
    }
}
