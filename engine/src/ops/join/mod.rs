//! Joins: inner, outer, semi and anti, with equality keys, a residual condition, both or neither.
//!
//! * Each side is an arrangement by its key columns. What a tick brings is kept until `flush`, so nothing depends on
//!   how it was cut or ordered.
//! * Rows with NULL in a key (unless NULL = NULL here) match nothing: they never enter an index, and those of a
//!   preserved side go straight to the output.
//! * [`stream`]: where nothing was ever retracted, an inner join probes and emits, `dL x R- + L+ x dR`.
//! * [`touched`]: otherwise all keys that changed in the tick are looked at, a slice of them at a time, before and
//!   after the tick. Of equal rows there is one there, so that no pair and no row is emitted twice and the output is
//!   consolidated without having been collected.
//! * [`ranged`]: where the condition compares columns of both sides, rows of one key are in order of such a column, and
//!   only the range that may match is looked at, in the fast path too.
//! * A row has a partner if the weights of the rows it matches sum up to more than zero. Negative multiplicities that
//!   are gone a tick later are thus legal.
//! * A join of arrivals ([`JoinOp::of_arrivals`]) keeps the right side only: what came from the left meets the right side as
//!   it is when the tick is over, and is forgotten.
//! * A side that is a relation with stored rows looks them up in an index that all joins share ([`content`]).
//! * A pair whose residual cannot be evaluated is an error entry and counts as no match.

mod content;
mod items;
mod pairs;
mod ranged;
mod sink;
mod stream;
#[cfg(test)]
mod tests;
mod touched;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use millstream_sql::plan::{JoinKind, SideRange};

use super::eval::OutputSchema;
use super::{DeltaOp, Emit, Shard, SlotDelta, StateStats, TickCx};
use crate::error::{Error, Result, ResultExt as _};
use crate::hash::hash_rows;
use crate::state::arrangement::order::has_codes;
use crate::state::arrangement::{Arrangement, ArrangementSnapshot};
use crate::zset::{Weights, ZBatch};
use content::Content;
use pairs::Residual;
use sink::Sink;

/// Names of the state slots.
const SLOTS: [&str; 2] = ["left", "right"];
/// Small batches are joined into batches of about this many rows.
const COALESCE_ROWS: usize = 64 * 1024;
/// A larger tick is divided by key hash and joined part by part.
const PART_ROWS: usize = 1 << 20;

/// See the module.
pub struct JoinOp {
    kind: JoinKind,
    sides: [Side; 2],
    /// Types in which keys of both sides are compared.
    key_types: Vec<DataType>,
    residual: Option<Residual>,
    output: OutputSchema,
    shard: Shard,
    /// Left rows meet what is there and are forgotten.
    arrivals: bool,
}

/// One input.
struct Side {
    /// Its columns, all nullable.
    columns: OutputSchema,
    key: Vec<usize>,
    content: Content,
    /// Where partners of a row of the other side are.
    range: Option<SideRange>,
    pending: Vec<ZBatch>,
    /// NULL in a key matches nothing.
    null_keys_out: bool,
    /// Rows without a partner are in the output.
    preserved: bool,
}

