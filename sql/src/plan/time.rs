//! Event time in a plan: which columns have a lower bound that grows, and what that allows to forget.
//!
//! A stream's watermark W promises that no later row of it has a smaller time. [`TimeRules::propagate`] carries such
//! promises from the sources to every column of every node: `tumble_start(ts)` of later rows is at least
//! `tumble_start(W)`, a group key that is bounded stays so behind GROUP BY, `a.ts >= b.ts - INTERVAL '1 hour'` bounds `a.ts`
//! by the watermark of `b`. From the same bounds follows which rows of its inputs an operator can never need again.
//!
//! The promise of a bound is about all changes after the tick it was computed for, insertions and retractions alike.
//! All bounds are in microseconds, whatever the column's unit; they err on the low side.
//!
//! The idea is that of watermark derivation in RisingWave's planner and of Li et al., "Out-of-order processing" (VLDB 2008);
//! evaluating the query's own expressions on the bound is ours.

mod as_of;
mod linear;
#[cfg(test)]
mod tests;
mod zone;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;

use self::as_of::AsOfRule;
pub(super) use self::linear::interval_micros;
use self::linear::{Floor, floors, linear, monotone};
use super::{IncNode, IncOp, IncPlan, JoinKind, PlanExpr, RelationId};
use crate::matching::OutputColumn;

/// A promise about the values of one column in all later changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// None is smaller than this, in microseconds since 1970.
    At(i64),
    /// There are no later changes.
    Never,
}

impl Bound {
    /// The bound of the values moved by so many microseconds.
    pub fn plus(self, micros: i64) -> Self {
        match self {
            Self::At(b) => Self::At(b.saturating_add(micros)),
            Self::Never => Self::Never,
        }
    }
    /// The bound in microseconds; later than everything if there are no changes.
    pub fn micros(self) -> i64 {
        match self {
            Self::At(b) => b,
            Self::Never => i64::MAX,
        }
    }
}

/// The bound of every column; `None`: no promise.
pub type Bounds = Vec<Option<Bound>>;

/// What is promised of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeTime {
    /// Its output columns.
    pub columns: Bounds,
    /// By input: rows in which a column is smaller than its bound here change nothing any more, so the operator may forget
    /// what it keeps of them. Empty where nothing can be forgotten. Of sessions: it may forget those that end at the bound
    /// or before. Of ASOF joins: of the rows before the bound of their time those that no
    /// later change can reach, see `as_of`.
    pub forget: Vec<Bounds>,
}

/// How an output column follows from the input's columns.
enum Rule {
    Unknown,
    /// A column, moved by so many microseconds.
    Moved(usize, i64),
    /// A function that does not fall while one column grows, or the least it will be from a value of it on.
    Function {
        input: usize,
        expr: Arc<dyn PhysicalExpr>,
    },
}

enum NodeRule {
    Source {
        relation: RelationId,
        projection: Vec<usize>,
    },
    Constant {
        width: usize,
    },
    /// The output's columns are the input's.
    Same {
        keeps: bool,
    },
    Columns {
        floors: Vec<Floor>,
        columns: Vec<Rule>,
        input: SchemaRef,
    },
    /// Every output row is a row of one of the inputs.
    Any {
        width: usize,
        keeps: bool,
    },
    /// Rows of one key are computed from rows of that key: (output column, its column in each input).
    Keys {
        width: usize,
        keys: Vec<(usize, Vec<usize>)>,
    },
    Join {
        kind: JoinKind,
        left: usize,
        right: usize,
        floors: Vec<Floor>,
    },
    AsOf(AsOfRule),
    /// As keys; and where rows are in order of time, no later one changes what is decided before.
    Match {
        width: usize,
        keys: Vec<(usize, Vec<usize>)>,
        time: Option<usize>,
        /// Output columns with the time of a row of the match, which is this much older than the watermark at most.
        columns: Vec<usize>,
        delay: Option<i64>,
    },
    /// Later rows are in sessions that end after the bound of their time.
    Session {
        width: usize,
        partition: Vec<usize>,
        time: usize,
        /// The least that is later, in microseconds; 0 where the times are finer than that.
        step: i64,
    },
    /// The first input's columns, then others of which nothing is known.
    First {
        width: usize,
    },
    /// Only this column of the input goes on in order.
    Held {
        width: usize,
        column: Option<usize>,
    },
    Nothing {
        width: usize,
    },
}

