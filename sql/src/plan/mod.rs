//! `IncPlan`: the incremental plan of a view, our own serialisable DAG.
//!
//! It is what the catalog stores, because planning the same SQL again after an upgrade may give another plan and
//! orphan the state that was built for this one. Nodes are in topological order; equal subplans are one node
//! (hash-consed), so a CTE used twice is computed once.
//!
//! Columns are positions, never names. Expressions are DataFusion logical expressions over columns named
//! `c0, c1, ..` of the node's input row (for joins: left columns, then right columns).

pub mod bounds;
pub mod build;
pub mod emit;
pub mod explain;
pub mod expr;
pub mod serialize;
pub mod time;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::logical_expr::Operator;

pub use expr::PlanExpr;

use crate::functions::{Collect, Stat};
use crate::matching::MatchSpec;

/// Version of the encoding in [`serialize`].
pub const PLAN_VERSION: u32 = 1;

/// Position of a node in [`IncPlan::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// Identity of a catalog relation; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct RelationId(pub u64);

/// What changes may travel along an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangelogKind {
    /// Only insertions: every weight is positive.
    Append,
    /// Insertions and retractions.
    Retract,
}

/// The plan of one view.
#[derive(Debug, Clone)]
pub struct IncPlan {
    /// [`PLAN_VERSION`] of the writer.
    pub version: u32,
    /// Topological order: inputs have smaller ids.
    pub nodes: Vec<IncNode>,
    /// The node whose output is the view.
    pub output: NodeId,
    /// Order asked for by the outermost ORDER BY: a property of reads, not of the state.
    pub read_order: Vec<SortColumn>,
}

/// One operator.
#[derive(Debug, Clone)]
pub struct IncNode {
    /// What it does.
    pub op: IncOp,
    /// Its inputs, in port order.
    pub inputs: Vec<NodeId>,
    /// Its output columns. Names matter only at the plan's output.
    pub schema: SchemaRef,
    /// Kind of its output.
    pub kind: ChangelogKind,
}

/// How a column is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct SortColumn {
    /// Position in the input row.
    pub column: usize,
    /// DESC.
    pub descending: bool,
    /// NULLS FIRST.
    pub nulls_first: bool,
}

/// Join kinds that have a native operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JoinKind {
    /// Pairs.
    Inner,
    /// Pairs, and left rows without one.
    Left,
    /// Pairs, and right rows without one.
    Right,
    /// Pairs, and both sides' rows without one.
    Full,
    /// Left rows with a pair; output is the left row.
    LeftSemi,
    /// Left rows without a pair; output is the left row.
    LeftAnti,
}

/// Where the partners of a row of a join's other side are: in a range of one column of this side. The ends belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SideRange {
    /// The column.
    pub column: usize,
    /// No partner is before this.
    pub from: Option<RangeEnd>,
    /// No partner is after this.
    pub to: Option<RangeEnd>,
}

/// An end of a range: a value of the other side's row, and what is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RangeEnd {
    /// Column of the other side.
    pub column: usize,
    /// In units of the column: microseconds, for one.
    pub offset: i64,
}

/// Set operations that count duplicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SetOpKind {
    /// A row as many times as it is more often left than right.
    ExceptAll,
    /// A row as many times as it is on the side that has it less often.
    IntersectAll,
}

impl SetOpKind {
    /// A name for storage.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExceptAll => "except_all",
            Self::IntersectAll => "intersect_all",
        }
    }
    /// As SQL writes it.
    pub fn sql(self) -> &'static str {
        match self {
            Self::ExceptAll => "EXCEPT ALL",
            Self::IntersectAll => "INTERSECT ALL",
        }
    }
    /// How often a row comes out that is there this often.
    pub fn times(self, left: i64, right: i64) -> i64 {
        let (left, right) = (left.max(0), right.max(0));
        match self {
            Self::ExceptAll => (left - right).max(0),
            Self::IntersectAll => left.min(right),
        }
    }
}

/// How an ASOF join compares the times of a left and a right row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AsOfCompare {
    /// `left >= right`: the latest right row that is not later.
    GtEq,
    /// `left > right`: the latest right row that is earlier.
    Gt,
    /// `left <= right`: the earliest right row that is not earlier.
    LtEq,
    /// `left < right`: the earliest right row that is later.
    Lt,
}

