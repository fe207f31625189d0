//! Probing: hash all keys, find candidates by equal hash in every run and in the head, compare the real keys as SQL
//! does, gather columns of the matches. Every step works on vectors.
//!
//! A plan holds ranges of candidates, not candidates: a key with a million rows is one entry per run, and the caller
//! expands as much at a time as it wants to hold.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, make_comparator};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{self, SortOptions};
use arrow::datatypes::DataType;
use hashbrown::HashMap;

use super::Matches;
use super::block::{Block, Spec, canonical};
use super::head::{Head, NIL};
use super::order::CodeRanges;
use super::run::Run;
use crate::error::{Error, Result, ResultExt as _};

// A row id is a source (16 bits), a block of it (24) and a row of that (24).
const HEAD: u16 = u16::MAX - 1;
const EXTRA: u16 = u16::MAX;
/// Bits of a row in a block, and of a block in a source.
pub(super) const PART_BITS: u32 = 24;
const PART_MASK: u64 = (1 << PART_BITS) - 1;

fn id(source: u16, block: usize, row: u32) -> u64 {
    u64::from(source) << (2 * PART_BITS) | (block as u64) << PART_BITS | u64::from(row)
}

/// The id of a row of the extra batch given to [`super::Arrangement::gather_with`].
pub fn extra_row(row: u32) -> u64 {
    id(EXTRA, (row >> PART_BITS) as usize, row & PART_MASK as u32)
}

/// What is probed: runs and head of an arrangement or of a snapshot.
pub(super) struct View<'a> {
    pub spec: &'a Spec,
    pub runs: &'a [Arc<Run>],
    pub head: &'a [Arc<Block>],
    /// The owner's index over the head; a snapshot has none and scans the hashes.
    pub index: Option<&'a Head>,
}

/// Candidates: `len` rows from `start` of a source, or a chain of the head from row `start` if `len` is 0.
#[derive(Debug, Clone, Copy)]
struct Range {
    probe: u32,
    source: u16,
    start: u32,
    len: u32,
}

/// Where the rows of some keys may be. Valid until the arrangement is next changed.
#[derive(Debug)]
pub struct ProbePlan {
    keys: Vec<ArrayRef>,
    /// By probe row.
    ranges: Vec<Range>,
    verify: bool,
    /// Codes that rows must have, by probe row.
    within: Option<CodeRanges>,
    /// Next range and the number of its rows (or the next row of a chain) already expanded.
    at: usize,
    done: u32,
}