/// The rules of a plan, made once; see the module.
pub struct TimeRules {
    rules: Vec<NodeRule>,
}

impl TimeRules {
    /// Derives the rules of a plan.
    pub fn new(plan: &IncPlan) -> datafusion::common::Result<Self> {
        let rules = plan.nodes.iter().map(|n| rule(plan, n)).collect::<datafusion::common::Result<_>>()?;
        Ok(Self { rules })
    }

    /// Bounds of all nodes, given those of the columns of the relations the plan reads.
    pub fn propagate(&self, plan: &IncPlan, source: &dyn Fn(RelationId) -> Bounds) -> Vec<NodeTime> {
        let mut out: Vec<NodeTime> = Vec::with_capacity(self.rules.len());
        for (rule, node) in self.rules.iter().zip(&plan.nodes) {
            let inputs: Vec<&Bounds> = node.inputs.iter().map(|i| &out[i.0 as usize].columns).collect();
            let time = rule.apply(&inputs, source);
            out.push(time);
        }
        out
    }
}

fn rule(plan: &IncPlan, node: &IncNode) -> datafusion::common::Result<NodeRule> {
    let width = node.schema.fields().len();
    let input = |i: usize| &plan.node(node.inputs[i]).schema;
    Ok(match &node.op {
        IncOp::Source { relation, projection } => {
            NodeRule::Source { relation: *relation, projection: projection.clone() }
        }
        IncOp::Values { .. } => NodeRule::Constant { width },
        IncOp::Exchange { .. } => NodeRule::Same { keeps: false },
        IncOp::Distinct => NodeRule::Same { keeps: true },
        IncOp::Union => NodeRule::Any { width, keeps: false },
        IncOp::SetOp { .. } => NodeRule::Any { width, keeps: true },
        IncOp::Map { predicates, exprs } => {
            let schema = input(0);
            let floors = predicates.iter().flat_map(|p| floors(&p.expr, schema)).collect();
            let columns = match exprs {
                None => (0..width).map(|i| Rule::Moved(i, 0)).collect(),
                Some(exprs) => exprs.iter().map(|e| column_rule(e, schema)).collect::<Result<_, _>>()?,
            };
            NodeRule::Columns { floors, columns, input: permissive(schema) }
        }
        IncOp::RowMap { plan } => {
            let from = row_map_columns(&plan.logical).unwrap_or_default();
            let columns =
                (0..width).map(|i| from.get(i).copied().flatten().map_or(Rule::Unknown, |c| Rule::Moved(c, 0)));
            NodeRule::Columns { floors: Vec::new(), columns: columns.collect(), input: permissive(input(0)) }
        }
        IncOp::Aggregate { keys, .. } => {
            NodeRule::Keys { width, keys: keys.iter().enumerate().map(|(o, k)| (o, vec![*k])).collect() }
        }
        IncOp::TopN { partition, .. } | IncOp::TopRank { partition, .. } | IncOp::Over { partition, .. } => {
            NodeRule::Keys { width, keys: partition.iter().map(|c| (*c, vec![*c])).collect() }
        }
        IncOp::MatchRecognize { spec, .. } => {
            let place = |c: usize| spec.shape.output.iter().position(|o| *o == OutputColumn::Column(c));
            let keys = spec.shape.partition.iter().filter_map(|c| Some((place(*c)?, vec![*c]))).collect();
            let time = spec.time(input(0));
            let columns = time.map(|t| spec.times_of_matches(t)).unwrap_or_default();
            let delay = time.and_then(|t| spec.delay(input(0).field(t).data_type()));
            NodeRule::Match { width, keys, time, columns, delay }
        }
        IncOp::Recompute { keys: Some(keys), .. } => {
            let columns = |i: usize| keys.inputs.iter().map(|k| k.get(i).copied()).collect::<Option<Vec<_>>>();
            let keys = keys.output.iter().enumerate().filter_map(|(i, o)| Some((*o, columns(i)?))).collect();
            NodeRule::Keys { width, keys }
        }
        IncOp::Join { kind, on, residual, .. } => {
            let (left, right) = (input(0), input(1));
            let mut found: Vec<Floor> = Vec::new();
            for (l, r) in on {
                let r = left.fields().len() + r;
                found.push(Floor { column: *l, other: r, micros: 0 });
                found.push(Floor { column: r, other: *l, micros: 0 });
            }
            if let Some(r) = residual {
                let both = left.fields().iter().chain(right.fields().iter()).cloned().collect::<Vec<_>>();
                found.extend(floors(&r.expr, &Schema::new(both)));
            }
            let (left, right) = (left.fields().len(), right.fields().len());
            found.retain(|f| (f.column < left) != (f.other < left));
            NodeRule::Join { kind: *kind, left, right, floors: found }
        }
        IncOp::Session { partition, time, .. } => {
            let fine = matches!(input(0).field(*time).data_type(), DataType::Timestamp(TimeUnit::Nanosecond, _));
            NodeRule::Session { width, partition: partition.clone(), time: *time, step: i64::from(!fine) }
        }
        IncOp::Emit { column, .. } => NodeRule::Held { width, column: *column },
        IncOp::AsOf { on, time, compare, outer } => {
            NodeRule::AsOf(AsOfRule::new(plan, &node.inputs, on, *time, compare.latest(), *outer))
        }
        IncOp::Recompute { keys: None, .. } | IncOp::Recursive { .. } => NodeRule::Nothing { width },
        // A row may come back, or go, whenever the clock says so.
        IncOp::TemporalFilter { .. } => NodeRule::Nothing { width },
        IncOp::ArrivalJoin { .. } => NodeRule::First { width },
    })
}

