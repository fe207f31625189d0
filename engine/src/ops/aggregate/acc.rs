//! Accumulators: linear in the weights where the function is, so a retraction is an addition with a negative weight.
//!
//! Counts and exact integer sums live in the words of the group's slot; modulo 2^128 or 2^256 they are a group, so an
//! overflow that is retracted later leaves no trace, and the range is checked only when a result is made.

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::buffer::NullBuffer;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Float64Type, Int64Type, Schema, UInt64Type, i256};
use arrow::row::RowConverter;
use millstream_sql::functions::collect::{Bag, Collector};
use millstream_sql::functions::{ExactFloatSum, Moments};
use millstream_sql::plan::{AggCall, AggFunc};

use crate::error::{Result, ResultExt as _};
use crate::ops::aggregate::values::{decode_codes, decode_rows};
use crate::state::keyed::KeyedState;
use crate::state::keyed::code::{Code64, canonical, plain_type};

/// How an accumulator works and where it keeps its numbers: `at` is its first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Rows. One word.
    CountRows,
    /// Non-NULL values. One word.
    Count,
    /// Sum of at most 64-bit integers: i128, then the number of values. Three words.
    SumInt,
    /// Sum of 128-bit decimals: i256, then the number of values. Five words.
    Sum128,
    /// Sum of 256-bit decimals: i256 of the low halves, i256 of the high halves, number of values. Nine words.
    Sum256,
    /// Exact float sum on the side, number of values. One word.
    SumFloat,
    /// Number of true, number of false. Two words.
    Bool,
    /// Append-only minimum or maximum of codes: the code, the number of values. Two words.
    ExtremeCode {
        /// Maximum.
        max: bool,
    },
    /// Append-only minimum or maximum of row bytes on the side; the number of values. One word.
    ExtremeBytes {
        /// Maximum.
        max: bool,
    },
    /// How many values have each bit, lowest first, and their number. 65 words.
    Bits,
    /// Exact moments on the side, of values or pairs.
    Moments {
        /// Two arguments, y and x.
        pairs: bool,
    },
    /// All values in order on the side.
    Collect,
    /// Minimum or maximum of the values in a table.
    Ordered {
        /// Which table.
        table: usize,
        /// Maximum.
        max: bool,
    },
}

impl Kind {
    fn words(self) -> usize {
        match self {
            Self::CountRows | Self::Count | Self::SumFloat | Self::ExtremeBytes { .. } => 1,
            Self::Bool | Self::ExtremeCode { .. } => 2,
            Self::SumInt => 3,
            Self::Sum128 => 5,
            Self::Sum256 => 9,
            Self::Bits => 65,
            Self::Ordered { .. } | Self::Moments { .. } | Self::Collect => 0,
        }
    }
}

/// What an accumulator keeps beside the words, by slot.
pub(super) enum Side {
    /// Nothing.
    None,
    /// Float sums.
    Floats(Vec<ExactFloatSum>),
    /// Best value so far.
    Best(RowConverter, Vec<Option<Box<[u8]>>>),
    /// Moments.
    Moments(Vec<Moments>),
    /// All values.
    Bags(Box<Collector>, Vec<Bag>),
}

/// One accumulator; equal ones are shared by the aggregates of an operator.
pub(super) struct Acc {
    pub(super) kind: Kind,
    /// Argument column.
    pub(super) arg: Option<usize>,
    /// The call it was made for; others may share it.
    pub(super) call: AggCall,
    /// Which weights it takes.
    pub(super) source: usize,
    /// Values that SQL calls equal are made equal first.
    pub(super) canonical: bool,
    /// First word.
    at: usize,
    pub(super) side: Side,
    arg_type: DataType,
}

impl Acc {
    /// `call` over a row of `input`; `words` are those in use.
    pub(super) fn new(
        kind: Kind,
        arg: Option<usize>,
        call: &AggCall,
        source: usize,
        canonical: bool,
        input: &Schema,
        words: &mut usize,
    ) -> Result<Self> {
        let type_of = |c: usize| plain_type(input.field(c).data_type());
        let arg_type = arg.map_or(DataType::Null, type_of);
        let side = match kind {
            Kind::SumFloat => Side::Floats(Vec::new()),
            Kind::ExtremeBytes { .. } => {
                let field = arrow::row::SortField::new(arg_type.clone());
                Side::Best(RowConverter::new(vec![field]).e()?, Vec::new())
            }
            Kind::Moments { .. } => Side::Moments(Vec::new()),
            Kind::Collect => {
                let AggFunc::Collect(what) = call.func else {
                    return Err(crate::Error::internal("values are collected for something else"));
                };
                let args: Vec<DataType> = arg.into_iter().chain(call.more.iter().copied()).map(type_of).collect();
                let order = call
                    .order
                    .iter()
                    .map(|o| (type_of(o.column), SortOptions { descending: o.descending, nulls_first: o.nulls_first }));
                let order: Vec<_> = order.collect();
                let output = call.output.clone();
                let collector = Collector::new(what, &args, &order, call.distinct, call.ignore_nulls, output)?;
                Side::Bags(Box::new(collector), Vec::new())
            }
            _ => Side::None,
        };
        let at = *words;
        *words += kind.words();
        Ok(Self { kind, arg, call: call.clone(), source, canonical, at, side, arg_type })
    }

