//! The way out of a join: batches of a sensible size, however many rows each step gave.

use arrow::array::ArrayRef;

use super::super::Emit;
use super::super::eval::{OutputSchema, emit_chunked};
use crate::error::{Result, ResultExt as _};
use crate::zset::{Weights, ZBatch};

pub(super) struct Sink<'a> {
    output: &'a OutputSchema,
    chunk_rows: usize,
    out: &'a mut dyn Emit,
    /// Too few rows to be worth a batch.
    waiting: Vec<ZBatch>,
    rows: usize,
    /// Emit nothing, but collect and consolidate.
    held: bool,
}

impl<'a> Sink<'a> {
    pub fn new(output: &'a OutputSchema, chunk_rows: usize, out: &'a mut dyn Emit) -> Self {
        Self { output, chunk_rows: chunk_rows.max(1), out, waiting: Vec::new(), rows: 0, held: false }
    }
    /// Rows to be emitted at once.
    pub fn chunk_rows(&self) -> usize {
        self.chunk_rows
    }
    pub fn push(&mut self, columns: Vec<ArrayRef>, weights: Vec<i64>) -> Result<()> {
        if weights.is_empty() {
            return Ok(());
        }
        let rows = self.output.batch(columns, weights.len())?;
        let weights = if weights.iter().all(|w| *w == 1) { Weights::AllOne } else { Weights::Dense(weights.into()) };
        self.rows += rows.num_rows();
        self.waiting.push(ZBatch::new(rows, weights));
        if self.rows >= self.chunk_rows && !self.held { self.send() } else { Ok(()) }
    }
    fn take(&mut self) -> Result<Option<ZBatch>> {
        self.rows = 0;
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.len() <= 1 {
            return Ok(waiting.into_iter().next());
        }
        // Batches with an unexpected NULL have other nullability than those without.
        let all = ZBatch::concat(self.output.permissive().exact(), &waiting).e()?;
        let rows = self.output.batch(all.rows.columns().to_vec(), all.len())?;
        Ok(Some(all.with_rows(rows)))
    }
    fn send(&mut self) -> Result<()> {
        match self.take()? {
            Some(batch) => emit_chunked(batch, self.chunk_rows, self.out),
            None => Ok(()),
        }
    }
    /// From here to [`Self::release`], rows may cancel each other.
    pub fn hold(&mut self) {
        self.held = true;
    }
    /// See [`Self::hold`].
    pub fn release(&mut self) -> Result<()> {
        self.held = false;
        match self.take()? {
            Some(batch) => emit_chunked(batch.consolidate().e()?, self.chunk_rows, self.out),
            None => Ok(()),
        }
    }
    /// Sends the rest.
    pub fn finish(mut self) -> Result<()> {
        self.send()
    }
}