impl ProbePlan {
    pub(super) fn new(view: &View<'_>, keys: &[ArrayRef], rows: usize, within: Option<CodeRanges>) -> Result<Self> {
        let spec = view.spec;
        if let Some(w) = &within
            && (spec.ord.is_none() || view.index.is_none() || w.from.len() != rows || w.to.len() != rows)
        {
            return Err(Error::internal("a range in an index without order"));
        }
        let some = |probe: usize| within.as_ref().is_none_or(|w| w.from[probe] <= w.to[probe]);
        if keys.len() != spec.key.len() {
            return Err(Error::internal(format!("{} keys for an index of {}", keys.len(), spec.key.len())));
        }
        for (k, c) in keys.iter().zip(&spec.key) {
            let expected = spec.schema.field(*c).data_type();
            if k.data_type() != expected {
                return Err(Error::internal(format!("key of type {} for an index of {expected}", k.data_type())));
            }
        }
        let hashes = spec.hash(keys, rows);
        let mut ranges = Vec::new();
        for (source, run) in view.runs.iter().enumerate() {
            for (probe, hash) in hashes.iter().enumerate().filter(|(probe, _)| some(*probe)) {
                if let Some(mut found) = run.find(*hash) {
                    if let Some(w) = &within {
                        found = run.within(found, w.from[probe], w.to[probe]);
                    }
                    let (start, len) = found;
                    if len > 0 {
                        ranges.push(Range { probe: probe as u32, source: source as u16, start, len });
                    }
                }
            }
        }
        match view.index {
            Some(head) if head.len() > 0 => {
                for (probe, hash) in hashes.iter().enumerate().filter(|(probe, _)| some(*probe)) {
                    let start = head.find(*hash);
                    if start != NIL {
                        ranges.push(Range { probe: probe as u32, source: HEAD, start, len: 0 });
                    }
                }
            }
            Some(_) => {}
            None => scan_head(view.head, &hashes, &mut ranges),
        }
        ranges.sort_by_key(|r| r.probe);
        // A bijective hash proves equality by itself, but for the one value that hashes as NULL does.
        let verify = !(spec.key.is_empty() || spec.injective && !hashes.contains(&spec.null_hash));
        let keys = if verify { keys.iter().map(canonical).collect::<Result<_>>()? } else { Vec::new() };
        Ok(Self { keys, ranges, verify, within, at: 0, done: 0 })
    }
    /// Number of candidates of each of `rows` probe rows.
    pub(super) fn counts(&self, view: &View<'_>, rows: usize) -> Vec<usize> {
        let mut counts = vec![0; rows];
        for r in &self.ranges {
            counts[r.probe as usize] += match (r.len, view.index) {
                (0, Some(head)) => {
                    let mut n = 0;
                    let mut row = r.start;
                    while row != NIL {
                        n += 1;
                        row = head.older(row);
                    }
                    n
                }
                (len, _) => len as usize,
            };
        }
        counts
    }
    /// The next matches with probe rows before `end`, from at most `limit` candidates; `None` when there are no more.
    /// Probe rows ascend over all calls.
    pub(super) fn next(&mut self, view: &View<'_>, end: u32, limit: usize) -> Result<Option<Matches>> {
        let starts: Vec<u32> = head_starts(view.head);
        let mut out = Matches::default();
        let inside = |probe: u32, row: u32| match (&self.within, view.index) {
            (Some(w), Some(head)) => {
                let code = head.ords[row as usize];
                w.from[probe as usize] <= code && code <= w.to[probe as usize]
            }
            _ => true,
        };
        while out.row.len() < limit.max(1) {
            let Some(r) = self.ranges.get(self.at).copied().filter(|r| r.probe < end) else { break };
            let room = limit.max(1) - out.row.len();
            if r.source == HEAD {
                let (mut row, mut n) =
                    if r.len == 0 { (if self.done == 0 { r.start } else { self.done - 1 }, 0) } else { (r.start, 0) };
                while row != NIL && n < room {
                    if inside(r.probe, row) {
                        let block = starts.partition_point(|s| *s <= row) - 1;
                        out.push(r.probe, id(HEAD, block, row - starts[block]));
                        n += 1;
                    }
                    row = match view.index {
                        Some(head) if r.len == 0 => head.older(row),
                        _ => NIL,
                    };
                }
                if row == NIL {
                    self.at += 1;
                    self.done = 0;
                } else {
                    self.done = row + 1;
                }
                continue;
            }
            let run = &view.runs[r.source as usize];
            let n = room.min((r.len - self.done) as usize) as u32;
            let (mut block, mut row) = run.locate(r.start + self.done);
            for _ in 0..n {
                if row as usize == run.blocks[block].len() {
                    (block, row) = (block + 1, 0);
                }
                out.push(r.probe, id(r.source, block, row));
                row += 1;
            }
            self.done += n;
            if self.done == r.len {
                self.at += 1;
                self.done = 0;
            }
        }
        if out.row.is_empty() {
            return Ok(None);
        }
        if self.verify {
            self.keep_equal(view, &mut out)?;
        }
        out.weight = out.row.iter().map(|r| view.weight(*r)).collect();
        Ok(Some(out))
    }
    fn keep_equal(&self, view: &View<'_>, m: &mut Matches) -> Result<()> {
        let probe = UInt32Array::from(m.probe.clone());
        let stored = view.gather(&m.row, &view.spec.key, None)?;
        let mut equal: Option<BooleanBuffer> = None;
        for (key, stored) in self.keys.iter().zip(&stored) {
            let key = compute::take(key.as_ref(), &probe, None).e()?;
            let same = equal_values(&key, &canonical(stored)?)?;
            equal = Some(match equal {
                None => same,
                Some(e) => &e & &same,
            });
        }
        if let Some(equal) = equal.filter(|e| e.count_set_bits() < e.len()) {
            m.probe = equal.set_indices().map(|i| m.probe[i]).collect();
            m.row = equal.set_indices().map(|i| m.row[i]).collect();
        }
        Ok(())
    }
}