fn column_rule(e: &PlanExpr, schema: &Schema) -> datafusion::common::Result<Rule> {
    if let Some(at) = e.as_column() {
        return Ok(Rule::Moved(at, 0));
    }
    if let Some((column, micros)) = linear(&e.expr, schema) {
        return Ok(Rule::Moved(column, micros));
    }
    Ok(match monotone(&e.expr, schema) {
        Some(input) => {
            let e = PlanExpr { expr: zone::at_least(e.expr.clone())? };
            Rule::Function { input, expr: e.compile(&permissive(schema))? }
        }
        None => Rule::Unknown,
    })
}

/// For each output column of a row-wise plan the column of the leaf it is, or is an element of.
fn row_map_columns(plan: &LogicalPlan) -> Option<Vec<Option<usize>>> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let width = scan.source.schema().fields().len();
            Some(match &scan.projection {
                Some(p) => p.iter().map(|c| Some(*c)).collect(),
                None => (0..width).map(Some).collect(),
            })
        }
        LogicalPlan::SubqueryAlias(a) => row_map_columns(&a.input),
        LogicalPlan::Filter(f) => row_map_columns(&f.input),
        LogicalPlan::Projection(p) => {
            let from = row_map_columns(&p.input)?;
            let of = |e: &Expr| match e.clone().unalias() {
                Expr::Column(c) => p.input.schema().maybe_index_of_column(&c).and_then(|i| from.get(i).copied()?),
                _ => None,
            };
            Some(p.expr.iter().map(of).collect())
        }
        LogicalPlan::Unnest(u) => {
            let from = row_map_columns(&u.input)?;
            Some(u.dependency_indices.iter().map(|i| from.get(*i).copied().flatten()).collect())
        }
        _ => None,
    }
}

fn permissive(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|f| Arc::new(Field::clone(f).with_nullable(true)));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The lower of two promises; one that is not made is the lowest.
fn least(a: Option<Bound>, b: Option<Bound>) -> Option<Bound> {
    a.zip(b).map(|(a, b)| a.min(b))
}

/// The best of what each floor promises of a column.
fn raised(floors: &[Floor], column: usize, of: &dyn Fn(usize) -> Option<Bound>) -> Option<Bound> {
    floors.iter().filter(|f| f.column == column).filter_map(|f| Some(of(f.other)?.plus(f.micros))).max()
}

