//! `+ - * / %` and unary minus of numbers, with the rules of Postgres.
//!
//! DataFusion's operators wrap around when integers and decimals overflow, and cut quotients of decimals. Here a result
//! that does not fit its type is an error (22003), and so is dividing by zero (22012), of floats too. They are functions
//! named like the operators, so that the simplifier, stored plans, recomputed fragments and DML all evaluate the same
//! code; [`crate::session`] puts them in the place of the operators when a query is planned. Arithmetic of times and
//! intervals stays with DataFusion's operators.
//!
//! Types: integers give the wider of both; `REAL` with `REAL` gives `REAL`, any other pair with a float gives `DOUBLE
//! PRECISION`; decimals and integers give decimals. The scale of a decimal is fixed per column and not per value as in
//! Postgres: that of a quotient is the largest of [`QUOTIENT_SCALE`] and the operands' scales.

mod kernels;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

pub use kernels::divide_rounded;

use crate::error::{SqlError, SqlState};

/// Decimals after the point of a quotient, at least: as many as Postgres gives for quotients of 1 to 9999.
pub const QUOTIENT_SCALE: i8 = 16;

/// Where a decimal of 38 digits keeps fewer digits before the point than this, it gets 76 digits.
const INTEGER_DIGITS: i8 = 18;

/// An operator of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Modulo,
}

impl Arithmetic {
    const ALL: [Self; 5] = [Self::Add, Self::Subtract, Self::Multiply, Self::Divide, Self::Modulo];

    /// The operator as ours.
    pub fn of(operator: Operator) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.operator() == operator)
    }

    /// The operator as DataFusion's.
    pub fn operator(self) -> Operator {
        match self {
            Self::Add => Operator::Plus,
            Self::Subtract => Operator::Minus,
            Self::Multiply => Operator::Multiply,
            Self::Divide => Operator::Divide,
            Self::Modulo => Operator::Modulo,
        }
    }

    fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
        }
    }

    /// Its function.
    pub fn function(self) -> ScalarUDF {
        let aliases = if self == Self::Modulo { vec!["mod".to_owned()] } else { Vec::new() };
        ScalarUDF::from(BinaryFunction { op: self, aliases, signature: Signature::user_defined(Volatility::Immutable) })
    }

    /// The types both operands are brought to and the type of the result; `None` if they are not numbers.
    pub fn types(self, left: &DataType, right: &DataType) -> Option<(DataType, DataType, DataType)> {
        let (left, right) = match (left, right) {
            (DataType::Null, DataType::Null) => (&DataType::Int64, &DataType::Int64),
            (DataType::Null, t) | (t, DataType::Null) => (t, t),
            both => both,
        };
        if !left.is_numeric() || !right.is_numeric() {
            return None;
        }
        if left.is_floating() || right.is_floating() {
            let small = |t: &DataType| matches!(t, DataType::Float16 | DataType::Float32);
            let t = if small(left) && small(right) { DataType::Float32 } else { DataType::Float64 };
            return Some((t.clone(), t.clone(), t));
        }
        if left.is_integer()
            && right.is_integer()
            && let Some(t) = wider_integer(left, right)
        {
            return Some((t.clone(), t.clone(), t));
        }
        let (l, r) = (digits(left)?, digits(right)?);
        let long = |t: &DataType, (precision, _): (u8, i8)| is_long(t) || precision > 38;
        let result = self.decimal(l, r, long(left, l) || long(right, r))?;
        let operand = |(p, s)| if is_long(&result) { DataType::Decimal256(p, s) } else { DataType::Decimal128(p, s) };
        Some((operand(l), operand(r), result))
    }

    /// The type of a result of decimals.
    fn decimal(self, (p1, s1): (u8, i8), (p2, s2): (u8, i8), long: bool) -> Option<DataType> {
        let (i1, i2) = (i16::from(p1) - i16::from(s1), i16::from(p2) - i16::from(s2));
        let (precision, scale) = match self {
            Self::Add | Self::Subtract => (i1.max(i2) + i16::from(s1.max(s2)) + 1, s1.max(s2)),
            Self::Multiply => (i16::from(p1) + i16::from(p2), s1.checked_add(s2)?),
            Self::Divide => {
                let scale = QUOTIENT_SCALE.max(s1).max(s2);
                (i1 + i16::from(s2) + i16::from(scale), scale)
            }
            Self::Modulo => (i1.max(i2) + i16::from(s1.max(s2)), s1.max(s2)),
        };
        let precision = precision.clamp(1, 76).max(i16::from(scale)) as u8;
        match precision {
            _ if scale > 76 => None,
            _ if long || scale > 38 || (precision > 38 && scale > 38 - INTEGER_DIGITS) => {
                Some(DataType::Decimal256(precision, scale))
            }
            p => Some(DataType::Decimal128(p.min(38), scale)),
        }
    }
}

