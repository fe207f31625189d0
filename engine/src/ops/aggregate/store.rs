//! Frozen form of an aggregate's state.
//!
//! | slot | columns |
//! |---|---|
//! | `groups` | `k0..` keys; `w0..` Int64 words; `s0..` Binary, what accumulators keep beside them; `__deleted` |
//! | `values0..` | `k0..` keys of the group, then the value; `w0` multiplicity; `__deleted` |
//!
//! Every slot stands alone: the order in which slots are restored does not matter.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use millstream_sql::functions::collect::{bag_from_bytes, bag_to_bytes};
use millstream_sql::functions::{ExactFloatSum, Moments};

use super::AggregateOp;
use super::acc::{Acc, Side};
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::hash::hash_rows;
use crate::ops::{Shard, SlotDelta};
use crate::state::keyed::{DELETED_COLUMN, Frozen, KeyedState, Restored};

/// Names of the slots of value tables; their number is the limit of tables.
pub(super) const VALUE_SLOTS: [&str; 32] = [
    "values0", "values1", "values2", "values3", "values4", "values5", "values6", "values7", "values8", "values9",
    "values10", "values11", "values12", "values13", "values14", "values15", "values16", "values17", "values18",
    "values19", "values20", "values21", "values22", "values23", "values24", "values25", "values26", "values27",
    "values28", "values29", "values30", "values31",
];
const GROUPS: &str = "groups";

impl AggregateOp {
    pub(super) fn freeze_state(&mut self) -> Result<Vec<SlotDelta>> {
        let frozen = self.state.freeze();
        let accs = &self.accs;
        let sides = accs.iter().filter(|a| !matches!(a.side, Side::None));
        let batches =
            to_batches(&self.state, self.stride, &frozen, &|slots| sides.clone().map(|a| side(a, slots)).collect())?;
        let mut out = vec![SlotDelta { slot: GROUPS.into(), replaces: frozen.replaces, batches }];
        for (t, slot) in self.tables.iter_mut().zip(VALUE_SLOTS) {
            let frozen = t.state.freeze();
            let batches = to_batches(&t.state, 1, &frozen, &|_| Vec::new())?;
            out.push(SlotDelta { slot: slot.into(), replaces: frozen.replaces, batches });
        }
        Ok(out)
    }

    pub(super) fn restore_state(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        let keys = self.keys.len();
        if slot == GROUPS {
            let sides = self.accs.iter().filter(|a| !matches!(a.side, Side::None)).count();
            let Some((restored, batch)) = restore_words(&mut self.state, self.stride, sides, batch, keys, self.shard)?
            else {
                return Ok(());
            };
            self.reserve();
            let with_side = self.accs.iter_mut().filter(|a| !matches!(a.side, Side::None));
            for (i, acc) in with_side.enumerate() {
                let column = batch.column(keys + self.stride + i);
                let bytes = column.as_binary_opt::<i32>().ok_or_else(damaged)?;
                restore_side(acc, bytes, &restored)?;
            }
            self.emitted |= self.keys.is_empty() && self.state.len() == 1;
            return Ok(());
        }
        let table = VALUE_SLOTS.iter().position(|s| *s == slot).and_then(|i| self.tables.get_mut(i));
        let Some(t) = table else {
            return Err(Error::internal(format!("an aggregate has no state slot \"{slot}\"")));
        };
        restore_words(&mut t.state, 1, 0, batch, keys, self.shard).map(drop)
    }
}

pub(super) fn damaged() -> Error {
    Error::new(SqlState::DATA_CORRUPTED, "stored state does not have the columns of this operator")
}

