//! Runs an operator on several shards, with checkpoints and restarts between ticks, and adds its output up.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::hash::hash_rows;
use crate::ops::{DeltaOp, ErrorSet, OpTime, Shard, SlotDelta, TickCx};
use crate::time::{Epoch, Timestamp};
use crate::zset::ZBatch;

/// A reproducible stream of numbers.
pub(crate) struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }
}

type Maker = Box<dyn Fn(Shard) -> Box<dyn DeltaOp>>;

/// The operator under test.
pub(in crate::ops) struct Rig {
    make: Maker,
    route: Vec<usize>,
    ops: Vec<Box<dyn DeltaOp>>,
    stored: Vec<Vec<SlotDelta>>,
    /// Sum of all output: row as text to weight.
    pub output: BTreeMap<String, i64>,
    pub errors: ErrorSet,
    pub emitted: usize,
    pub chunk_rows: usize,
    /// What operators are told of event time.
    pub time: OpTime,
    /// The clock of the next tick.
    pub clock: i64,
}

impl Rig {
    pub fn new(shards: u32, route: Vec<usize>, make: impl Fn(Shard) -> Box<dyn DeltaOp> + 'static) -> Self {
        let mut rig = Self {
            make: Box::new(make),
            route,
            ops: Vec::new(),
            stored: Vec::new(),
            output: BTreeMap::new(),
            errors: ErrorSet::default(),
            emitted: 0,
            chunk_rows: 8192,
            time: OpTime::default(),
            clock: 0,
        };
        rig.start(shards);
        rig
    }

    fn start(&mut self, shards: u32) {
        self.ops = (0..shards).map(|index| (self.make)(Shard { index, count: shards })).collect();
        self.stored.resize(shards as usize, Vec::new());
    }

    /// One tick over these batches.
    pub fn tick(&mut self, batches: &[ZBatch]) {
        self.tick_ports(&batches.iter().map(|b| (0, b.clone())).collect::<Vec<_>>());
    }

    /// One tick over these batches, each at its port.
    pub fn tick_ports(&mut self, batches: &[(usize, ZBatch)]) {
        let n = self.ops.len() as u32;
        for (index, op) in self.ops.iter_mut().enumerate() {
            let shard = Shard { index: index as u32, count: n };
            let mut out: Vec<ZBatch> = Vec::new();
            let mut cx = TickCx {
                from: Epoch(0),
                to: Epoch(1),
                clock: Timestamp(self.clock),
                errors: &mut self.errors,
                chunk_rows: self.chunk_rows,
                time: &self.time,
            };
            for (port, b) in batches {
                let keys: Vec<_> = self.route.iter().map(|k| b.rows.column(*k).clone()).collect();
                let own: UInt32Array = if keys.is_empty() {
                    (0..b.len() as u32).filter(|_| index == 0).collect()
                } else {
                    let h = hash_rows(&keys, b.len());
                    (0..b.len() as u32).filter(|i| shard.owns(h[*i as usize])).collect()
                };
                op.push(*port, b.take(&own).expect("takes"), &mut cx, &mut out).expect("pushes");
            }
            op.flush(&mut cx, &mut out).expect("flushes");
            for b in out {
                assert!(!b.is_empty());
                self.emitted += b.len();
                for i in 0..b.len() {
                    *self.output.entry(text(&b.rows, i)).or_default() += b.weight(i);
                }
            }
        }
        self.output.retain(|_, w| *w != 0);
    }

    /// What changed since the last freeze, stored nowhere.
    pub fn freeze(&mut self) -> Vec<SlotDelta> {
        self.ops.iter_mut().flat_map(|op| op.freeze().expect("freezes")).collect()
    }

    /// Freezes what changed.
    pub fn checkpoint(&mut self) {
        for (op, stored) in self.ops.iter_mut().zip(&mut self.stored) {
            for d in op.freeze().expect("freezes") {
                if d.replaces {
                    stored.retain(|s| s.slot != d.slot);
                }
                stored.push(d);
            }
        }
    }

    /// Restores the last checkpoint into new operators, maybe more or fewer.
    pub fn restart(&mut self, shards: u32) {
        if self.ops.len() != shards as usize {
            let all: Vec<SlotDelta> = std::mem::take(&mut self.stored).into_iter().flatten().collect();
            self.stored = vec![all; shards as usize];
        }
        self.start(shards);
        for (op, stored) in self.ops.iter_mut().zip(&self.stored) {
            for d in stored {
                for b in &d.batches {
                    op.restore(&d.slot, b).expect("restores");
                }
            }
            op.restored().expect("is restored");
        }
    }

    pub fn state_rows(&self) -> usize {
        self.ops.iter().map(|o| o.stats().rows).sum()
    }
}

/// A row as text that keeps the bits of floats, except that all NaNs are one.
pub(crate) fn text(rows: &RecordBatch, i: usize) -> String {
    let options = FormatOptions::default();
    let cells = rows.columns().iter().map(|c| {
        if c.is_null(i) {
            return "NULL".to_owned();
        }
        match c.data_type() {
            DataType::Float64 => float(c.as_primitive::<Float64Type>().value(i)),
            DataType::Decimal128(..) => c.as_primitive::<Decimal128Type>().value(i).to_string(),
            DataType::Decimal256(..) => c.as_primitive::<Decimal256Type>().value(i).to_string(),
            _ => ArrayFormatter::try_new(c, &options).expect("formats").value(i).to_string(),
        }
    });
    cells.collect::<Vec<_>>().join("|")
}

pub(in crate::ops) fn float(x: f64) -> String {
    if x.is_nan() { "NaN".into() } else { format!("{x:?}") }
}
