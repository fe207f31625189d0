//! IncPlan as text.

use std::borrow::Cow;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::functions::arithmetic::as_operator;
use crate::functions::cast::as_cast;
use crate::functions::{Collect, Stat};
use crate::session::visible;

use super::bounds::{Bounds, Inputs, bounds};
use super::{
    AggCall, AggFunc, Distribution, IncOp, IncPlan, NodeId, PlanExpr, RangeEnd, RelationId, SideRange, SortColumn,
    StoredPlan, Tier, TimeLimit,
};

/// An indented tree, one operator a line: name, arguments, `[native]`, `[keyed recompute: reason]` or
/// `[full recompute: reason]`. `relation_name` gives names of relations. Shared nodes are printed once and referred to.
/// With `state`, each stateful operator says what it keeps.
pub fn explain(plan: &IncPlan, relation_name: &dyn Fn(super::RelationId) -> String, state: bool) -> Vec<String> {
    explain_with(plan, relation_name, state, None)
}

/// [`explain`] with what each stateful operator keeps, and what bounds it.
pub fn explain_state(
    plan: &IncPlan,
    relation_name: &dyn Fn(super::RelationId) -> String,
    inputs: &Inputs<'_>,
) -> Vec<String> {
    let bounds = bounds(plan, inputs);
    let mut lines = explain_with(plan, relation_name, true, Some(&bounds));
    lines.push(format!("View keeps its rows; {}", bounds.view.text()));
    lines
}

fn explain_with(
    plan: &IncPlan,
    relation_name: &dyn Fn(super::RelationId) -> String,
    state: bool,
    bounds: Option<&Bounds>,
) -> Vec<String> {
    let mut uses = vec![0usize; plan.nodes.len()];
    plan.nodes.iter().flat_map(|n| &n.inputs).for_each(|i| uses[i.0 as usize] += 1);
    let mut printer =
        Printer { plan, relation_name, state, bounds, uses, labels: vec![None; plan.nodes.len()], lines: Vec::new() };
    if !plan.read_order.is_empty() {
        let order = sort_text(&plan.read_order, plan.schema());
        printer.lines.push(format!("Read order: {order}"));
    }
    printer.print(plan.output, 0);
    printer.lines
}

struct Printer<'a> {
    plan: &'a IncPlan,
    relation_name: &'a dyn Fn(super::RelationId) -> String,
    state: bool,
    bounds: Option<&'a Bounds>,
    uses: Vec<usize>,
    labels: Vec<Option<usize>>,
    lines: Vec<String>,
}