impl AsOfCompare {
    /// The comparison that an operator is.
    pub fn of(op: Operator) -> Option<Self> {
        match op {
            Operator::GtEq => Some(Self::GtEq),
            Operator::Gt => Some(Self::Gt),
            Operator::LtEq => Some(Self::LtEq),
            Operator::Lt => Some(Self::Lt),
            _ => None,
        }
    }
    /// As SQL writes it.
    pub fn sql(self) -> &'static str {
        match self {
            Self::GtEq => ">=",
            Self::Gt => ">",
            Self::LtEq => "<=",
            Self::Lt => "<",
        }
    }
    /// The partner is the latest of the right rows that compare so, otherwise the earliest.
    pub fn latest(self) -> bool {
        matches!(self, Self::GtEq | Self::Gt)
    }
    /// A right row of the same time is a partner.
    pub fn inclusive(self) -> bool {
        matches!(self, Self::GtEq | Self::LtEq)
    }
}

/// Aggregate functions that have a native operator. All arguments are plain columns of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AggFunc {
    /// `count(*)`: no argument.
    CountStar,
    /// `count(x)`: non-NULL values.
    Count,
    /// `sum(x)`: exact; NULL for no values.
    Sum,
    /// `avg(x)`.
    Avg,
    /// `min(x)`.
    Min,
    /// `max(x)`.
    Max,
    /// `bool_and(x)`.
    BoolAnd,
    /// `bool_or(x)`.
    BoolOr,
    /// `bit_and(x)`.
    BitAnd,
    /// `bit_or(x)`.
    BitOr,
    /// `bit_xor(x)`.
    BitXor,
    /// Variance, covariance, correlation and regression.
    Stat(Stat),
    /// Those that see their values in order.
    Collect(Collect),
}

/// One aggregate of an [`IncOp::Aggregate`].
#[derive(Debug, Clone, PartialEq)]
pub struct AggCall {
    /// The function.
    pub func: AggFunc,
    /// Argument column; `None` only for `CountStar`.
    pub arg: Option<usize>,
    /// Columns of further arguments.
    pub more: Vec<usize>,
    /// ORDER BY inside of the call; of [`AggFunc::Collect`] only.
    pub order: Vec<SortColumn>,
    /// IGNORE NULLS.
    pub ignore_nulls: bool,
    /// Boolean column: the row counts only where it is true.
    pub filter: Option<usize>,
    /// `DISTINCT`.
    pub distinct: bool,
    /// Type of the result, as batch DataFusion gives it.
    pub output: DataType,
}

impl AggCall {
    /// A plain call: no filter, not DISTINCT.
    pub fn new(func: AggFunc, arg: Option<usize>, output: DataType) -> Self {
        Self {
            func,
            arg,
            more: Vec::new(),
            order: Vec::new(),
            ignore_nulls: false,
            filter: None,
            distinct: false,
            output,
        }
    }

    /// The columns it reads.
    pub fn columns(&self) -> impl Iterator<Item = usize> + '_ {
        let order = self.order.iter().map(|o| o.column);
        self.arg.into_iter().chain(self.more.iter().copied()).chain(order).chain(self.filter)
    }

    /// The same call over columns that moved.
    pub fn moved(&self, to: impl Fn(usize) -> usize) -> Self {
        let mut new = self.clone();
        let columns = new.arg.iter_mut().chain(&mut new.more).chain(new.order.iter_mut().map(|o| &mut o.column));
        columns.chain(&mut new.filter).for_each(|c| *c = to(*c));
        new
    }
}

/// How rows are spread over the shards of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Distribution {
    /// By the stable hash of these columns.
    Hash(Vec<usize>),
    /// All rows on shard 0.
    Single,
}

/// A time of a row from which, or until which, it passes an [`IncOp::TemporalFilter`]: the multiple of `step` that is not
/// before `value + shift`, or that is after it, plus `offset`. All in microseconds. Without a time (NULL) the row never
/// passes.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeLimit {
    /// A date or timestamp of the row.
    pub value: PlanExpr,
    /// Added before rounding.
    pub shift: i64,
    /// Unit of rounding; 1: none.
    pub step: i64,
    /// Added after rounding.
    pub offset: i64,
    /// The multiple after the time, even if the time is a multiple.
    pub next: bool,
    /// The row passes before this moment; otherwise from it on.
    pub leaves: bool,
}

