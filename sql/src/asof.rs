//! ASOF joins: each left row with the one right row of its key whose time is nearest.
//!
//! - The parser reads both ways of writing one as a join that is marked ([`crate::parse`]); the comparison of times
//!   goes to the planner as the argument of a function that does nothing ([`marker`]), so that names and types are
//!   resolved as in any join.
//! - After type coercion [`FindAsOf`] makes an [`AsOf`] of such a join. A view has an operator for that; a SELECT runs
//!   [`exec::AsOfExec`].
//! - Of right rows of one time the first counts, in the order of all columns of the right side, ascending, NULLs first.
//!   So all columns of the right side belong to the node, whichever of them are selected.
//! - NULL in a key or a time matches nothing.

pub(crate) mod exec;
mod nearest;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DFSchemaRef, NullEquality};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::logical_plan::{Extension, Join};
use datafusion::logical_expr::type_coercion::binary::comparison_coercion;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable as _, JoinType, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, UserDefinedLogicalNode, UserDefinedLogicalNodeCore, Volatility, build_join_schema, cast,
};
use datafusion::optimizer::AnalyzerRule;

use crate::error::SqlError;
pub(crate) use crate::plan::AsOfCompare;

/// Name of the function around the comparison of times.
pub(crate) const MARKER: &str = "__asof";

/// The function around the comparison of times in the condition of an ASOF join.
pub(crate) fn marker() -> ScalarUDF {
    ScalarUDF::from(Marker { signature: Signature::exact(vec![DataType::Boolean], Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Marker {
    signature: Signature,
}

impl ScalarUDFImpl for Marker {
    fn name(&self) -> &str {
        MARKER
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }
    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(refused("MATCH_CONDITION belongs to an ASOF JOIN"))
    }
}

fn refused(what: impl Into<String>) -> DataFusionError {
    DataFusionError::External(Box::new(SqlError::unsupported(what)))
}

fn refused_condition(what: impl Into<String>) -> DataFusionError {
    let error = SqlError::unsupported(what).hint(
        "Write a.k = b.k AND a.ts >= b.ts; conditions on one side go into a subquery: (SELECT .. WHERE ..) AS b.",
    );
    DataFusionError::External(Box::new(error))
}

/// An ASOF join. Its columns are the left ones, then the right ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct AsOf {
    pub(crate) left: Arc<LogicalPlan>,
    pub(crate) right: Arc<LogicalPlan>,
    /// (of the left row, of the right row), of one type; none of them NULL.
    pub(crate) on: Vec<(Expr, Expr)>,
    /// Times of the left and of the right row, of one type.
    pub(crate) time: (Expr, Expr),
    pub(crate) compare: AsOfCompare,
    /// Left rows without a partner stay.
    pub(crate) outer: bool,
    pub(crate) schema: DFSchemaRef,
}

impl AsOf {
    /// The ASOF join that a node is.
    pub(crate) fn of(node: &dyn UserDefinedLogicalNode) -> Option<&Self> {
        node.as_any().downcast_ref()
    }

    fn join_type(&self) -> JoinType {
        if self.outer { JoinType::Left } else { JoinType::Inner }
    }

    /// The join that a marked join stands for.
    fn of_join(join: &Join) -> Result<Option<Self>> {
        let Some(filter) = &join.filter else { return Ok(None) };
        let conjuncts = split_conjunction(filter);
        let marked = conjuncts.iter().find_map(|e| match e {
            Expr::ScalarFunction(f) if f.func.name() == MARKER => f.args.first(),
            _ => None,
        });
        let Some(marked) = marked else { return Ok(None) };
        let outer = match join.join_type {
            JoinType::Inner => false,
            JoinType::Left => true,
            other => return Err(refused(format!("ASOF {other} JOIN is not supported"))),
        };
        if let LogicalPlan::Subquery(s) = join.right.as_ref()
            && !s.outer_ref_columns.is_empty()
        {
            return Err(refused("LATERAL in an ASOF JOIN is not supported"));
        }
        let sides = Sides { left: join.left.schema(), right: join.right.schema() };
        let Some((l, op, r)) = sides.comparison(marked)? else {
            return Err(refused_condition("an ASOF JOIN compares a column of each side with >=, >, <= or <"));
        };
        let Some(compare) = AsOfCompare::of(op) else {
            return Err(refused_condition("an ASOF JOIN compares times with >=, >, <= or <"));
        };
        let mut on = Vec::new();
        for e in conjuncts {
            match e {
                Expr::ScalarFunction(f) if f.func.name() == MARKER => {}
                e => match sides.comparison(e)? {
                    Some((l, Operator::Eq, r)) => on.push((l, r)),
                    _ => {
                        return Err(refused_condition(
                            "the condition of an ASOF JOIN is equalities of both sides' columns, and one comparison",
                        ));
                    }
                },
            }
        }
        Ok(Some(Self {
            left: Arc::clone(&join.left),
            right: Arc::clone(&join.right),
            on,
            time: (l, r),
            compare,
            outer,
            schema: Arc::clone(&join.schema),
        }))
    }
}

/// Schemas of the sides of a join.
struct Sides<'a> {
    left: &'a DFSchema,
    right: &'a DFSchema,
}

impl Sides<'_> {
    /// (left, operator, right) of a comparison between both sides, in one type.
    fn comparison(&self, e: &Expr) -> Result<Option<(Expr, Operator, Expr)>> {
        let Expr::BinaryExpr(b) = e else { return Ok(None) };
        let belongs = |e: &Expr, schema: &DFSchema| {
            let columns = e.column_refs();
            !columns.is_empty() && columns.iter().all(|c| schema.has_column(c))
        };
        let (mut l, op, mut r) = if belongs(&b.left, self.left) && belongs(&b.right, self.right) {
            (b.left.as_ref().clone(), b.op, b.right.as_ref().clone())
        } else if belongs(&b.left, self.right) && belongs(&b.right, self.left) {
            let Some(op) = b.op.swap() else { return Ok(None) };
            (b.right.as_ref().clone(), op, b.left.as_ref().clone())
        } else {
            return Ok(None);
        };
        let (of_left, of_right) = (l.get_type(self.left)?, r.get_type(self.right)?);
        if of_left != of_right {
            let Some(common) = comparison_coercion(&of_left, &of_right) else {
                return Err(refused(format!("an ASOF JOIN cannot compare {of_left} with {of_right}")));
            };
            l = if of_left == common { l } else { cast(l, common.clone()) };
            r = if of_right == common { r } else { cast(r, common) };
        }
        Ok(Some((l, op, r)))
    }
}