impl JoinOp {
    /// `on`: (left column, right column) of each equality, none for a cross or theta join. `residual` is compiled for
    /// the left columns followed by the right ones; what it says of ranges of columns is in `ranges`, left and right. Output: the same columns, or the left ones of a semi or anti
    /// join. Rows of both inputs must be in the shard of their key's hash, key columns in the order of `on`; without
    /// keys there can be one shard only.
    #[expect(clippy::too_many_arguments, reason = "the parts of a join, given once, when a plan is compiled")]
    pub fn new(
        kind: JoinKind,
        left: SchemaRef,
        right: SchemaRef,
        on: Vec<(usize, usize)>,
        residual: Option<Arc<dyn PhysicalExpr>>,
        null_equals_null: bool,
        ranges: Option<[SideRange; 2]>,
        output: SchemaRef,
        shard: Shard,
    ) -> Result<Self> {
        let semi = matches!(kind, JoinKind::LeftSemi | JoinKind::LeftAnti);
        let width = left.fields().len() + if semi { 0 } else { right.fields().len() };
        if output.fields().len() != width {
            return Err(Error::internal(format!("join of {width} columns with {} promised", output.fields().len())));
        }
        let key_types = on
            .iter()
            .map(|(l, r)| match (left.fields().get(*l), right.fields().get(*r)) {
                (Some(l), Some(r)) => common_key_type(l.data_type(), r.data_type()),
                _ => Err(Error::internal("join key is not a column of its input")),
            })
            .collect::<Result<Vec<_>>>()?;
        let residual = residual.map(|r| Residual::new(r, &left, &right)).transpose()?;
        let null_keys_out = !null_equals_null && !on.is_empty();
        let side = |schema: SchemaRef, key: Vec<usize>, range: Option<SideRange>, preserved: bool| {
            let columns = OutputSchema::new(schema).permissive();
            let exact = columns.exact().clone();
            let arrangement = match &range {
                Some(range) => Arrangement::ordered(exact, key.clone(), range.column),
                None => Arrangement::new(exact, key.clone()),
            };
            Side {
                columns,
                key,
                content: Content::new(arrangement),
                range,
                pending: Vec::new(),
                null_keys_out,
                preserved,
            }
        };
        if let Some(of) = &ranges
            && !ranges_fit(of, &left, &right)
        {
            return Err(Error::internal("a join over a range of a column that is not there or has no order"));
        }
        let [left_range, right_range] = ranges.map_or([None, None], |ranges| ranges.map(Some));
        let left_preserved = matches!(kind, JoinKind::Left | JoinKind::Full | JoinKind::LeftAnti);
        let right_preserved = matches!(kind, JoinKind::Right | JoinKind::Full);
        let (left_key, right_key) = on.into_iter().unzip();
        Ok(Self {
            kind,
            sides: [
                side(left, left_key, left_range, left_preserved),
                side(right, right_key, right_range, right_preserved),
            ],
            key_types,
            residual,
            output: OutputSchema::new(output),
            shard,
            arrivals: false,
        })
    }

    /// The join of each left row with the right rows that are there when it arrives, whatever becomes of them. Left rows are
    /// never retracted.
    pub fn of_arrivals(self) -> Result<Self> {
        match self.kind {
            JoinKind::Inner | JoinKind::Left => Ok(Self { arrivals: true, ..self }),
            other => Err(Error::internal(format!("a join of arrivals of kind {other:?}"))),
        }
    }

    /// Neither what is stored nor what came has retractions.
    fn append_only(&self) -> bool {
        self.sides.iter().all(|s| s.content.append_only() && s.pending.iter().all(ZBatch::append_only))
    }

    /// Forgets rows that can have no later partner.
    fn forget(&mut self, cx: &TickCx<'_>) -> Result<()> {
        for (port, side) in self.sides.iter_mut().enumerate() {
            // Where NULL equals NULL, rows without a time have partners at any time; rows with one do not.
            if let Some((column, bound)) = cx.time.forgettable(port).max_by_key(|(_, bound)| *bound) {
                side.content.forget(column, bound)?;
            }
        }
        Ok(())
    }

    /// Takes the changes of a side out, in `parts` parts by key hash.
    fn divide(&mut self, side: usize, parts: usize) -> Result<Vec<Vec<ZBatch>>> {
        let side = &mut self.sides[side];
        let pending = std::mem::take(&mut side.pending);
        if parts == 1 {
            return Ok(vec![pending]);
        }
        let mut out = vec![Vec::new(); parts];
        for batch in pending {
            let hashes = hash_rows(&side.keys(&batch.rows), batch.len());
            let mut rows: Vec<Vec<u32>> = vec![Vec::new(); parts];
            hashes.iter().enumerate().for_each(|(i, h)| rows[*h as usize % parts].push(i as u32));
            for (part, rows) in out.iter_mut().zip(rows).filter(|(_, rows)| !rows.is_empty()) {
                part.push(batch.take(&UInt32Array::from(rows)).e()?);
            }
        }
        Ok(out)
    }