impl Printer<'_> {
    fn print(&mut self, id: NodeId, depth: usize) {
        let node = self.plan.node(id);
        let indent = "  ".repeat(depth);
        if let Some(label) = self.labels[id.0 as usize] {
            self.lines.push(format!("{indent}-> shared #{label}"));
            return;
        }
        let mut line = format!("{indent}{}", self.describe(id));
        match node.op.tier() {
            Tier::Native => line.push_str(" [native]"),
            Tier::KeyedRecompute => line.push_str(&format!(" [keyed recompute: {}]", reason(&node.op))),
            Tier::FullRecompute => line.push_str(&format!(" [full recompute: {}]", reason(&node.op))),
        }
        if self.uses[id.0 as usize] > 1 {
            let label = self.labels.iter().flatten().count() + 1;
            self.labels[id.0 as usize] = Some(label);
            line.push_str(&format!(" #{label}"));
        }
        self.lines.push(line);
        if self.state
            && let Some(kept) = self.kept(id)
        {
            let bound = self.bounds.and_then(|b| b.state.get(id.0 as usize)?.as_ref());
            let bound = bound.map_or(String::new(), |b| format!("; {}", b.text()));
            self.lines.push(format!("{indent}    keeps {kept}{bound}"));
        }
        if let IncOp::Recursive { step, .. } = &node.op {
            let source = |r: RelationId| match r.0 {
                0 => "rows of the last round".to_owned(),
                input => format!("input {input}"),
            };
            self.lines.push(format!("{indent}  Each round"));
            let lines = explain_with(step, &source, self.state, None);
            self.lines.extend(lines.into_iter().map(|line| format!("{indent}    {line}")));
        }
        for (i, input) in node.inputs.clone().into_iter().enumerate() {
            match (&node.op, i) {
                (IncOp::Recursive { .. }, 0) => self.lines.push(format!("{indent}  Base term")),
                (IncOp::Recursive { .. }, i) => self.lines.push(format!("{indent}  Input {i}")),
                _ => {
                    self.print(input, depth + 1);
                    continue;
                }
            }
            self.print(input, depth + 2);
        }
    }

    fn describe(&self, id: NodeId) -> String {
        let node = self.plan.node(id);
        let input = |i: usize| &self.plan.node(node.inputs[i]).schema;
        match &node.op {
            IncOp::Source { relation, .. } => {
                format!("Source {} ({})", (self.relation_name)(*relation), all_names(&node.schema))
            }
            IncOp::Values { rows } => format!("Values rows={}", rows.num_rows()),
            IncOp::Map { predicates, exprs } => {
                let mut text = String::from("Map");
                if let Some(exprs) = exprs {
                    let shown: Vec<_> = exprs.iter().map(|e| text_of(e, input(0))).collect();
                    text.push_str(&format!(" ({})", shown.join(", ")));
                }
                if !predicates.is_empty() {
                    let shown: Vec<_> = predicates.iter().map(|e| text_of(e, input(0))).collect();
                    text.push_str(&format!(" where {}", shown.join(" and ")));
                }
                text
            }
            IncOp::TemporalFilter { limits } => {
                let shown: Vec<_> = limits.iter().map(|l| limit_text(l, input(0))).collect();
                format!("TemporalFilter {}", shown.join(" "))
            }
            IncOp::RowMap { plan } => format!("RowMap {}", first_line(&plan.logical)),
            IncOp::Union => format!("Union inputs={}", node.inputs.len()),
            IncOp::Distinct => format!("Distinct ({})", all_names(&node.schema)),
            IncOp::SetOp { kind } => format!("SetOp {} ({})", kind.sql().to_lowercase(), all_names(&node.schema)),
            IncOp::Join { kind, on, residual, null_equals_null, ranges } => {
                let (l, r) = (input(0), input(1));
                let sign = if *null_equals_null { "is not distinct from" } else { "=" };
                let keys: Vec<_> = on.iter().map(|(a, b)| format!("{} {sign} {}", name(l, *a), name(r, *b))).collect();
                let mut text = format!("Join {kind:?} on ({})", keys.join(", "));
                if let Some(residual) = residual {
                    let both: Vec<_> = l.fields().iter().chain(r.fields()).cloned().collect();
                    text.push_str(&format!(" where {}", text_of(residual, &Schema::new(both))));
                }
                if let Some([of_left, of_right]) = ranges {
                    text.push_str(&format!(" ranges ({}, {})", range_text(of_left, l, r), range_text(of_right, r, l)));
                }
                text
            }
            IncOp::AsOf { on, time, compare, outer } => {
                let (l, r) = (input(0), input(1));
                let mut terms: Vec<_> = on.iter().map(|(a, b)| format!("{} = {}", name(l, *a), name(r, *b))).collect();
                terms.push(format!("{} {} {}", name(l, time.0), compare.sql(), name(r, time.1)));
                format!("AsOfJoin {} on ({})", if *outer { "Left" } else { "Inner" }, terms.join(", "))
            }
            IncOp::ArrivalJoin { kind, on, residual } => {
                let (l, r) = (input(0), input(1));
                let keys: Vec<_> = on.iter().map(|(a, b)| format!("{} = {}", name(l, *a), name(r, *b))).collect();
                let mut text = format!("ArrivalJoin {kind:?} on ({})", keys.join(", "));
                if let Some(residual) = residual {
                    let both: Vec<_> = l.fields().iter().chain(r.fields()).cloned().collect();
                    text.push_str(&format!(" where {}", text_of(residual, &Schema::new(both))));
                }
                text
            }
            IncOp::Aggregate { keys, aggs } => {
                let shown: Vec<_> = aggs.iter().map(|a| agg_text(a, input(0))).collect();
                format!("Aggregate by ({}) compute ({})", names(input(0), keys), shown.join(", "))
            }
            IncOp::TopN { partition, order, offset, limit, rank } => {
                let mut text = format!("TopN limit={limit}");
                if *limit == u64::MAX {
                    text = "TopN limit=all".to_owned();
                }
                if *offset > 0 {
                    text.push_str(&format!(" offset={offset}"));
                }
                if !partition.is_empty() {
                    text.push_str(&format!(" by ({})", names(input(0), partition)));
                }
                text.push_str(&format!(" order ({})", sort_text(order, input(0))));
                if *rank {
                    text.push_str(" with rank");
                }
                text
            }
            IncOp::TopRank { partition, order, limit, dense } => {
                let mut text = format!("TopN {}<={limit}", if *dense { "dense_rank" } else { "rank" });
                if !partition.is_empty() {
                    text.push_str(&format!(" by ({})", names(input(0), partition)));
                }
                text.push_str(&format!(" order ({})", sort_text(order, input(0))));
                text
            }
            IncOp::Over { partition, order, plan } => {
                let mut text = format!("Over ({})", functions(plan).join(", "));
                if !partition.is_empty() {
                    text.push_str(&format!(" by ({})", names(input(0), partition)));
                }
                if !order.is_empty() {
                    text.push_str(&format!(" order ({})", sort_text(order, input(0))));
                }
                text
            }
            IncOp::Recursive { distinct, rounds_max, .. } => {
                let kind = if *distinct { "union" } else { "union all" };
                format!("Recursive {kind} ({}) rounds<={rounds_max}", all_names(&node.schema))
            }
            IncOp::Session { partition, time, gap } => {
                let schema = input(0);
                let mut text = format!("Session gap={}", ticks_text(*gap, schema.field(*time).data_type()));
                if !partition.is_empty() {
                    text.push_str(&format!(" by ({})", names(schema, partition)));
                }
                text.push_str(&format!(" order ({})", name(schema, *time)));
                text
            }
            IncOp::Emit { column, every } => {
                let final_by = column.map(|c| format!("final by {}", name(&node.schema, c)));
                let every = every.map(|us| format!("every {} ms", us / 1_000));
                let parts: Vec<String> = every.into_iter().chain(final_by).collect();
                format!("Emit {}", parts.join(", "))
            }
            IncOp::MatchRecognize { spec, decided } => {
                let shape = &spec.shape;
                let mut text = format!("MatchRecognize ({})", shape.pattern.text(&shape.variables));
                if !shape.partition.is_empty() {
                    text.push_str(&format!(" by ({})", names(input(0), &shape.partition)));
                }
                if !shape.order.is_empty() {
                    text.push_str(&format!(" order ({})", sort_text(&shape.order, input(0))));
                }
                if *decided {
                    text.push_str(", when decided");
                }
                text
            }
            IncOp::Exchange { distribution: Distribution::Single } => "Exchange single".to_owned(),
            IncOp::Exchange { distribution: Distribution::Hash(columns) } => {
                format!("Exchange hash ({})", names(input(0), columns))
            }
            IncOp::Recompute { plan, keys, .. } => match keys {
                Some(k) if !k.output.is_empty() => {
                    let by = k.inputs.first().map_or(String::new(), |i| names(input(0), i));
                    format!("Recompute by ({by}) {}", first_line(&plan.logical))
                }
                _ => format!("Recompute {}", first_line(&plan.logical)),
            },
        }
    }

    /// What a stateful operator keeps.
    fn kept(&self, id: NodeId) -> Option<String> {
        let node = self.plan.node(id);
        let input = |i: usize| &self.plan.node(node.inputs[i]).schema;
        Some(match &node.op {
            IncOp::Distinct => "a counter per distinct row".to_owned(),
            IncOp::SetOp { .. } => "two counters per distinct row, one a side".to_owned(),
            IncOp::Join { on, .. } => {
                let left: Vec<usize> = on.iter().map(|k| k.0).collect();
                let right: Vec<usize> = on.iter().map(|k| k.1).collect();
                format!(
                    "the rows of both sides, indexed by ({}) and ({})",
                    names(input(0), &left),
                    names(input(1), &right)
                )
            }
            IncOp::AsOf { on, time, .. } => {
                let side = |i: usize, time: usize, keys: Vec<usize>| match keys.is_empty() {
                    true => name(input(i), time).into_owned(),
                    false => format!("{}, per ({})", name(input(i), time), names(input(i), &keys)),
                };
                let left = side(0, time.0, on.iter().map(|k| k.0).collect());
                let right = side(1, time.1, on.iter().map(|k| k.1).collect());
                format!("the rows of both sides, in order of {left} and {right}")
            }
            IncOp::ArrivalJoin { on, .. } => {
                let right: Vec<usize> = on.iter().map(|k| k.1).collect();
                format!("the rows of the right side, indexed by ({})", names(input(1), &right))
            }
            IncOp::Aggregate { keys, aggs } => {
                let values = aggs.iter().any(|a| a.distinct || matches!(a.func, AggFunc::Min | AggFunc::Max));
                let collected = aggs.iter().any(|a| matches!(a.func, AggFunc::Collect(_)));
                let extra = match (values, collected) {
                    (true, true) => {
                        ", counters of values for min, max and DISTINCT, and all values of the ordered aggregates"
                    }
                    (true, false) => ", and counters of values for min, max and DISTINCT",
                    (false, true) => ", and all values of the ordered aggregates",
                    (false, false) => "",
                };
                match keys.is_empty() {
                    true => format!("one row of accumulators{extra}"),
                    false => format!("a row of accumulators per ({}){extra}", names(input(0), keys)),
                }
            }
            IncOp::TopN { partition, .. } | IncOp::TopRank { partition, .. } if partition.is_empty() => {
                "all input rows in order".to_owned()
            }
            IncOp::TopN { partition, .. } | IncOp::TopRank { partition, .. } => {
                format!("all input rows in order, per ({})", names(input(0), partition))
            }
            IncOp::Over { partition, .. } if partition.is_empty() => {
                "all input rows in order, with the last result of each".to_owned()
            }
            IncOp::Over { partition, .. } => {
                format!("all input rows in order, with the last result of each, per ({})", names(input(0), partition))
            }
            IncOp::Recursive { distinct: true, .. } => {
                "each row with the rounds that give it, and what its operators keep".to_owned()
            }
            IncOp::Recursive { distinct: false, .. } => "what its operators keep".to_owned(),
            IncOp::MatchRecognize { spec, .. } => {
                let per = match spec.shape.partition.is_empty() {
                    true => String::new(),
                    false => format!(", per ({})", names(input(0), &spec.shape.partition)),
                };
                format!(
                    "the input rows in order from the first that is not decided, and the rows of their matches{per}"
                )
            }
            IncOp::Session { partition, .. } if partition.is_empty() => {
                "the rows of sessions, in order of time".to_owned()
            }
            IncOp::Session { partition, .. } => {
                format!("the rows of sessions, in order of time, per ({})", names(input(0), partition))
            }
            IncOp::Recompute { .. } => "all input rows and the last output".to_owned(),
            IncOp::Emit { .. } => "changes that are not out yet".to_owned(),
            IncOp::TemporalFilter { limits } if limits.iter().any(|l| l.leaves) => {
                "rows until their time is over".to_owned()
            }
            IncOp::TemporalFilter { .. } => "rows until their time has come".to_owned(),
            _ => return None,
        })
    }
}

