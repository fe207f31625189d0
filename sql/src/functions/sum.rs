//! `sum` and `avg` in place of DataFusion's, but exact.
//!
//! A sum of decimals has as many digits as there are, so that a sum of sums has the type of the sum; an average of
//! decimals has the scale of a quotient. Other types are DataFusion's.
//!
//! Integers are summed in 128 bits, decimals in 256 bits, floats in an [`ExactFloatSum`]; the range is checked when the
//! result is asked for, so an overflow that is retracted later leaves no trace. Durations and intervals keep
//! DataFusion's implementation.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::marker::PhantomData;
use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, BinaryBuilder, BooleanArray, Decimal128Array,
    Decimal256Array, Float64Array, Int64Array, ListArray, PrimitiveArray, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{
    DataType, Decimal128Type, Decimal256Type, DecimalType, Field, FieldRef, Float64Type, Int64Type, UInt64Type, i256,
};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::functions_aggregate::average::avg_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF, Signature,
};

use super::arithmetic::{QUOTIENT_SCALE, divide_rounded};
use super::exact_sum::ExactFloatSum;
use crate::error::{SqlError, SqlState};

/// `sum`.
pub fn exact_sum() -> AggregateUDF {
    AggregateUDF::from(ExactAggregate { function: Function::Sum, inner: sum_udaf() })
}

/// `avg`, also called `mean`.
pub fn exact_avg() -> AggregateUDF {
    AggregateUDF::from(ExactAggregate { function: Function::Avg, inner: avg_udaf() })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Function {
    Sum,
    Avg,
}

/// Names, types and documentation come from DataFusion's function.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ExactAggregate {
    function: Function,
    inner: Arc<AggregateUDF>,
}

/// Runs `$body` with `$kind` as the arithmetic of a type; other types take the other branch.
macro_rules! with_kind {
    ($data_type:expr, $kind:ident => $body:expr, $other:expr) => {
        match $data_type {
            DataType::Int64 => {
                type $kind = Signed;
                $body
            }
            DataType::UInt64 => {
                type $kind = Unsigned;
                $body
            }
            DataType::Float64 => {
                type $kind = Float;
                $body
            }
            DataType::Decimal128(..) => {
                type $kind = Decimal;
                $body
            }
            DataType::Decimal256(..) => {
                type $kind = LongDecimal;
                $body
            }
            _ => $other,
        }
    };
}

fn ours(t: &DataType) -> bool {
    with_kind!(t, K => size_of::<PhantomData<K>>() == 0, false)
}

impl ExactAggregate {
    fn shape(&self, args: &AccumulatorArgs<'_>) -> Result<Shape> {
        let Some(arg) = args.expr_fields.first() else {
            return Err(DataFusionError::Plan(format!("{} takes one argument", self.name())));
        };
        Ok(Shape {
            function: self.function,
            argument: arg.data_type().clone(),
            output: args.return_field.data_type().clone(),
        })
    }
}

impl AggregateUDFImpl for ExactAggregate {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let scale = |s: &i8| if self.function == Function::Avg { (*s).max(QUOTIENT_SCALE) } else { *s };
        match types.first() {
            Some(DataType::Decimal128(_, s)) => Ok(DataType::Decimal128(38, scale(s))),
            Some(DataType::Decimal256(_, s)) => Ok(DataType::Decimal256(76, scale(s))),
            _ => self.inner.return_type(types),
        }
    }
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }
    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let shape = self.shape(&args)?;
        let distinct = args.is_distinct;
        with_kind!(
            &shape.argument.clone(),
            K => match distinct {
                true => Ok(Box::new(DistinctAccumulator::<K> { shape, values: HashMap::new() })),
                false => Ok(Box::new(OneAccumulator::<K> { shape, total: Default::default(), count: 0 })),
            },
            self.inner.accumulator(args)
        )
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match ours(&self.shape(&args)?.argument) {
            true => self.accumulator(args),
            false => self.inner.create_sliding_accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let argument = args.input_fields.first().map(|f| f.data_type().clone());
        let Some(argument) = argument.filter(ours) else { return self.inner.state_fields(args) };
        if args.is_distinct {
            let item = Field::new_list_field(argument, true);
            return Ok(vec![Arc::new(Field::new_list(format_state_name(args.name, "distinct"), item, true))]);
        }
        Ok(vec![
            Arc::new(Field::new(format_state_name(args.name, "exact total"), DataType::Binary, true)),
            Arc::new(Field::new(format_state_name(args.name, "count"), DataType::Int64, true)),
        ])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        match self.shape(&args) {
            Ok(shape) if ours(&shape.argument) => !args.is_distinct,
            _ => self.inner.groups_accumulator_supported(args),
        }
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let shape = self.shape(&args)?;
        with_kind!(
            &shape.argument.clone(),
            K => Ok(Box::new(Groups::<K> { shape, totals: Vec::new(), counts: Vec::new() })),
            self.inner.create_groups_accumulator(args)
        )
    }
}