    /// A tick with retractions, or of a join that is not inner.
    fn flush_changes(&mut self, cx: &mut TickCx<'_>, sink: &mut Sink<'_>) -> Result<()> {
        let rows: usize = self.sides.iter().flat_map(|s| &s.pending).map(ZBatch::len).sum();
        let parts = if self.key_types.is_empty() { 1 } else { rows.div_ceil(PART_ROWS).max(1) };
        let (left, right) = (self.divide(0, parts)?, self.divide(1, parts)?);
        let mut changes: [Vec<ZBatch>; 2] = [Vec::with_capacity(parts), Vec::with_capacity(parts)];
        for (left, right) in left.into_iter().zip(right) {
            let [l, r] = &self.sides;
            let (left, left_alone) = l.split(l.consolidated(left)?)?;
            let (right, right_alone) = r.split(r.consolidated(right)?)?;
            self.emit_alone(&left_alone, &right_alone, sink)?;
            let inner = self.kind == JoinKind::Inner;
            if inner && right.is_empty() && r.content.append_only() {
                self.stream(0, &left, true, cx, sink)?;
            } else if inner && left.is_empty() && l.content.append_only() {
                self.stream(1, &right, true, cx, sink)?;
            } else {
                self.touched(&left, &right, cx, sink)?;
            }
            changes[0].push(left);
            changes[1].push(right);
        }
        let kept = usize::from(self.arrivals);
        for (side, changes) in self.sides.iter_mut().zip(&changes).skip(kept) {
            side.content.append_all(changes)?;
        }
        Ok(())
    }

    /// Preserved rows that cannot have a partner.
    fn emit_alone(&self, left: &ZBatch, right: &ZBatch, sink: &mut Sink<'_>) -> Result<()> {
        // Nothing but NULL on both sides of a full join gives equal rows.
        let both = !left.is_empty() && !right.is_empty();
        let hold = both && (!left.append_only() || !right.append_only());
        if hold {
            sink.hold();
        }
        for (side, batch) in [left, right].into_iter().enumerate() {
            if !batch.is_empty() {
                let weights = (0..batch.len()).map(|i| batch.weight(i)).collect();
                sink.push(self.without_partner(side, &batch.rows), weights)?;
            }
        }
        if hold { sink.release() } else { Ok(()) }
    }

    /// Output columns for rows of a side that have no partner (or, of a semi join, one).
    fn without_partner(&self, side: usize, rows: &RecordBatch) -> Vec<ArrayRef> {
        if matches!(self.kind, JoinKind::LeftSemi | JoinKind::LeftAnti) {
            return rows.columns().to_vec();
        }
        let other = self.sides[1 - side].columns.exact();
        let nulls = other.fields().iter().map(|f| arrow::array::new_null_array(f.data_type(), rows.num_rows()));
        match side {
            0 => rows.columns().iter().cloned().chain(nulls).collect(),
            _ => nulls.chain(rows.columns().iter().cloned()).collect(),
        }
    }
}

impl Side {
    fn schema(&self) -> &SchemaRef {
        self.columns.exact()
    }

    fn keys(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        self.key.iter().map(|c| rows.column(*c).clone()).collect()
    }

    /// `keys` as the arrangement has them.
    fn probe_keys(&self, keys: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        keys.iter().zip(&self.key).map(|(k, c)| key_as(k, self.schema().field(*c).data_type())).collect()
    }

