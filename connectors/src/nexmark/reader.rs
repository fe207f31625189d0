//! Reads splits of the generator: flat out, or as events fall due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::DataType;
use async_trait::async_trait;

use super::batch::{self, Slice};
use super::generator::{Kind, Tables};
use super::{Clock, Layout, Metadata};
use crate::{Position, Result, SourceChunk, SourceEvent, SourceReader, SplitId};

/// The timer does not resolve less; it also keeps a fast rate from giving one batch per event.
const MIN_NAP: Duration = Duration::from_millis(1);

/// Events fall due by this rate since the reader was opened.
#[derive(Clone)]
pub(super) struct Pace {
    pub rate: f64,
    pub clock: Clock,
    pub opened: Duration,
}

/// Where a split is.
pub(super) struct Split {
    id: SplitId,
    index: u64,
    from: u64,
    at: u64,
    end: Option<u64>,
}

impl Split {
    pub(super) fn new(id: SplitId, index: u64, at: u64, end: Option<u64>) -> Self {
        Self { id, index, from: at, at, end }
    }

    fn done(&self) -> bool {
        self.end.is_some_and(|end| self.at >= end)
    }
}

/// Some splits of the generator.
pub(super) struct Reader {
    pub tables: Arc<Tables>,
    pub kind: Kind,
    pub of: u64,
    pub layout: Layout,
    pub splits: Vec<Split>,
    pub next: usize,
    pub pace: Option<Pace>,
    pub furthest: Option<Arc<AtomicU64>>,
}

impl Reader {
    /// The next chunk that is due, or else how long until one is (`None`: never).
    fn step(&mut self, rows_max: usize) -> Result<SourceChunk, Option<Duration>> {
        let passed = self.pace.as_ref().map(|p| (p.rate, (p.clock)().saturating_sub(p.opened)));
        let mut nap: Option<Duration> = None;
        for _ in 0..self.splits.len() {
            let i = self.next;
            self.next = (self.next + 1) % self.splits.len();
            let split = &self.splits[i];
            if split.done() {
                continue;
            }
            let slice = Slice { kind: self.kind, split: split.index, splits: self.of };
            let first = slice.next_event(split.at);
            if split.end.is_some_and(|end| first >= end) {
                // Nothing of this kind is left before the end: only the position moves.
                let end = split.end.unwrap_or(first);
                return Ok(self.chunk(i, slice, end));
            }
            let mut limit = split.end.unwrap_or(u64::MAX);
            if let Some((rate, passed)) = passed {
                let due = split.from.saturating_add((passed.as_secs_f64() * rate) as u64);
                if first >= due {
                    let at = Duration::try_from_secs_f64((first + 1 - split.from) as f64 / rate);
                    let wait = at.unwrap_or(Duration::MAX).saturating_sub(passed);
                    nap = Some(nap.map_or(wait, |n| n.min(wait)));
                    continue;
                }
                limit = limit.min(due);
            }
            let to = slice.advance(split.at, rows_max).min(limit);
            return Ok(self.chunk(i, slice, to));
        }
        Err(nap)
    }

    fn chunk(&mut self, i: usize, slice: Slice, to: u64) -> SourceChunk {
        let split = &mut self.splits[i];
        let numbers = self.layout.metadata.contains(&Metadata::Offset);
        let (mut arrays, numbers, rows) =
            batch::generate(&self.tables, slice, split.at, to, &self.layout.projection, numbers);
        let types = &self.layout.schema.fields()[arrays.len()..];
        for (metadata, field) in self.layout.metadata.iter().zip(types) {
            arrays.push(match metadata {
                Metadata::Offset => {
                    integers(field.data_type(), numbers.iter().flat_map(|n| n.values().iter().copied()))
                }
                Metadata::Partition => integers(field.data_type(), std::iter::repeat_n(split.index as i64, rows)),
            });
        }
        let rows: RecordBatch = batch::record_batch(Arc::clone(&self.layout.schema), arrays, rows);
        split.at = to;
        if let Some(furthest) = &self.furthest {
            furthest.fetch_max(to, Ordering::Relaxed);
        }
        let bytes = rows.get_array_memory_size();
        SourceChunk { split: Arc::clone(&split.id), end: Position(to), rows, bad: Vec::new(), bytes }
    }
}

fn integers(data_type: &DataType, values: impl Iterator<Item = i64>) -> ArrayRef {
    match data_type {
        DataType::Int32 => Arc::new(Int32Array::from_iter_values(values.map(|v| v as i32))),
        _ => Arc::new(Int64Array::from_iter_values(values)),
    }
}

#[async_trait]
impl SourceReader for Reader {
    async fn poll(&mut self, rows_max: usize, wait: Duration) -> Result<SourceEvent> {
        // Flat out there is always a next chunk: other tasks of this thread must get their turn.
        tokio::task::yield_now().await;
        match self.step(rows_max) {
            Ok(chunk) => return Ok(SourceEvent::Chunk(chunk)),
            Err(None) => return Ok(SourceEvent::End),
            Err(Some(nap)) => tokio::time::sleep(nap.max(MIN_NAP).min(wait)).await,
        }
        Ok(match self.step(rows_max) {
            Ok(chunk) => SourceEvent::Chunk(chunk),
            Err(_) => SourceEvent::Idle,
        })
    }
}