impl NodeRule {
    fn apply(&self, inputs: &[&Bounds], source: &dyn Fn(RelationId) -> Bounds) -> NodeTime {
        let none = || -> Vec<Bounds> { Vec::new() };
        match self {
            Self::Source { relation, projection } => {
                let all = source(*relation);
                let columns = projection.iter().map(|c| all.get(*c).copied().flatten()).collect();
                NodeTime { columns, forget: none() }
            }
            Self::Constant { width } => NodeTime { columns: vec![Some(Bound::Never); *width], forget: none() },
            Self::Same { keeps } => {
                let columns = inputs[0].clone();
                let forget = if *keeps { vec![columns.clone()] } else { none() };
                NodeTime { columns, forget }
            }
            Self::Any { width, keeps } => {
                let of = |c: usize| inputs.iter().map(|i| i.get(c).copied().flatten()).reduce(least).flatten();
                let columns: Bounds = (0..*width).map(of).collect();
                let forget = if *keeps { vec![columns.clone(); inputs.len()] } else { none() };
                NodeTime { columns, forget }
            }
            Self::Columns { floors, columns, input } => {
                let given = inputs[0];
                let own = |c: usize| given.get(c).copied().flatten();
                let better: Bounds = (0..given.len()).map(|c| own(c).max(raised(floors, c, &own))).collect();
                let columns = columns
                    .iter()
                    .map(|rule| match rule {
                        Rule::Unknown => None,
                        Rule::Moved(c, micros) => better.get(*c).copied().flatten().map(|b| b.plus(*micros)),
                        Rule::Function { input: c, expr } => match better.get(*c).copied().flatten()? {
                            Bound::Never => Some(Bound::Never),
                            Bound::At(b) => evaluate(expr, input, *c, b).map(Bound::At),
                        },
                    })
                    .collect();
                NodeTime { columns, forget: none() }
            }
            Self::Keys { width, keys } => of_keys(*width, keys, inputs),
            Self::Match { width, keys, time, columns, delay } => {
                let mut all = of_keys(*width, keys, inputs);
                let Some(time) = time else { return all };
                let bound = inputs[0].get(*time).copied().flatten();
                if let Some(forget) = all.forget.first_mut() {
                    forget[*time] = bound;
                }
                if let Some(delay) = delay {
                    for c in columns {
                        all.columns[*c] = all.columns[*c].max(bound.map(|b| b.plus(-delay)));
                    }
                }
                all
            }
            Self::Join { kind, left, right, floors } => join(*kind, *left, *right, floors, inputs),
            Self::AsOf(rule) => rule.apply(inputs),
            Self::Session { width, partition, time, step } => {
                let given = inputs[0];
                let mut columns: Bounds = vec![None; *width];
                for c in partition {
                    columns[*c] = given.get(*c).copied().flatten();
                }
                let bound = given.get(*time).copied().flatten();
                // A session that a later row is in, is put into or was taken out of is not over at the bound: it ends after.
                // It may have begun at any time.
                columns[*width - 1] = bound.map(|b| b.plus(*step));
                let mut forget: Bounds = vec![None; given.len()];
                forget[*time] = bound;
                NodeTime { columns, forget: vec![forget] }
            }
            Self::First { width } => {
                let mut columns = inputs[0].clone();
                columns.resize(*width, None);
                NodeTime { columns, forget: none() }
            }
            Self::Held { width, column } => {
                let mut columns: Bounds = vec![None; *width];
                if let Some(c) = column {
                    columns[*c] = inputs[0].get(*c).copied().flatten();
                }
                NodeTime { columns, forget: none() }
            }
            Self::Nothing { width } => NodeTime { columns: vec![None; *width], forget: none() },
        }
    }
}

/// True of an input without later changes.
fn quiet(input: &Bounds) -> bool {
    !input.is_empty() && input.iter().all(|b| *b == Some(Bound::Never))
}

/// Rows of one key are computed from rows of that key.
fn of_keys(width: usize, keys: &[(usize, Vec<usize>)], inputs: &[&Bounds]) -> NodeTime {
    let mut columns: Bounds = vec![None; width];
    let mut forget: Vec<Bounds> = inputs.iter().map(|i| vec![None; i.len()]).collect();
    for (output, from) in keys {
        let bound = inputs.iter().zip(from).map(|(i, c)| i.get(*c).copied().flatten()).reduce(least).flatten();
        columns[*output] = bound;
        for (forget, c) in forget.iter_mut().zip(from) {
            forget[*c] = bound;
        }
    }
    NodeTime { columns, forget }
}

