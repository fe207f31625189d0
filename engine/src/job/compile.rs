//! Plan nodes to operators.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::execution::SessionState;
use datafusion::physical_expr::PhysicalExpr;
use millstream_sql::plan::{ChangelogKind, IncNode, IncOp, IncPlan, PlanExpr, TimeLimit};

use crate::error::{Result, ResultExt as _};
use crate::ops::temporal_filter::{Limit, TemporalFilterOp};
use crate::ops::top_n::Counting;
use crate::ops::{DeltaOp, Shard};

fn compile(exprs: &[PlanExpr], input: &Schema) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
    exprs.iter().map(|e| e.compile(input).e()).collect()
}

/// The operator of a node, or `None` where the job itself moves the rows.
pub(super) fn operator(
    plan: &IncPlan,
    node: &IncNode,
    shard: Shard,
    state: &SessionState,
) -> Result<Option<Box<dyn DeltaOp>>> {
    let input = |port: usize| -> &IncNode { plan.node(node.inputs[port]) };
    let append_only = || input(0).kind == ChangelogKind::Append;
    let output = node.schema.clone();
    Ok(Some(match &node.op {
        IncOp::Source { .. } | IncOp::Values { .. } | IncOp::Union | IncOp::Exchange { .. } => return Ok(None),
        IncOp::Map { predicates, exprs } => {
            let schema = input(0).schema.clone();
            let predicates = compile(predicates, &schema)?;
            let exprs = exprs.as_ref().map(|e| compile(e, &schema)).transpose()?;
            Box::new(crate::ops::map::MapOp::new(schema, predicates, exprs, output))
        }
        IncOp::RowMap { plan } => {
            Box::new(crate::ops::row_map::RowMapOp::new(state, plan, input(0).schema.clone(), output)?)
        }
        IncOp::TemporalFilter { limits } => {
            let schema = input(0).schema.clone();
            let one = |l: &TimeLimit| -> Result<Limit> {
                let value = l.value.compile(&schema).e()?;
                let TimeLimit { shift, step, offset, next, leaves, .. } = *l;
                Ok(Limit { value, shift, step, offset, next, leaves })
            };
            let limits = limits.iter().map(one).collect::<Result<_>>()?;
            Box::new(TemporalFilterOp::new(output, limits, shard)?)
        }
        IncOp::Distinct => Box::new(crate::ops::distinct::DistinctOp::new(output, shard)?),
        IncOp::SetOp { kind } => Box::new(crate::ops::set_op::SetOp::new(*kind, output, shard)?),
        IncOp::Join { kind, on, residual, null_equals_null, ranges } => {
            let (left, right) = (input(0).schema.clone(), input(1).schema.clone());
            let residual = residual.as_ref().map(|r| r.compile(&joined(&left, &right)).e()).transpose()?;
            Box::new(crate::ops::join::JoinOp::new(
                *kind,
                left,
                right,
                on.clone(),
                residual,
                *null_equals_null,
                ranges.clone(),
                output,
                shard,
            )?)
        }
        IncOp::AsOf { on, time, compare, outer } => Box::new(crate::ops::asof::AsOfOp::new(
            input(0).schema.clone(),
            input(1).schema.clone(),
            on.clone(),
            *time,
            *compare,
            *outer,
            output,
            shard,
        )?),
        IncOp::ArrivalJoin { kind, on, residual } => {
            let (left, right) = (input(0).schema.clone(), input(1).schema.clone());
            let residual = residual.as_ref().map(|r| r.compile(&joined(&left, &right)).e()).transpose()?;
            let join =
                crate::ops::join::JoinOp::new(*kind, left, right, on.clone(), residual, false, None, output, shard)?;
            Box::new(join.of_arrivals()?)
        }
        IncOp::Aggregate { keys, aggs } => Box::new(crate::ops::aggregate::AggregateOp::new(
            input(0).schema.clone(),
            keys.clone(),
            aggs.clone(),
            output,
            append_only(),
            shard,
        )?),
        IncOp::TopN { partition, order, offset, limit, rank } => {
            let schema = input(0).schema.clone();
            let rank = rank.then(|| output.field(output.fields().len() - 1).data_type().clone());
            Box::new(crate::ops::top_n::TopNOp::new(
                schema,
                partition.clone(),
                order.clone(),
                *offset,
                *limit,
                rank,
                append_only(),
                output,
                shard,
            )?)
        }
        IncOp::TopRank { partition, order, limit, dense } => Box::new(crate::ops::top_n::TopNOp::ranked(
            input(0).schema.clone(),
            partition.clone(),
            order.clone(),
            *limit,
            if *dense { Counting::DenseRank } else { Counting::Rank },
            output,
            shard,
        )?),
        IncOp::Over { partition, order, plan: stored } => Box::new(crate::ops::over::OverOp::new(
            state,
            stored,
            input(0).schema.clone(),
            partition.clone(),
            order.clone(),
            output,
            shard,
        )?),
        IncOp::Recursive { step, distinct, rounds_max } => {
            // All rows are on the first shard, and so is all there is of the step.
            let ops = step.nodes.iter().map(|n| operator(step, n, Shard::ONE, state)).collect::<Result<_>>()?;
            let round = crate::ops::recursive::Step::new(step.as_ref().clone(), ops);
            Box::new(crate::ops::recursive::RecursiveOp::new(round, *distinct, *rounds_max, output, shard)?)
        }
        IncOp::Session { partition, time, gap } => Box::new(crate::ops::session::SessionOp::new(
            input(0).schema.clone(),
            partition.clone(),
            *time,
            *gap,
            output,
            shard,
        )?),
        IncOp::Emit { column, every } => Box::new(crate::ops::emit::EmitOp::new(output, *column, *every, shard)?),
        IncOp::MatchRecognize { spec, decided } => {
            let spec = spec.as_ref().clone();
            Box::new(crate::ops::matching::MatchOp::new(spec, *decided, input(0).schema.clone(), output, shard)?)
        }
        IncOp::Recompute { plan: stored, keys, .. } => {
            let inputs = node.inputs.iter().map(|n| plan.node(*n).schema.clone()).collect();
            Box::new(crate::ops::recompute::RecomputeOp::new(state, stored, inputs, keys.clone(), output, shard)?)
        }
    }))
}

/// Left columns, then right columns: the row a residual sees.
fn joined(left: &SchemaRef, right: &SchemaRef) -> Schema {
    Schema::new(left.fields().iter().chain(right.fields().iter()).cloned().collect::<Vec<Arc<Field>>>())
}
