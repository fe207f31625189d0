//! Joins.

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::{DFSchema, JoinType, NullEquality};
use datafusion::logical_expr::logical_plan::Join;
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::{LogicalPlan, lit};

use super::{
    Builder, Fail, IncOp, NodeId, PlanExpr, Planned, SqlError, arrow_schema, cast, positional, ranges, recompute,
};
use crate::asof::AsOf;
use crate::plan::{ChangelogKind, JoinKind};

impl Builder<'_> {
    pub(super) fn join(&mut self, join: &Join) -> Planned {
        self.join_as(join, false)
    }

    /// A join of arriving rows with what is there.
    pub(super) fn arrival_join(&mut self, join: &Join) -> Planned {
        match self.join_as(join, true) {
            // Nothing else can compute it: what was there when a row arrived is kept nowhere.
            Err(Fail::Recompute(reason)) => Err(SqlError::unsupported(reason).into()),
            done => done,
        }
    }

    fn join_as(&mut self, join: &Join, arrival: bool) -> Planned {
        use JoinType as T;
        if join.null_aware {
            return recompute("NOT IN with NULLs");
        }
        // Semi and anti joins of the right side are those of the left with the sides swapped.
        let (kind, swap) = match join.join_type {
            T::Inner => (JoinKind::Inner, false),
            T::Left => (JoinKind::Left, false),
            T::Right => (JoinKind::Right, false),
            T::Full => (JoinKind::Full, false),
            T::LeftSemi => (JoinKind::LeftSemi, false),
            T::LeftAnti => (JoinKind::LeftAnti, false),
            T::RightSemi => (JoinKind::LeftSemi, true),
            T::RightAnti => (JoinKind::LeftAnti, true),
            T::LeftMark | T::RightMark => return recompute("subquery under OR or in the select list"),
        };
        let (left, right): (&LogicalPlan, &LogicalPlan) =
            if swap { (&join.right, &join.left) } else { (&join.left, &join.right) };
        let mut left_keys = Vec::new();
        let mut right_keys = Vec::new();
        for (a, b) in &join.on {
            let (l, r) = if swap { (b, a) } else { (a, b) };
            left_keys.push(positional(l, left.schema())?);
            right_keys.push(positional(r, right.schema())?);
        }
        if join.on.is_empty() && kind != JoinKind::Inner {
            // All rows have one key: rows without a pair are then counted as in any other join.
            left_keys.push(PlanExpr { expr: lit(true) });
            right_keys.push(PlanExpr { expr: lit(true) });
        }
        let pair = pair_schema(left.schema(), right.schema())?;
        let residual = join.filter.as_ref().map(|f| positional(f, &pair)).transpose()?;

        let (left_width, right_width) = (left.schema().fields().len(), right.schema().fields().len());
        let left_id = self.plan(left)?;
        let right_id = self.plan(right)?;
        self.common_types(left_id, &mut left_keys, right_id, &mut right_keys)?;
        if arrival && self.node(left_id).kind != ChangelogKind::Append {
            let error = SqlError::unsupported(
                "the left side of a join with FOR SYSTEM_TIME AS OF PROCTIME() must be a stream of rows that stay",
            );
            return Err(error
                .detail("Rows of the left side are changed or taken back, and what they met is not kept.")
                .hint("Join a stream, filtered and projected, without aggregates; or join without FOR SYSTEM_TIME.")
                .into());
        }
        let (left_id, left_at) = self.with_columns(left_id, &left_keys)?;
        let (right_id, right_at) = self.with_columns(right_id, &right_keys)?;
        let (left_id, right_id) = if left_at.is_empty() {
            (self.single(left_id), self.single(right_id))
        } else {
            (self.hashed(left_id, left_at.clone()), self.hashed(right_id, right_at.clone()))
        };
        let left_all = self.width(left_id);
        // The residual's right columns come after all the left ones, key columns included.
        let residual = residual.map(|e| shift_right(e, left_width, left_all)).transpose()?;
        let ranges = residual
            .as_ref()
            .and_then(|r| ranges::of(r, &self.schema(left_id), &self.schema(right_id), !join.on.is_empty()));
        let only_left = matches!(kind, JoinKind::LeftSemi | JoinKind::LeftAnti);
        let schema = match only_left {
            true => self.schema(left_id),
            false => concat(&self.schema(left_id), &self.schema(right_id)),
        };
        let on = left_at.into_iter().zip(right_at).collect();
        let op = match arrival {
            true => IncOp::ArrivalJoin { kind, on, residual },
            false => {
                let null_equals_null = join.null_equality == NullEquality::NullEqualsNull;
                IncOp::Join { kind, on, residual, null_equals_null, ranges }
            }
        };
        let joined = self.add(op, vec![left_id, right_id], schema);
        let mut columns: Vec<usize> = (0..left_width).collect();
        if !only_left {
            columns.extend(left_all..left_all + right_width);
        }
        self.keep_columns(joined, columns, arrow_schema(&join.schema))
    }

    /// Each left row with its nearest right row.
    pub(super) fn as_of(&mut self, join: &AsOf) -> Planned {
        let pairs = || join.on.iter().chain([&join.time]);
        let mut left_at = pairs().map(|(l, _)| positional(l, join.left.schema())).collect::<Planned<Vec<_>>>()?;
        let mut right_at = pairs().map(|(_, r)| positional(r, join.right.schema())).collect::<Planned<Vec<_>>>()?;
        let (left_width, right_width) = (join.left.schema().fields().len(), join.right.schema().fields().len());
        let left = self.plan(&join.left)?;
        let right = self.plan(&join.right)?;
        self.common_types(left, &mut left_at, right, &mut right_at)?;
        let (left, mut left_keys) = self.with_columns(left, &left_at)?;
        let (right, mut right_keys) = self.with_columns(right, &right_at)?;
        let (Some(left_time), Some(right_time)) = (left_keys.pop(), right_keys.pop()) else {
            return Err(SqlError::internal("an ASOF join without a time").into());
        };
        let (left, right) = if left_keys.is_empty() {
            (self.single(left), self.single(right))
        } else {
            (self.hashed(left, left_keys.clone()), self.hashed(right, right_keys.clone()))
        };
        let left_all = self.width(left);
        let schema = concat(&self.schema(left), &self.schema(right));
        let op = IncOp::AsOf {
            on: left_keys.into_iter().zip(right_keys).collect(),
            time: (left_time, right_time),
            compare: join.compare,
            outer: join.outer,
        };
        let joined = self.add(op, vec![left, right], schema);
        let columns = (0..left_width).chain(left_all..left_all + right_width).collect();
        self.keep_columns(joined, columns, arrow_schema(&join.schema))
    }

    /// Casts keys of both sides where their types differ: rows find each other by the hash of the key's value, so both
    /// sides need it in one type.
    fn common_types(
        &self,
        left: NodeId,
        left_keys: &mut [PlanExpr],
        right: NodeId,
        right_keys: &mut [PlanExpr],
    ) -> Planned<()> {
        let left_types = self.typed(left, left_keys, |_| None)?;
        let right_types = self.typed(right, right_keys, |_| None)?;
        for (i, (l, r)) in left_types.fields().iter().zip(right_types.fields()).enumerate() {
            let (l, r) = (l.data_type(), r.data_type());
            let Some(common) = common_type(l, r) else { return recompute(format!("join of {l} with {r}")) };
            for (key, have) in [(&mut left_keys[i], l), (&mut right_keys[i], r)] {
                if *have != common {
                    *key = cast(key.clone(), &common);
                }
            }
        }
        Ok(())
    }
}

