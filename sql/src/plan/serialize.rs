//! IncPlan to bytes and back.
//!
//! JSON for the shape; expressions and stored plans as DataFusion's protobuf, schemas and constant rows as Arrow IPC,
//! both in hex. Placeholder leaves are encoded by their schema alone.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{ScalarValue, TableReference};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion_proto::bytes::{
    Serializeable, logical_plan_from_bytes_with_extension_codec, logical_plan_to_bytes_with_extension_codec,
};
use datafusion_proto::logical_plan::LogicalExtensionCodec;
use serde::{Deserialize, Serialize};

use super::{
    AggCall, AggFunc, AsOfCompare, ChangelogKind, Distribution, IncNode, IncOp, IncPlan, JoinKind, NodeId,
    PLAN_VERSION, PlanExpr, RangeEnd, RecomputeKeys, RelationId, SetOpKind, SideRange, SortColumn, StoredPlan,
    TimeLimit,
};
use crate::error::{Result, SqlError, SqlState};
use crate::functions::{Collect, Stat};
use crate::matching::{MatchSpec, Shape};

/// Encodes a plan for the catalog.
pub fn to_json(plan: &IncPlan) -> Result<serde_json::Value> {
    serde_json::to_value(PlanFile::encode(plan)?)
        .map_err(|e| SqlError::internal(format!("plan cannot be encoded: {e}")))
}

/// Decodes what [`to_json`] wrote. Functions are found by name in `state`. An unknown version is an error.
pub fn from_json(state: &SessionState, json: &serde_json::Value) -> Result<IncPlan> {
    let version = json.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(PLAN_VERSION)) {
        let found = version.map_or("none".to_owned(), |v| v.to_string());
        return Err(damaged(format!("the stored plan has version {found}, this program reads version {PLAN_VERSION}")));
    }
    let file = PlanFile::deserialize(json).map_err(|e| damaged(format!("the stored plan is damaged: {e}")))?;
    file.decode(&state.task_ctx())
}

fn damaged(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::DATA_CORRUPTED, message)
}

#[derive(Serialize, Deserialize)]
struct PlanFile {
    version: u32,
    output: u32,
    read_order: Vec<SortFile>,
    nodes: Vec<NodeFile>,
}

impl PlanFile {
    fn encode(plan: &IncPlan) -> Result<Self> {
        Ok(Self {
            version: plan.version,
            output: plan.output.0,
            read_order: plan.read_order.iter().map(SortFile::from).collect(),
            nodes: plan.nodes.iter().map(NodeFile::encode).collect::<Result<_>>()?,
        })
    }

