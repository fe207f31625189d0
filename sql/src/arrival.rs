//! `a JOIN d FOR SYSTEM_TIME AS OF PROCTIME() ON ..`: each row of `a` meets the rows of `d` that are there when it arrives,
//! and what becomes of them later changes nothing.
//!
//! - The syntax tree gets a function that does nothing into the join's condition ([`MARKER`]), so that names and types are
//!   resolved as in any join.
//! - For a view [`find`] makes an [`ArrivalJoin`] of such a join: one the optimizer moves nothing through.
//! - In a SELECT everything arrives now: the function is true, and the join a join.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::logical_plan::{Extension, Join};
use datafusion::logical_expr::utils::{conjunction, find_valid_equijoin_key_pair, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, JoinType, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, UserDefinedLogicalNode, UserDefinedLogicalNodeCore, Volatility,
};

use crate::error::SqlError;

/// Name of the function in the condition of a marked join.
pub(crate) const MARKER: &str = "__arrival";

/// The function in the condition of a marked join.
pub(crate) fn marker() -> ScalarUDF {
    ScalarUDF::from(Marker { signature: Signature::nullary(Volatility::Immutable) })
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
        Ok(ColumnarValue::Scalar(ScalarValue::Boolean(Some(true))))
    }
}

fn is_marker(e: &Expr) -> bool {
    matches!(e, Expr::ScalarFunction(f) if f.name() == MARKER)
}

fn refused(error: SqlError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// A join of rows that arrive with what is there; inner or left.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ArrivalJoin {
    pub(crate) join: Join,
}

impl PartialOrd for ArrivalJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.join.partial_cmp(&other.join)
    }
}

impl ArrivalJoin {
    /// The join that a node is.
    pub(crate) fn of(node: &dyn UserDefinedLogicalNode) -> Option<&Self> {
        node.as_any().downcast_ref()
    }
}

impl UserDefinedLogicalNodeCore for ArrivalJoin {
    fn name(&self) -> &str {
        "ArrivalJoin"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.join.left, &self.join.right]
    }
    fn schema(&self) -> &DFSchemaRef {
        &self.join.schema
    }
    fn expressions(&self) -> Vec<Expr> {
        let keys = self.join.on.iter().flat_map(|(l, r)| [l.clone(), r.clone()]);
        keys.chain(self.join.filter.clone()).collect()
    }
    fn fmt_for_explain(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "ArrivalJoin: {}", self.join.join_type)
    }
    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let (Some(right), Some(left)) = (inputs.pop(), inputs.pop()) else {
            return Err(refused(SqlError::internal("a join of one relation")));
        };
        let mut exprs = exprs.into_iter();
        let on = (0..self.join.on.len()).filter_map(|_| exprs.next().zip(exprs.next())).collect();
        let join = Join::try_new(
            Arc::new(left),
            Arc::new(right),
            on,
            exprs.next(),
            self.join.join_type,
            self.join.join_constraint,
            self.join.null_equality,
            false,
        )?;
        Ok(Self { join })
    }
    /// Columns of keys and conditions are added by who asks.
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.join.left.schema().fields().len();
        let (left, right): (Vec<usize>, Vec<usize>) = output_columns.iter().partition(|c| **c < width);
        Some(vec![left, right.into_iter().map(|c| c - width).collect()])
    }
}

/// The plan with its marked joins as [`ArrivalJoin`]s.
pub(crate) fn find(plan: LogicalPlan) -> Result<LogicalPlan> {
    let found = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Join(join) = node else { return Ok(Transformed::no(node)) };
        let Some(filter) = join.filter.clone().filter(marked) else {
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        };
        if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
            return Err(refused(SqlError::internal("a join of arriving rows of another kind")));
        }
        let mut on = join.on.clone();
        let mut rest = Vec::new();
        for e in split_conjunction_owned(filter).into_iter().filter(|e| !is_marker(e)) {
            let pair = match &e {
                Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
                    find_valid_equijoin_key_pair(left, right, join.left.schema(), join.right.schema())?
                }
                _ => None,
            };
            match pair {
                Some(pair) => on.push(pair),
                None => rest.push(e),
            }
        }
        if on.is_empty() {
            return Err(refused(
                SqlError::unsupported("FOR SYSTEM_TIME AS OF PROCTIME() without an equality of both sides in ON")
                    .hint("Write .. JOIN d FOR SYSTEM_TIME AS OF PROCTIME() ON a.k = d.k."),
            ));
        }
        let node = ArrivalJoin { join: Join { on, filter: conjunction(rest), ..join } };
        Ok(Transformed::yes(LogicalPlan::Extension(Extension { node: Arc::new(node) })))
    })?;
    Ok(found.data)
}

fn marked(filter: &Expr) -> bool {
    let mut found = false;
    let visited = filter.apply(|e| {
        found |= is_marker(e);
        Ok(TreeNodeRecursion::Continue)
    });
    found || visited.is_err()
}
