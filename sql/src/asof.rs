//! ASOF joins: each left row with the one right row of its key whose time is nearest.
//!
//! - The parser reads both ways of writing one as a join that is marked ([`crate::parse`]); the comparison of times
//!   goes to the planner as the argument of a function that does nothing ([`marker`]), so that names and types are
//!   resolved as in any join.
//! - `JOIN d FOR SYSTEM_TIME AS OF a.ts` is one whose partner is the latest version of `d`, see
//!   [`crate::session`]; the two times go to the planner apart, in [`version_marker`], so that they are compared as they are.
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

use crate::error::{SqlError, SqlState};
pub(crate) use crate::plan::AsOfCompare;
use crate::types::display_name;

/// Name of the function around the comparison of times.
pub(crate) const MARKER: &str = "__asof";

/// Name of the function around the times of a join FOR SYSTEM_TIME AS OF: of the left row, and of the version.
pub(crate) const VERSION_MARKER: &str = "__version";

/// The function around the comparison of times in the condition of an ASOF join.
pub(crate) fn marker() -> ScalarUDF {
    let signature = Signature::exact(vec![DataType::Boolean], Volatility::Immutable);
    ScalarUDF::from(Marker { name: MARKER, signature })
}

/// The function around the times of a join FOR SYSTEM_TIME AS OF.
pub(crate) fn version_marker() -> ScalarUDF {
    ScalarUDF::from(Marker { name: VERSION_MARKER, signature: Signature::any(2, Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Marker {
    name: &'static str,
    signature: Signature,
}

impl ScalarUDFImpl for Marker {
    fn name(&self) -> &str {
        self.name
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }
    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Err(refused(match self.name {
            VERSION_MARKER => "FOR SYSTEM_TIME AS OF belongs to the right side of a join",
            _ => "MATCH_CONDITION belongs to an ASOF JOIN",
        }))
    }
}

fn refused(what: impl Into<String>) -> DataFusionError {
    DataFusionError::External(Box::new(SqlError::unsupported(what)))
}

fn wrong(error: SqlError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The times that a marked join goes by, as it is written.
enum Marked<'a> {
    /// The comparison of an ASOF join.
    Compared(&'a Expr),
    /// The times of the left row and of the version.
    Versions(&'a Expr, &'a Expr),
}

impl<'a> Marked<'a> {
    fn of(e: &'a Expr) -> Option<Self> {
        let Expr::ScalarFunction(f) = e else { return None };
        match (f.func.name(), f.args.as_slice()) {
            (MARKER, [comparison]) => Some(Self::Compared(comparison)),
            (VERSION_MARKER, [left, version]) => Some(Self::Versions(left, version)),
            _ => None,
        }
    }

    /// As errors call such a join.
    fn name(&self) -> &'static str {
        match self {
            Self::Compared(_) => "an ASOF JOIN",
            Self::Versions(..) => "a join with FOR SYSTEM_TIME AS OF",
        }
    }

    fn refused(&self, what: String) -> DataFusionError {
        wrong(SqlError::unsupported(what).hint(match self {
            Self::Compared(_) => {
                "Write a.k = b.k AND a.ts >= b.ts; conditions on one side go into a subquery: (SELECT .. WHERE ..) AS b."
            }
            Self::Versions(..) => {
                "Write .. JOIN d FOR SYSTEM_TIME AS OF a.ts ON a.k = d.k; other conditions go into WHERE, or into a view d."
            }
        }))
    }

    /// The times of both sides, and how they are compared.
    fn times(&self, sides: &Sides<'_>) -> Result<(Expr, AsOfCompare, Expr)> {
        match self {
            Self::Compared(e) => {
                let Some((l, op, r)) = sides.comparison(e)? else {
                    let what = "an ASOF JOIN compares a column of each side with >=, >, <= or <";
                    return Err(self.refused(what.into()));
                };
                let Some(compare) = AsOfCompare::of(op) else {
                    return Err(self.refused("an ASOF JOIN compares times with >=, >, <= or <".into()));
                };
                Ok((l, compare, r))
            }
            Self::Versions(l, r) => {
                let (l, r) = sides.versions(l, r)?;
                Ok((l, AsOfCompare::GtEq, r))
            }
        }
    }
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
        let Some(marked) = conjuncts.iter().copied().find_map(Marked::of) else { return Ok(None) };
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
        let (l, compare, r) = marked.times(&sides)?;
        let mut on = Vec::new();
        for e in conjuncts.into_iter().filter(|e| Marked::of(e).is_none()) {
            match sides.comparison(e)? {
                Some((l, Operator::Eq, r)) => on.push((l, r)),
                _ => {
                    let one = if matches!(marked, Marked::Compared(_)) { ", and one comparison" } else { "" };
                    let what = format!("the condition of {} is equalities of both sides' columns{one}", marked.name());
                    return Err(marked.refused(what));
                }
            }
        }
        if on.is_empty() && matches!(marked, Marked::Versions(..)) {
            return Err(marked.refused(format!("{} needs an equality of both sides in ON", marked.name())));
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

/// True if the expression has columns, all of them of this side.
fn belongs(e: &Expr, schema: &DFSchema) -> bool {
    let columns = e.column_refs();
    !columns.is_empty() && columns.iter().all(|c| schema.has_column(c))
}

impl Sides<'_> {
    /// The times of a left row and of a version, in one type.
    fn versions(&self, l: &Expr, r: &Expr) -> Result<(Expr, Expr)> {
        if !belongs(l, self.left) {
            let what = "the time of FOR SYSTEM_TIME AS OF is no column of the left side";
            return Err(wrong(
                SqlError::new(SqlState::INVALID_COLUMN_REFERENCE, what)
                    .hint("Write a JOIN d FOR SYSTEM_TIME AS OF a.ts ON a.k = d.k, with a time column ts of a."),
            ));
        }
        if !belongs(r, self.right) {
            return Err(wrong(SqlError::internal("the time of a version is not in its relation")));
        }
        let (of_left, of_right) = (l.get_type(self.left)?, r.get_type(self.right)?);
        let alike = match (&of_left, &of_right) {
            (DataType::Timestamp(_, a), DataType::Timestamp(_, b)) => a.is_some() == b.is_some(),
            _ => false,
        };
        if !alike {
            let (of_left, of_right) = (display_name(&of_left), display_name(&of_right));
            let what = format!(
                "FOR SYSTEM_TIME AS OF {l}: it is of type {of_left}, and the time {r} of the versions of type {of_right}"
            );
            return Err(wrong(
                SqlError::new(SqlState::DATATYPE_MISMATCH, what)
                    .hint("Both must be TIMESTAMP, or both TIMESTAMPTZ. Convert one: AS OF a.ts AT TIME ZONE 'UTC'."),
            ));
        }
        self.of_one_type((l.clone(), of_left), (r.clone(), of_right))
    }

    /// Casts the one to the type of the other.
    fn of_one_type(&self, l: (Expr, DataType), r: (Expr, DataType)) -> Result<(Expr, Expr)> {
        let ((l, of_left), (r, of_right)) = (l, r);
        if of_left == of_right {
            return Ok((l, r));
        }
        let Some(common) = comparison_coercion(&of_left, &of_right) else {
            return Err(refused(format!("an ASOF JOIN cannot compare {of_left} with {of_right}")));
        };
        let to_common = |e: Expr, t: DataType| if t == common { e } else { cast(e, common.clone()) };
        Ok((to_common(l, of_left), to_common(r, of_right)))
    }

    /// (left, operator, right) of a comparison between both sides, in one type.
    fn comparison(&self, e: &Expr) -> Result<Option<(Expr, Operator, Expr)>> {
        let Expr::BinaryExpr(b) = e else { return Ok(None) };
        let (l, op, r) = if belongs(&b.left, self.left) && belongs(&b.right, self.right) {
            (b.left.as_ref().clone(), b.op, b.right.as_ref().clone())
        } else if belongs(&b.left, self.right) && belongs(&b.right, self.left) {
            let Some(op) = b.op.swap() else { return Ok(None) };
            (b.right.as_ref().clone(), op, b.left.as_ref().clone())
        } else {
            return Ok(None);
        };
        let (of_left, of_right) = (l.get_type(self.left)?, r.get_type(self.right)?);
        let (l, r) = self.of_one_type((l, of_left), (r, of_right))?;
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

/// Fails where a join FOR SYSTEM_TIME AS OF cannot be one. For plans whose types are not coerced yet: there the times are of
/// the types they have.
pub(crate) fn check_versions(join: &Join) -> Result<()> {
    let marked = |filter: &Expr| {
        split_conjunction(filter).into_iter().any(|e| matches!(Marked::of(e), Some(Marked::Versions(..))))
    };
    if join.filter.as_ref().is_some_and(marked) { AsOf::of_join(join).map(|_| ()) } else { Ok(()) }
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