/// The functions of this module.
pub(super) fn functions() -> Vec<ScalarUDF> {
    let binary = Arithmetic::ALL.into_iter().map(Arithmetic::function);
    binary.chain([negate()]).collect()
}

/// Unary minus.
pub fn negate() -> ScalarUDF {
    ScalarUDF::from(Negate { signature: Signature::numeric(1, Volatility::Immutable) })
}

/// The operands, if this is an operator of ours.
pub fn operands(e: &Expr) -> Option<(Arithmetic, &Expr, &Expr)> {
    let Expr::ScalarFunction(f) = e else { return None };
    let function: &dyn std::any::Any = f.func.inner().as_ref();
    match (function.downcast_ref::<BinaryFunction>(), f.args.as_slice()) {
        (Some(ours), [l, r]) => Some((ours.op, l, r)),
        _ => None,
    }
}

/// The same expression with operators in place of our functions: what users are shown.
pub fn as_operator(e: Expr) -> std::result::Result<Expr, Expr> {
    if let Some((op, l, r)) = operands(&e) {
        let (l, r) = (Box::new(l.clone()), Box::new(r.clone()));
        return Ok(Expr::BinaryExpr(BinaryExpr::new(l, op.operator(), r)));
    }
    let Expr::ScalarFunction(f) = &e else { return Err(e) };
    let function: &dyn std::any::Any = f.func.inner().as_ref();
    match f.args.as_slice() {
        [x] if function.is::<Negate>() => Ok(Expr::Negative(Box::new(x.clone()))),
        _ => Err(e),
    }
}

fn wider_integer(left: &DataType, right: &DataType) -> Option<DataType> {
    use DataType::*;
    if left == right {
        return Some(left.clone());
    }
    // Bits a signed integer needs for all values of the type.
    let bits = |t: &DataType| match t {
        Int8 => 8,
        UInt8 | Int16 => 16,
        UInt16 | Int32 => 32,
        UInt32 | Int64 => 64,
        _ => 128,
    };
    if left.is_unsigned_integer() && right.is_unsigned_integer() {
        return Some(if bits(left) > bits(right) { left.clone() } else { right.clone() });
    }
    match bits(left).max(bits(right)) {
        8 => Some(Int8),
        16 => Some(Int16),
        32 => Some(Int32),
        64 => Some(Int64),
        _ => None,
    }
}

fn is_long(t: &DataType) -> bool {
    matches!(t, DataType::Decimal256(..))
}

/// Precision and scale an integer or decimal needs as a decimal without a negative scale.
fn digits(t: &DataType) -> Option<(u8, i8)> {
    use DataType::*;
    Some(match t {
        Int8 | UInt8 => (3, 0),
        Int16 | UInt16 => (5, 0),
        Int32 | UInt32 => (10, 0),
        Int64 => (19, 0),
        UInt64 => (20, 0),
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) if *s >= 0 => (*p, *s),
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) => {
            (p.saturating_add(s.unsigned_abs()).min(76), 0)
        }
        _ => return None,
    })
}

