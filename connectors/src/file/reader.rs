//! Reads the files of one reader, one after the other.
//!
//! Cancel-safe: state changes only between awaits, so a dropped `poll` at most reads some bytes again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::ObjectStoreExt;
use tokio::time::Instant;

use super::parquet::{self, Trouble};
use super::place::FileInfo;
use super::{Shared, TERMINAL};
use crate::format::{Decoder, Format, Record, bad_record};
use crate::{BadRecord, ConnectorError, Position, Positions, Result, SourceChunk, SourceEvent, SourceReader, SplitId};

const READ_BYTES: u64 = 4 << 20;
/// A longer line is cut: no memory for it.
const LINE_LIMIT: usize = 64 << 20;

struct FileState {
    info: FileInfo,
    position: u64,
    /// Where a bounded reader stops.
    end: Option<u64>,
    /// Nothing to do until the file grows.
    settled: bool,
    /// The last line has no newline, but is complete all the same.
    take_tail: bool,
}

/// What is open of the current file.
enum Current {
    Text { split: SplitId, buffer: Vec<u8>, used: usize },
    Parquet { split: SplitId, stream: Option<parquet::Stream> },
}

/// See the module.
pub(super) struct FileReader {
    shared: Arc<Shared>,
    /// Index and count of readers.
    share: (usize, usize),
    bounded: bool,
    files: BTreeMap<SplitId, FileState>,
    current: Option<Current>,
    decoder: Option<Box<dyn Decoder>>,
    next_look: Instant,
}

/// Spreads files over readers by path (FNV-1a).
fn belongs(split: &str, (index, count): (usize, usize)) -> bool {
    let hash = split.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    ((hash >> 16) % count as u64) as usize == index
}

impl FileReader {
    pub fn open(
        shared: Arc<Shared>,
        share: (usize, usize),
        from: &Positions,
        ends: Option<&Positions>,
        listed: &[FileInfo],
    ) -> Result<Self> {
        let decoder = match shared.spec.format {
            Format::Parquet => None,
            _ => Some(shared.spec.decoder(shared.columns.clone())?),
        };
        let next_look = Instant::now() + shared.poll_interval;
        let files = BTreeMap::new();
        let mut reader = Self { shared, share, bounded: ends.is_some(), files, current: None, decoder, next_look };
        for info in listed {
            let end = ends.map(|e| e.get(&info.split).map(|p| p.0));
            if let Some(None) = end {
                continue;
            }
            let position = from.get(&info.split).map_or(0, |p| p.0);
            reader.meet(info, position, end.flatten())?;
        }
        Ok(reader)
    }

    fn text(&self) -> bool {
        self.shared.spec.format != Format::Parquet
    }

    /// Takes note of a file that is listed.
    fn meet(&mut self, info: &FileInfo, position: u64, end: Option<u64>) -> Result<()> {
        if !belongs(&info.split, self.share) {
            return Ok(());
        }
        let text = self.text();
        let state = self.files.entry(info.split.clone()).or_insert_with(|| FileState {
            info: info.clone(),
            position,
            end,
            settled: false,
            take_tail: end.is_some(),
        });
        if text && state.position != TERMINAL.0 && !info.compressed() {
            let needed = state.end.unwrap_or(0).max(state.position);
            if info.size < needed {
                return Err(shrank(&info.split, info.size, needed));
            }
            if info.size != state.info.size {
                state.settled = false;
                state.take_tail = state.end.is_some();
            } else if state.settled && state.position < info.size {
                // It stood still between two looks: its last line is complete.
                state.settled = false;
                state.take_tail = true;
            }
        }
        state.info = info.clone();
        Ok(())
    }

    /// Looks for new and grown files.
    async fn look(&mut self) -> Result<()> {
        let listed = self.shared.place.list().await?;
        self.next_look = Instant::now() + self.shared.poll_interval;
        let there: std::collections::HashSet<&str> = listed.iter().map(|f| &*f.split).collect();
        if let Some(split) = self.files.keys().find(|s| !there.contains(&***s)) {
            return Err(ConnectorError::lost(format!("file \"{split}\" of stream \"{}\" is gone", self.shared.name))
                .hint("Restore the file; a stream's files must stay as long as the stream."));
        }
        for info in &listed {
            self.meet(info, 0, None)?;
        }
        Ok(())
    }