    fn concat(&self, batches: &[ZBatch]) -> Result<ZBatch> {
        match batches {
            [] => Ok(ZBatch::empty(self.schema().clone())),
            batches => ZBatch::concat(self.schema(), batches).e(),
        }
    }

    fn consolidated(&self, batches: Vec<ZBatch>) -> Result<ZBatch> {
        self.concat(&batches)?.consolidate().e()
    }

    /// (rows that may match, rows that cannot as they have NULL in their key).
    fn split(&self, batch: ZBatch) -> Result<(ZBatch, ZBatch)> {
        match self.valid_keys(&batch.rows) {
            None => Ok((batch, ZBatch::empty(self.schema().clone()))),
            Some(valid) => {
                let valid = BooleanArray::new(valid.into_inner(), None);
                let alone = batch.filter(&compute::not(&valid).e()?).e()?;
                Ok((batch.filter(&valid).e()?, alone))
            }
        }
    }

    /// Rows without NULL in their key, where NULL matters and there is one.
    fn valid_keys(&self, rows: &RecordBatch) -> Option<NullBuffer> {
        if !self.null_keys_out {
            return None;
        }
        let nulls = self
            .key
            .iter()
            .fold(None, |nulls, c| NullBuffer::union(nulls.as_ref(), rows.column(*c).logical_nulls().as_ref()));
        nulls.filter(|n| n.null_count() > 0)
    }

    /// Takes a batch in: our columns, no weight of zero, no row that can have no effect.
    fn push(&mut self, batch: ZBatch) -> Result<()> {
        let rows = if batch.rows.schema_ref() == self.schema() {
            batch.rows.clone()
        } else {
            self.columns.batch(batch.rows.columns().to_vec(), batch.len())?
        };
        let mut batch = batch.with_rows(rows);
        if let Weights::Dense(w) = &batch.weights
            && w.contains(&0)
        {
            let some: BooleanArray = w.iter().map(|w| Some(*w != 0)).collect();
            batch = batch.filter(&some).e()?;
        }
        if !self.preserved
            && let Some(valid) = self.valid_keys(&batch.rows)
        {
            batch = batch.filter(&BooleanArray::new(valid.into_inner(), None)).e()?;
        }
        if !batch.is_empty() {
            self.pending.push(batch);
        }
        Ok(())
    }

    /// Takes the changes out, small batches joined.
    fn take_pending(&mut self) -> Result<Vec<ZBatch>> {
        let pending = std::mem::take(&mut self.pending);
        let mut out = Vec::new();
        let (mut from, mut rows) = (0, 0);
        for (i, batch) in pending.iter().enumerate() {
            rows += batch.len();
            if rows >= COALESCE_ROWS || i + 1 == pending.len() {
                out.push(self.concat(&pending[from..=i])?);
                (from, rows) = (i + 1, 0);
            }
        }
        Ok(out)
    }
}

/// The type in which keys are compared. Planning has made them one type, but for how strings are laid out.
fn common_key_type(l: &DataType, r: &DataType) -> Result<DataType> {
    use DataType::{Binary, BinaryView, LargeBinary, LargeUtf8, Utf8, Utf8View};
    let plain = |t: &DataType| match t {
        DataType::Dictionary(_, v) => v.as_ref().clone(),
        t => t.clone(),
    };
    let (l, r) = (plain(l), plain(r));
    match (&l, &r) {
        _ if l == r => Ok(l),
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View) => Ok(Utf8View),
        (Binary | LargeBinary | BinaryView, Binary | LargeBinary | BinaryView) => Ok(BinaryView),
        _ => Err(Error::internal(format!("join keys of types {l} and {r}"))),
    }
}

