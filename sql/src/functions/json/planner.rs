//! Operators of JSON to functions.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, ScalarUDF};
use sqlparser::ast::BinaryOperator as Op;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::is_json;

/// Turns `->`, `->>`, `#>`, `#>>`, `@>`, `<@`, `?`, `?|`, `?&`, `#-`, and `||` and `-` of JSON, into calls.
#[derive(Debug)]
pub struct JsonPlanner {
    functions: BTreeMap<String, Arc<ScalarUDF>>,
}

impl JsonPlanner {
    /// A planner that calls the functions of this module.
    pub fn new() -> Self {
        Self { functions: super::functions().into_iter().map(|f| (f.name().to_owned(), Arc::new(f))).collect() }
    }
}

impl Default for JsonPlanner {
    fn default() -> Self {
        Self::new()
    }
}

/// What is known of an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operand {
    Json,
    Text,
    Literal,
    Other,
}

fn operand(e: &Expr, schema: &DFSchema) -> Operand {
    // An operand that cannot be typed gets its error where it is planned.
    let Ok((_, field)) = e.to_field(schema) else { return Operand::Other };
    let text = matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    match () {
        () if is_json(&field) => Operand::Json,
        () if text && matches!(e, Expr::Literal(..)) => Operand::Literal,
        () if text => Operand::Text,
        () => Operand::Other,
    }
}

impl ExprPlanner for JsonPlanner {
    fn plan_binary_op(&self, raw: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        use Operand as O;
        let name = match raw.op {
            Op::Arrow => "json_get",
            Op::LongArrow => "json_get_text",
            Op::HashArrow => "json_get_path",
            Op::HashLongArrow => "json_get_path_text",
            Op::HashMinus => "jsonb_delete_path",
            Op::Question => "jsonb_exists",
            Op::QuestionPipe => "jsonb_exists_any",
            Op::QuestionAnd => "jsonb_exists_all",
            Op::AtQuestion => "jsonb_path_exists",
            Op::AtAt => "jsonb_path_match",
            Op::AtArrow | Op::ArrowAt | Op::StringConcat | Op::Minus => {
                let (left, right) = (operand(&raw.left, schema), operand(&raw.right, schema));
                let textual = |o| matches!(o, O::Json | O::Text | O::Literal);
                match raw.op {
                    Op::AtArrow if textual(left) && textual(right) => "jsonb_contains",
                    Op::ArrowAt if textual(left) && textual(right) => "jsonb_contained",
                    // Of plain text `||` is the concatenation of text.
                    Op::StringConcat if left == O::Json && textual(right) && right != O::Text => "jsonb_concat",
                    Op::StringConcat if right == O::Json && left == O::Literal => "jsonb_concat",
                    // Nothing else can be taken from text; a literal may be of any type.
                    Op::Minus if matches!(left, O::Json | O::Text) => "jsonb_delete",
                    _ => return Ok(PlannerResult::Original(raw)),
                }
            }
            _ => return Ok(PlannerResult::Original(raw)),
        };
        match self.functions.get(name) {
            Some(f) => Ok(PlannerResult::Planned(f.call(vec![raw.left, raw.right]))),
            None => Ok(PlannerResult::Original(raw)),
        }
    }
}
