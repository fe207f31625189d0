//! Aggregates under further names, those that windows could not slide over, and `count_if`.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, UInt64Type};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::functions_aggregate::{bit_and_or_xor, bool_and_or, count, min_max};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, Signature, Volatility};

/// All of them.
pub(super) fn functions() -> Vec<AggregateUDF> {
    let named =
        |name, inner, distinct| AggregateUDF::from(Named { name, aliases: Vec::new(), inner, distinct, sliding: None });
    let sliding = |name, inner, kind| {
        let aliases = if kind == Sliding::And { vec!["every".to_owned()] } else { Vec::new() };
        AggregateUDF::from(Named { name, aliases, inner, distinct: false, sliding: Some(kind) })
    };
    vec![
        sliding("bool_and", bool_and_or::bool_and_udaf(), Sliding::And),
        sliding("bool_or", bool_and_or::bool_or_udaf(), Sliding::Or),
        sliding("bit_and", bit_and_or_xor::bit_and_udaf(), Sliding::BitAnd),
        sliding("bit_or", bit_and_or_xor::bit_or_udaf(), Sliding::BitOr),
        // Without the defects of its DISTINCT.
        named("bit_xor", bit_and_or_xor::bit_xor_udaf(), false),
        // Any value will do, so it is the same in every run and every view.
        named("any_value", super::extremes::extreme(&min_max::min_udaf()).unwrap_or_else(min_max::min_udaf), false),
        // What others estimate is exact here: a view could not take an estimate back.
        named("approx_distinct", count::count_udaf(), true),
        AggregateUDF::from(CountIf { signature: Signature::exact(vec![DataType::Boolean], Volatility::Immutable) }),
    ]
}

/// Another name for a function, maybe always with DISTINCT.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Named {
    name: &'static str,
    aliases: Vec<String>,
    inner: Arc<AggregateUDF>,
    distinct: bool,
    sliding: Option<Sliding>,
}

/// What DataFusion cannot take a value out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Sliding {
    And,
    Or,
    BitAnd,
    BitOr,
}

impl Named {
    fn args<'a>(&self, args: AccumulatorArgs<'a>) -> AccumulatorArgs<'a> {
        AccumulatorArgs { is_distinct: args.is_distinct || self.distinct, ..args }
    }
}

impl AggregateUDFImpl for Named {
    fn name(&self) -> &str {
        self.name
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }
    fn is_nullable(&self) -> bool {
        self.inner.is_nullable()
    }
    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.inner.default_value(data_type)
    }
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(self.args(args))
    }
    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match self.sliding {
            Some(kind) => {
                let output = args.return_field.data_type().clone();
                Ok(Box::new(CountBits { kind, output, bits: [0; 64], count: 0 }))
            }
            None => self.inner.create_sliding_accumulator(self.args(args)),
        }
    }
    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let fields =
            self.inner.state_fields(StateFieldsArgs { is_distinct: args.is_distinct || self.distinct, ..args })?;
        // A group without values may have no state.
        Ok(fields.into_iter().map(|f| Arc::new(f.as_ref().clone().with_nullable(true))).collect())
    }
    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        let args = self.args(args);
        !args.is_distinct && self.inner.groups_accumulator_supported(args)
    }
    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(self.args(args))
    }
}

/// How many values have each bit; of booleans there is one bit.
#[derive(Debug)]
struct CountBits {
    kind: Sliding,
    output: DataType,
    bits: [i64; 64],
    count: i64,
}

impl CountBits {
    fn change(&mut self, values: &[ArrayRef], weight: i64) -> Result<()> {
        let Some(values) = values.first() else { return Ok(()) };
        let wide: ArrayRef = match values.data_type() {
            // The same bits, whatever the sign.
            DataType::UInt64 => Arc::new(values.as_primitive::<UInt64Type>().unary::<_, Int64Type>(|v| v as i64)),
            _ => cast(values, &DataType::Int64)?,
        };
        for v in wide.as_primitive::<Int64Type>().iter().flatten() {
            let mut rest = v as u64;
            while rest != 0 {
                self.bits[rest.trailing_zeros() as usize] += weight;
                rest &= rest - 1;
            }
            self.count += weight;
        }
        Ok(())
    }
}

impl Accumulator for CountBits {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.change(values, 1)
    }
    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.change(values, -1)
    }
    fn supports_retract_batch(&self) -> bool {
        true
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.count == 0 {
            return ScalarValue::try_from(&self.output);
        }
        let all = matches!(self.kind, Sliding::And | Sliding::BitAnd);
        let set = |n: i64| if all { n == self.count } else { n > 0 };
        let bits = self.bits.iter().enumerate().filter(|(_, n)| set(**n)).fold(0u64, |bits, (i, _)| bits | 1 << i);
        match self.output {
            DataType::UInt64 => Ok(ScalarValue::UInt64(Some(bits))),
            _ => ScalarValue::Int64(Some(bits as i64)).cast_to(&self.output),
        }
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Err(DataFusionError::Internal("an aggregate of a window has no partial state".into()))
    }
    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        Err(DataFusionError::Internal("an aggregate of a window has no partial state".into()))
    }
    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

/// `count_if(condition)`: rows for which it is true.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CountIf {
    signature: Signature,
}

impl AggregateUDFImpl for CountIf {
    fn name(&self) -> &str {
        "count_if"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }
    fn is_nullable(&self) -> bool {
        false
    }
    fn default_value(&self, _: &DataType) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(Some(0)))
    }
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(CountTrue { count: 0, distinct: args.is_distinct }))
    }
    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "count"), DataType::Int64, false))])
    }
}

#[derive(Debug)]
struct CountTrue {
    count: i64,
    distinct: bool,
}

fn trues(values: &[ArrayRef]) -> i64 {
    values.first().map_or(0, |v| v.as_boolean().true_count() as i64)
}

impl Accumulator for CountTrue {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.count += trues(values);
        Ok(())
    }
    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.count -= trues(values);
        Ok(())
    }
    fn supports_retract_batch(&self) -> bool {
        true
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(Some(if self.distinct { self.count.min(1) } else { self.count })))
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Int64(Some(self.count))])
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.count += states.iter().flat_map(|s| s.as_primitive::<Int64Type>().iter().flatten()).sum::<i64>();
        Ok(())
    }
    fn size(&self) -> usize {
        size_of::<Self>()
    }
}