/// What is computed, from what, as what.
#[derive(Debug, Clone)]
struct Shape {
    function: Function,
    argument: DataType,
    output: DataType,
}

/// The arithmetic of one argument type.
trait Kind: Debug + Send + Sync + 'static {
    type Arrow: ArrowPrimitiveType;
    type Total: Default + Clone + Debug + Send + Sync;
    /// The value, such that equal in SQL is equal here.
    type Key: Copy + Eq + Hash + Debug + Send + Sync;

    fn add(total: &mut Self::Total, value: <Self::Arrow as ArrowPrimitiveType>::Native, weight: i64);
    fn merge(total: &mut Self::Total, other: &Self::Total);
    fn encode(total: &Self::Total) -> Vec<u8>;
    fn decode(bytes: &[u8]) -> Result<Self::Total>;
    fn heap_size(total: &Self::Total) -> usize {
        let _ = total;
        0
    }
    fn key(value: <Self::Arrow as ArrowPrimitiveType>::Native) -> Self::Key;
    fn value(key: Self::Key) -> <Self::Arrow as ArrowPrimitiveType>::Native;
    /// One result a group; NULL for a group without values.
    fn finish(shape: &Shape, totals: &[Self::Total], counts: &[i64]) -> Result<ArrayRef>;
}

fn out_of_range(what: &str) -> DataFusionError {
    DataFusionError::External(Box::new(SqlError::new(SqlState::NUMERIC_OUT_OF_RANGE, format!("{what} out of range"))))
}

fn damaged() -> DataFusionError {
    DataFusionError::External(Box::new(SqlError::new(SqlState::DATA_CORRUPTED, "state of an aggregate is damaged")))
}

/// One result a group by `f`; NULL for groups without values.
fn results<T, N>(totals: &[T], counts: &[i64], f: impl Fn(&T, i64) -> Result<N>) -> Result<Vec<Option<N>>> {
    totals.iter().zip(counts).map(|(t, n)| if *n == 0 { Ok(None) } else { f(t, *n).map(Some) }).collect()
}

macro_rules! wide_integers {
    ($total:ty) => {
        fn merge(total: &mut $total, other: &$total) {
            *total = total.wrapping_add(*other);
        }
        fn encode(total: &$total) -> Vec<u8> {
            total.to_le_bytes().to_vec()
        }
        fn decode(bytes: &[u8]) -> Result<$total> {
            Ok(<$total>::from_le_bytes(bytes.try_into().map_err(|_| damaged())?))
        }
    };
}

#[derive(Debug)]
struct Signed;
#[derive(Debug)]
struct Unsigned;
#[derive(Debug)]
struct Float;
#[derive(Debug)]
struct Decimal;
#[derive(Debug)]
struct LongDecimal;

impl Kind for Signed {
    type Arrow = Int64Type;
    type Total = i128;
    type Key = i64;
    wide_integers!(i128);
    #[inline]
    fn add(total: &mut i128, value: i64, weight: i64) {
        *total += i128::from(value) * i128::from(weight);
    }
    fn key(value: i64) -> i64 {
        value
    }
    fn value(key: i64) -> i64 {
        key
    }
    fn finish(_: &Shape, totals: &[i128], counts: &[i64]) -> Result<ArrayRef> {
        let sums = results(totals, counts, |t, _| i64::try_from(*t).map_err(|_| out_of_range("bigint")))?;
        Ok(Arc::new(Int64Array::from(sums)))
    }
}