    /// Makes room for slots below `end`.
    pub(super) fn reserve(&mut self, end: usize) {
        match &mut self.side {
            Side::None => {}
            Side::Floats(v) => v.resize_with(end.max(v.len()), ExactFloatSum::default),
            Side::Best(_, v) => v.resize_with(end.max(v.len()), || None),
            Side::Moments(v) => v.resize_with(end.max(v.len()), Moments::default),
            Side::Bags(_, v) => v.resize_with(end.max(v.len()), Bag::new),
        }
    }
    /// True if nothing is kept beside the words.
    pub(super) fn side_is_zero(&self, slot: u32) -> bool {
        match &self.side {
            Side::None => true,
            Side::Floats(v) => v[slot as usize].is_zero(),
            Side::Best(_, v) => v[slot as usize].is_none(),
            Side::Moments(v) => v[slot as usize].is_zero(),
            Side::Bags(_, v) => v[slot as usize].is_empty(),
        }
    }
    /// Empties a slot.
    pub(super) fn clear_side(&mut self, slot: u32) {
        let slot = slot as usize;
        match &mut self.side {
            Side::Floats(v) if slot < v.len() => v[slot] = ExactFloatSum::default(),
            Side::Best(_, v) if slot < v.len() => v[slot] = None,
            Side::Moments(v) if slot < v.len() => v[slot] = Moments::default(),
            Side::Bags(_, v) if slot < v.len() => v[slot] = Bag::new(),
            _ => {}
        }
    }
    pub(super) fn side_bytes(&self) -> usize {
        match &self.side {
            Side::None => 0,
            Side::Floats(v) => v.iter().map(|f| size_of::<ExactFloatSum>() + f.heap_size()).sum(),
            Side::Best(_, v) => v.iter().map(|b| 16 + b.as_ref().map_or(0, |b| b.len())).sum(),
            Side::Moments(v) => v.iter().map(|m| size_of::<Moments>() + m.heap_size()).sum(),
            // Rows of one aggregate are about alike in length.
            Side::Bags(_, v) => {
                v.iter().map(|b| 24 + b.len() * (40 + b.first_key_value().map_or(0, |(row, _)| row.len()))).sum()
            }
        }
    }