    /// The first file with something to read.
    fn pick(&mut self) -> bool {
        let text = self.text();
        let next = self.files.values().find(|f| {
            let limit = f.end.unwrap_or(if text && !f.info.compressed() { f.info.size } else { u64::MAX });
            !f.settled && f.position < limit && f.position != TERMINAL.0
        });
        let Some(file) = next else { return false };
        let split = file.info.split.clone();
        self.current = Some(match text {
            true => Current::Text { split, buffer: Vec::new(), used: 0 },
            false => Current::Parquet { split, stream: None },
        });
        true
    }

    /// The next chunk of the current file; `None` if it has no more for now.
    async fn advance(&mut self, rows_max: usize) -> Result<Option<SourceChunk>> {
        let Some(current) = &mut self.current else { return Ok(None) };
        let shared = &*self.shared;
        let (Current::Text { split, .. } | Current::Parquet { split, .. }) = &*current;
        let Some(file) = self.files.get_mut(split) else { return Ok(None) };
        if file.info.compressed() {
            return Ok(Some(give_up(shared, file, "compressed files are not supported".into())));
        }
        match (current, &mut self.decoder) {
            (Current::Text { buffer, used, .. }, Some(decoder)) => {
                advance_text(shared, file, buffer, used, &mut **decoder, rows_max).await
            }
            (Current::Parquet { stream, .. }, _) => advance_parquet(shared, file, stream, rows_max).await,
            (Current::Text { .. }, None) => Err(ConnectorError::bug("a text file without a decoder")),
        }
    }
}

fn shrank(split: &str, size: u64, needed: u64) -> ConnectorError {
    ConnectorError::lost(format!("file \"{split}\" shrank to {size} bytes, but {needed} were there before"))
        .hint("A stream's files may only grow.")
}

/// Makes the whole file one poison record.
fn give_up(shared: &Shared, file: &mut FileState, reason: String) -> SourceChunk {
    let record = Record { payload: b"", position: Position(file.position) };
    let bad = bad_record(&file.info.split, &file.info.split, &record, None, reason);
    file.position = TERMINAL.0;
    chunk(shared, file, vec![bad])
}

fn chunk(shared: &Shared, file: &FileState, bad: Vec<BadRecord>) -> SourceChunk {
    let rows = arrow::array::RecordBatch::new_empty(shared.schema.clone());
    SourceChunk { split: file.info.split.clone(), end: Position(file.position), rows, bad, bytes: 0 }
}

async fn advance_text(
    shared: &Shared,
    file: &mut FileState,
    buffer: &mut Vec<u8>,
    used: &mut usize,
    decoder: &mut dyn Decoder,
    rows_max: usize,
) -> Result<Option<SourceChunk>> {
    let limit = file.end.unwrap_or(file.info.size);
    loop {
        let rest = &buffer[*used..];
        let fetched = file.position + rest.len() as u64;
        let at_end = fetched >= limit;
        let mut lines: Vec<(usize, usize)> = Vec::new();
        let mut at = 0;
        while lines.len() < rows_max.max(1) {
            let Some(len) = rest[at..].iter().position(|b| *b == b'\n') else { break };
            lines.push((at, at + len));
            at += len + 1;
        }
        if lines.is_empty() && !rest.is_empty() && ((at_end && file.take_tail) || rest.len() >= LINE_LIMIT) {
            lines.push((0, rest.len()));
            at = rest.len();
        }
        if !lines.is_empty() {
            let done = decode_lines(shared, file, &rest[..at], &lines, decoder)?;
            file.position = if done.end == TERMINAL { TERMINAL.0 } else { file.position + at as u64 };
            *used += at;
            return Ok(Some(done));
        }
        if at_end {
            // Only a line without its newline is left.
            file.settled = true;
            return Ok(None);
        }
        let range = fetched..(fetched + READ_BYTES).min(limit);
        let wanted = range.end - range.start;
        let bytes = match shared.place.store.get_range(&file.info.location, range).await {
            Ok(bytes) => bytes,
            Err(e) => {
                let size = shared.place.store.head(&file.info.location).await.map(|m| m.size);
                return Err(match size {
                    Ok(size) if size < fetched + wanted => shrank(&file.info.split, size, fetched + wanted),
                    _ => shared.place.error(&file.info.split, e),
                });
            }
        };
        if (bytes.len() as u64) < wanted {
            return Err(shrank(&file.info.split, fetched + bytes.len() as u64, fetched + wanted));
        }
        buffer.drain(..*used);
        *used = 0;
        buffer.extend_from_slice(&bytes);
    }
}