impl Kind for Unsigned {
    type Arrow = UInt64Type;
    type Total = i128;
    type Key = u64;
    wide_integers!(i128);
    #[inline]
    fn add(total: &mut i128, value: u64, weight: i64) {
        *total += i128::from(value) * i128::from(weight);
    }
    fn key(value: u64) -> u64 {
        value
    }
    fn value(key: u64) -> u64 {
        key
    }
    fn finish(_: &Shape, totals: &[i128], counts: &[i64]) -> Result<ArrayRef> {
        let sums = results(totals, counts, |t, _| u64::try_from(*t).map_err(|_| out_of_range("unsigned bigint")))?;
        Ok(Arc::new(UInt64Array::from(sums)))
    }
}

impl Kind for Float {
    type Arrow = Float64Type;
    type Total = ExactFloatSum;
    type Key = u64;
    #[inline]
    fn add(total: &mut ExactFloatSum, value: f64, weight: i64) {
        total.add(value, weight);
    }
    fn merge(total: &mut ExactFloatSum, other: &ExactFloatSum) {
        total.merge(other);
    }
    fn encode(total: &ExactFloatSum) -> Vec<u8> {
        total.to_bytes()
    }
    fn decode(bytes: &[u8]) -> Result<ExactFloatSum> {
        ExactFloatSum::from_bytes(bytes).map_err(|e| DataFusionError::External(Box::new(e)))
    }
    fn heap_size(total: &ExactFloatSum) -> usize {
        total.heap_size()
    }
    fn key(value: f64) -> u64 {
        if value.is_nan() { f64::NAN.to_bits() } else { (value + 0.0).to_bits() }
    }
    fn value(key: u64) -> f64 {
        f64::from_bits(key)
    }
    fn finish(shape: &Shape, totals: &[ExactFloatSum], counts: &[i64]) -> Result<ArrayRef> {
        let finished = results(totals, counts, |t, n| match shape.function {
            Function::Sum => Ok(t.value()),
            Function::Avg => Ok(t.value() / n as f64),
        })?;
        Ok(Arc::new(Float64Array::from(finished)))
    }
}

impl Kind for Decimal {
    type Arrow = Decimal128Type;
    type Total = i256;
    type Key = i128;
    wide_integers!(i256);
    #[inline]
    fn add(total: &mut i256, value: i128, weight: i64) {
        *total = total.wrapping_add(weighted(i256::from_i128(value), weight));
    }
    fn key(value: i128) -> i128 {
        value
    }
    fn value(key: i128) -> i128 {
        key
    }
    fn finish(shape: &Shape, totals: &[i256], counts: &[i64]) -> Result<ArrayRef> {
        let DataType::Decimal128(precision, scale) = shape.output else { return Err(damaged()) };
        let sums = results(totals, counts, |t, n| {
            let v = decimal(shape, *t, n)?.to_i128().ok_or_else(|| out_of_range("numeric"))?;
            match Decimal128Type::validate_decimal_precision(v, precision, scale) {
                Ok(()) => Ok(v),
                Err(_) => Err(out_of_range("numeric")),
            }
        })?;
        Ok(Arc::new(Decimal128Array::from(sums).with_precision_and_scale(precision, scale)?))
    }
}