/// Changed keys as batches: tombstones first.
pub(in crate::ops) fn to_batches(
    state: &KeyedState,
    stride: usize,
    frozen: &Frozen,
    sides: &dyn Fn(&[u32]) -> Vec<ArrayRef>,
) -> Result<Vec<RecordBatch>> {
    let side_count = sides(&[]).len();
    let mut fields: Vec<Field> =
        state.types().iter().enumerate().map(|(i, t)| Field::new(format!("k{i}"), t.clone(), true)).collect();
    fields.extend((0..stride).map(|i| Field::new(format!("w{i}"), DataType::Int64, false)));
    fields.extend((0..side_count).map(|i| Field::new(format!("s{i}"), DataType::Binary, true)));
    fields.push(Field::new(DELETED_COLUMN, DataType::Boolean, false));
    let schema = Arc::new(Schema::new(fields));
    let mut out = Vec::new();
    for keys in &frozen.deleted {
        // Without key columns there is one key, and its owner never removes it.
        let n = keys.first().map_or(0, |k| k.len());
        let mut columns = keys.clone();
        columns.extend((0..stride).map(|_| Arc::new(Int64Array::from(vec![0; n])) as ArrayRef));
        columns.extend((0..side_count).map(|_| Arc::new(BinaryArray::new_null(n)) as ArrayRef));
        columns.push(Arc::new(BooleanArray::from(vec![true; n])));
        out.push(RecordBatch::try_new(schema.clone(), columns).e()?);
    }
    for slots in frozen.slots.chunks(64 * 1024) {
        let mut columns = state.key_columns(slots)?;
        for w in 0..stride {
            columns.push(Arc::new(Int64Array::from_iter_values(slots.iter().map(|s| state.words(*s)[w]))));
        }
        columns.extend(sides(slots));
        columns.push(Arc::new(BooleanArray::from(vec![false; slots.len()])));
        out.push(RecordBatch::try_new(schema.clone(), columns).e()?);
    }
    Ok(out)
}

/// Applies a batch of [`to_batches`], keeping rows whose first `owner_keys` columns are of this shard. Returns what
/// was done and the batch of own rows, `None` if there was no own row.
pub(in crate::ops) fn restore_words(
    state: &mut KeyedState,
    stride: usize,
    sides: usize,
    batch: &RecordBatch,
    owner_keys: usize,
    shard: Shard,
) -> Result<Option<(Restored, RecordBatch)>> {
    let width = state.types().len();
    let fits = batch.num_columns() == width + stride + sides + 1
        && state.types().iter().zip(batch.columns()).all(|(t, c)| t == c.data_type());
    if !fits {
        return Err(damaged());
    }
    let owners = &batch.columns()[..owner_keys];
    let own: BooleanArray = if owner_keys == 0 {
        vec![shard.index == 0; batch.num_rows()].into()
    } else {
        hash_rows(owners, batch.num_rows()).into_iter().map(|h| Some(shard.owns(h))).collect()
    };
    let batch = if own.true_count() == batch.num_rows() {
        batch.clone()
    } else {
        state.dump_all();
        arrow::compute::filter_record_batch(batch, &own).e()?
    };
    if batch.num_rows() == 0 {
        return Ok(None);
    }
    let deleted = batch.column(batch.num_columns() - 1).as_boolean_opt().ok_or_else(damaged)?;
    let restored = state.restore(&batch.columns()[..width], deleted)?;
    for w in 0..stride {
        let column = batch.column(width + w).as_primitive_opt::<Int64Type>().ok_or_else(damaged)?;
        for (row, slot) in restored.rows.iter().zip(&restored.slots) {
            state.words_mut(*slot)[w] = column.value(*row as usize);
        }
    }
    Ok(Some((restored, batch)))
}

fn side(acc: &Acc, slots: &[u32]) -> ArrayRef {
    match &acc.side {
        Side::Floats(sums) => {
            Arc::new(BinaryArray::from_iter_values(slots.iter().map(|s| sums[*s as usize].to_bytes())))
        }
        Side::Best(_, best) => Arc::new(slots.iter().map(|s| best[*s as usize].as_deref()).collect::<BinaryArray>()),
        Side::Moments(moments) => {
            Arc::new(BinaryArray::from_iter_values(slots.iter().map(|s| moments[*s as usize].to_bytes())))
        }
        Side::Bags(_, bags) => {
            let bytes = |s: &u32| bag_to_bytes(bags[*s as usize].iter().map(|(row, n)| (row.as_ref(), *n)));
            Arc::new(BinaryArray::from_iter_values(slots.iter().map(bytes)))
        }
        Side::None => Arc::new(BinaryArray::new_null(slots.len())),
    }
}

fn restore_side(acc: &mut Acc, bytes: &BinaryArray, restored: &Restored) -> Result<()> {
    for s in &restored.removed {
        acc.clear_side(*s);
    }
    for (row, slot) in restored.rows.iter().zip(&restored.slots) {
        let (row, slot) = (*row as usize, *slot as usize);
        match &mut acc.side {
            Side::Floats(sums) => sums[slot] = ExactFloatSum::from_bytes(bytes.value(row))?,
            Side::Best(_, best) => best[slot] = bytes.is_valid(row).then(|| bytes.value(row).into()),
            Side::Moments(moments) => moments[slot] = Moments::from_bytes(bytes.value(row))?,
            Side::Bags(_, bags) => bags[slot] = bag_from_bytes(bytes.value(row))?.into_iter().collect(),
            Side::None => {}
        }
    }
    Ok(())
}
