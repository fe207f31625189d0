//! The first rows of each partition in an order: ORDER BY .. LIMIT, and ROW_NUMBER(), RANK() or DENSE_RANK() <= n.
//!
//! Ties of the order are broken by the whole row, so the choice depends on the rows alone. Rows count with their
//! multiplicity, negative ones as none. A row is kept as bytes whose order is the order asked for, then the row
//! itself, so one ordered map a partition gives the window in `O(offset + limit)`, and the row back.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use millstream_sql::plan::SortColumn;

use super::{DeltaOp, Emit, Shard, SlotDelta, StateStats, TickCx};
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::hash::hash_rows;
use crate::state::keyed::code::{canonical, plain_type};
use crate::state::keyed::{KeyedState, MISSING};
use crate::state::rows::DecodeRows as _;
use crate::zset::{WEIGHT_COLUMN, Weights, ZBatch};

const SLOT: &str = "rows";
/// Below this many frozen rows a full dump is never worth it.
const FULL_DUMP_ROWS_MIN: usize = 64 * 1024;

type Key = Arc<[u8]>;

/// What is known of a row.
#[derive(Clone, Copy)]
struct Held {
    weight: i64,
    /// Bytes of its order in the key; only where peers matter.
    order: u32,
}

/// How rows are counted up to the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// `row_number()`, LIMIT.
    Rows,
    /// `rank()`: peers have the number of the first of them.
    Rank,
    /// `dense_rank()`: groups of peers are counted.
    DenseRank,
}

/// A row of output with its number of times, and its rank if peers share one.
type Shown = (Key, u64, u64);

#[derive(Default)]
struct Partition {
    rows: BTreeMap<Key, Held>,
    /// What is out.
    window: Vec<Shown>,
    /// Sum of the weights; kept only for append-only input.
    total: u64,
    touched: bool,
}

/// A row of output: its bytes, weight and rank.
type Change = (Key, i64, u64);

/// See the module.
pub struct TopNOp {
    output_schema: SchemaRef,
    /// The input's columns without encodings such as dictionaries.
    plain: SchemaRef,
    partition: Vec<usize>,
    order: Vec<SortColumn>,
    offset: u64,
    limit: u64,
    rank: Option<DataType>,
    counting: Counting,
    append_only: bool,
    shard: Shard,
    converter: RowConverter,
    /// The order alone, where peers matter.
    orders: Option<RowConverter>,
    slots: KeyedState,
    partitions: Vec<Partition>,
    touched: Vec<u32>,
    live: usize,
    key_bytes: usize,
    /// Rows whose weight changed since the last freeze.
    dirty: HashSet<Key>,
    frozen: usize,
    dump_all: bool,
}

impl TopNOp {
    /// Keeps `limit` rows after `offset` in each partition. With `rank`, the output has the row number, from 1, as a
    /// last column of that type. With `append_only_input` only the best `offset + limit` rows are kept.
    #[expect(clippy::too_many_arguments, reason = "these are the fields of the plan node")]
    pub fn new(
        schema: SchemaRef,
        partition: Vec<usize>,
        order: Vec<SortColumn>,
        offset: u64,
        limit: u64,
        rank: Option<DataType>,
        append_only_input: bool,
        output_schema: SchemaRef,
        shard: Shard,
    ) -> Result<Self> {
        let columns = schema.fields().len();
        let outside = partition.iter().copied().chain(order.iter().map(|o| o.column)).find(|c| *c >= columns);
        if let Some(c) = outside {
            return Err(Error::internal(format!("top-N over column {c} of {columns}")));
        }
        if output_schema.fields().len() != columns + usize::from(rank.is_some()) {
            return Err(Error::internal("output of a top-N must be its input, and the rank if there is one"));
        }
        let plain: Vec<Field> =
            schema.fields().iter().map(|f| Field::new(f.name(), plain_type(f.data_type()), true)).collect();
        let mut fields: Vec<SortField> = order
            .iter()
            .map(|o| {
                let options = SortOptions { descending: o.descending, nulls_first: o.nulls_first };
                SortField::new_with_options(plain[o.column].data_type().clone(), options)
            })
            .collect();
        fields.extend(plain.iter().map(|f| SortField::new(f.data_type().clone())));
        let key_types = partition.iter().map(|p| plain[*p].data_type().clone()).collect();
        Ok(Self {
            output_schema,
            plain: Arc::new(Schema::new(plain)),
            partition,
            order,
            offset,
            limit,
            rank,
            counting: Counting::Rows,
            append_only: append_only_input,
            shard,
            converter: RowConverter::new(fields).e()?,
            orders: None,
            slots: KeyedState::new(key_types, 0)?,
            partitions: Vec::new(),
            touched: Vec::new(),
            live: 0,
            key_bytes: 0,
            dirty: HashSet::new(),
            frozen: 0,
            dump_all: false,
        })
    }