impl Kind for LongDecimal {
    type Arrow = Decimal256Type;
    type Total = i256;
    type Key = i256;
    wide_integers!(i256);
    #[inline]
    fn add(total: &mut i256, value: i256, weight: i64) {
        *total = total.wrapping_add(weighted(value, weight));
    }
    fn key(value: i256) -> i256 {
        value
    }
    fn value(key: i256) -> i256 {
        key
    }
    fn finish(shape: &Shape, totals: &[i256], counts: &[i64]) -> Result<ArrayRef> {
        let DataType::Decimal256(precision, scale) = shape.output else { return Err(damaged()) };
        let sums = results(totals, counts, |t, n| {
            let v = decimal(shape, *t, n)?;
            match Decimal256Type::validate_decimal_precision(v, precision, scale) {
                Ok(()) => Ok(v),
                Err(_) => Err(out_of_range("numeric")),
            }
        })?;
        Ok(Arc::new(Decimal256Array::from(sums).with_precision_and_scale(precision, scale)?))
    }
}

fn weighted(value: i256, weight: i64) -> i256 {
    match weight {
        1 => value,
        -1 => value.wrapping_neg(),
        w => value.wrapping_mul(i256::from_i128(i128::from(w))),
    }
}

/// The sum, or the average rounded to the scale of the output.
fn decimal(shape: &Shape, total: i256, count: i64) -> Result<i256> {
    if shape.function == Function::Sum {
        return Ok(total);
    }
    let scale = |t: &DataType| match t {
        DataType::Decimal128(_, s) | DataType::Decimal256(_, s) => i32::from(*s),
        _ => 0,
    };
    let by = u32::try_from(scale(&shape.output) - scale(&shape.argument)).unwrap_or(0);
    i256::from_i128(10)
        .checked_pow(by)
        .and_then(|m| total.checked_mul(m))
        .and_then(|t| divide_rounded(t, i256::from_i128(i128::from(count))))
        .ok_or_else(|| out_of_range("numeric"))
}

/// One total: aggregates without GROUP BY, and windows.
#[derive(Debug)]
struct OneAccumulator<K: Kind> {
    shape: Shape,
    total: K::Total,
    count: i64,
}

impl<K: Kind> OneAccumulator<K> {
    fn change(&mut self, values: &[ArrayRef], weight: i64) {
        let array = values[0].as_primitive::<K::Arrow>();
        self.count += weight * (array.len() - array.null_count()) as i64;
        array.iter().flatten().for_each(|v| K::add(&mut self.total, v, weight));
    }
}

impl<K: Kind> Accumulator for OneAccumulator<K> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.change(values, 1);
        Ok(())
    }
    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.change(values, -1);
        Ok(())
    }
    fn supports_retract_batch(&self) -> bool {
        true
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        let one = K::finish(&self.shape, std::slice::from_ref(&self.total), &[self.count])?;
        ScalarValue::try_from_array(&one, 0)
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(K::encode(&self.total))), ScalarValue::Int64(Some(self.count))])
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (totals, counts) = state_arrays(states)?;
        for (total, count) in totals.iter().zip(counts) {
            if let (Some(total), Some(count)) = (total, count) {
                K::merge(&mut self.total, &K::decode(total)?);
                self.count += count;
            }
        }
        Ok(())
    }
    fn size(&self) -> usize {
        size_of::<Self>() + K::heap_size(&self.total)
    }
}

fn state_arrays(states: &[ArrayRef]) -> Result<(&BinaryArray, &Int64Array)> {
    match states {
        [totals, counts] => match (totals.as_binary_opt::<i32>(), counts.as_primitive_opt::<Int64Type>()) {
            (Some(t), Some(c)) => Ok((t, c)),
            _ => Err(damaged()),
        },
        _ => Err(damaged()),
    }
}

/// `DISTINCT`: each value once, with a counter so that windows can move on.
#[derive(Debug)]
struct DistinctAccumulator<K: Kind> {
    shape: Shape,
    values: HashMap<K::Key, i64>,
}