    /// Adds a batch: row `i` belongs to `slots[i]` and counts `weights[i]` times.
    pub(super) fn update(
        &mut self,
        state: &mut KeyedState,
        stride: usize,
        slots: &[u32],
        weights: &[i64],
        columns: &[ArrayRef],
    ) -> Result<()> {
        match self.kind {
            Kind::Moments { pairs } => return self.update_moments(pairs, slots, weights, columns),
            Kind::Collect => return self.collect(slots, weights, columns),
            _ => {}
        }
        let column = self.arg.map(|a| &columns[a]);
        let at = self.at;
        let words = state.all_words_mut();
        let base = |slot: u32| slot as usize * stride + at;
        let Some(column) = column else {
            for (s, w) in slots.iter().zip(weights) {
                words[base(*s)] += w;
            }
            return Ok(());
        };
        let column =
            if self.canonical || self.kind != Kind::Count { plain(column, self.canonical)? } else { column.clone() };
        let nulls = column.logical_nulls().filter(|n| n.null_count() > 0);
        match self.kind {
            Kind::CountRows | Kind::Count => each(&nulls, weights, |i, w| words[base(slots[i])] += w),
            Kind::SumInt => {
                let mut add = |i: usize, x: i128, w: i64| {
                    let b = base(slots[i]);
                    let sum = get_i128(&words[b..]).wrapping_add(x.wrapping_mul(i128::from(w)));
                    set_i128(&mut words[b..], sum);
                    words[b + 2] += w;
                };
                if *column.data_type() == DataType::UInt64 {
                    let v = column.as_primitive::<UInt64Type>().values();
                    each(&nulls, weights, |i, w| add(i, i128::from(v[i]), w));
                } else {
                    let v = integers(&column)?;
                    each(&nulls, weights, |i, w| add(i, i128::from(v[i]), w));
                }
            }
            Kind::Sum128 => {
                let v = column.as_primitive::<Decimal128Type>().values();
                each(&nulls, weights, |i, w| {
                    let b = base(slots[i]);
                    add_i256(&mut words[b..], i256::from_i128(v[i]), w);
                    words[b + 4] += w;
                });
            }
            Kind::Sum256 => {
                let v = column.as_primitive::<Decimal256Type>().values();
                each(&nulls, weights, |i, w| {
                    let b = base(slots[i]);
                    let (low, high) = v[i].to_parts();
                    add_i256(&mut words[b..], i256::from_parts(low, 0), w);
                    add_i256(&mut words[b + 4..], i256::from_i128(high), w);
                    words[b + 8] += w;
                });
            }
            Kind::SumFloat => {
                let Side::Floats(sums) = &mut self.side else { return Ok(()) };
                let column = if *column.data_type() == DataType::Float64 {
                    column
                } else {
                    arrow::compute::cast(&column, &DataType::Float64).e()?
                };
                let v = column.as_primitive::<Float64Type>().values();
                each(&nulls, weights, |i, w| {
                    sums[slots[i] as usize].add(v[i], w);
                    words[base(slots[i])] += w;
                });
            }
            Kind::Bool => {
                let v = column.as_boolean();
                each(&nulls, weights, |i, w| words[base(slots[i]) + usize::from(!v.value(i))] += w);
            }
            Kind::Bits => {
                let v = match column.data_type() {
                    DataType::UInt64 => {
                        column.as_primitive::<UInt64Type>().values().iter().map(|v| *v as i64).collect::<Vec<_>>()
                    }
                    DataType::Int64 => column.as_primitive::<Int64Type>().values().to_vec(),
                    _ => {
                        let wide = arrow::compute::cast(&column, &DataType::Int64).e()?;
                        wide.as_primitive::<Int64Type>().values().to_vec()
                    }
                };
                each(&nulls, weights, |i, w| {
                    let words = &mut words[base(slots[i])..];
                    let mut rest = v[i] as u64;
                    while rest != 0 {
                        words[rest.trailing_zeros() as usize] += w;
                        rest &= rest - 1;
                    }
                    words[64] += w;
                });
            }
            Kind::ExtremeCode { max } => {
                let Some(code) = Code64::of(column.data_type()) else { return Ok(()) };
                let v = code.encode(&column);
                each(&nulls, weights, |i, w| {
                    let b = base(slots[i]);
                    if words[b + 1] == 0 || (if max { v[i] > words[b] } else { v[i] < words[b] }) {
                        words[b] = v[i];
                    }
                    words[b + 1] += w;
                });
            }
            Kind::ExtremeBytes { max } => {
                let Side::Best(converter, best) = &mut self.side else { return Ok(()) };
                let rows = converter.convert_columns(std::slice::from_ref(&column)).e()?;
                each(&nulls, weights, |i, w| {
                    let (row, best) = (rows.row(i), &mut best[slots[i] as usize]);
                    let better = match best {
                        None => true,
                        Some(b) if max => row.data() > b.as_ref(),
                        Some(b) => row.data() < b.as_ref(),
                    };
                    if better {
                        *best = Some(row.data().into());
                    }
                    words[base(slots[i])] += w;
                });
            }
            Kind::Ordered { .. } | Kind::Moments { .. } | Kind::Collect => {}
        }
        Ok(())
    }

    fn update_moments(&mut self, pairs: bool, slots: &[u32], weights: &[i64], columns: &[ArrayRef]) -> Result<()> {
        let float = |c: Option<usize>| -> Result<Float64Array> {
            let column = c.and_then(|c| columns.get(c)).ok_or_else(|| crate::Error::internal("moments of nothing"))?;
            let column = plain(column, self.canonical)?;
            let column = match column.data_type() {
                DataType::Float64 => column,
                _ => arrow::compute::cast(&column, &DataType::Float64).e()?,
            };
            Ok(column.as_primitive::<Float64Type>().clone())
        };
        let first = float(self.arg)?;
        let second = if pairs { Some(float(self.call.more.first().copied())?) } else { None };
        let Side::Moments(moments) = &mut self.side else { return Ok(()) };
        let nulls = NullBuffer::union(first.nulls(), second.as_ref().and_then(|s| s.nulls()));
        each(&nulls, weights, |i, w| {
            let m = &mut moments[slots[i] as usize];
            match &second {
                Some(x) => m.add_pair(first.value(i), x.value(i), w),
                None => m.add(first.value(i), w),
            }
        });
        Ok(())
    }

