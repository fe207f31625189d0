//! The values of one argument in every group, with their multiplicities: what DISTINCT aggregates and retractable
//! minima need. One table serves all aggregates over the same argument and filter.

use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};

use crate::error::{Result, ResultExt as _, SqlState};
use crate::state::keyed::code::{Code64, canonical, plain_type};
use crate::state::keyed::{KeyedState, MISSING};
use crate::state::rows::DecodeRows as _;

/// (group key, value) -> multiplicity, and the order of the values of each group if that is needed.
pub(super) struct ValueTable {
    /// Argument column.
    pub(super) arg: usize,
    /// Filter column.
    pub(super) filter: Option<usize>,
    /// Values that SQL calls equal are one value (DISTINCT) or are told apart by their bits (minimum of zeros).
    pub(super) canonical: bool,
    /// Word of the group's slot that counts entries here, of whatever sign.
    pub(super) entries_word: usize,
    /// Rows: group key columns, then the value. One word: the multiplicity.
    pub(super) state: KeyedState,
    /// Values with positive multiplicity by group slot.
    pub(super) index: Option<Index>,
    value_type: DataType,
}

/// Ordered values by group slot.
pub(super) enum Index {
    /// As order-preserving codes.
    Codes(Code64, Vec<BTreeSet<i64>>),
    /// As row bytes.
    Bytes(RowConverter, Vec<BTreeSet<Box<[u8]>>>),
}

/// One batch of values in the form of an [`Index`].
enum Encoded {
    None,
    Codes(Vec<i64>),
    Rows(arrow::row::Rows),
}

impl ValueTable {
    pub(super) fn new(
        arg: usize,
        filter: Option<usize>,
        canonical: bool,
        key_types: &[DataType],
        arg_type: &DataType,
        entries_word: usize,
    ) -> Result<Self> {
        let value_type = plain_type(arg_type);
        let mut types = key_types.to_vec();
        types.push(value_type.clone());
        let state = KeyedState::new(types, 1)?;
        Ok(Self { arg, filter, canonical, entries_word, state, index: None, value_type })
    }

    /// From now on the order of values is kept as well.
    pub(super) fn make_ordered(&mut self) -> Result<()> {
        if self.index.is_none() {
            self.index = Some(match Code64::of(&self.value_type) {
                Some(code) => Index::Codes(code, Vec::new()),
                None => {
                    let converter = RowConverter::new(vec![SortField::new(self.value_type.clone())]).e()?;
                    Index::Bytes(converter, Vec::new())
                }
            });
        }
        Ok(())
    }

    /// The argument as values of this table.
    pub(super) fn values(&self, column: &ArrayRef) -> Result<ArrayRef> {
        if self.canonical {
            canonical(column)
        } else if *column.data_type() == self.value_type {
            Ok(column.clone())
        } else {
            arrow::compute::cast(column, &self.value_type).e()
        }
    }

    /// Makes room for group slots below `end`.
    pub(super) fn reserve(&mut self, end: usize) {
        match &mut self.index {
            Some(Index::Codes(_, sets)) => sets.resize_with(end.max(sets.len()), BTreeSet::new),
            Some(Index::Bytes(_, sets)) => sets.resize_with(end.max(sets.len()), BTreeSet::new),
            None => {}
        }
    }

    /// Adds weighted values; returns for every row whether its value appeared (1) or vanished (-1) in its group by it.
    pub(super) fn apply(
        &mut self,
        keys: &[ArrayRef],
        values: &ArrayRef,
        weights: &[i64],
        group_slots: &[u32],
        groups: &mut KeyedState,
    ) -> Result<Vec<i64>> {
        let nulls = values.logical_nulls();
        let selected: Vec<u32> = (0..weights.len() as u32)
            .filter(|i| weights[*i as usize] != 0 && nulls.as_ref().is_none_or(|n| n.is_valid(*i as usize)))
            .collect();
        let mut flips = vec![0i64; weights.len()];
        if selected.is_empty() {
            return Ok(flips);
        }
        let mut columns: Vec<ArrayRef> = keys.to_vec();
        columns.push(values.clone());
        if selected.len() < weights.len() {
            let rows = UInt32Array::from(selected.clone());
            for c in &mut columns {
                *c = arrow::compute::take(c, &rows, None).e()?;
            }
        }
        let slots = self.state.slots_for(&columns, selected.len())?;
        self.state.touch(&slots);
        let encoded = self.encode(&columns[keys.len()])?;
        for (j, (row, slot)) in selected.iter().zip(&slots).enumerate() {
            let row = *row as usize;
            let count = &mut self.state.words_mut(*slot)[0];
            let old = *count;
            let new = old + weights[row];
            *count = new;
            let group = group_slots[row];
            groups.words_mut(group)[self.entries_word] += i64::from(new != 0) - i64::from(old != 0);
            let flip = i64::from(new > 0) - i64::from(old > 0);
            if flip != 0 {
                flips[row] = flip;
                put(&mut self.index, group, &encoded, j, flip > 0);
            }
        }
        Ok(flips)
    }

