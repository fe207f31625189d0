//! EMIT clauses as changes of a plan.
//!
//! * EMIT ON WINDOW CLOSE puts an [`IncOp::Emit`] where rows still have a column that becomes final, as high as possible.
//!   Patterns say themselves when a match is final: it need not wait until no other can begin where it began.
//! * ALLOW LATENESS adds to every stream the rows that came too late for its watermark, but not by more than that. What
//!   operators may forget follows from the condition on those rows, see [`super::time`].

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::time::{Bound, Bounds, NodeTime, TimeRules};
use super::{ChangelogKind, IncNode, IncOp, IncPlan, NodeId, PlanExpr, RelationId};
use crate::error::{Result, SqlError, SqlState};
use crate::statement::Emit;

/// Where the late rows of a stream are.
#[derive(Debug, Clone)]
pub struct LateInput {
    /// The relation that keeps them: the stream's columns, then others.
    pub relation: RelationId,
    /// The stream's time column.
    pub time: usize,
    /// The column of the late relation with the watermark a row came after.
    pub watermark: usize,
    /// Type of both.
    pub data_type: DataType,
}

/// Microseconds of an interval's text. Months have no fixed length.
pub fn interval_micros(text: &str) -> Result<i64> {
    let wrong = |why: &str| {
        SqlError::new(SqlState("22007"), format!("invalid interval \"{text}\": {why}"))
            .hint("Write it like INTERVAL '10 seconds'.")
    };
    let i = arrow::compute::kernels::cast_utils::parse_interval_month_day_nano(text)
        .map_err(|_| wrong("it cannot be read"))?;
    if i.months != 0 {
        return Err(wrong("months and years differ in length"));
    }
    let micros = i64::from(i.days).checked_mul(86_400_000_000).and_then(|d| d.checked_add(i.nanoseconds / 1_000));
    micros.ok_or_else(|| wrong("it is too long"))
}

/// Puts the late rows beside every stream that has them: those that are late by at most `micros`.
pub fn with_lateness(plan: IncPlan, micros: i64, late: &dyn Fn(RelationId) -> Option<LateInput>) -> IncPlan {
    let mut nodes: Vec<IncNode> = Vec::with_capacity(plan.nodes.len());
    let mut moved: Vec<NodeId> = Vec::with_capacity(plan.nodes.len());
    let add = |nodes: &mut Vec<IncNode>, op, inputs, schema, kind| {
        nodes.push(IncNode { op, inputs, schema, kind });
        NodeId(nodes.len() as u32 - 1)
    };
    for node in plan.nodes {
        let IncNode { op, inputs, schema, kind } = node;
        let inputs = inputs.into_iter().map(|i| moved[i.0 as usize]).collect();
        let source = match &op {
            IncOp::Source { relation, projection } => late(*relation).map(|l| (l, projection.clone())),
            _ => None,
        };
        let id = add(&mut nodes, op, inputs, SchemaRef::clone(&schema), kind);
        moved.push(match source {
            None => id,
            Some((late, projection)) => {
                let width = projection.len();
                let time = projection.iter().position(|c| *c == late.time);
                let mut columns = projection;
                let mut fields: Vec<Field> = schema.fields().iter().map(|f| Field::clone(f)).collect();
                // A time column that is read is the one the condition is about: so the condition bounds it.
                let extra = [late.time].into_iter().filter(|_| time.is_none()).chain([late.watermark]);
                for column in extra {
                    columns.push(column);
                    fields.push(Field::new(format!("late{column}"), late.data_type.clone(), true));
                }
                let (time, mark) = (time.unwrap_or(width), columns.len() - 1);
                let wide = SchemaRef::new(Schema::new(fields));
                let op = IncOp::Source { relation: late.relation, projection: columns };
                let rows = add(&mut nodes, op, Vec::new(), wide, ChangelogKind::Append);
                let op = IncOp::Map {
                    predicates: vec![not_later(time, mark, micros)],
                    exprs: Some((0..width).map(PlanExpr::column).collect()),
                };
                let rows = add(&mut nodes, op, vec![rows], SchemaRef::clone(&schema), ChangelogKind::Append);
                add(&mut nodes, IncOp::Union, vec![id, rows], schema, kind)
            }
        });
    }
    let output = moved[plan.output.0 as usize];
    IncPlan { nodes, output, ..plan }
}

/// `time >= watermark - lateness`.
fn not_later(time: usize, watermark: usize, micros: i64) -> PlanExpr {
    let interval = arrow::datatypes::IntervalMonthDayNano::new(0, 0, micros.saturating_mul(1_000));
    let interval = Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), None);
    let column = |c| Box::new(PlanExpr::column(c).expr);
    let limit = Expr::BinaryExpr(BinaryExpr::new(column(watermark), Operator::Minus, Box::new(interval)));
    PlanExpr { expr: Expr::BinaryExpr(BinaryExpr::new(column(time), Operator::GtEq, Box::new(limit))) }
}