    fn collect(&mut self, slots: &[u32], weights: &[i64], columns: &[ArrayRef]) -> Result<()> {
        let Side::Bags(collector, bags) = &mut self.side else { return Ok(()) };
        let pick = |c: usize| plain(&columns[c], false);
        let args: Vec<ArrayRef> =
            self.arg.into_iter().chain(self.call.more.iter().copied()).map(pick).collect::<Result<_>>()?;
        let order: Vec<ArrayRef> = self.call.order.iter().map(|o| pick(o.column)).collect::<Result<_>>()?;
        let rows = collector.encode(&args, &order)?;
        each(&collector.counted(&args), weights, |i, w| {
            let bag = &mut bags[slots[i] as usize];
            let row = rows.row(i);
            match bag.get_mut(row.data()) {
                Some(n) => {
                    *n += w;
                    if *n == 0 {
                        bag.remove(row.data());
                    }
                }
                None => {
                    bag.insert(row.data().into(), w);
                }
            }
        });
        Ok(())
    }

    /// Number of values in a group.
    pub(super) fn count(&self, words: &[i64]) -> i64 {
        match self.kind {
            Kind::Bool => words[self.at] + words[self.at + 1],
            Kind::Ordered { .. } | Kind::Moments { .. } | Kind::Collect => 0,
            kind => words[self.at + kind.words() - 1],
        }
    }
    /// (true, false) of a [`Kind::Bool`].
    pub(super) fn truths(&self, words: &[i64]) -> (i64, i64) {
        (words[self.at], words[self.at + 1])
    }
    /// The bits of a [`Kind::Bits`] that `keep` says, of how many values have each and their number.
    pub(super) fn bits(&self, words: &[i64], keep: impl Fn(i64, i64) -> bool) -> i64 {
        let all = words[self.at + 64];
        (0..64).filter(|b| keep(words[self.at + b], all)).fold(0u64, |bits, b| bits | 1 << b) as i64
    }
    /// Moments of a group.
    pub(super) fn moments(&self, slot: u32) -> Option<&Moments> {
        match &self.side {
            Side::Moments(v) => v.get(slot as usize),
            _ => None,
        }
    }
    /// What is made of the values of these groups.
    pub(super) fn collected(&self, slots: &[u32]) -> Result<ArrayRef> {
        let Side::Bags(collector, bags) = &self.side else {
            return Err(crate::Error::internal("an aggregate without its values"));
        };
        let groups: Vec<_> = slots.iter().map(|s| collector.of_bag(&bags[*s as usize])).collect();
        collector.finish(&groups)
    }
    /// The exact sum of integers or decimals, `None` if it does not fit 256 bits.
    pub(super) fn sum(&self, words: &[i64]) -> Option<i256> {
        let w = &words[self.at..];
        match self.kind {
            Kind::SumInt => Some(i256::from_i128(get_i128(w))),
            Kind::Sum128 => Some(get_i256(w)),
            Kind::Sum256 => {
                let (low, carry) = get_i256(w).to_parts();
                let (high, over) = get_i256(&w[4..]).checked_add(i256::from_i128(carry))?.to_parts();
                // The high half must itself be a 128-bit number.
                let fits = over == if (high as i128) < 0 { -1 } else { 0 };
                fits.then(|| i256::from_parts(low, high as i128))
            }
            _ => None,
        }
    }
    /// The sum of floats.
    pub(super) fn float_sum(&self, slot: u32) -> f64 {
        match &self.side {
            Side::Floats(v) => v[slot as usize].value(),
            _ => 0.0,
        }
    }
    /// Append-only minima or maxima of these groups.
    pub(super) fn extremes(&self, state: &KeyedState, slots: &[u32]) -> Result<ArrayRef> {
        match (&self.side, Code64::of(&self.arg_type)) {
            (Side::Best(converter, best), _) => {
                decode_rows(converter, &self.arg_type, slots.iter().map(|s| best[*s as usize].as_deref()))
            }
            (_, Some(code)) => {
                let found: Vec<Option<i64>> = slots
                    .iter()
                    .map(|s| {
                        let w = state.words(*s);
                        (w[self.at + 1] > 0).then(|| w[self.at])
                    })
                    .collect();
                decode_codes(code, &self.arg_type, &found)
            }
            _ => Err(crate::Error::internal("minimum without values")),
        }
    }
}

