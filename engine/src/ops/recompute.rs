//! Operators without a delta rule: run DataFusion again over what changed and emit the difference.
//!
//! The operator keeps the integral of every input and its last output. *Keyed*: the fragment computes every group by
//! itself (`OVER (PARTITION BY k)`, a grouped aggregate function of DataFusion's), so only groups with changed rows are
//! gathered and computed. *Full*: everything is computed anew, on shard 0.
//!
//! Rows go into the plan sorted by their content: what is left open by SQL (ties, order of float sums, `array_agg`)
//! then depends on the rows alone, and an unchanged group gives an unchanged result. An error of the plan (division by
//! zero, a scalar subquery with two rows) is an error of the groups that cause it: they have no output and one entry in
//! the error set, until a change heals them. Groups whose key is behind the watermark are forgotten, with their rows.

mod cached;
mod keys;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::OwnedRow;
use datafusion::execution::SessionState;
use millstream_sql::plan::time::micros_array;
use millstream_sql::plan::{RecomputeKeys, StoredPlan};

pub(crate) use cached::{CachedPlan, concat};
use keys::{KeyCodec, KeySet};

use super::eval::{OutputSchema, RowText, bisect, emit_chunked, is_of_data};
use super::{DeltaOp, Emit, ErrorSet, Shard, SlotDelta, StateStats, TickCx};
use crate::error::{Error, Result, ResultExt as _};
use crate::hash::hash_rows;
use crate::state::arrangement::Arrangement;
use crate::zset::{Weights, ZBatch};

/// Groups computed by one run of the plan.
const GROUPS_PER_RUN: usize = 4096;
const INPUT_SLOTS: [&str; 16] = [
    "in0", "in1", "in2", "in3", "in4", "in5", "in6", "in7", "in8", "in9", "in10", "in11", "in12", "in13", "in14",
    "in15",
];
const OUTPUT_SLOT: &str = "out";
const ERROR_SLOT: &str = "err";

/// See the module.
pub struct RecomputeOp {
    plan: CachedPlan,
    inputs: Vec<Input>,
    output: OutputSchema,
    /// The last output; by key, or by the whole row.
    last: Arrangement,
    groups: Option<Groups>,
    shard: Shard,
    /// Rows came since the last flush, or there was none yet.
    dirty: bool,
    /// Groups that have no output because of an error. Full recompute is one group.
    failing: BTreeMap<Option<OwnedRow>, Failure>,
    failing_changed: bool,
    /// No failing group that could be forgotten has an older key.
    oldest_failing: i64,
}

/// One input port.
struct Input {
    schema: OutputSchema,
    /// Everything that came, by key or by the whole row.
    integral: Arrangement,
    key: Vec<usize>,
    key_types: Vec<DataType>,
    /// Orders rows by content.
    order: KeyCodec,
}

/// What a keyed recompute knows of its groups.
struct Groups {
    codec: KeyCodec,
    touched: KeySet,
    output_key: Vec<usize>,
    output_key_types: Vec<DataType>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    code: String,
    message: String,
    row: String,
}