/// The SQL name of a number's type, for messages.
pub(crate) fn type_name(t: &DataType) -> &'static str {
    match t {
        DataType::Int8 => "tinyint",
        DataType::Int16 => "smallint",
        DataType::Int32 => "integer",
        DataType::Int64 => "bigint",
        DataType::UInt8 => "utinyint",
        DataType::UInt16 => "usmallint",
        DataType::UInt32 => "uint32",
        DataType::UInt64 => "uint64",
        DataType::Float16 | DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        _ => "numeric",
    }
}

/// 22003.
pub(crate) fn out_of_range(t: &DataType) -> DataFusionError {
    range_error(format!("{} out of range", type_name(t)))
}

fn range_error(message: impl Into<String>) -> DataFusionError {
    DataFusionError::External(Box::new(SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, message)))
}

/// 22012.
pub(crate) fn division_by_zero() -> DataFusionError {
    DataFusionError::External(Box::new(SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero")))
}

/// An operand: a column, or one value for all rows.
pub(crate) struct Side {
    array: ArrayRef,
    constant: bool,
}

impl Side {
    fn new(value: &ColumnarValue) -> Result<Self> {
        Ok(match value {
            ColumnarValue::Array(array) => Self { array: Arc::clone(array), constant: false },
            ColumnarValue::Scalar(one) => Self { array: one.to_array_of_size(1)?, constant: true },
        })
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct BinaryFunction {
    op: Arithmetic,
    aliases: Vec<String>,
    signature: Signature,
}

impl ScalarUDFImpl for BinaryFunction {
    fn name(&self) -> &str {
        self.op.symbol()
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        match args {
            [l, r] => Ok(format!("{} {} {}", l.schema_name(), self.op.symbol(), r.schema_name())),
            _ => Err(DataFusionError::Plan(format!("operator {} takes two operands", self.op.symbol()))),
        }
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let (l, r, _) = self.types(types)?;
        Ok(vec![l, r])
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(self.types(types)?.2)
    }
    fn is_strict(&self) -> bool {
        true
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = args.args.as_slice() else {
            return Err(DataFusionError::Internal(format!("operator {} without two operands", self.op.symbol())));
        };
        let (l, r) = (Side::new(left)?, Side::new(right)?);
        let result = kernels::compute(self.op, &l, &r, args.return_field.data_type(), args.number_rows)?;
        match l.constant && r.constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)),
            false => Ok(ColumnarValue::Array(result)),
        }
    }
}

impl BinaryFunction {
    fn types(&self, types: &[DataType]) -> Result<(DataType, DataType, DataType)> {
        let found = match types {
            [l, r] => self.op.types(l, r),
            _ => None,
        };
        found.ok_or_else(|| {
            let shown: Vec<_> = types.iter().map(ToString::to_string).collect();
            let shown = shown.join(&format!(" {} ", self.op.symbol()));
            DataFusionError::External(Box::new(
                SqlError::new(SqlState::UNDEFINED_FUNCTION, format!("operator does not exist: {shown}"))
                    .hint("You might need to add explicit type casts."),
            ))
        })
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Negate {
    signature: Signature,
}

impl ScalarUDFImpl for Negate {
    fn name(&self) -> &str {
        "negate"
    }
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        match args {
            [x] => Ok(format!("(- {})", x.schema_name())),
            _ => Err(DataFusionError::Plan("unary minus takes one operand".into())),
        }
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.first().cloned().ok_or_else(|| DataFusionError::Plan("unary minus takes one operand".into()))
    }
    fn is_strict(&self) -> bool {
        true
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = args.args.as_slice() else {
            return Err(DataFusionError::Internal("unary minus without an operand".into()));
        };
        let side = Side::new(value)?;
        let to = side.array.data_type();
        let result = arrow::compute::kernels::numeric::neg(&side.array).map_err(|_| out_of_range(to))?;
        match side.constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)),
            false => Ok(ColumnarValue::Array(result)),
        }
    }
}