/// Ranges over columns that there are, and that can be compared by their codes.
fn ranges_fit([of_left, of_right]: &[SideRange; 2], left: &SchemaRef, right: &SchemaRef) -> bool {
    let there =
        |schema: &SchemaRef, column: usize| schema.fields().get(column).is_some_and(|f| has_codes(f.data_type()));
    let fits = |range: &SideRange, own: &SchemaRef, other: &SchemaRef| {
        let ends = [&range.from, &range.to].into_iter().flatten();
        there(own, range.column) && ends.into_iter().all(|end| there(other, end.column))
    };
    fits(of_left, left, right) && fits(of_right, right, left)
}

fn key_as(key: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if key.data_type() == to {
        return Ok(key.clone());
    }
    let options = compute::CastOptions { safe: false, ..Default::default() };
    compute::cast_with_options(key, to, &options).e()
}

impl DeltaOp for JoinOp {
    fn push(&mut self, port: usize, batch: ZBatch, _cx: &mut TickCx<'_>, _out: &mut dyn Emit) -> Result<()> {
        match self.sides.get_mut(port) {
            Some(side) => side.push(batch),
            None => Err(Error::internal(format!("a join has no input {port}"))),
        }
    }

    fn flush(&mut self, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        if self.arrivals {
            let right = self.sides[1].take_pending()?;
            self.sides[1].content.append_all(&right)?;
        }
        if self.sides.iter().all(|s| s.pending.is_empty()) {
            self.sides.iter_mut().try_for_each(|s| s.content.settle())?;
            return self.forget(cx);
        }
        let output = self.output.clone();
        let mut sink = Sink::new(&output, cx.chunk_rows, out);
        if self.kind == JoinKind::Inner && self.append_only() && !self.arrivals {
            // A side's changes meet the other side as it is by then: first before, then after its own changes.
            for side in 0..2 {
                let batches = self.sides[side].take_pending()?;
                for batch in &batches {
                    self.stream(side, batch, true, cx, &mut sink)?;
                }
                self.sides[side].content.append_all(&batches)?;
            }
        } else if self.sides.iter().all(Side::ranged) {
            self.flush_ranged(cx, &mut sink)?;
        } else {
            self.flush_changes(cx, &mut sink)?;
        }
        sink.finish()?;
        self.sides.iter_mut().try_for_each(|s| s.content.settle())?;
        self.forget(cx)
    }

    fn share(&mut self, port: usize, columns: &[usize]) -> Result<()> {
        match self.sides.get_mut(port) {
            Some(side) if side.range.is_none() && !side.key.is_empty() => {
                side.content.share(&side.key, columns);
                Ok(())
            }
            _ => Err(Error::internal(format!("input {port} of a join has no index that can be shared"))),
        }
    }

    fn rebase(&mut self, port: usize, rows: &ArrangementSnapshot) -> Result<()> {
        match self.sides.get_mut(port) {
            Some(side) => side.content.rebase(rows),
            None => Err(Error::internal(format!("a join has no input {port}"))),
        }
    }

    fn restored(&mut self) -> Result<()> {
        self.sides.iter_mut().try_for_each(|s| s.content.settle())
    }

    fn freeze(&mut self) -> Result<Vec<SlotDelta>> {
        self.sides.iter_mut().zip(SLOTS).map(|(side, slot)| side.content.freeze(slot)).collect()
    }

    fn restore(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        let Some(side) = SLOTS.iter().position(|s| *s == slot) else {
            return Err(Error::internal(format!("a join has no state slot \"{slot}\"")));
        };
        let (shard, keyed) = (self.shard, !self.key_types.is_empty());
        let keep = |hash| if keyed { shard.owns(hash) } else { shard.index == 0 };
        self.sides[side].content.restore(batch, &keep)
    }

    fn maintain(&mut self, fuel: usize) -> Result<bool> {
        let mut more = false;
        for side in &mut self.sides {
            more |= side.content.maintain(fuel.div_ceil(2))?;
        }
        Ok(more)
    }

    fn stats(&self) -> StateStats {
        let mut stats = self.sides[0].content.stats();
        stats += self.sides[1].content.stats();
        stats
    }
}