impl<K: Kind> Accumulator for DistinctAccumulator<K> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for v in values[0].as_primitive::<K::Arrow>().iter().flatten() {
            *self.values.entry(K::key(v)).or_insert(0) += 1;
        }
        Ok(())
    }
    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for v in values[0].as_primitive::<K::Arrow>().iter().flatten() {
            let key = K::key(v);
            if let Some(n) = self.values.get_mut(&key) {
                *n -= 1;
                if *n == 0 {
                    self.values.remove(&key);
                }
            }
        }
        Ok(())
    }
    fn supports_retract_batch(&self) -> bool {
        true
    }
    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut total = K::Total::default();
        self.values.keys().for_each(|k| K::add(&mut total, K::value(*k), 1));
        let one = K::finish(&self.shape, &[total], &[self.values.len() as i64])?;
        ScalarValue::try_from_array(&one, 0)
    }
    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values: PrimitiveArray<K::Arrow> = self.values.keys().map(|k| Some(K::value(*k))).collect();
        let values: ArrayRef = Arc::new(values.with_data_type(self.shape.argument.clone()));
        let item = Arc::new(Field::new_list_field(self.shape.argument.clone(), true));
        let offsets = OffsetBuffer::from_lengths([values.len()]);
        Ok(vec![ScalarValue::List(Arc::new(ListArray::new(item, offsets, values, None)))])
    }
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let lists = states.first().and_then(|s| s.as_list_opt::<i32>()).ok_or_else(damaged)?;
        lists.iter().flatten().try_for_each(|l| self.update_batch(&[l]))
    }
    fn size(&self) -> usize {
        size_of::<Self>() + self.values.capacity() * size_of::<(K::Key, i64)>()
    }
}

/// Totals of many groups.
#[derive(Debug)]
struct Groups<K: Kind> {
    shape: Shape,
    totals: Vec<K::Total>,
    counts: Vec<i64>,
}

impl<K: Kind> Groups<K> {
    fn grow(&mut self, groups: usize) {
        if self.totals.len() < groups {
            self.totals.resize_with(groups, K::Total::default);
            self.counts.resize(groups, 0);
        }
    }
}

impl<K: Kind> GroupsAccumulator for Groups<K> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        let array = values[0].as_primitive::<K::Arrow>();
        let mut add = |i: usize, group: usize| {
            K::add(&mut self.totals[group], array.values()[i], 1);
            self.counts[group] += 1;
        };
        match (array.null_count(), opt_filter) {
            (0, None) => group_indices.iter().enumerate().for_each(|(i, g)| add(i, *g)),
            (_, filter) => {
                for (i, g) in group_indices.iter().enumerate() {
                    let kept = filter.is_none_or(|f| f.is_valid(i) && f.value(i));
                    if kept && array.is_valid(i) {
                        add(i, *g);
                    }
                }
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let (totals, counts) = (emit_to.take_needed(&mut self.totals), emit_to.take_needed(&mut self.counts));
        K::finish(&self.shape, &totals, &counts)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let (totals, counts) = (emit_to.take_needed(&mut self.totals), emit_to.take_needed(&mut self.counts));
        let mut bytes = BinaryBuilder::new();
        totals.iter().for_each(|t| bytes.append_value(K::encode(t)));
        Ok(vec![Arc::new(bytes.finish()), Arc::new(Int64Array::from(counts))])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.grow(total_num_groups);
        let (totals, counts) = state_arrays(values)?;
        for (i, g) in group_indices.iter().enumerate() {
            if totals.is_valid(i) && counts.is_valid(i) {
                K::merge(&mut self.totals[*g], &K::decode(totals.value(i))?);
                self.counts[*g] += counts.value(i);
            }
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let array = values[0].as_primitive::<K::Arrow>();
        let mut bytes = BinaryBuilder::new();
        let mut counts = Vec::with_capacity(array.len());
        for i in 0..array.len() {
            let mut total = K::Total::default();
            let kept = array.is_valid(i) && opt_filter.is_none_or(|f| f.is_valid(i) && f.value(i));
            if kept {
                K::add(&mut total, array.value(i), 1);
            }
            bytes.append_value(K::encode(&total));
            counts.push(i64::from(kept));
        }
        Ok(vec![Arc::new(bytes.finish()), Arc::new(Int64Array::from(counts))])
    }

    fn size(&self) -> usize {
        self.totals.capacity() * size_of::<K::Total>()
            + self.counts.capacity() * size_of::<i64>()
            + self.totals.iter().map(K::heap_size).sum::<usize>()
    }
}