/// A later pair has a later row of one side at least; the other may be an old one, which the condition bounds.
fn join(kind: JoinKind, left: usize, right: usize, floors: &[Floor], inputs: &[&Bounds]) -> NodeTime {
    let own = |c: usize| match c.checked_sub(left) {
        None => inputs[0].get(c).copied().flatten(),
        Some(r) => inputs[1].get(r).copied().flatten(),
    };
    let quiet = |side: usize| quiet(inputs[side]);
    let bounds: Bounds = (0..left + right)
        .map(|c| {
            let other_quiet = quiet(usize::from(c < left));
            if other_quiet { own(c) } else { least(own(c), raised(floors, c, &own)) }
        })
        .collect();
    let (of_left, of_right) = bounds.split_at(left);
    let semi = matches!(kind, JoinKind::LeftSemi | JoinKind::LeftAnti);
    let mut columns: Bounds = of_left.to_vec();
    if matches!(kind, JoinKind::Right | JoinKind::Full) {
        // A side that may be NULL for want of a partner has NULLs at any time.
        columns.fill(None);
    }
    if !semi {
        let nulls = matches!(kind, JoinKind::Left | JoinKind::Full);
        columns.extend(of_right.iter().map(|b| b.filter(|_| !nulls)));
    }
    // Where it matters whether a row has a partner, all partners are kept of rows that a later change may touch.
    let kept = |side: std::ops::Range<usize>, counted: bool| -> Bounds {
        let partner = |c: usize| bounds.get(c).copied().flatten();
        side.map(|c| if counted { least(bounds[c], raised(floors, c, &partner)) } else { bounds[c] }).collect()
    };
    let left_counted = matches!(kind, JoinKind::Right | JoinKind::Full);
    let right_counted = !matches!(kind, JoinKind::Inner | JoinKind::Right);
    NodeTime { columns, forget: vec![kept(0..left, left_counted), kept(left..left + right, right_counted)] }
}

/// The value of an expression where one column has its bound.
fn evaluate(expr: &Arc<dyn PhysicalExpr>, input: &SchemaRef, column: usize, micros: i64) -> Option<i64> {
    let columns: Vec<ArrayRef> = input
        .fields()
        .iter()
        .enumerate()
        .map(|(i, f)| match i == column {
            true => value_of(micros, f.data_type()).and_then(|v| v.to_array().ok()),
            false => Some(new_null_array(f.data_type(), 1)),
        })
        .collect::<Option<_>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::clone(input), columns, &options).ok()?;
    let value = expr.evaluate(&row).ok()?.into_array(1).ok()?;
    // The starts of all windows a time is in come as a list, the first one first.
    match value.as_list_opt::<i32>() {
        Some(list) if list.is_valid(0) && !list.value(0).is_empty() => micros_of(&list.value(0), 0),
        Some(_) => None,
        None => micros_of(&value, 0),
    }
}

/// Microseconds of a value of a time column, rounded down; `None` for NULL and for columns that are no times.
pub fn micros_of(column: &ArrayRef, row: usize) -> Option<i64> {
    let one = micros_array(&column.slice(row, 1))?;
    one.is_valid(0).then(|| one.value(0))
}

/// [`micros_of`] of a whole column; `None` if it is no time.
pub fn micros_array(column: &ArrayRef) -> Option<Int64Array> {
    let days;
    let column = match column.data_type() {
        DataType::Date32 => {
            days = arrow::compute::cast(column, &DataType::Timestamp(TimeUnit::Second, None)).ok()?;
            &days
        }
        DataType::Timestamp(..) => column,
        _ => return None,
    };
    let DataType::Timestamp(unit, _) = column.data_type() else { return None };
    let raw = arrow::compute::cast(column, &DataType::Int64).ok()?;
    let raw = raw.as_primitive::<Int64Type>();
    Some(match unit {
        TimeUnit::Second => raw.unary(|v| v.saturating_mul(1_000_000)),
        TimeUnit::Millisecond => raw.unary(|v| v.saturating_mul(1_000)),
        TimeUnit::Microsecond => raw.clone(),
        TimeUnit::Nanosecond => raw.unary(|v| v.div_euclid(1_000)),
    })
}

/// A time as a value of a column's type, rounded down; `None` for types that are no times.
pub fn value_of(micros: i64, data_type: &DataType) -> Option<ScalarValue> {
    Some(match data_type {
        DataType::Timestamp(TimeUnit::Second, tz) => {
            ScalarValue::TimestampSecond(Some(micros.div_euclid(1_000_000)), tz.clone())
        }
        DataType::Timestamp(TimeUnit::Millisecond, tz) => {
            ScalarValue::TimestampMillisecond(Some(micros.div_euclid(1_000)), tz.clone())
        }
        DataType::Timestamp(TimeUnit::Microsecond, tz) => ScalarValue::TimestampMicrosecond(Some(micros), tz.clone()),
        DataType::Timestamp(TimeUnit::Nanosecond, tz) => {
            ScalarValue::TimestampNanosecond(Some(micros.checked_mul(1_000)?), tz.clone())
        }
        DataType::Date32 => ScalarValue::Date32(i32::try_from(micros.div_euclid(86_400_000_000)).ok()),
        _ => return None,
    })
}