/// The accumulator a call needs, if there is one for its types. `table` is where a retractable minimum reads.
pub(super) fn kind_of(call: &AggCall, arg_type: &DataType, append_only: bool, table: usize) -> Option<Kind> {
    let plain = plain_type(arg_type);
    Some(match call.func {
        AggFunc::CountStar => Kind::CountRows,
        AggFunc::Count => Kind::Count,
        AggFunc::Sum | AggFunc::Avg => match (&plain, &call.output) {
            (t, DataType::Float64 | DataType::Float32) if t.is_integer() || t.is_floating() => Kind::SumFloat,
            (DataType::Decimal128(..), DataType::Decimal128(..) | DataType::Decimal256(..)) => Kind::Sum128,
            (DataType::Decimal256(..), DataType::Decimal256(..)) => Kind::Sum256,
            (DataType::Duration(a), DataType::Duration(b)) if a == b => Kind::SumInt,
            (DataType::Decimal32(..) | DataType::Decimal64(..), o) if o.is_decimal() => Kind::SumInt,
            (t, o) if t.is_integer() && (o.is_integer() || o.is_decimal()) && call.func == AggFunc::Sum => Kind::SumInt,
            _ => return None,
        },
        AggFunc::BoolAnd | AggFunc::BoolOr if plain == DataType::Boolean => Kind::Bool,
        AggFunc::BoolAnd | AggFunc::BoolOr => return None,
        AggFunc::BitAnd | AggFunc::BitOr | AggFunc::BitXor if plain.is_integer() => Kind::Bits,
        AggFunc::BitAnd | AggFunc::BitOr | AggFunc::BitXor => return None,
        AggFunc::Stat(stat) if plain.is_numeric() => Kind::Moments { pairs: stat.is_of_pairs() },
        AggFunc::Stat(_) => return None,
        AggFunc::Collect(_) if Collector::supports(&plain) => Kind::Collect,
        AggFunc::Collect(_) => return None,
        AggFunc::Min | AggFunc::Max => {
            let max = call.func == AggFunc::Max;
            if !append_only {
                Kind::Ordered { table, max }
            } else if Code64::of(&plain).is_some() {
                Kind::ExtremeCode { max }
            } else {
                Kind::ExtremeBytes { max }
            }
        }
    })
}

fn plain(column: &ArrayRef, make_canonical: bool) -> Result<ArrayRef> {
    if make_canonical {
        return canonical(column);
    }
    let t = plain_type(column.data_type());
    if t == *column.data_type() { Ok(column.clone()) } else { arrow::compute::cast(column, &t).e() }
}

#[inline]
fn each(nulls: &Option<NullBuffer>, weights: &[i64], mut f: impl FnMut(usize, i64)) {
    match nulls {
        None => weights.iter().enumerate().filter(|(_, w)| **w != 0).for_each(|(i, w)| f(i, *w)),
        Some(n) => weights.iter().enumerate().filter(|(i, w)| **w != 0 && n.is_valid(*i)).for_each(|(i, w)| f(i, *w)),
    }
}

fn integers(column: &ArrayRef) -> Result<Cow<'_, [i64]>> {
    Ok(match column.data_type() {
        DataType::Int64 => Cow::Borrowed(&column.as_primitive::<Int64Type>().values()[..]),
        t => match Code64::of(t) {
            Some(code @ (Code64::Signed(_) | Code64::Unsigned(1 | 2 | 4))) => Cow::Owned(code.encode(column)),
            _ => return Err(crate::Error::internal(format!("integer sum of {t}"))),
        },
    })
}

fn get_i128(w: &[i64]) -> i128 {
    (i128::from(w[1]) << 64) | i128::from(w[0] as u64)
}
fn set_i128(w: &mut [i64], v: i128) {
    w[0] = v as i64;
    w[1] = (v >> 64) as i64;
}
fn get_i256(w: &[i64]) -> i256 {
    i256::from_parts(get_i128(w) as u128, get_i128(&w[2..]))
}
fn add_i256(w: &mut [i64], x: i256, weight: i64) {
    let sum = match weight {
        1 => get_i256(w).wrapping_add(x),
        -1 => get_i256(w).wrapping_sub(x),
        _ => get_i256(w).wrapping_add(x.wrapping_mul(i256::from_i128(i128::from(weight)))),
    };
    let (low, high) = sum.to_parts();
    set_i128(w, low as i128);
    set_i128(&mut w[2..], high);
}