impl Matches {
    fn push(&mut self, probe: u32, row: u64) {
        self.probe.push(probe);
        self.row.push(row);
    }
}

fn head_starts(blocks: &[Arc<Block>]) -> Vec<u32> {
    let mut next = 0;
    blocks
        .iter()
        .map(|b| {
            let start = next;
            next += b.len() as u32;
            start
        })
        .collect()
}

/// Candidates in a head without index: one pass over its hashes, whatever the number of keys.
fn scan_head(blocks: &[Arc<Block>], hashes: &[u64], ranges: &mut Vec<Range>) {
    if blocks.is_empty() || hashes.is_empty() {
        return;
    }
    let mut probes: HashMap<u64, Vec<u32>> = HashMap::with_capacity(hashes.len());
    for (probe, hash) in hashes.iter().enumerate() {
        probes.entry(*hash).or_default().push(probe as u32);
    }
    let only = if probes.len() == 1 { hashes.first().copied() } else { None };
    let mut start = 0;
    for block in blocks {
        for (i, hash) in block.hashes.iter().enumerate() {
            if only.is_some_and(|o| o != *hash) {
                continue;
            }
            for probe in probes.get(hash).into_iter().flatten() {
                ranges.push(Range { probe: *probe, source: HEAD, start: start + i as u32, len: 1 });
            }
        }
        start += block.len() as u32;
    }
}

/// Row by row `a IS NOT DISTINCT FROM b` of canonical values.
fn equal_values(a: &ArrayRef, b: &ArrayRef) -> Result<BooleanBuffer> {
    let t = a.data_type();
    if !t.is_nested() && !matches!(t, DataType::Null | DataType::RunEndEncoded(..)) {
        let equal: BooleanArray = compute::kernels::cmp::not_distinct(a, b).e()?;
        return Ok(equal.values().clone());
    }
    Ok(match make_comparator(a.as_ref(), b.as_ref(), SortOptions::default()) {
        Ok(compare) => BooleanBuffer::collect_bool(a.len(), |i| compare(i, i).is_eq()),
        // Types without an order, such as maps.
        Err(_) => BooleanBuffer::collect_bool(a.len(), |i| a.slice(i, 1).to_data() == b.slice(i, 1).to_data()),
    })
}

impl View<'_> {
    fn block(&self, row: u64) -> &Block {
        let block = (row >> PART_BITS & PART_MASK) as usize;
        match (row >> (2 * PART_BITS)) as u16 {
            HEAD => &self.head[block],
            source => &self.runs[source as usize].blocks[block],
        }
    }
    pub fn weight(&self, row: u64) -> i64 {
        self.block(row).weights.get((row & PART_MASK) as usize)
    }
    /// Columns of rows; ids from [`extra_row`] refer to `extra`.
    pub fn gather(&self, rows: &[u64], columns: &[usize], extra: Option<&RecordBatch>) -> Result<Vec<ArrayRef>> {
        if rows.is_empty() {
            let empty = |c: &usize| arrow::array::new_empty_array(self.spec.schema.field(*c).data_type());
            return Ok(columns.iter().map(empty).collect());
        }
        let mut batches: Vec<&RecordBatch> = Vec::new();
        let mut known: HashMap<u64, usize> = HashMap::new();
        let mut last = (u64::MAX, 0);
        let mut at = Vec::with_capacity(rows.len());
        for row in rows {
            let of_extra = (row >> (2 * PART_BITS)) as u16 == EXTRA;
            let part = if of_extra { u64::MAX - 1 } else { row >> PART_BITS };
            if part != last.0 {
                let batch = match extra {
                    Some(extra) if of_extra => extra,
                    None if of_extra => return Err(Error::internal("row id of an extra batch without one")),
                    _ => &self.block(*row).rows,
                };
                let n = *known.entry(part).or_insert_with(|| {
                    batches.push(batch);
                    batches.len() - 1
                });
                last = (part, n);
            }
            let row = if of_extra { row & ((1 << (2 * PART_BITS)) - 1) } else { row & PART_MASK };
            at.push((last.1, row as usize));
        }
        columns
            .iter()
            .map(|c| {
                let arrays: Vec<&dyn Array> = batches.iter().map(|b| b.column(*c).as_ref()).collect();
                compute::interleave(&arrays, &at).e()
            })
            .collect()
    }
}