impl PartialOrd for AsOf {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let key = |a: &Self| (a.on.clone(), a.time.clone(), a.compare, a.outer);
        let of = (&self.left, &self.right, key(self));
        of.partial_cmp(&(&other.left, &other.right, key(other))).filter(|o| *o != Ordering::Equal || self == other)
    }
}

impl UserDefinedLogicalNodeCore for AsOf {
    fn name(&self) -> &str {
        "AsOfJoin"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }
    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }
    /// The left and the right side of each key, then of the time. Not as comparisons: those would be rewritten.
    fn expressions(&self) -> Vec<Expr> {
        self.on.iter().chain([&self.time]).flat_map(|(l, r)| [l.clone(), r.clone()]).collect()
    }
    fn fmt_for_explain(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "AsOfJoin: {}", if self.outer { "left " } else { "" })?;
        for (l, r) in &self.on {
            write!(f, "{l} = {r} and ")?;
        }
        write!(f, "{} {} {}", self.time.0, self.compare.sql(), self.time.1)
    }
    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let wrong = || DataFusionError::Internal("an ASOF join has two inputs and pairs of expressions".into());
        let (Some(right), Some(left)) = (inputs.pop(), inputs.pop()) else { return Err(wrong()) };
        let mut exprs = exprs.into_iter();
        let mut pairs = Vec::with_capacity(self.on.len() + 1);
        while let (Some(l), Some(r)) = (exprs.next(), exprs.next()) {
            pairs.push((l.unalias(), r.unalias()));
        }
        let time = pairs.pop().filter(|_| pairs.len() == self.on.len()).ok_or_else(wrong)?;
        let schema = Arc::new(build_join_schema(left.schema(), right.schema(), &self.join_type())?);
        Ok(Self { left: Arc::new(left), right: Arc::new(right), on: pairs, time, schema, ..self.clone() })
    }
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.left.schema().fields().len();
        let left = output_columns.iter().copied().filter(|c| *c < width).collect();
        // Which row is the first depends on all of them.
        let right = (0..self.right.schema().fields().len()).collect();
        Some(vec![left, right])
    }
}

/// Makes [`AsOf`]s of marked joins.
#[derive(Debug)]
pub(crate) struct FindAsOf;

impl AnalyzerRule for FindAsOf {
    fn name(&self) -> &str {
        "find_asof_joins"
    }
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let found = plan.transform_up_with_subqueries(|node| {
            let LogicalPlan::Join(join) = &node else { return Ok(Transformed::no(node)) };
            if join.null_equality != NullEquality::NullEqualsNothing {
                return Ok(Transformed::no(node));
            }
            match AsOf::of_join(join)? {
                Some(found) => Ok(Transformed::yes(LogicalPlan::Extension(Extension { node: Arc::new(found) }))),
                None => Ok(Transformed::no(node)),
            }
        })?;
        Ok(found.data)
    }
}

/// Fails if there is an ASOF join in the plan.
pub(crate) fn refuse(plan: &LogicalPlan) -> Result<()> {
    let found = plan.exists(|node| match node {
        LogicalPlan::Extension(e) => Ok(AsOf::of(e.node.as_ref()).is_some()),
        _ => Ok(false),
    })?;
    if found { Err(refused("an ASOF JOIN below an operator that is recomputed as a whole")) } else { Ok(()) }
}