    fn decode(self, context: &TaskContext) -> Result<IncPlan> {
        let nodes: Vec<IncNode> = self.nodes.into_iter().map(|n| n.decode(context)).collect::<Result<_>>()?;
        for (i, node) in nodes.iter().enumerate() {
            if node.inputs.iter().any(|n| n.0 as usize >= i) {
                return Err(damaged("the stored plan's nodes are out of order"));
            }
        }
        if self.output as usize >= nodes.len() {
            return Err(damaged("the stored plan has no output"));
        }
        Ok(IncPlan {
            version: self.version,
            nodes,
            output: NodeId(self.output),
            read_order: self.read_order.into_iter().map(SortColumn::from).collect(),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct NodeFile {
    op: OpFile,
    inputs: Vec<u32>,
    schema: String,
    append: bool,
}

#[derive(Serialize, Deserialize)]
struct SortFile {
    column: usize,
    descending: bool,
    nulls_first: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OpFile {
    Source {
        relation: RelationId,
        projection: Vec<usize>,
    },
    Values {
        rows: String,
    },
    Map {
        predicates: Vec<String>,
        exprs: Option<Vec<String>>,
    },
    RowMap {
        plan: String,
    },
    TemporalFilter {
        limits: Vec<LimitFile>,
    },
    Union,
    Distinct,
    SetOp {
        kind: String,
    },
    Join {
        kind: String,
        on: Vec<(usize, usize)>,
        residual: Option<String>,
        null_equals_null: bool,
        /// Plans from before there were ranges have none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ranges: Option<[RangeFile; 2]>,
    },
    ArrivalJoin {
        kind: String,
        on: Vec<(usize, usize)>,
        residual: Option<String>,
    },
    AsOf {
        on: Vec<(usize, usize)>,
        time: (usize, usize),
        compare: String,
        outer: bool,
    },
    Aggregate {
        keys: Vec<usize>,
        aggs: Vec<AggFile>,
    },
    TopN {
        partition: Vec<usize>,
        order: Vec<SortFile>,
        offset: u64,
        limit: u64,
        rank: bool,
    },
    TopRank {
        partition: Vec<usize>,
        order: Vec<SortFile>,
        limit: u64,
        dense: bool,
    },
    Over {
        partition: Vec<usize>,
        order: Vec<SortFile>,
        plan: String,
    },
    Recursive {
        step: PlanFile,
        distinct: bool,
        rounds_max: u32,
    },
    Session {
        partition: Vec<usize>,
        time: usize,
        gap: i64,
    },
    Emit {
        column: Option<usize>,
        every: Option<i64>,
    },
    MatchRecognize {
        shape: Box<Shape>,
        #[serde(default)]
        decided: bool,
        /// A schema of one field a slot.
        slots: String,
        calls: Vec<String>,
        conditions: Vec<String>,
        measures: Vec<String>,
    },
    Exchange {
        hash: Option<Vec<usize>>,
    },
    Recompute {
        plan: String,
        keys: Option<KeysFile>,
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
struct RangeFile {
    column: usize,
    /// (column, offset)
    from: Option<(usize, i64)>,
    to: Option<(usize, i64)>,
}

#[derive(Serialize, Deserialize)]
struct LimitFile {
    value: String,
    shift: i64,
    step: i64,
    offset: i64,
    next: bool,
    leaves: bool,
}

#[derive(Serialize, Deserialize)]
struct AggFile {
    func: String,
    arg: Option<usize>,
    #[serde(default)]
    more: Vec<usize>,
    #[serde(default)]
    order: Vec<SortFile>,
    #[serde(default)]
    ignore_nulls: bool,
    filter: Option<usize>,
    distinct: bool,
    /// A schema of one field of the type.
    output: String,
}

#[derive(Serialize, Deserialize)]
struct KeysFile {
    inputs: Vec<Vec<usize>>,
    output: Vec<usize>,
}

impl From<&SideRange> for RangeFile {
    fn from(r: &SideRange) -> Self {
        let end = |e: &Option<RangeEnd>| e.map(|e| (e.column, e.offset));
        Self { column: r.column, from: end(&r.from), to: end(&r.to) }
    }
}

impl From<RangeFile> for SideRange {
    fn from(r: RangeFile) -> Self {
        let end = |e: Option<(usize, i64)>| e.map(|(column, offset)| RangeEnd { column, offset });
        Self { column: r.column, from: end(r.from), to: end(r.to) }
    }
}

impl From<&SortColumn> for SortFile {
    fn from(s: &SortColumn) -> Self {
        Self { column: s.column, descending: s.descending, nulls_first: s.nulls_first }
    }
}

impl From<SortFile> for SortColumn {
    fn from(s: SortFile) -> Self {
        Self { column: s.column, descending: s.descending, nulls_first: s.nulls_first }
    }
}

const JOIN_KINDS: [(JoinKind, &str); 6] = [
    (JoinKind::Inner, "inner"),
    (JoinKind::Left, "left"),
    (JoinKind::Right, "right"),
    (JoinKind::Full, "full"),
    (JoinKind::LeftSemi, "left_semi"),
    (JoinKind::LeftAnti, "left_anti"),
];

const SET_OPS: [(SetOpKind, &str); 2] =
    [(SetOpKind::ExceptAll, "except_all"), (SetOpKind::IntersectAll, "intersect_all")];

const AS_OF: [(AsOfCompare, &str); 4] =
    [(AsOfCompare::GtEq, "gt_eq"), (AsOfCompare::Gt, "gt"), (AsOfCompare::LtEq, "lt_eq"), (AsOfCompare::Lt, "lt")];

const AGG_FUNCS: [(AggFunc, &str); 11] = [
    (AggFunc::CountStar, "count_star"),
    (AggFunc::Count, "count"),
    (AggFunc::Sum, "sum"),
    (AggFunc::Avg, "avg"),
    (AggFunc::Min, "min"),
    (AggFunc::Max, "max"),
    (AggFunc::BoolAnd, "bool_and"),
    (AggFunc::BoolOr, "bool_or"),
    (AggFunc::BitAnd, "bit_and"),
    (AggFunc::BitOr, "bit_or"),
    (AggFunc::BitXor, "bit_xor"),
];

/// Statistics and collections go by the names of their functions.
fn function_out(f: AggFunc) -> Result<String> {
    match f {
        AggFunc::Stat(s) => name_of(&Stat::ALL, &s),
        AggFunc::Collect(c) => name_of(&Collect::ALL, &c),
        plain => name_of(&AGG_FUNCS, &plain),
    }
}

fn function_in(name: &str) -> Result<AggFunc> {
    let other = Stat::named(name).map(AggFunc::Stat).or_else(|| Collect::named(name).map(AggFunc::Collect));
    other.map_or_else(|| named(&AGG_FUNCS, name), Ok)
}

fn name_of<T: PartialEq>(table: &[(T, &str)], value: &T) -> Result<String> {
    let found = table.iter().find(|(v, _)| v == value);
    found.map(|(_, n)| (*n).to_owned()).ok_or_else(|| SqlError::internal("an enum value without a stored name"))
}

fn named<T: Copy>(table: &[(T, &str)], name: &str) -> Result<T> {
    let found = table.iter().find(|(_, n)| *n == name);
    found.map(|(v, _)| *v).ok_or_else(|| damaged(format!("the stored plan has an unknown \"{name}\"")))
}

impl NodeFile {
    fn encode(node: &IncNode) -> Result<Self> {
        let op = match &node.op {
            IncOp::Source { relation, projection } => {
                OpFile::Source { relation: *relation, projection: projection.clone() }
            }
            IncOp::Values { rows } => OpFile::Values { rows: ipc(&rows.schema(), Some(rows))? },
            IncOp::Map { predicates, exprs } => OpFile::Map {
                predicates: predicates.iter().map(expr_out).collect::<Result<_>>()?,
                exprs: match exprs {
                    Some(exprs) => Some(exprs.iter().map(expr_out).collect::<Result<_>>()?),
                    None => None,
                },
            },
            IncOp::RowMap { plan } => OpFile::RowMap { plan: plan_out(plan)? },
            IncOp::TemporalFilter { limits } => {
                let one = |l: &TimeLimit| -> Result<LimitFile> {
                    let TimeLimit { shift, step, offset, next, leaves, .. } = *l;
                    Ok(LimitFile { value: expr_out(&l.value)?, shift, step, offset, next, leaves })
                };
                OpFile::TemporalFilter { limits: limits.iter().map(one).collect::<Result<_>>()? }
            }
            IncOp::Union => OpFile::Union,
            IncOp::Distinct => OpFile::Distinct,
            IncOp::SetOp { kind } => OpFile::SetOp { kind: name_of(&SET_OPS, kind)? },
            IncOp::Join { kind, on, residual, null_equals_null, ranges } => OpFile::Join {
                kind: name_of(&JOIN_KINDS, kind)?,
                on: on.clone(),
                residual: residual.as_ref().map(expr_out).transpose()?,
                null_equals_null: *null_equals_null,
                ranges: ranges.as_ref().map(|r| r.each_ref().map(RangeFile::from)),
            },
            IncOp::AsOf { on, time, compare, outer } => {
                OpFile::AsOf { on: on.clone(), time: *time, compare: name_of(&AS_OF, compare)?, outer: *outer }
            }
            IncOp::ArrivalJoin { kind, on, residual } => OpFile::ArrivalJoin {
                kind: name_of(&JOIN_KINDS, kind)?,
                on: on.clone(),
                residual: residual.as_ref().map(expr_out).transpose()?,
            },
            IncOp::Aggregate { keys, aggs } => {
                let one = |a: &AggCall| -> Result<AggFile> {
                    let field = Field::new("output", a.output.clone(), true);
                    Ok(AggFile {
                        func: function_out(a.func)?,
                        arg: a.arg,
                        more: a.more.clone(),
                        order: a.order.iter().map(SortFile::from).collect(),
                        ignore_nulls: a.ignore_nulls,
                        filter: a.filter,
                        distinct: a.distinct,
                        output: ipc(&Arc::new(Schema::new(vec![field])), None)?,
                    })
                };
                OpFile::Aggregate { keys: keys.clone(), aggs: aggs.iter().map(one).collect::<Result<_>>()? }
            }
            IncOp::TopN { partition, order, offset, limit, rank } => OpFile::TopN {
                partition: partition.clone(),
                order: order.iter().map(SortFile::from).collect(),
                offset: *offset,
                limit: *limit,
                rank: *rank,
            },
            IncOp::TopRank { partition, order, limit, dense } => OpFile::TopRank {
                partition: partition.clone(),
                order: order.iter().map(SortFile::from).collect(),
                limit: *limit,
                dense: *dense,
            },
            IncOp::Over { partition, order, plan } => OpFile::Over {
                partition: partition.clone(),
                order: order.iter().map(SortFile::from).collect(),
                plan: plan_out(plan)?,
            },
            IncOp::Recursive { step, distinct, rounds_max } => {
                OpFile::Recursive { step: PlanFile::encode(step)?, distinct: *distinct, rounds_max: *rounds_max }
            }
            IncOp::Session { partition, time, gap } => {
                OpFile::Session { partition: partition.clone(), time: *time, gap: *gap }
            }
            IncOp::Emit { column, every } => OpFile::Emit { column: *column, every: *every },
            IncOp::MatchRecognize { spec, decided } => {
                let exprs = |all: &[PlanExpr]| all.iter().map(expr_out).collect::<Result<Vec<_>>>();
                OpFile::MatchRecognize {
                    shape: Box::new(spec.shape.clone()),
                    decided: *decided,
                    slots: ipc(&spec.slot_schema(), None)?,
                    calls: exprs(&spec.calls)?,
                    conditions: exprs(&spec.conditions)?,
                    measures: exprs(&spec.measures)?,
                }
            }
            IncOp::Exchange { distribution } => OpFile::Exchange {
                hash: match distribution {
                    Distribution::Hash(columns) => Some(columns.clone()),
                    Distribution::Single => None,
                },
            },
            IncOp::Recompute { plan, keys, reason } => OpFile::Recompute {
                plan: plan_out(plan)?,
                keys: keys.as_ref().map(|k| KeysFile { inputs: k.inputs.clone(), output: k.output.clone() }),
                reason: reason.clone(),
            },
        };
        Ok(Self {
            op,
            inputs: node.inputs.iter().map(|n| n.0).collect(),
            schema: ipc(&node.schema, None)?,
            append: node.kind == ChangelogKind::Append,
        })
    }

    fn decode(self, context: &TaskContext) -> Result<IncNode> {
        let exprs_in = |all: Vec<String>| all.iter().map(|e| expr_in(e, context)).collect::<Result<Vec<_>>>();
        let op = match self.op {
            OpFile::Source { relation, projection } => IncOp::Source { relation, projection },
            OpFile::Values { rows } => {
                let (_, rows) = ipc_in(&rows)?;
                IncOp::Values { rows: rows.ok_or_else(|| damaged("constant rows are missing"))? }
            }
            OpFile::Map { predicates, exprs } => {
                IncOp::Map { predicates: exprs_in(predicates)?, exprs: exprs.map(exprs_in).transpose()? }
            }
            OpFile::RowMap { plan } => IncOp::RowMap { plan: plan_in(&plan, context)? },
            OpFile::TemporalFilter { limits } => {
                let one = |l: LimitFile| -> Result<TimeLimit> {
                    let LimitFile { value, shift, step, offset, next, leaves } = l;
                    if step < 1 {
                        return Err(damaged("a time limit of the stored plan has no unit"));
                    }
                    Ok(TimeLimit { value: expr_in(&value, context)?, shift, step, offset, next, leaves })
                };
                IncOp::TemporalFilter { limits: limits.into_iter().map(one).collect::<Result<_>>()? }
            }
            OpFile::Union => IncOp::Union,
            OpFile::Distinct => IncOp::Distinct,
            OpFile::SetOp { kind } => IncOp::SetOp { kind: named(&SET_OPS, &kind)? },
            OpFile::Join { kind, on, residual, null_equals_null, ranges } => IncOp::Join {
                kind: named(&JOIN_KINDS, &kind)?,
                on,
                residual: residual.map(|e| expr_in(&e, context)).transpose()?,
                null_equals_null,
                ranges: ranges.map(|r| r.map(SideRange::from)),
            },
            OpFile::AsOf { on, time, compare, outer } => {
                IncOp::AsOf { on, time, compare: named(&AS_OF, &compare)?, outer }
            }
            OpFile::ArrivalJoin { kind, on, residual } => IncOp::ArrivalJoin {
                kind: named(&JOIN_KINDS, &kind)?,
                on,
                residual: residual.map(|e| expr_in(&e, context)).transpose()?,
            },
            OpFile::Aggregate { keys, aggs } => {
                let one = |a: AggFile| -> Result<AggCall> {
                    let (schema, _) = ipc_in(&a.output)?;
                    let output = match schema.fields().first() {
                        Some(f) => f.data_type().clone(),
                        None => DataType::Null,
                    };
                    Ok(AggCall {
                        func: function_in(&a.func)?,
                        arg: a.arg,
                        more: a.more,
                        order: a.order.into_iter().map(SortColumn::from).collect(),
                        ignore_nulls: a.ignore_nulls,
                        filter: a.filter,
                        distinct: a.distinct,
                        output,
                    })
                };
                IncOp::Aggregate { keys, aggs: aggs.into_iter().map(one).collect::<Result<_>>()? }
            }
            OpFile::TopN { partition, order, offset, limit, rank } => {
                IncOp::TopN { partition, order: order.into_iter().map(SortColumn::from).collect(), offset, limit, rank }
            }
            OpFile::TopRank { partition, order, limit, dense } => {
                IncOp::TopRank { partition, order: order.into_iter().map(SortColumn::from).collect(), limit, dense }
            }
            OpFile::Over { partition, order, plan } => IncOp::Over {
                partition,
                order: order.into_iter().map(SortColumn::from).collect(),
                plan: plan_in(&plan, context)?,
            },
            OpFile::Recursive { step, distinct, rounds_max } => {
                let step = step.decode(context)?;
                // Every relation of a step is an input of the node.
                if step.relations().iter().any(|r| r.0 as usize >= self.inputs.len()) {
                    return Err(damaged("the stored plan's recursive term reads what is not there"));
                }
                IncOp::Recursive { step: Box::new(step), distinct, rounds_max }
            }
            OpFile::Session { partition, time, gap } => IncOp::Session { partition, time, gap },
            OpFile::Emit { column, every } => IncOp::Emit { column, every },
            OpFile::MatchRecognize { shape, decided, slots, calls, conditions, measures } => {
                let (slots, _) = ipc_in(&slots)?;
                let spec = MatchSpec {
                    shape: *shape,
                    types: slots.fields().iter().map(|f| f.data_type().clone()).collect(),
                    calls: exprs_in(calls)?,
                    conditions: exprs_in(conditions)?,
                    measures: exprs_in(measures)?,
                };
                IncOp::MatchRecognize { spec: Box::new(spec), decided }
            }
            OpFile::Exchange { hash } => {
                IncOp::Exchange { distribution: hash.map_or(Distribution::Single, Distribution::Hash) }
            }
            OpFile::Recompute { plan, keys, reason } => IncOp::Recompute {
                plan: plan_in(&plan, context)?,
                keys: keys.map(|k| RecomputeKeys { inputs: k.inputs, output: k.output }),
                reason,
            },
        };
        Ok(IncNode {
            op,
            inputs: self.inputs.into_iter().map(NodeId).collect(),
            schema: ipc_in(&self.schema)?.0,
            kind: if self.append { ChangelogKind::Append } else { ChangelogKind::Retract },
        })
    }
}

fn expr_out(e: &PlanExpr) -> Result<String> {
    let bytes = e.expr.to_bytes().map_err(|e| cannot_store(&e))?;
    Ok(hex(&bytes))
}

fn expr_in(text: &str, context: &TaskContext) -> Result<PlanExpr> {
    let expr = Expr::from_bytes_with_ctx(&unhex(text)?, context).map_err(|e| cannot_read(&e))?;
    Ok(PlanExpr { expr })
}

fn plan_out(plan: &StoredPlan) -> Result<String> {
    let storable = |plan: LogicalPlan| {
        let plan = plan.transform_up_with_subqueries(nothing_with_columns)?.data;
        logical_plan_to_bytes_with_extension_codec(&plan, &LeafCodec)
    };
    Ok(hex(&storable(plan.logical.clone()).map_err(|e| cannot_store(&e))?))
}

/// DataFusion's encoding of a relation without rows loses its columns: it is stored as one of NULLs without its row.
fn nothing_with_columns(plan: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
    let LogicalPlan::EmptyRelation(empty) = &plan else { return Ok(Transformed::no(plan)) };
    if empty.produce_one_row || empty.schema.fields().is_empty() {
        return Ok(Transformed::no(plan));
    }
    let nulls = empty.schema.iter().map(|(qualifier, field)| {
        let null = Expr::Literal(ScalarValue::try_from(field.data_type())?, None);
        Ok(null.alias_qualified(qualifier.cloned(), field.name()))
    });
    let nulls = nulls.collect::<DfResult<Vec<_>>>()?;
    let built = LogicalPlanBuilder::empty(true).project(nulls)?.filter(lit(false))?.build()?;
    Ok(Transformed::yes(built))
}

fn plan_in(text: &str, context: &TaskContext) -> Result<StoredPlan> {
    let logical = logical_plan_from_bytes_with_extension_codec(&unhex(text)?, context, &LeafCodec)
        .map_err(|e| cannot_read(&e))?;
    Ok(StoredPlan { logical })
}

fn cannot_store(e: &DataFusionError) -> SqlError {
    SqlError::unsupported("the plan of this view cannot be stored").detail(e.strip_backtrace())
}

fn cannot_read(e: &DataFusionError) -> SqlError {
    damaged("the stored plan of a view cannot be read").detail(e.strip_backtrace())
}

/// Placeholder leaves are tables without rows; their schema is in the scan.
#[derive(Debug)]
struct LeafCodec;

impl LogicalExtensionCodec for LeafCodec {
    fn try_decode(&self, _: &[u8], _: &[LogicalPlan], _: &TaskContext) -> DfResult<Extension> {
        Err(DataFusionError::NotImplemented("extension nodes in a stored plan".into()))
    }
    fn try_encode(&self, _: &Extension, _: &mut Vec<u8>) -> DfResult<()> {
        Err(DataFusionError::NotImplemented("extension nodes in a stored plan".into()))
    }
    fn try_decode_table_provider(
        &self,
        _: &[u8],
        _: &TableReference,
        schema: SchemaRef,
        _: &TaskContext,
    ) -> DfResult<Arc<dyn TableProvider>> {
        Ok(Arc::new(EmptyTable::new(schema)))
    }
    fn try_encode_table_provider(
        &self,
        _: &TableReference,
        _: Arc<dyn TableProvider>,
        _: &mut Vec<u8>,
    ) -> DfResult<()> {
        Ok(())
    }
}

fn ipc(schema: &SchemaRef, rows: Option<&RecordBatch>) -> Result<String> {
    let mut bytes = Vec::new();
    let mut write = || -> std::result::Result<(), arrow::error::ArrowError> {
        let mut writer = StreamWriter::try_new(&mut bytes, schema)?;
        if let Some(rows) = rows {
            writer.write(rows)?;
        }
        writer.finish()
    };
    write().map_err(|e| SqlError::internal(format!("schema cannot be encoded: {e}")))?;
    Ok(hex(&bytes))
}

fn ipc_in(text: &str) -> Result<(SchemaRef, Option<RecordBatch>)> {
    let bytes = unhex(text)?;
    let bad = |e: arrow::error::ArrowError| damaged(format!("the stored plan is damaged: {e}"));
    let mut reader = StreamReader::try_new(bytes.as_slice(), None).map_err(bad)?;
    let schema = reader.schema();
    let rows = reader.next().transpose().map_err(bad)?;
    Ok((schema, rows))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from(DIGITS[usize::from(d)])).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digit =
        |c: u8| char::from(c).to_digit(16).map(|d| d as u8).ok_or_else(|| damaged("the stored plan is damaged"));
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return Err(damaged("the stored plan is damaged"));
    }
    pairs.iter().map(|[a, b]| Ok(digit(*a)? << 4 | digit(*b)?)).collect()
}