    /// Keeps the rows whose rank, as `counting` says, is at most `limit`; the output has the rank as a last column.
    pub fn ranked(
        schema: SchemaRef,
        partition: Vec<usize>,
        order: Vec<SortColumn>,
        limit: u64,
        counting: Counting,
        output_schema: SchemaRef,
        shard: Shard,
    ) -> Result<Self> {
        let rank = output_schema.fields().last().map(|f| f.data_type().clone());
        // Any row may come to be among the first: its peers do not push it out.
        let mut op = Self::new(schema, partition, order, 0, limit, rank, false, output_schema, shard)?;
        op.counting = counting;
        let fields: Vec<SortField> = op
            .order
            .iter()
            .map(|o| {
                let options = SortOptions { descending: o.descending, nulls_first: o.nulls_first };
                SortField::new_with_options(op.plain.field(o.column).data_type().clone(), options)
            })
            .collect();
        op.orders = if fields.is_empty() { None } else { Some(RowConverter::new(fields).e()?) };
        Ok(op)
    }

    /// Bytes of the order of each row, where peers matter.
    fn order_lengths(&self, plain: &[ArrayRef]) -> Result<Option<Rows>> {
        let Some(converter) = &self.orders else { return Ok(None) };
        let columns: Vec<ArrayRef> = self.order.iter().map(|o| plain[o.column].clone()).collect();
        converter.convert_columns(&columns).map(Some).e()
    }

    fn plain_columns(&self, columns: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        columns
            .iter()
            .zip(self.plain.fields())
            .map(|(c, f)| {
                if c.data_type() == f.data_type() { Ok(c.clone()) } else { arrow::compute::cast(c, f.data_type()).e() }
            })
            .collect()
    }

    fn encode(&self, plain: &[ArrayRef]) -> Result<Rows> {
        let mut columns: Vec<ArrayRef> = self.order.iter().map(|o| plain[o.column].clone()).collect();
        columns.extend(plain.iter().cloned());
        self.converter.convert_columns(&columns).e()
    }