    fn encode(&self, values: &ArrayRef) -> Result<Encoded> {
        Ok(match &self.index {
            None => Encoded::None,
            Some(Index::Codes(code, _)) => Encoded::Codes(code.encode(values.as_ref())),
            Some(Index::Bytes(converter, _)) => {
                Encoded::Rows(converter.convert_columns(std::slice::from_ref(values)).e()?)
            }
        })
    }

    /// Ends the tick: forgets values whose multiplicity is zero.
    pub(super) fn flush(&mut self) -> Result<()> {
        let touched = self.state.take_touched();
        let dead: Vec<u32> = touched.into_iter().filter(|s| self.state.words(*s)[0] == 0).collect();
        self.state.remove(&dead)
    }

    /// Fills the order after a restore.
    pub(super) fn rebuild(&mut self, groups: &mut KeyedState) -> Result<()> {
        self.reserve(groups.slot_end());
        if self.index.is_none() {
            return Ok(());
        }
        for slots in self.state.live_slots().chunks(64 * 1024) {
            let mut keys = self.state.key_columns(slots)?;
            let Some(values) = keys.pop() else { continue };
            let found = groups.find(&keys, slots.len())?;
            let encoded = self.encode(&values)?;
            for (j, (slot, group)) in slots.iter().zip(&found).enumerate() {
                if *group == MISSING {
                    return Err(crate::Error::new(
                        SqlState::DATA_CORRUPTED,
                        "stored values of an aggregate belong to a group that is not stored",
                    ));
                }
                if self.state.words(*slot)[0] > 0 {
                    put(&mut self.index, *group, &encoded, j, true);
                }
            }
        }
        Ok(())
    }

    /// The smallest or largest value of these groups, NULL for those without.
    pub(super) fn extremes(&self, groups: &[u32], max: bool) -> Result<ArrayRef> {
        fn end<T: Ord>(set: &BTreeSet<T>, max: bool) -> Option<&T> {
            if max { set.last() } else { set.first() }
        }
        match &self.index {
            Some(Index::Codes(code, sets)) => {
                let found: Vec<Option<i64>> = groups.iter().map(|g| end(&sets[*g as usize], max).copied()).collect();
                decode_codes(*code, &self.value_type, &found)
            }
            Some(Index::Bytes(converter, sets)) => decode_rows(
                converter,
                &self.value_type,
                groups.iter().map(|g| end(&sets[*g as usize], max).map(|b| b.as_ref())),
            ),
            None => Err(crate::Error::internal("minimum of a table without order")),
        }
    }

    /// These groups have no values any more.
    pub(super) fn clear(&mut self, groups: &[u32]) {
        match &mut self.index {
            Some(Index::Codes(_, sets)) => groups.iter().for_each(|g| sets[*g as usize].clear()),
            Some(Index::Bytes(_, sets)) => groups.iter().for_each(|g| sets[*g as usize].clear()),
            None => {}
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let index = match &self.index {
            None => 0,
            Some(Index::Codes(_, sets)) => sets.len() * 24 + self.state.len() * 12,
            Some(Index::Bytes(_, sets)) => sets.len() * 24 + self.state.len() * 40,
        };
        self.state.bytes() + index
    }
}

fn put(index: &mut Option<Index>, group: u32, encoded: &Encoded, row: usize, insert: bool) {
    match (index, encoded) {
        (Some(Index::Codes(_, sets)), Encoded::Codes(codes)) => {
            let set = &mut sets[group as usize];
            if insert {
                set.insert(codes[row])
            } else {
                set.remove(&codes[row])
            };
        }
        (Some(Index::Bytes(_, sets)), Encoded::Rows(rows)) => {
            let set = &mut sets[group as usize];
            let bytes = rows.row(row);
            if insert {
                set.insert(bytes.data().into())
            } else {
                set.remove(bytes.data())
            };
        }
        _ => {}
    }
}

/// Values of codes, NULL for none.
pub(super) fn decode_codes(code: Code64, data_type: &DataType, found: &[Option<i64>]) -> Result<ArrayRef> {
    let codes: Vec<i64> = found.iter().map(|c| c.unwrap_or(0)).collect();
    let nulls = arrow::buffer::NullBuffer::from(found.iter().map(Option::is_some).collect::<Vec<bool>>());
    code.decode(data_type, &codes, Some(nulls).filter(|n| n.null_count() > 0))
}

/// Values of row bytes, NULL for none.
pub(super) fn decode_rows<'a>(
    converter: &RowConverter,
    data_type: &DataType,
    found: impl Iterator<Item = Option<&'a [u8]>>,
) -> Result<ArrayRef> {
    let parser = converter.parser();
    let mut rows = Vec::new();
    let picks: UInt32Array = found
        .map(|b| {
            b.map(|b| {
                rows.push(parser.parse(b));
                rows.len() as u32 - 1
            })
        })
        .collect();
    if rows.is_empty() {
        return Ok(arrow::array::new_null_array(data_type, picks.len()));
    }
    let decoded = converter.decode_rows(rows)?;
    arrow::compute::take(&decoded[0], &picks, None).e()
}