impl RecomputeOp {
    /// `plan` reads its inputs, of these columns, as tables `t0, t1, ..`; with `keys` it computes every group by itself.
    pub fn new(
        state: &SessionState,
        plan: &StoredPlan,
        inputs: Vec<SchemaRef>,
        keys: Option<RecomputeKeys>,
        output: SchemaRef,
        shard: Shard,
    ) -> Result<Self> {
        let keys = keys.filter(|k| !k.output.is_empty());
        if inputs.len() > INPUT_SLOTS.len() {
            return Err(Error::unsupported(format!("a recomputed fragment with {} inputs", inputs.len())));
        }
        if keys
            .as_ref()
            .is_some_and(|k| k.inputs.len() != inputs.len() || k.inputs.iter().any(|i| i.len() != k.output.len()))
        {
            return Err(Error::internal("a recomputed fragment needs the same key in every input"));
        }
        let cached = CachedPlan::new(state, &plan.logical, inputs.len())?;
        if cached.schema().fields().len() != output.fields().len() {
            return Err(Error::internal("the stored plan's columns are not the operator's"));
        }
        let output = OutputSchema::new(output);
        let types = |schema: &Schema, columns: &[usize]| -> Vec<DataType> {
            columns.iter().map(|c| schema.field(*c).data_type().clone()).collect()
        };
        let all = |schema: &Schema| (0..schema.fields().len()).collect::<Vec<_>>();
        let inputs = inputs
            .iter()
            .enumerate()
            .map(|(port, schema)| {
                let key = keys.as_ref().map_or_else(|| all(schema), |k| k.inputs[port].clone());
                let permissive = OutputSchema::new(Arc::clone(schema)).permissive();
                Ok(Input {
                    integral: Arrangement::new(Arc::clone(permissive.exact()), key.clone()),
                    key_types: types(schema, &key),
                    order: KeyCodec::new(types(schema, &all(schema)))?,
                    schema: permissive,
                    key,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let groups = match (&keys, inputs.first()) {
            (Some(k), Some(first)) => {
                let codec = KeyCodec::new(first.key_types.clone())?;
                Some(Groups {
                    touched: KeySet::new(&codec),
                    codec,
                    output_key: k.output.clone(),
                    output_key_types: types(output.exact(), &k.output),
                })
            }
            _ => None,
        };
        let permissive = output.permissive();
        let last_key = groups.as_ref().map_or_else(|| all(output.exact()), |g| g.output_key.clone());
        Ok(Self {
            plan: cached,
            inputs,
            last: Arrangement::new(Arc::clone(permissive.exact()), last_key),
            output,
            groups,
            shard,
            dirty: true,
            failing: BTreeMap::new(),
            failing_changed: false,
            oldest_failing: i64::MIN,
        })
    }

    /// True if this instance has no work: a full recompute is done on shard 0.
    fn idle(&self) -> bool {
        self.groups.is_none() && self.shard.index != 0
    }

    /// Takes the entry of a group out of the error set, if it has one.
    fn heal(&mut self, group: &Option<OwnedRow>, errors: &mut ErrorSet) {
        if let Some(f) = self.failing.remove(group) {
            errors.add(&f.code, &f.message, &f.row, -1);
            self.failing_changed = true;
        }
    }

    fn fail(&mut self, group: Option<OwnedRow>, error: Error, row: String, errors: &mut ErrorSet) {
        errors.add(error.code.0, &error.message, &row, 1);
        let f = Failure { code: error.code.0.to_owned(), message: error.message, row };
        self.failing.insert(group, f);
        self.failing_changed = true;
        self.oldest_failing = i64::MIN;
    }

    /// The difference between the new output and the stored one; it is stored and emitted.
    fn publish(&mut self, new: ZBatch, old: &ZBatch, cx: &TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        let schema = self.output.permissive();
        let diff = ZBatch::concat(schema.exact(), &[new, old.negate()]).e()?.consolidate().e()?;
        if diff.is_empty() {
            return Ok(());
        }
        self.last.append(&diff)?;
        let rows = self.output.batch(diff.rows.columns().to_vec(), diff.len())?;
        emit_chunked(diff.with_rows(rows), cx.chunk_rows, out)
    }

    fn flush_full(&mut self, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        let mut inputs = Vec::with_capacity(self.inputs.len());
        let mut failed = None;
        for input in &self.inputs {
            match input.all_rows() {
                Ok(rows) => inputs.push(rows),
                Err(e) => failed = Some(e),
            }
        }
        let result = match failed {
            None => compute(&mut self.plan, &self.output, &inputs),
            Some(e) => Err(e),
        };
        self.heal(&None, cx.errors);
        let new = match result {
            Ok(new) => new,
            Err(e) if is_of_data(&e) => {
                self.fail(None, e, String::new(), cx.errors);
                ZBatch::empty(Arc::clone(self.output.permissive().exact()))
            }
            Err(e) => return Err(e),
        };
        let schema = self.output.permissive();
        let old = ZBatch::concat(schema.exact(), &self.last.snapshot().scan()?).e()?;
        self.publish(new, &old, cx, out)
    }

    fn flush_groups(&mut self, groups: &mut Groups, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        for first in (0..groups.touched.len()).step_by(GROUPS_PER_RUN) {
            let count = GROUPS_PER_RUN.min(groups.touched.len() - first);
            let keys = groups.codec.decode((first..first + count).map(|i| groups.touched.row(i)))?;
            if !self.failing.is_empty() {
                for i in first..first + count {
                    self.heal(&Some(groups.touched.owned(i)), cx.errors);
                }
            }
            let mut bad = Vec::new();
            let new = match self.compute_groups(&keys) {
                Ok(new) => new,
                Err(e) => {
                    bisect(count, e, &mut bad, &mut |offset, length| {
                        let part: Vec<ArrayRef> = keys.iter().map(|k| k.slice(offset, length)).collect();
                        self.compute_groups(&part).map(drop)
                    })?;
                    let mut next = bad.iter().map(|(i, _)| *i as u32).peekable();
                    let good: UInt32Array = (0..count as u32).filter(|i| next.next_if_eq(i).is_none()).collect();
                    let good = keys.iter().map(|k| compute::take(k, &good, None)).collect::<Result<Vec<_>, _>>().e()?;
                    self.compute_groups(&good)?
                }
            };
            if !bad.is_empty() {
                let text = RowText::of_columns(&keys)?;
                for (i, e) in bad {
                    self.fail(Some(groups.touched.owned(first + i)), e, text.row(i), cx.errors);
                }
            }
            let old = gather(&self.last, &self.output.permissive(), &cast_all(&keys, &groups.output_key_types)?)?;
            self.publish(new, &old, cx, out)?;
        }
        groups.touched.clear();
        Ok(())
    }

    /// The output of these groups, from the integrals.
    fn compute_groups(&mut self, keys: &[ArrayRef]) -> Result<ZBatch> {
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let rows = gather(&input.integral, &input.schema, &cast_all(keys, &input.key_types)?)?;
            inputs.push(input.ordered(rows)?);
        }
        if inputs.iter().all(|i| i.num_rows() == 0) {
            return Ok(ZBatch::empty(Arc::clone(self.output.permissive().exact())));
        }
        compute(&mut self.plan, &self.output, &inputs)
    }

    /// Forgets groups that no later row is in. What failed of them stays an error of the view.
    fn forget(&mut self, cx: &TickCx<'_>) -> Result<()> {
        let Some(groups) = &self.groups else { return Ok(()) };
        for (port, input) in self.inputs.iter_mut().enumerate() {
            if let Some((column, bound)) = bound_of_key(cx, port, &input.key) {
                input.integral.forget(input.key[column], bound)?;
            }
        }
        let Some((key, bound)) = self.inputs.first().and_then(|i| bound_of_key(cx, 0, &i.key)) else { return Ok(()) };
        self.last.forget(groups.output_key[key], bound)?;
        if self.failing.is_empty() || bound <= self.oldest_failing {
            return Ok(());
        }
        let failing = groups.codec.decode(self.failing.keys().flatten().map(OwnedRow::row))?;
        let Some(times) = failing.get(key).and_then(micros_array) else { return Ok(()) };
        self.oldest_failing = times.iter().flatten().filter(|t| *t >= bound).min().unwrap_or(i64::MAX);
        let mut times = times.iter();
        let before = self.failing.len();
        self.failing.retain(|_, _| times.next().flatten().is_none_or(|t| t >= bound));
        self.failing_changed |= self.failing.len() < before;
        Ok(())
    }

    fn freeze_failing(&mut self) -> Result<Option<SlotDelta>> {
        if !self.failing_changed {
            return Ok(None);
        }
        self.failing_changed = false;
        let mut fields = Vec::new();
        let mut columns = Vec::new();
        if let Some(g) = &self.groups {
            columns = g.codec.decode(self.failing.keys().flatten().map(OwnedRow::row))?;
            fields
                .extend(g.codec.types().iter().enumerate().map(|(i, t)| Field::new(format!("k{i}"), t.clone(), true)));
        }
        let text = |f: fn(&Failure) -> &str| -> ArrayRef {
            Arc::new(self.failing.values().map(|v| Some(f(v))).collect::<StringArray>())
        };
        columns.extend([text(|f| &f.code), text(|f| &f.message), text(|f| &f.row)]);
        fields.extend(["code", "message", "row"].map(|n| Field::new(n, DataType::Utf8, false)));
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).e()?;
        Ok(Some(SlotDelta { slot: ERROR_SLOT.into(), replaces: true, batches: vec![batch] }))
    }

    fn restore_failing(&mut self, batch: &RecordBatch) -> Result<()> {
        let keys = self.groups.as_ref().map_or(0, |g| g.codec.types().len());
        let texts: Option<Vec<&StringArray>> =
            batch.columns().iter().skip(keys).map(|c| c.as_string_opt::<i32>()).collect();
        let Some([code, message, row]) = texts.as_deref() else {
            return Err(Error::internal("stored errors of a recomputed fragment have other columns"));
        };
        let failure = |i: usize| Failure {
            code: code.value(i).to_owned(),
            message: message.value(i).to_owned(),
            row: row.value(i).to_owned(),
        };
        match &self.groups {
            Some(g) => {
                let columns = &batch.columns()[..keys];
                let rows = g.codec.encode(columns)?;
                let hashes = hash_rows(columns, batch.num_rows());
                for i in (0..batch.num_rows()).filter(|i| self.shard.owns(hashes[*i])) {
                    self.failing.insert(Some(rows.row(i).owned()), failure(i));
                }
            }
            None if self.idle() => {}
            None => self.failing.extend((0..batch.num_rows()).map(|i| (None, failure(i)))),
        }
        Ok(())
    }
}

/// The key column, by its number in the key, by which rows of an input can be forgotten best, and up to where.
fn bound_of_key(cx: &TickCx<'_>, port: usize, key: &[usize]) -> Option<(usize, i64)> {
    let of_key = |(column, bound)| key.iter().position(|k| *k == column).map(|k| (k, bound));
    cx.time.forgettable(port).filter_map(of_key).max_by_key(|(_, bound)| *bound)
}

impl Input {
    /// Everything, repeated by weight and ordered by content.
    fn all_rows(&self) -> Result<RecordBatch> {
        let all = ZBatch::concat(self.schema.exact(), &self.integral.snapshot().scan()?).e()?;
        self.ordered(all)
    }

    fn ordered(&self, rows: ZBatch) -> Result<RecordBatch> {
        let rows = rows.expand().e()?;
        let keys = self.order.encode_bitwise(rows.columns())?;
        let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
        order.sort_unstable_by(|a, b| keys.row(*a as usize).cmp(&keys.row(*b as usize)));
        compute::take_record_batch(&rows, &UInt32Array::from(order)).e()
    }
}

/// Rows of these groups, consolidated.
fn gather(from: &Arrangement, schema: &OutputSchema, keys: &[ArrayRef]) -> Result<ZBatch> {
    let found = from.probe(keys)?;
    let columns: Vec<usize> = (0..schema.exact().fields().len()).collect();
    let rows = schema.batch(from.gather(&found.row, &columns)?, found.row.len())?;
    ZBatch::new(rows, Weights::Dense(found.weight.into())).consolidate().e()
}

fn cast_all(keys: &[ArrayRef], types: &[DataType]) -> Result<Vec<ArrayRef>> {
    keys.iter()
        .zip(types)
        .map(|(k, t)| if k.data_type() == t { Ok(Arc::clone(k)) } else { compute::cast(k, t).e() })
        .collect()
}

/// Runs the plan; every row of the result counts once.
fn compute(plan: &mut CachedPlan, output: &OutputSchema, inputs: &[RecordBatch]) -> Result<ZBatch> {
    let result = plan.run(inputs)?;
    let rows = concat(&plan.schema(), &result)?;
    let n = rows.num_rows();
    Ok(ZBatch::inserts(output.permissive().batch(rows.columns().to_vec(), n)?))
}

impl DeltaOp for RecomputeOp {
    fn push(&mut self, port: usize, batch: ZBatch, _cx: &mut TickCx<'_>, _out: &mut dyn Emit) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.idle() {
            return Err(Error::internal("rows of a full recompute came to a shard other than 0"));
        }
        let Some(input) = self.inputs.get_mut(port) else {
            return Err(Error::internal(format!("a recomputed fragment has no input {port}")));
        };
        let rows = input.schema.batch(batch.rows.columns().to_vec(), batch.len())?;
        if let Some(g) = &mut self.groups {
            let keys: Vec<ArrayRef> = input.key.iter().map(|c| Arc::clone(rows.column(*c))).collect();
            g.touched.insert(&g.codec, &keys)?;
        }
        input.integral.append(&batch.with_rows(rows))?;
        self.dirty = true;
        Ok(())
    }

    fn flush(&mut self, cx: &mut TickCx<'_>, out: &mut dyn Emit) -> Result<()> {
        if self.idle() {
            return Ok(());
        }
        if !self.dirty {
            return self.forget(cx);
        }
        match self.groups.take() {
            None => self.flush_full(cx, out)?,
            Some(mut groups) => {
                let result = self.flush_groups(&mut groups, cx, out);
                self.groups = Some(groups);
                result?;
            }
        }
        self.dirty = false;
        self.forget(cx)
    }

    fn freeze(&mut self) -> Result<Vec<SlotDelta>> {
        if self.idle() {
            return Ok(Vec::new());
        }
        let mut slots = Vec::with_capacity(self.inputs.len() + 2);
        for (input, slot) in self.inputs.iter_mut().zip(INPUT_SLOTS) {
            slots.push(input.integral.freeze(slot)?);
        }
        slots.push(self.last.freeze(OUTPUT_SLOT)?);
        slots.extend(self.freeze_failing()?);
        Ok(slots)
    }

    fn restore(&mut self, slot: &str, batch: &RecordBatch) -> Result<()> {
        let (shard, keyed) = (self.shard, self.groups.is_some());
        let keep = move |hash: u64| if keyed { shard.owns(hash) } else { shard.index == 0 };
        if slot == ERROR_SLOT {
            return self.restore_failing(batch);
        }
        if slot == OUTPUT_SLOT {
            return self.last.restore(batch, &keep);
        }
        match INPUT_SLOTS.iter().position(|s| *s == slot).and_then(|port| self.inputs.get_mut(port)) {
            Some(input) => input.integral.restore(batch, &keep),
            None => Err(Error::internal(format!("a recomputed fragment has no state slot \"{slot}\""))),
        }
    }

    fn maintain(&mut self, fuel: usize) -> Result<bool> {
        let mut more = self.last.maintain(fuel)?;
        for input in &mut self.inputs {
            more |= input.integral.maintain(fuel)?;
        }
        Ok(more)
    }

    fn stats(&self) -> StateStats {
        let mut all = self.last.stats();
        for input in &self.inputs {
            all += input.integral.stats();
        }
        all
    }
}

#[cfg(test)]
mod tests;