    /// The (plain) rows of these keys.
    fn decode<'k>(&self, keys: impl Iterator<Item = &'k Key>) -> Result<Vec<ArrayRef>> {
        let parser = self.converter.parser();
        let keys: Vec<&Key> = keys.collect();
        let mut columns = self.converter.decode_rows(keys.iter().map(|k| parser.parse(k)))?;
        Ok(columns.split_off(self.order.len()))
    }

    fn partition_keys(&self, plain: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        self.partition.iter().map(|p| canonical(&plain[*p])).collect()
    }

    fn slots_for(&mut self, plain: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let keys = self.partition_keys(plain)?;
        let slots = self.slots.slots_for(&keys, rows)?;
        self.partitions.resize_with(self.slots.slot_end(), Partition::default);
        Ok(slots)
    }

    /// Rows of append-only input that can ever be needed in a partition.
    fn keep(&self) -> u64 {
        self.offset.saturating_add(self.limit)
    }

    /// Adds `weight` times a row to a partition.
    fn add(&mut self, slot: u32, bytes: &[u8], order: u32, weight: i64) {
        let keep = self.keep();
        let p = &mut self.partitions[slot as usize];
        if self.append_only && p.total >= keep && p.rows.last_key_value().is_none_or(|(last, _)| bytes > last.as_ref())
        {
            return;
        }
        if !p.touched {
            p.touched = true;
            self.touched.push(slot);
        }
        let key = match p.rows.get_key_value(bytes) {
            Some((key, _)) => key.clone(),
            None => {
                self.live += 1;
                self.key_bytes += bytes.len();
                let key = Key::from(bytes);
                p.rows.insert(key.clone(), Held { weight: 0, order });
                key
            }
        };
        if let Some(held) = p.rows.get_mut(bytes) {
            held.weight += weight;
            if held.weight == 0 {
                p.rows.remove(bytes);
                self.live -= 1;
                self.key_bytes -= bytes.len();
            }
        }
        self.dirty.insert(key);
        if self.append_only {
            p.total = p.total.saturating_add_signed(weight);
            while let Some(last) = p.rows.last_entry() {
                let w = last.get().weight.unsigned_abs();
                if p.total - w < keep {
                    break;
                }
                let key = last.remove_entry().0;
                p.total -= w;
                self.live -= 1;
                self.key_bytes -= key.len();
                self.dirty.insert(key);
            }
        }
    }

    /// The rows of a partition that should be out now.
    fn window(&self, slot: u32) -> Vec<Shown> {
        if self.counting != Counting::Rows {
            return self.ranked_window(slot);
        }
        let (mut skip, mut left) = (self.offset, self.limit);
        let mut out = Vec::new();
        for (key, held) in &self.partitions[slot as usize].rows {
            if left == 0 {
                break;
            }
            let n = u64::try_from(held.weight).unwrap_or(0);
            let skipped = n.min(skip);
            skip -= skipped;
            let taken = (n - skipped).min(left);
            left -= taken;
            if taken > 0 {
                out.push((key.clone(), taken, 0));
            }
        }
        out
    }

    fn ranked_window(&self, slot: u32) -> Vec<Shown> {
        let (mut before, mut groups, mut rank) = (0u64, 0u64, 0u64);
        let mut peers: Option<&[u8]> = None;
        let mut out = Vec::new();
        for (key, held) in &self.partitions[slot as usize].rows {
            let n = u64::try_from(held.weight).unwrap_or(0);
            if n == 0 {
                continue;
            }
            let order = &key[..held.order as usize];
            if peers != Some(order) {
                peers = Some(order);
                groups += 1;
                rank = if self.counting == Counting::DenseRank { groups } else { before + 1 };
                if rank > self.limit {
                    break;
                }
            }
            before += n;
            out.push((key.clone(), n, rank));
        }
        out
    }

    fn emit(&self, changes: &[Change], out: &mut dyn Emit) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut columns = self.decode(changes.iter().map(|c| &c.0))?;
        if self.rank.is_some() {
            columns.push(Arc::new(UInt64Array::from_iter_values(changes.iter().map(|c| c.2))));
        }
        for (c, f) in columns.iter_mut().zip(self.output_schema.fields()) {
            if c.data_type() != f.data_type() {
                *c = arrow::compute::cast(c, f.data_type()).e()?;
            }
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(changes.len()));
        let rows = RecordBatch::try_new_with_options(self.output_schema.clone(), columns, &options).e()?;
        let weights = if changes.iter().all(|c| c.1 == 1) {
            Weights::AllOne
        } else {
            Weights::Dense(changes.iter().map(|c| c.1).collect::<Vec<_>>().into())
        };
        out.emit(ZBatch::new(rows, weights))
    }

    fn remove_empty(&mut self, slots: &[u32]) -> Result<()> {
        let empty: Vec<u32> = slots.iter().copied().filter(|s| self.partitions[*s as usize].rows.is_empty()).collect();
        for s in &empty {
            self.partitions[*s as usize] = Partition::default();
        }
        self.slots.remove(&empty)
    }

    /// Forgets partitions that no later change can reach.
    fn forget(&mut self, cx: &TickCx<'_>) -> Result<()> {
        let of_key = |(c, bound)| self.partition.iter().position(|p| *p == c).map(|k| (k, bound));
        let Some((key, bound)) = cx.time.forgettable(0).find_map(of_key) else { return Ok(()) };
        let gone = self.slots.expired(key, bound)?;
        for slot in &gone {
            let p = std::mem::take(&mut self.partitions[*slot as usize]);
            self.live -= p.rows.len();
            for (key, _) in p.rows {
                self.key_bytes -= key.len();
                self.dirty.insert(key);
            }
        }
        self.slots.remove(&gone)
    }

    fn to_batch(&self, keys: &[Key], weights: Vec<i64>) -> Result<RecordBatch> {
        let mut columns = self.decode(keys.iter())?;
        columns.push(Arc::new(Int64Array::from(weights)));
        RecordBatch::try_new(crate::zset::weighted_schema(&self.plain), columns).e()
    }
}