/// The tier that runs an operator, for EXPLAIN and `ms.views`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// A delta rule of ours.
    Native,
    /// DataFusion over the affected groups only.
    KeyedRecompute,
    /// DataFusion over the whole input.
    FullRecompute,
}

/// Operators.
#[derive(Debug, Clone)]
pub enum IncOp {
    /// Deltas of a catalog relation, these columns of it.
    Source {
        /// Which relation.
        relation: RelationId,
        /// Positions in the relation's schema.
        projection: Vec<usize>,
    },
    /// A constant relation: its rows are emitted once, when the view is built.
    Values {
        /// The rows.
        rows: RecordBatch,
    },
    /// Keep rows where every predicate is true, then evaluate `exprs`. Fused filter and projection.
    Map {
        /// Conjuncts over the input row.
        predicates: Vec<PlanExpr>,
        /// One per output column; `None` means all input columns unchanged.
        exprs: Option<Vec<PlanExpr>>,
    },
    /// Rows pass while the clock is where the limits say: conditions with `now()`. Rows come and go without input.
    TemporalFilter {
        /// All of them hold.
        limits: Vec<TimeLimit>,
    },
    /// A DataFusion plan that maps every row to n rows independently (UNNEST). Leaf table name `t0`; the weight
    /// travels as a last column `__weight`, which the stored plan does not contain: see `ops::linear`.
    RowMap {
        /// The plan over leaf `t0`.
        plan: StoredPlan,
    },
    /// Bag union of the inputs.
    Union,
    /// SELECT DISTINCT.
    Distinct,
    /// EXCEPT ALL or INTERSECT ALL of two inputs.
    SetOp {
        /// Which.
        kind: SetOpKind,
    },
    /// Equi-join with an optional residual over (left, right) columns.
    Join {
        /// Kind.
        kind: JoinKind,
        /// (left column, right column) of each equality; empty for a cross or theta join.
        on: Vec<(usize, usize)>,
        /// Further condition over the pair.
        residual: Option<PlanExpr>,
        /// NULL = NULL is true (IS NOT DISTINCT FROM keys).
        null_equals_null: bool,
        /// Ranges of the left and of the right side that follow from the residual; also the bounds within which a row of
        /// one side can meet one of the other.
        ranges: Option<[SideRange; 2]>,
    },
    /// Each left row with the right row of its key whose time is nearest; of right rows of one time the first in the
    /// order of their columns, ascending, NULLs first. NULL in a key or a time matches nothing. Output: left columns,
    /// then right columns.
    AsOf {
        /// (left column, right column) of each equality.
        on: Vec<(usize, usize)>,
        /// (left column, right column) of the times.
        time: (usize, usize),
        /// How they are compared.
        compare: AsOfCompare,
        /// Left rows without a partner stay.
        outer: bool,
    },
    /// Each row of the left input, which only grows, with the rows of the right one that are there when it arrives.
    /// Inner or left. Output: left columns, then right columns.
    ArrivalJoin {
        /// Kind.
        kind: JoinKind,
        /// (left column, right column) of each equality.
        on: Vec<(usize, usize)>,
        /// Further condition over the pair.
        residual: Option<PlanExpr>,
    },
    /// GROUP BY. Output: key columns, then one column an aggregate. No keys: one row, always.
    Aggregate {
        /// Key columns.
        keys: Vec<usize>,
        /// Aggregates.
        aggs: Vec<AggCall>,
    },
    /// The first `limit` rows after `offset` in each partition, ties broken by the whole row; output is the input
    /// row, with the 1-based rank as a last Int64/UInt64 column if `rank` is set.
    TopN {
        /// Partition columns; empty for ORDER BY .. LIMIT.
        partition: Vec<usize>,
        /// Order.
        order: Vec<SortColumn>,
        /// Rows skipped in each partition.
        offset: u64,
        /// Rows kept in each partition.
        limit: u64,
        /// Append the row number as a column of the node schema's last field type.
        rank: bool,
    },
    /// The rows whose rank in their partition is at most `limit`; peers all or none. Output: the input row, then the rank.
    TopRank {
        /// Partition columns.
        partition: Vec<usize>,
        /// Order; rows alike in it are peers.
        order: Vec<SortColumn>,
        /// The largest rank.
        limit: u64,
        /// `dense_rank()` instead of `rank()`.
        dense: bool,
    },
    /// Window functions of one PARTITION BY and ORDER BY. Output: the input row, then one column a function. Ties of
    /// the order are broken by the whole row.
    Over {
        /// Partition columns.
        partition: Vec<usize>,
        /// Order; rows alike in it are peers.
        order: Vec<SortColumn>,
        /// The functions: a projection of `__row` and one column a function, over one window partitioned by `__part`,
        /// over leaf `t0`, which has the input's columns and then `__part` and `__row`.
        plan: StoredPlan,
    },
    /// WITH RECURSIVE. Input 0 is the base term, the others are what the recursive term reads beside its own rows.
    /// All inputs are on one shard.
    Recursive {
        /// The recursive term for the rows of one round. Its relations are numbers of inputs, but for relation 0: the
        /// rows of the last round, with the number of that round as a further, last column, which every operator
        /// passes on: that is the last column of the output too. See `ops::recursive`.
        step: Box<IncPlan>,
        /// UNION: a row that was there in an earlier round is not there again. Otherwise UNION ALL.
        distinct: bool,
        /// More rounds than this are an error.
        rounds_max: u32,
    },
    /// Sessions. Output: the input row, then the first time of the row's session and its last time plus the gap; both NULL
    /// in rows without a time.
    Session {
        /// What sessions are apart by.
        partition: Vec<usize>,
        /// The time column, a timestamp.
        time: usize,
        /// Rows that are less than this apart are in one session; in ticks of the time column's unit.
        gap: i64,
    },
    /// Holds changes back: EMIT ON WINDOW CLOSE and EMIT EVERY. See [`emit`].
    Emit {
        /// The time column by which rows become final: when its bound passes them. `None`: no row ever is.
        column: Option<usize>,
        /// Changes of rows that are not final go out at multiples of so many microseconds; `None`: not before.
        every: Option<i64>,
    },
    /// MATCH_RECOGNIZE. Ties of the order are broken by the whole row.
    MatchRecognize {
        /// The pattern over the input's columns.
        spec: Box<MatchSpec>,
        /// EMIT ON WINDOW CLOSE: rows count when the watermark has passed them, and matches when no later row can change
        /// them.
        decided: bool,
    },
    /// Rows go to the shard that owns them. Splits the graph into stages.
    Exchange {
        /// Where to.
        distribution: Distribution,
    },
    /// DataFusion over the integrals of the inputs (leaves `t0, t1, ..`), diffed against the last output.
    /// With keys: only the groups whose rows changed are computed anew; without columns in them all rows are one group.
    Recompute {
        /// The plan over leaves `t0, ..`.
        plan: StoredPlan,
        /// For each input the columns that make its group; output rows of a group start with nothing special, the
        /// group of an output row is given by `output_keys`.
        keys: Option<RecomputeKeys>,
        /// Why there is no native operator, for EXPLAIN.
        reason: String,
    },
}

