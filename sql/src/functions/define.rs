//! What plain functions share: a name, the types they take, the type they give, and a kernel over arrays.
//!
//! Arguments are brought to the types a definition asks for before it is called; constants come as arrays of one value
//! where all arguments are constant, of as many as there are rows otherwise. A definition is known by its name alone:
//! stored plans find it there.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryBuilder, BooleanArray, PrimitiveArray, StringViewArray,
    StringViewBuilder,
};
use arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::error::{SqlError, SqlState};
use crate::types;

/// Types for the arguments, or `None` where no function takes these.
pub(super) type Takes = fn(&[DataType]) -> Option<Vec<DataType>>;

/// A function.
#[derive(Clone, Copy)]
pub(super) struct Def {
    /// The name that plans are stored with.
    pub name: &'static str,
    /// Further names; those of a default function that it takes the place of have to be among them.
    pub aliases: &'static [&'static str],
    /// The types that arguments are brought to.
    pub takes: Takes,
    /// The type of the result, for arguments of the types that were asked for.
    pub gives: fn(&[DataType]) -> DataType,
    /// NULL where an argument is NULL.
    pub strict: bool,
    /// The work.
    pub run: fn(&Call<'_>) -> Result<ArrayRef>,
}

/// One call over rows.
pub(super) struct Call<'a> {
    /// All of the same length.
    pub args: &'a [ArrayRef],
    /// The type of the result.
    pub to: &'a DataType,
    /// How many rows there are.
    pub rows: usize,
}

impl Def {
    pub(super) fn udf(self) -> ScalarUDF {
        let aliases = self.aliases.iter().map(|a| (*a).to_owned()).collect();
        ScalarUDF::from(Defined { def: self, aliases, signature: Signature::user_defined(Volatility::Immutable) })
    }
}

/// All of a list.
pub(super) fn udfs(defs: &[Def]) -> Vec<ScalarUDF> {
    defs.iter().map(|d| d.udf()).collect()
}

struct Defined {
    def: Def,
    aliases: Vec<String>,
    signature: Signature,
}

impl PartialEq for Defined {
    fn eq(&self, other: &Self) -> bool {
        self.def.name == other.def.name
    }
}

impl Eq for Defined {}

impl Hash for Defined {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.def.name.hash(state);
    }
}

impl std::fmt::Debug for Defined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Defined").field("name", &self.def.name).finish()
    }
}

impl ScalarUDFImpl for Defined {
    fn name(&self) -> &str {
        self.def.name
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        (self.def.takes)(given).ok_or_else(|| no_such_function(self.name(), given))
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok((self.def.gives)(types))
    }
    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        Ok(Arc::new(Field::new(self.name(), (self.def.gives)(&types), true)))
    }
    fn is_strict(&self) -> bool {
        self.def.strict
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let columns = args.args.iter().map(|a| a.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let call = Call { args: &columns, to: args.return_field.data_type(), rows };
        let out = (self.def.run)(&call)?;
        match constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&out, 0)?)),
            false => Ok(ColumnarValue::Array(out)),
        }
    }
}

/// 42883.
pub(super) fn no_such_function(name: &str, given: &[DataType]) -> DataFusionError {
    let types: Vec<String> = given.iter().map(types::display_name).collect();
    user(
        SqlError::new(SqlState::UNDEFINED_FUNCTION, format!("function {name}({}) does not exist", types.join(", ")))
            .hint("No function matches the given name and argument types. You might need to add explicit type casts."),
    )
}

/// An error of the user's as DataFusion carries it.
pub(super) fn user(e: SqlError) -> DataFusionError {
    DataFusionError::External(Box::new(e))
}

/// The same with a code and a message.
pub(super) fn fail<T>(code: SqlState, message: impl Into<String>) -> Result<T, SqlError> {
    Err(SqlError::new(code, message))
}

/// A kind of argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Text,
    /// `BIGINT`, from any integer.
    Long,
    /// `DOUBLE PRECISION`, from any number.
    Double,
    /// `BYTEA`.
    Bytes,
    /// `INTERVAL`, also from its text.
    Interval,
    /// `TIMESTAMP`, also from a date or text.
    Timestamp,
    /// `DATE`, also from text.
    Date,
}

