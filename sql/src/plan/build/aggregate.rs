//! GROUP BY.

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment};
use datafusion::logical_expr::logical_plan::Aggregate;
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Expr, GroupingSet, LogicalPlan};

use super::{Builder, Fail, IncOp, NodeId, PlanExpr, Planned, arrow_schema, positional, positional_all, recompute};
use crate::functions::collect::{Collector, shares};
use crate::functions::{Collect, Stat};
use crate::plan::{AggCall, AggFunc, RecomputeKeys, SortColumn};

impl Builder<'_> {
    pub(super) fn aggregate(&mut self, a: &Aggregate) -> Planned {
        let input_schema = a.input.schema();
        let sets = Sets::of(a)?;
        // The input's columns of the aggregate: keys first, then arguments and filters, each expression once.
        let keys = match &sets {
            Some(s) => positional_all(&s.exprs, input_schema)?,
            None => positional_all(&a.group_expr, input_schema)?,
        };
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
            let output = a.schema.field(keys.len() + usize::from(sets.is_some()) + i).data_type().clone();
            let Some(func) = native_function(&f) else { return recompute(format!("aggregate {}", f.func.name())) };
            let p = &f.params;
            let mut filter = p.filter.as_ref().map(|e| e.as_ref().clone());
            let mut args = p.args.as_slice();
            if f.func.name() == "count_if" {
                let condition = args.first().cloned();
                filter = filter.into_iter().chain(condition).reduce(Expr::and);
                args = &[];
            }
            // `count(a, b)`: rows without a NULL among them.
            if func == AggFunc::CountStar && args.len() > 1 {
                let present = args.iter().map(|a| a.clone().is_not_null());
                filter = filter.into_iter().chain(present).reduce(Expr::and);
            }
            if func == AggFunc::CountStar {
                args = &[];
            }
            let mut call = AggCall::new(func, None, output);
            call.filter = filter.map(|e| Ok::<_, Fail>(column(positional(&e, input_schema)?))).transpose()?;
            for (i, e) in args.iter().enumerate() {
                let at = column(positional(e, input_schema)?);
                if i == 0 { call.arg = Some(at) } else { call.more.push(at) }
            }
            if matches!(func, AggFunc::Collect(kind) if kind.takes_share())
                && let Some(Expr::Literal(value, _)) = args.get(1)
            {
                shares(&value.to_array()?)?;
            }
            if matches!(func, AggFunc::Collect(_)) {
                for by in &p.order_by {
                    let column = column(positional(&by.expr, input_schema)?);
                    call.order.push(SortColumn { column, descending: !by.asc, nulls_first: by.nulls_first });
                }
                call.ignore_nulls = p.null_treatment == Some(NullTreatment::IgnoreNulls);
            }
            call.distinct = (p.distinct || f.func.name() == "approx_distinct") && call.arg.is_some();
            aggs.push(call);
        }
        let input = self.plan(&a.input)?;
        let names = self.schema(input);
        let mapped = self.typed(input, &columns, |i| columns[i].as_column().map(|c| names.field(c).name().clone()))?;
        for agg in &aggs {
            let arg = agg.arg.map(|i| mapped.field(i).data_type());
            let others = agg.columns().all(|c| Collector::supports(mapped.field(c).data_type()));
            if !is_native_argument(agg.func, arg) || (matches!(agg.func, AggFunc::Collect(_)) && !others) {
                let shown = arg.map(ToString::to_string).unwrap_or_default();
                return recompute(format!("aggregate {:?} of {shown}", agg.func).to_lowercase());
            }
        }
        // `count(*)` alone reads no column: any row will do as it is.
        let input = if columns.is_empty() { input } else { self.map(input, Vec::new(), Some(columns), mapped)? };
        let schema = arrow_schema(&a.schema);
        if let Some(sets) = sets {
            return self.grouping_sets(&sets, input, &keys, &aggs, schema);
        }
        if aggs.is_empty() && !keys.is_empty() {
            let distinct = self.distinct(input);
            return self.keep_columns(distinct, keys, schema);
        }
        let input = if keys.is_empty() { self.single(input) } else { self.hashed(input, keys.clone()) };
        Ok(self.add(IncOp::Aggregate { keys, aggs }, vec![input], schema))
    }

    /// Every row once for each set, with NULL for the keys that are not in it and the number of the set, then grouped.
    /// The empty set is apart: it has a row even if there is no input.
    fn grouping_sets(
        &mut self,
        sets: &Sets,
        input: NodeId,
        keys: &[usize],
        aggs: &[AggCall],
        schema: SchemaRef,
    ) -> Planned {
        let own = self.schema(input);
        let n = keys.len();
        let null = |i: usize| -> Planned<PlanExpr> {
            Ok(PlanExpr { expr: Expr::Literal(ScalarValue::try_from(schema.field(i).data_type())?, None) })
        };
        let number = |id: u64| -> Planned<PlanExpr> {
            let id = ScalarValue::UInt64(Some(id)).cast_to(schema.field(n).data_type())?;
            Ok(PlanExpr { expr: Expr::Literal(id, None) })
        };
        let mut expanded: Vec<_> = schema.fields().iter().take(n + 1).cloned().collect();
        expanded.extend(own.fields().iter().cloned());
        let expanded = SchemaRef::new(Schema::new(expanded));
        let (mut copies, mut results) = (Vec::new(), Vec::new());
        for (set, id) in sets.sets.iter().zip(sets.ids()) {
            if set.iter().any(|kept| *kept) {
                let mut exprs = Vec::with_capacity(n + 1 + own.fields().len());
                for (i, (kept, key)) in set.iter().zip(keys).enumerate() {
                    exprs.push(if *kept { PlanExpr::column(*key) } else { null(i)? });
                }
                exprs.push(number(id)?);
                exprs.extend((0..own.fields().len()).map(PlanExpr::column));
                copies.push(self.map(input, Vec::new(), Some(exprs), SchemaRef::clone(&expanded))?);
            } else {
                let single = self.single(input);
                let fields: Vec<_> = schema.fields().iter().skip(n + 1).cloned().collect();
                let exprs = (0..n).map(null).chain([number(id)]).collect::<Planned<Vec<_>>>()?;
                let (total, values) = match aggs.is_empty() {
                    // Without aggregates the row is all there is to it.
                    true => {
                        let count = AggCall::new(AggFunc::CountStar, None, DataType::Int64);
                        let field = Field::new("count", DataType::Int64, true);
                        let op = IncOp::Aggregate { keys: Vec::new(), aggs: vec![count] };
                        (self.add(op, vec![single], SchemaRef::new(Schema::new(vec![field]))), 0)
                    }
                    false => {
                        let op = IncOp::Aggregate { keys: Vec::new(), aggs: aggs.to_vec() };
                        (self.add(op, vec![single], SchemaRef::new(Schema::new(fields))), aggs.len())
                    }
                };
                let exprs = exprs.into_iter().chain((0..values).map(PlanExpr::column)).collect();
                results.push(self.map(total, Vec::new(), Some(exprs), SchemaRef::clone(&schema))?);
            }
        }
        if !copies.is_empty() {
            let all = match copies.as_slice() {
                [one] => *one,
                _ => self.add(IncOp::Union, copies, expanded),
            };
            let group: Vec<usize> = (0..=n).collect();
            let moved = |c: &AggCall| c.moved(|column| column + n + 1);
            results.push(match aggs.is_empty() {
                true => {
                    let distinct = self.keep_columns(all, group, SchemaRef::clone(&schema))?;
                    self.distinct(distinct)
                }
                false => {
                    let all = self.hashed(all, group.clone());
                    let op = IncOp::Aggregate { keys: group, aggs: aggs.iter().map(moved).collect() };
                    self.add(op, vec![all], SchemaRef::clone(&schema))
                }
            });
        }
        Ok(match results.as_slice() {
            [one] => *one,
            _ => self.add(IncOp::Union, results, schema),
        })
    }

    /// Keyed by the group columns; without any, everything is one group.
    pub(super) fn recompute_aggregate(
        &mut self,
        a: &Aggregate,
        plan: &LogicalPlan,
        reason: &str,
    ) -> Planned<Option<NodeId>> {
        let sets = a.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_)));
        if sets {
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

/// Grouping sets, ROLLUP and CUBE as the list of sets they stand for.
struct Sets {
    /// All keys, in the order of the output.
    exprs: Vec<Expr>,
    /// For each set which of the keys it keeps.
    sets: Vec<Vec<bool>>,
}

impl Sets {
    fn of(a: &Aggregate) -> Planned<Option<Self>> {
        let [Expr::GroupingSet(sets)] = a.group_expr.as_slice() else { return Ok(None) };
        let exprs: Vec<Expr> = grouping_set_to_exprlist(&a.group_expr)?.into_iter().cloned().collect();
        let n = exprs.len();
        let sets = match sets {
            GroupingSet::Rollup(_) => (0..=n).rev().map(|kept| (0..n).map(|i| i < kept).collect()).collect(),
            GroupingSet::Cube(_) if n > 12 => return recompute("a CUBE of more than 12 keys"),
            GroupingSet::Cube(_) => (0..1usize << n).map(|mask| (0..n).map(|i| mask >> i & 1 == 0).collect()).collect(),
            GroupingSet::GroupingSets(sets) => {
                sets.iter().map(|set| exprs.iter().map(|e| set.contains(e)).collect()).collect()
            }
        };
        Ok(Some(Self { exprs, sets }))
    }

    /// The grouping id of each set: a bit for each key that is not in it, the last key lowest, and above them how many
    /// equal sets came before.
    fn ids(&self) -> Vec<u64> {
        let n = self.exprs.len();
        let mut seen: Vec<&[bool]> = Vec::new();
        let mut ids = Vec::with_capacity(self.sets.len());
        for set in &self.sets {
            let mask = set.iter().fold(0u64, |mask, kept| mask << 1 | u64::from(!kept));
            let before = seen.iter().filter(|s| **s == set.as_slice()).count() as u64;
            ids.push(before.checked_shl(n as u32).unwrap_or(0) | mask);
            seen.push(set);
        }
        ids
    }
}

fn native_function(f: &AggregateFunction) -> Option<AggFunc> {
    let p = &f.params;
    let name = f.func.name();
    if let Some(kind) = Collect::named(name) {
        // A share that is no constant is an error of the function's.
        let free = kind == Collect::StringAgg || kind.is_json();
        let constant = p.args.get(1).is_none_or(|e| free || matches!(e, Expr::Literal(..)));
        return constant.then_some(AggFunc::Collect(kind));
    }
    if let Some(stat) = Stat::named(name) {
        let pairs = stat.is_of_pairs();
        let fits = p.null_treatment.is_none() && p.args.len() == 1 + usize::from(pairs) && !(pairs && p.distinct);
        return fits.then_some(AggFunc::Stat(stat));
    }
    if name == "count" && p.args.len() > 1 && !p.distinct && p.null_treatment.is_none() {
        return Some(AggFunc::CountStar);
    }
    if p.null_treatment.is_some() || p.args.len() > 1 {
        return None;
    }
    Some(match (name, p.args.first()) {
        ("count", None) => AggFunc::CountStar,
        ("count", Some(Expr::Literal(v, _))) if !v.is_null() && !p.distinct => AggFunc::CountStar,
        ("count_if", Some(_)) if !p.distinct => AggFunc::CountStar,
        (_, None) => return None,
        ("count" | "approx_distinct", _) => AggFunc::Count,
        ("sum", _) => AggFunc::Sum,
        ("avg", _) => AggFunc::Avg,
        ("min" | "any_value", _) => AggFunc::Min,
        ("max", _) => AggFunc::Max,
        ("bool_and", _) => AggFunc::BoolAnd,
        ("bool_or", _) => AggFunc::BoolOr,
        ("bit_and", _) => AggFunc::BitAnd,
        ("bit_or", _) => AggFunc::BitOr,
        ("bit_xor", _) => AggFunc::BitXor,
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
        AggFunc::BitAnd | AggFunc::BitOr | AggFunc::BitXor => t.is_integer(),
        AggFunc::Stat(_) => *t == Float64,
        AggFunc::Collect(_) => Collector::supports(t),
    }
}