/// Group columns of a keyed recompute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecomputeKeys {
    /// Per input, its key columns.
    pub inputs: Vec<Vec<usize>>,
    /// The same key in the output row.
    pub output: Vec<usize>,
}

/// A DataFusion logical plan over placeholder leaves, in an encoding that can be stored.
#[derive(Debug, Clone)]
pub struct StoredPlan {
    /// The plan. Leaves are `TableScan`s of tables `t0, t1, ..` whose columns are those of the node's inputs.
    pub logical: datafusion::logical_expr::LogicalPlan,
}

impl IncPlan {
    /// The node with this id.
    pub fn node(&self, id: NodeId) -> &IncNode {
        &self.nodes[id.0 as usize]
    }
    /// Relations read by the plan, each once, in order of id.
    pub fn relations(&self) -> Vec<RelationId> {
        let mut v: Vec<_> = self
            .nodes
            .iter()
            .filter_map(|n| match &n.op {
                IncOp::Source { relation, .. } => Some(*relation),
                _ => None,
            })
            .collect();
        v.sort();
        v.dedup();
        v
    }
    /// True if what it gives depends on the clock of an epoch.
    pub fn follows_clock(&self) -> bool {
        self.nodes.iter().any(|n| matches!(n.op, IncOp::TemporalFilter { .. }))
    }
    /// The view's columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.node(self.output).schema
    }
}

impl IncOp {
    /// The tier that runs this operator.
    pub fn tier(&self) -> Tier {
        match self {
            Self::Recompute { keys: Some(_), .. } => Tier::KeyedRecompute,
            Self::Recompute { keys: None, .. } => Tier::FullRecompute,
            _ => Tier::Native,
        }
    }
}
