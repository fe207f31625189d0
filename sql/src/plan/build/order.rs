//! ORDER BY and LIMIT: the order of reads, and top-N.

use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::expr::Sort as SortExpr;
use datafusion::logical_expr::logical_plan::{DistinctOn, Limit};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::{Builder, IncOp, NodeId, Planned, arrow_schema, literal_count, positional, positional_all};
use crate::optimize::float_keys;
use crate::plan::SortColumn;

/// The order of the plan's rows that an outermost ORDER BY asks for, as far as it is by output columns.
pub(super) fn of_output(plan: &LogicalPlan) -> Vec<SortColumn> {
    match plan {
        LogicalPlan::Sort(s) => {
            let column = |e: &SortExpr| {
                let Expr::Column(c) = float_keys::compared(&e.expr) else { return None };
                let column = s.input.schema().index_of_column(c).ok()?;
                Some(SortColumn { column, descending: !e.asc, nulls_first: e.nulls_first })
            };
            s.expr.iter().map_while(column).collect()
        }
        LogicalPlan::Limit(l) => of_output(&l.input),
        LogicalPlan::SubqueryAlias(a) => of_output(&a.input),
        LogicalPlan::Projection(p) => {
            let moved = |s: SortColumn| {
                let at = |e: &Expr| {
                    let bare = e.clone().unalias();
                    matches!(&bare, Expr::Column(c) if p.input.schema().index_of_column(c).ok() == Some(s.column))
                };
                p.expr.iter().position(at).map(|column| SortColumn { column, ..s })
            };
            of_output(&p.input).into_iter().map_while(moved).collect()
        }
        _ => Vec::new(),
    }
}

/// A bound of the number of rows. DataFusion takes the one row of a SELECT without FROM for none.
fn rows_max(plan: &LogicalPlan) -> Option<usize> {
    let one_row = plan.exists(|node| Ok(matches!(node, LogicalPlan::EmptyRelation(e) if e.produce_one_row)));
    if one_row.unwrap_or(true) { None } else { plan.max_rows() }
}

impl Builder<'_> {
    pub(super) fn limit(&mut self, limit: &Limit) -> Planned {
        let skip = match &limit.skip {
            Some(e) => literal_count(e, "OFFSET")?.unwrap_or(0),
            None => 0,
        };
        let fetch = match &limit.fetch {
            Some(e) => literal_count(e, "LIMIT")?,
            None => None,
        };
        let enough = fetch.is_none_or(|n| rows_max(&limit.input).is_some_and(|max| max as u64 <= n));
        if skip == 0 && enough {
            return self.plan(&limit.input);
        }
        self.sorted_limit(&limit.input, skip, fetch)
    }

    /// Rows `skip..skip+fetch` of a sorted plan; looks through what does not change order or number of rows.
    pub(super) fn sorted_limit(&mut self, plan: &LogicalPlan, skip: u64, fetch: Option<u64>) -> Planned {
        match plan {
            LogicalPlan::Projection(p) => {
                let exprs = positional_all(&p.expr, p.input.schema())?;
                let input = self.sorted_limit(&p.input, skip, fetch)?;
                self.map(input, Vec::new(), Some(exprs), arrow_schema(&p.schema))
            }
            LogicalPlan::SubqueryAlias(a) => self.sorted_limit(&a.input, skip, fetch),
            LogicalPlan::Sort(s) => {
                let input = self.plan(&s.input)?;
                let (input, order) = self.sort_columns(input, &s.expr, &s.input)?;
                let inner = s.fetch.map(|n| (n as u64).saturating_sub(skip));
                let limit = fetch.unwrap_or(u64::MAX).min(inner.unwrap_or(u64::MAX));
                let input = self.single(input);
                let schema = self.schema(input);
                let op = IncOp::TopN { partition: Vec::new(), order, offset: skip, limit, rank: false };
                let top = self.add(op, vec![input], schema);
                self.keep_columns(top, (0..s.input.schema().fields().len()).collect(), arrow_schema(s.input.schema()))
            }
            // Without an order of its own: the first rows in the order of all their columns.
            _ => {
                let input = self.plan(plan)?;
                let input = self.single(input);
                let schema = self.schema(input);
                let limit = fetch.unwrap_or(u64::MAX);
                let op = IncOp::TopN { partition: Vec::new(), order: Vec::new(), offset: skip, limit, rank: false };
                Ok(self.add(op, vec![input], schema))
            }
        }
    }

    /// `input` with every sort key as a column.
    pub(super) fn sort_columns(
        &mut self,
        input: NodeId,
        sort: &[SortExpr],
        plan: &LogicalPlan,
    ) -> Planned<(NodeId, Vec<SortColumn>)> {
        let exprs = sort.iter().map(|s| positional(&s.expr, plan.schema())).collect::<Planned<Vec<_>>>()?;
        let (input, at) = self.with_columns(input, &exprs)?;
        let order = sort
            .iter()
            .zip(at)
            .map(|(s, column)| SortColumn { column, descending: !s.asc, nulls_first: s.nulls_first })
            .collect();
        Ok((input, order))
    }

    /// `SELECT DISTINCT ON`: the first row of each group.
    pub(super) fn distinct_on(&mut self, d: &DistinctOn) -> Planned {
        let input_schema = d.input.schema();
        let partition = positional_all(&d.on_expr, input_schema)?;
        let exprs = positional_all(&d.select_expr, input_schema)?;
        let input = self.plan(&d.input)?;
        let (input, partition) = self.with_columns(input, &partition)?;
        let sort = d.sort_expr.as_deref().unwrap_or_default();
        let (input, mut order) = self.sort_columns(input, sort, &d.input)?;
        // Within a group the group's own columns are all alike.
        order.retain(|o| !partition.contains(&o.column));
        let input = self.hashed(input, partition.clone());
        let schema = self.schema(input);
        let top = self.add(IncOp::TopN { partition, order, offset: 0, limit: 1, rank: false }, vec![input], schema);
        self.map(top, Vec::new(), Some(exprs), arrow_schema(&d.schema))
    }
}