/// Puts the clause's operator into a plan. `time` gives the columns of each relation that a watermark bounds; `corrected`
/// says that final rows may still change.
///
/// # Errors
/// EMIT ON WINDOW CLOSE of a query no row of which ever becomes final.
pub fn with_emit(plan: IncPlan, emit: &Emit, corrected: bool, time: &dyn Fn(RelationId) -> Bounds) -> Result<IncPlan> {
    let every = match emit {
        Emit::OnUpdate => return Ok(plan),
        Emit::OnWindowClose => None,
        Emit::Every(text) => {
            let micros = interval_micros(text)?;
            if micros < 1_000 {
                let message = format!("EMIT EVERY INTERVAL '{text}': the interval must be a millisecond or longer");
                return Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message));
            }
            Some(micros)
        }
    };
    let times = TimeRules::new(&plan).map_err(|e| SqlError::internal(format!("event time of a plan: {e}")))?;
    let times = times.propagate(&plan, time);
    let kind = if every.is_none() && !corrected { ChangelogKind::Append } else { ChangelogKind::Retract };
    if every.is_none() {
        let mut made = plan.clone();
        if decide(&mut made, plan.output, kind, &times) {
            return Ok(made);
        }
    }
    let bounded = |id: NodeId| times[id.0 as usize].columns.iter().position(|b| matches!(b, Some(Bound::At(_))));
    // Down through what only picks or computes columns, until there is one that says when a row is final.
    let (mut at, mut above) = (plan.output, Vec::new());
    let mut column = bounded(at);
    while column.is_none()
        && let IncOp::Map { .. } | IncOp::Exchange { .. } = &plan.node(at).op
    {
        above.push(at);
        at = plan.node(at).inputs[0];
        column = bounded(at);
    }
    if column.is_none() {
        if every.is_none() {
            let watermark = plan.relations().into_iter().any(|r| time(r).iter().any(Option::is_some));
            return Err(never_final(watermark));
        }
        (at, above) = (plan.output, Vec::new());
    }
    let mut plan = plan;
    let schema = SchemaRef::clone(&plan.node(at).schema);
    plan.nodes.push(IncNode { op: IncOp::Emit { column, every }, inputs: vec![at], schema, kind });
    for id in above.into_iter().rev() {
        let input = NodeId(plan.nodes.len() as u32 - 1);
        let copy = plan.node(id).clone();
        plan.nodes.push(IncNode { inputs: vec![input], kind, ..copy });
    }
    plan.output = NodeId(plan.nodes.len() as u32 - 1);
    Ok(without_unused(plan))
}

/// Makes the patterns give decided matches only, if the rows of a node are nothing else than matches of streams in order of
/// their time.
fn decide(plan: &mut IncPlan, id: NodeId, kind: ChangelogKind, times: &[NodeTime]) -> bool {
    let node = plan.node(id).clone();
    let made = match node.op {
        IncOp::MatchRecognize { spec, .. } => {
            let time = spec.time(&plan.node(node.inputs[0]).schema);
            let forget = times[id.0 as usize].forget.first();
            let in_order = time.zip(forget).is_some_and(|(c, f)| matches!(f.get(c), Some(Some(Bound::At(_)))));
            if in_order {
                plan.nodes[id.0 as usize].op = IncOp::MatchRecognize { spec, decided: true };
            }
            in_order
        }
        IncOp::Map { .. } | IncOp::RowMap { .. } | IncOp::Exchange { .. } | IncOp::Union => {
            node.inputs.into_iter().all(|i| decide(plan, i, kind, times))
        }
        _ => false,
    };
    if made {
        plan.nodes[id.0 as usize].kind = kind;
    }
    made
}

fn never_final(watermark: bool) -> SqlError {
    let (why, hint) = if watermark {
        (
            "no column of the result is bounded by a watermark",
            "Group by window_start or window_end of TUMBLE, HOP or CUMULATE or by window_end of SESSION, or keep the time column in the result; order a pattern by it, and give it a WITHIN if its matches are computed with.",
        )
    } else {
        (
            "nothing it reads has a watermark",
            "Declare one: CREATE STREAM s (.., WATERMARK FOR ts AS ts - INTERVAL '5 seconds') ..",
        )
    };
    SqlError::new(SqlState::FEATURE_NOT_SUPPORTED, format!("EMIT ON WINDOW CLOSE would never emit a row: {why}"))
        .hint(hint)
}

/// The plan without nodes that lead nowhere.
fn without_unused(plan: IncPlan) -> IncPlan {
    let mut used = vec![false; plan.nodes.len()];
    used[plan.output.0 as usize] = true;
    for (i, node) in plan.nodes.iter().enumerate().rev() {
        if used[i] {
            node.inputs.iter().for_each(|n| used[n.0 as usize] = true);
        }
    }
    let mut moved = vec![NodeId(0); plan.nodes.len()];
    let mut nodes = Vec::with_capacity(plan.nodes.len());
    for (i, node) in plan.nodes.into_iter().enumerate() {
        if used[i] {
            let inputs = node.inputs.iter().map(|n| moved[n.0 as usize]).collect();
            moved[i] = NodeId(nodes.len() as u32);
            nodes.push(IncNode { inputs, ..node });
        }
    }
    IncPlan { nodes, output: moved[plan.output.0 as usize], version: plan.version, read_order: plan.read_order }
}