/// A type in which values of both can be compared, and hash alike if they are equal.
fn common_type(l: &DataType, r: &DataType) -> Option<DataType> {
    if l == r { Some(l.clone()) } else { comparison_coercion(l, r) }
}

fn pair_schema(left: &DFSchema, right: &DFSchema) -> Planned<DFSchema> {
    let fields = left.iter().chain(right.iter()).map(|(q, f)| (q.cloned(), f.clone())).collect();
    Ok(DFSchema::new_with_metadata(fields, std::collections::HashMap::new())?)
}

fn concat(left: &Schema, right: &Schema) -> SchemaRef {
    SchemaRef::new(Schema::new(left.fields().iter().chain(right.fields()).cloned().collect::<Vec<_>>()))
}

/// Columns from `from` on move by `to - from`.
fn shift_right(e: PlanExpr, from: usize, to: usize) -> Planned<PlanExpr> {
    use datafusion::common::tree_node::{Transformed, TreeNode};
    if from == to {
        return Ok(e);
    }
    let moved = e.expr.transform_up(|x| {
        let column = PlanExpr { expr: x };
        match column.as_column() {
            Some(i) if i >= from => Ok(Transformed::yes(PlanExpr::column(i + to - from).expr)),
            _ => Ok(Transformed::no(column.expr)),
        }
    })?;
    Ok(PlanExpr { expr: moved.data })
}