/// Difference of two windows by row.
fn by_row(old: &[Shown], new: &[Shown], changes: &mut Vec<Change>) {
    let (mut o, mut n) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (o.peek(), n.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => a.0.cmp(&b.0),
        };
        let before = if order.is_le() { o.next() } else { None };
        let after = if order.is_ge() { n.next() } else { None };
        if let (Some(a), Some(b)) = (before, after)
            && a.2 != b.2
        {
            changes.push((a.0.clone(), -(a.1 as i64), a.2));
            changes.push((b.0.clone(), b.1 as i64, b.2));
            continue;
        }
        let weight = after.map_or(0, |x| x.1 as i64) - before.map_or(0, |x| x.1 as i64);
        if weight != 0
            && let Some((key, _, rank)) = before.or(after)
        {
            changes.push((key.clone(), weight, *rank));
        }
    }
}

/// Difference of two windows by place, the first of which is `first`.
fn by_rank(old: &[Shown], new: &[Shown], first: u64, changes: &mut Vec<Change>) {
    fn each(window: &[Shown]) -> impl Iterator<Item = &Key> {
        window.iter().flat_map(|(k, n, _)| std::iter::repeat_n(k, *n as usize))
    }
    let (mut o, mut n) = (each(old), each(new));
    for rank in first.. {
        match (o.next(), n.next()) {
            (None, None) => return,
            (a, b) if a == b => {}
            (a, b) => {
                changes.extend(a.map(|k| (k.clone(), -1, rank)));
                changes.extend(b.map(|k| (k.clone(), 1, rank)));
            }
        }
    }
}