/// A length of time in the coarsest unit that it is a whole number of.
fn ticks_text(ticks: i64, of: &DataType) -> String {
    use arrow::datatypes::TimeUnit;
    let nanos = match of {
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        _ => 1,
    };
    let all = i128::from(ticks) * nanos;
    let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns")];
    let (per, unit) = units.into_iter().find(|(per, _)| all % per == 0).unwrap_or((1, "ns"));
    format!("{}{unit}", all / per)
}

fn reason(op: &IncOp) -> &str {
    match op {
        IncOp::Recompute { reason, .. } => reason,
        _ => "",
    }
}

/// Names of the window functions of a stored plan.
fn functions(plan: &StoredPlan) -> Vec<String> {
    let mut found = Vec::new();
    let visited = plan.logical.apply(|node| {
        if let LogicalPlan::Window(w) = node {
            found.extend(w.window_expr.iter().map(|e| match e.clone().unalias() {
                Expr::WindowFunction(f) => f.fun.name().to_owned(),
                other => other.to_string(),
            }));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    if visited.is_err() { Vec::new() } else { found }
}

/// The stored plan's top operator.
fn first_line(plan: &datafusion::logical_expr::LogicalPlan) -> String {
    let shown = plan.clone().map_expressions(|e| e.transform_up(operators));
    let text = shown.map_or_else(|_| plan.display().to_string(), |p| p.data.display().to_string());
    match text.char_indices().nth(100) {
        None => text,
        Some((end, _)) => format!("{}..", &text[..end]),
    }
}

/// A column's name; generated ones can be very long.
fn name(schema: &Schema, i: usize) -> Cow<'_, str> {
    const LONGEST: usize = 48;
    match schema.fields().get(i).map(|f| visible(f.name())) {
        None => Cow::Borrowed("?"),
        Some(n) => match n.char_indices().nth(LONGEST) {
            None => Cow::Borrowed(n),
            Some((end, _)) => Cow::Owned(format!("{}..", &n[..end])),
        },
    }
}

fn names(schema: &Schema, columns: &[usize]) -> String {
    columns.iter().map(|c| name(schema, *c)).collect::<Vec<_>>().join(", ")
}

fn all_names(schema: &Schema) -> String {
    (0..schema.fields().len()).map(|i| name(schema, i)).collect::<Vec<_>>().join(", ")
}

/// An expression with the names of its columns and literals as SQL writes them.
fn text_of(e: &PlanExpr, schema: &Schema) -> String {
    let shown = |text: String| Expr::Column(Column::new_unqualified(text));
    let named = e.expr.clone().transform_up(|x| {
        let column = PlanExpr { expr: x };
        Ok(match (&column.expr, column.as_column()) {
            (Expr::Column(_), Some(i)) => Transformed::yes(shown(name(schema, i).into_owned())),
            (Expr::Literal(value, _), _) => Transformed::yes(shown(literal(value))),
            _ => return operators(column.expr),
        })
    });
    named.map_or_else(|e| e.to_string(), |t| t.data.to_string())
}

/// Our functions for operators and casts as what they stand for.
fn operators(e: Expr) -> datafusion::error::Result<Transformed<Expr>> {
    Ok(as_operator(e).or_else(as_cast).map_or_else(Transformed::no, Transformed::yes))
}

fn literal(value: &ScalarValue) -> String {
    if value.is_null() {
        return "NULL".to_owned();
    }
    let text = value
        .to_array()
        .and_then(|a| Ok(arrow::util::display::array_value_to_string(&a, 0)?))
        .unwrap_or_else(|_| value.to_string());
    match value.data_type() {
        DataType::Interval(_) => format!("INTERVAL '{text}'"),
        t if t.is_numeric() || t == DataType::Boolean => text,
        _ => format!("'{}'", text.replace('\'', "''")),
    }
}

/// `x [y - 5, ..]`: a column of one side, and the ends by columns of the other.
fn range_text(range: &SideRange, own: &Schema, other: &Schema) -> String {
    let end = |end: &Option<RangeEnd>| match end {
        None => "..".to_owned(),
        Some(RangeEnd { column, offset: 0 }) => name(other, *column).into_owned(),
        Some(RangeEnd { column, offset }) if *offset < 0 => {
            format!("{} - {}", name(other, *column), offset.unsigned_abs())
        }
        Some(RangeEnd { column, offset }) => format!("{} + {offset}", name(other, *column)),
    };
    format!("{} [{}, {}]", name(own, range.column), end(&range.from), end(&range.to))
}

/// When a row comes or goes.
fn limit_text(l: &TimeLimit, schema: &Schema) -> String {
    let micros = |us: i64, text: &mut String| {
        let sign = if us < 0 { '-' } else { '+' };
        match us.unsigned_abs() {
            0 => {}
            us if us % 1_000_000 == 0 => text.push_str(&format!(" {sign} {}s", us / 1_000_000)),
            us => text.push_str(&format!(" {sign} {us}us")),
        }
    };
    let mut text = text_of(&l.value, schema);
    micros(l.shift, &mut text);
    if l.step > 1 {
        let mut unit = String::new();
        micros(l.step, &mut unit);
        let unit = unit.trim_start_matches([' ', '+']);
        text = format!("{}({text}, {unit})", if l.next { "next" } else { "ceil" });
    }
    micros(l.offset, &mut text);
    match (l.leaves, l.next && l.step == 1) {
        (false, false) => format!("from {text}"),
        (false, true) => format!("after {text}"),
        (true, false) => format!("before {text}"),
        (true, true) => format!("until {text}"),
    }
}

fn agg_text(a: &AggCall, schema: &Schema) -> String {
    let func = match a.func {
        AggFunc::CountStar | AggFunc::Count => "count",
        AggFunc::Sum => "sum",
        AggFunc::Avg => "avg",
        AggFunc::Min => "min",
        AggFunc::Max => "max",
        AggFunc::BoolAnd => "bool_and",
        AggFunc::BoolOr => "bool_or",
        AggFunc::BitAnd => "bit_and",
        AggFunc::BitOr => "bit_or",
        AggFunc::BitXor => "bit_xor",
        AggFunc::Stat(stat) => Stat::ALL.iter().find(|s| s.0 == stat).map_or("", |s| s.1),
        AggFunc::Collect(kind) => Collect::ALL.iter().find(|c| c.0 == kind).map_or("", |c| c.1),
    };
    let distinct = if a.distinct { "distinct " } else { "" };
    let mut args = a.arg.map_or(Cow::Borrowed("*"), |i| name(schema, i)).into_owned();
    for i in &a.more {
        args.push_str(&format!(", {}", name(schema, *i)));
    }
    if !a.order.is_empty() {
        args.push_str(&format!(" order by {}", sort_text(&a.order, schema)));
    }
    let filter = a.filter.map_or(String::new(), |f| format!(" filter {}", name(schema, f)));
    format!("{func}({distinct}{args}){filter}")
}

fn sort_text(order: &[SortColumn], schema: &Schema) -> String {
    let one = |o: &SortColumn| {
        let direction = if o.descending { "desc" } else { "asc" };
        let nulls = match (o.descending, o.nulls_first) {
            (false, true) => " nulls first",
            (true, false) => " nulls last",
            _ => "",
        };
        format!("{} {direction}{nulls}", name(schema, o.column))
    };
    order.iter().map(one).collect::<Vec<_>>().join(", ")
}
