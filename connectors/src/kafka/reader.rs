//! The async side of a reader: takes chunks from its thread, which fetches and decodes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::worker::Worker;
use crate::{ConnectorError, ErrorKind, Result, SourceChunk, SourceEvent, SourceReader};

/// Batches of chunks decoded ahead; each is bounded by rows and bytes.
const AHEAD: usize = 2;
/// Rows per round until the first poll says how many it wants.
const FIRST_ROWS: usize = 4096;

/// What a thread tells its reader.
pub(super) enum Note {
    Chunks(Vec<SourceChunk>),
    Error(ConnectorError),
    /// Everything up to the bounds was delivered.
    End,
}

/// The thread's side of the channel.
pub(super) struct Outlet {
    notes: mpsc::Sender<Note>,
    rows: Arc<AtomicUsize>,
}

impl Outlet {
    /// False if the reader is gone.
    pub fn send(&self, note: Note) -> bool {
        self.notes.blocking_send(note).is_ok()
    }

    /// Drops the note if the reader is behind.
    pub fn try_send(&self, note: Note) {
        drop(self.notes.try_send(note));
    }

    pub fn closed(&self) -> bool {
        self.notes.is_closed()
    }

    /// How many rows the reader wants in one round.
    pub fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }
}

/// Reads some partitions of a topic. Dropping it stops its thread.
pub(super) struct Reader {
    notes: mpsc::Receiver<Note>,
    rows: Arc<AtomicUsize>,
    ready: VecDeque<SourceChunk>,
    /// How it ended; said again on every further poll.
    ended: Option<Result<(), ConnectorError>>,
}

impl Reader {
    /// Starts the thread.
    pub fn start(name: String, make: impl FnOnce(Outlet) -> Worker + Send + 'static) -> Result<Self> {
        let (sender, notes) = mpsc::channel(AHEAD);
        let rows = Arc::new(AtomicUsize::new(FIRST_ROWS));
        let outlet = Outlet { notes: sender, rows: Arc::clone(&rows) };
        std::thread::Builder::new()
            .name(name)
            .spawn(move || make(outlet).run())
            .map_err(|e| ConnectorError::retryable(format!("cannot start a thread for Kafka: {e}")))?;
        Ok(Self { notes, rows, ready: VecDeque::new(), ended: None })
    }
}

#[async_trait]
impl SourceReader for Reader {
    async fn poll(&mut self, rows_max: usize, wait: Duration) -> Result<SourceEvent> {
        self.rows.store(rows_max.max(1), Ordering::Relaxed);
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Ok(SourceEvent::Chunk(chunk));
            }
            if let Some(ended) = &self.ended {
                return ended.clone().map(|()| SourceEvent::End);
            }
            // Receiving is cancel-safe, and nothing is awaited after it.
            match tokio::time::timeout(wait, self.notes.recv()).await {
                Err(_) => return Ok(SourceEvent::Idle),
                Ok(Some(Note::Chunks(chunks))) => self.ready.extend(chunks),
                Ok(Some(Note::End)) => self.ended = Some(Ok(())),
                Ok(Some(Note::Error(e))) if e.kind == ErrorKind::Retryable => return Err(e),
                Ok(Some(Note::Error(e))) => self.ended = Some(Err(e)),
                Ok(None) => {
                    self.ended = Some(Err(ConnectorError::bug("the Kafka reader's thread ended by itself")));
                }
            }
        }
    }
}