/// Decodes lines of `text`, which starts at the file's position.
fn decode_lines(
    shared: &Shared,
    file: &FileState,
    text: &[u8],
    lines: &[(usize, usize)],
    decoder: &mut dyn Decoder,
) -> Result<SourceChunk> {
    let split = &file.info.split;
    let mut records = Vec::with_capacity(lines.len());
    for &(start, end) in lines {
        let mut payload = &text[start..end];
        let position = Position(file.position + start as u64);
        if position.0 == 0 {
            payload = payload.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(payload);
            if shared.spec.header {
                if let Err(reason) = shared.check_header(payload) {
                    let bad = bad_record(split, split, &Record { payload, position }, None, reason);
                    return Ok(SourceChunk { end: TERMINAL, ..chunk(shared, file, vec![bad]) });
                }
                continue;
            }
        }
        if shared.spec.format == Format::Raw {
            payload = payload.strip_suffix(b"\r").unwrap_or(payload);
        } else if payload.trim_ascii().is_empty() {
            continue;
        }
        records.push(Record { payload, position });
    }
    let decoded = decoder.decode(split, split, &records)?;
    let offsets = || decoded.from.iter().map(|i| records[*i as usize].position.0 as i64).collect();
    let rows = shared.with_metadata(&decoded.rows, split, offsets)?;
    Ok(SourceChunk {
        split: split.clone(),
        end: Position(file.position + text.len() as u64),
        rows,
        bad: decoded.bad,
        bytes: text.len(),
    })
}

async fn advance_parquet(
    shared: &Shared,
    file: &mut FileState,
    stream: &mut Option<parquet::Stream>,
    rows_max: usize,
) -> Result<Option<SourceChunk>> {
    let place = &shared.place;
    if stream.is_none() {
        let rows = rows_max.clamp(1, 8192);
        match parquet::stream(place, &file.info, &shared.columns, file.position, file.end, rows).await {
            Ok(opened) => *stream = Some(opened),
            Err(Trouble::Broken(reason)) => return Ok(Some(give_up(shared, file, reason))),
            Err(Trouble::Outside(e)) => return Err(e),
        }
    }
    let Some(open) = stream else { return Ok(None) };
    let conformed = match parquet::next(place, &file.info.split, open).await {
        None => {
            file.settled = true;
            return Ok(None);
        }
        Some(Ok(batch)) => parquet::conform(&batch, &shared.columns),
        Some(Err(trouble)) => {
            // The stream is of no use after an error: the next poll opens it anew at the position.
            *stream = None;
            match trouble {
                Trouble::Broken(reason) => Err(reason),
                Trouble::Outside(e) => return Err(e),
            }
        }
    };
    let rows = match conformed {
        Ok(rows) => rows,
        Err(reason) => return Ok(Some(give_up(shared, file, reason))),
    };
    let (first, count) = (file.position as i64, rows.num_rows() as i64);
    file.position += count as u64;
    let bytes = rows.get_array_memory_size();
    let rows = shared.with_metadata(&rows, &file.info.split, || (first..first + count).collect())?;
    Ok(Some(SourceChunk { split: file.info.split.clone(), end: Position(file.position), rows, bad: Vec::new(), bytes }))
}

#[async_trait]
impl SourceReader for FileReader {
    async fn poll(&mut self, rows_max: usize, wait: Duration) -> Result<SourceEvent> {
        let deadline = Instant::now() + wait;
        loop {
            if self.current.is_some() || self.pick() {
                match self.advance(rows_max).await? {
                    Some(chunk) => {
                        if chunk.end == TERMINAL {
                            self.current = None;
                        }
                        return Ok(SourceEvent::Chunk(chunk));
                    }
                    None => self.current = None,
                }
                continue;
            }
            if self.bounded {
                return Ok(SourceEvent::End);
            }
            let now = Instant::now();
            if now >= self.next_look {
                self.look().await?;
            } else if now >= deadline {
                return Ok(SourceEvent::Idle);
            } else {
                tokio::time::sleep_until(deadline.min(self.next_look)).await;
            }
        }
    }
}