/// True for the text types.
pub(super) fn is_text(t: &DataType) -> bool {
    matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// True for the types of bytes.
pub(super) fn is_bytes(t: &DataType) -> bool {
    matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_))
}

pub(super) fn interval_type() -> DataType {
    DataType::Interval(IntervalUnit::MonthDayNano)
}

impl Kind {
    /// The type an argument of this type is brought to.
    pub(super) fn from(self, given: &DataType) -> Option<DataType> {
        use DataType as T;
        let (text, null) = (is_text(given), *given == T::Null);
        let (ok, to) = match self {
            Self::Text => (text, T::Utf8View),
            Self::Long => (given.is_integer(), T::Int64),
            Self::Double => (given.is_numeric(), T::Float64),
            Self::Bytes => (is_bytes(given), T::Binary),
            Self::Interval => (text || matches!(given, T::Interval(_) | T::Duration(_)), interval_type()),
            Self::Timestamp => {
                (text || matches!(given, T::Date32 | T::Date64 | T::Timestamp(_, None)), types::timestamp())
            }
            Self::Date => (text || matches!(given, T::Date32 | T::Date64), T::Date32),
        };
        (ok || null).then_some(to)
    }
}

/// Types for arguments of these kinds; the last `optional` of them may be left out.
pub(super) fn kinds(given: &[DataType], kinds: &[Kind], optional: usize) -> Option<Vec<DataType>> {
    if given.len() > kinds.len() || given.len() + optional < kinds.len() {
        return None;
    }
    given.iter().zip(kinds).map(|(t, k)| k.from(t)).collect()
}

impl Call<'_> {
    pub(super) fn text(&self, i: usize) -> &StringViewArray {
        self.args[i].as_string_view()
    }

    pub(super) fn primitive<T: ArrowPrimitiveType>(&self, i: usize) -> &PrimitiveArray<T> {
        self.args[i].as_primitive::<T>()
    }

    /// True if an argument of this row is NULL.
    pub(super) fn null(&self, row: usize) -> bool {
        self.args.iter().any(|a| a.is_null(row))
    }

    /// Text of every row without a NULL among its arguments.
    pub(super) fn texts(&self, mut f: impl FnMut(usize) -> Result<Option<String>, SqlError>) -> Result<ArrayRef> {
        let mut out = StringViewBuilder::with_capacity(self.rows);
        for row in 0..self.rows {
            out.append_option(if self.null(row) { None } else { f(row).map_err(user)? });
        }
        Ok(Arc::new(out.finish()))
    }

    /// Bytes of every row without a NULL among its arguments.
    pub(super) fn bytes(&self, mut f: impl FnMut(usize) -> Result<Option<Vec<u8>>, SqlError>) -> Result<ArrayRef> {
        let mut out = BinaryBuilder::new();
        for row in 0..self.rows {
            out.append_option(if self.null(row) { None } else { f(row).map_err(user)? });
        }
        Ok(Arc::new(out.finish()))
    }

    /// A number (or time) of every row without a NULL among its arguments.
    pub(super) fn primitives<T: ArrowPrimitiveType>(
        &self,
        mut f: impl FnMut(usize) -> Result<Option<T::Native>, SqlError>,
    ) -> Result<ArrayRef> {
        let one = |row: usize| if self.null(row) { Ok(None) } else { f(row).map_err(user) };
        let out = (0..self.rows).map(one).collect::<Result<PrimitiveArray<T>>>()?;
        Ok(Arc::new(out.with_data_type(self.to.clone())))
    }

    /// Truth of every row without a NULL among its arguments.
    pub(super) fn booleans(&self, mut f: impl FnMut(usize) -> Result<Option<bool>, SqlError>) -> Result<ArrayRef> {
        let one = |row: usize| if self.null(row) { Ok(None) } else { f(row).map_err(user) };
        Ok(Arc::new((0..self.rows).map(one).collect::<Result<BooleanArray>>()?))
    }
}