impl DeltaOp for TopNOp {
    fn push(&mut self, _port: usize, batch: ZBatch, _cx: &mut TickCx<'_>, _out: &mut dyn Emit) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.append_only && !batch.append_only() {
            return Err(Error::internal("retraction in the append-only input of a top-N"));
        }
        if self.partition.is_empty() && self.shard.index != 0 {
            return Err(Error::internal("rows of a top-N without partitions belong on shard 0"));
        }
        let plain = self.plain_columns(batch.rows.columns())?;
        let rows = self.encode(&plain)?;
        let orders = self.order_lengths(&plain)?;
        let slots = self.slots_for(&plain, batch.len())?;
        for (i, slot) in slots.iter().enumerate() {
            let weight = batch.weight(i);
            if weight != 0 {
                let order = orders.as_ref().map_or(0, |o| o.row(i).data().len() as u32);
                self.add(*slot, rows.row(i).data(), order, weight);
            }
        }
        // A key that came with weight zero only has a slot, and no row that would ever take it away.
        for slot in slots {
            let p = &mut self.partitions[slot as usize];
            if !p.touched && p.rows.is_empty() {
                p.touched = true;
                self.touched.push(slot);
            }
        }
        Ok(())
    }

    fn flush(&mut self, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        let touched = std::mem::take(&mut self.touched);
        let mut changes: Vec<Change> = Vec::new();
        for slot in &touched {
            let new = self.window(*slot);
            let p = &mut self.partitions[*slot as usize];
            p.touched = false;
            let old = std::mem::replace(&mut p.window, new);
            if self.rank.is_some() && self.counting == Counting::Rows {
                by_rank(&old, &p.window, self.offset.saturating_add(1), &mut changes);
            } else {
                by_row(&old, &p.window, &mut changes);
            }
            if changes.len() >= cx.chunk_rows {
                self.emit(&std::mem::take(&mut changes), out)?;
            }
        }
        self.emit(&changes, out)?;
        self.remove_empty(&touched)?;
        self.forget(cx)
    }

    fn freeze(&mut self) -> Result<Vec<SlotDelta>> {
        let dirty: Vec<Key> = std::mem::take(&mut self.dirty).into_iter().collect();
        self.frozen += dirty.len();
        let replaces = self.dump_all || (self.frozen > FULL_DUMP_ROWS_MIN && self.frozen > 2 * self.live);
        let mut batches = Vec::new();
        if replaces {
            self.dump_all = false;
            self.frozen = 0;
            let all: Vec<(&Key, i64)> =
                self.partitions.iter().flat_map(|p| &p.rows).map(|(k, held)| (k, held.weight)).collect();
            for piece in all.chunks(FULL_DUMP_ROWS_MIN) {
                let (keys, weights): (Vec<Key>, Vec<i64>) = piece.iter().map(|(k, w)| ((*k).clone(), *w)).unzip();
                batches.push(self.to_batch(&keys, weights)?);
            }
        } else {
            for keys in dirty.chunks(FULL_DUMP_ROWS_MIN) {
                let plain = self.decode(keys.iter())?;
                let slots = self.slots.find(&self.partition_keys(&plain)?, keys.len())?;
                let weight = |(key, slot): (&Key, u32)| match slot {
                    MISSING => 0,
                    slot => self.partitions[slot as usize].rows.get(key).map_or(0, |held| held.weight),
                };
                let weights = keys.iter().zip(slots).map(weight).collect();
                batches.push(self.to_batch(keys, weights)?);
            }
        }
        Ok(vec![SlotDelta { slot: SLOT.into(), replaces, batches }])
    }

    /// Columns: the row, then `__weight`; 0 says that the row is gone. The last of equal rows is in force.
    fn restore(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        if slot != SLOT {
            return Err(Error::internal(format!("a top-N has no state slot \"{slot}\"")));
        }
        let width = self.plain.fields().len();
        let fits = batch.num_columns() == width + 1
            && batch.column(width).data_type() == &DataType::Int64
            && self.plain.fields().iter().zip(batch.columns()).all(|(f, c)| f.data_type() == c.data_type())
            && batch.schema().field(width).name() == WEIGHT_COLUMN;
        if !fits {
            return Err(Error::new(
                SqlState::DATA_CORRUPTED,
                "stored state does not have the columns of this operator",
            ));
        }
        let keys: Vec<ArrayRef> = self.partition.iter().map(|p| batch.column(*p).clone()).collect();
        let own: BooleanArray = if keys.is_empty() {
            vec![self.shard.index == 0; batch.num_rows()].into()
        } else {
            hash_rows(&keys, batch.num_rows()).into_iter().map(|h| Some(self.shard.owns(h))).collect()
        };
        self.dump_all |= own.true_count() < batch.num_rows();
        let batch = arrow::compute::filter_record_batch(batch, &own).e()?;
        self.frozen += batch.num_rows();
        let weights = batch.column(width).as_primitive::<Int64Type>();
        let plain = &batch.columns()[..width];
        let rows = self.encode(plain)?;
        let orders = self.order_lengths(plain)?;
        let slots = self.slots_for(plain, batch.num_rows())?;
        for (i, slot) in slots.iter().enumerate() {
            let bytes = rows.row(i).data();
            let map = &mut self.partitions[*slot as usize].rows;
            if map.remove(bytes).is_some() {
                self.live -= 1;
                self.key_bytes -= bytes.len();
            }
            if weights.value(i) != 0 {
                let order = orders.as_ref().map_or(0, |o| o.row(i).data().len() as u32);
                map.insert(bytes.into(), Held { weight: weights.value(i), order });
                self.live += 1;
                self.key_bytes += bytes.len();
            }
        }
        Ok(())
    }

    fn restored(&mut self) -> Result<()> {
        let slots = self.slots.live_slots();
        for slot in &slots {
            let window = self.window(*slot);
            let p = &mut self.partitions[*slot as usize];
            p.window = window;
            if self.append_only {
                p.total = p.rows.values().map(|held| held.weight.unsigned_abs()).sum();
            }
        }
        self.remove_empty(&slots)
    }

    fn stats(&self) -> StateStats {
        // A map entry: the shared bytes with two counts, a pointer, and the weight, in nodes about two thirds full.
        let bytes = self.key_bytes + self.live * 60 + self.slots.bytes() + self.partitions.len() * 64;
        StateStats { rows: self.live, bytes }
    }
}

#[cfg(test)]
mod tests;
