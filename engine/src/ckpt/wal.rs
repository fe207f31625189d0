//! The log of client writes (DML) that no upstream can replay: written before they are acknowledged.
//!
//! Objects `wal/<20-digit seq>` are created, never replaced, and their numbers have no gaps. One object holds the
//! records of one group commit. Opening claims the next number with an object without records, so an earlier writer
//! that still lives finds its next number occupied. Body, integers little-endian: `u32` number of records; for each
//! `u64` relation, `u64` length, and an Arrow IPC stream of that length (rows with `__weight`).

use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;

use super::batches;
use super::envelope::{self, Kind, damaged};
use super::objects::{Created, Objects, number_name, numbered};
use super::store::fenced_by;
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::zset::ZBatch;

pub(super) const WAL: &str = "wal";

/// One durable change of a table or native stream.
#[derive(Debug, Clone)]
pub struct WalRecord {
    /// The relation.
    pub relation: u64,
    /// Its change.
    pub batch: ZBatch,
}

/// Numbered, create-only objects `wal/<20-digit seq>`; group commit.
pub struct Wal {
    objects: Objects,
    writer_epoch: u64,
    /// The newest number written. Held while appending, so that calls queue up.
    last: tokio::sync::Mutex<u64>,
}

impl Wal {
    /// Reads all records after `applied`, fences any earlier writer by claiming the next number, and opens for writing.
    ///
    /// A number that is missing between `applied` and the end, or a damaged object there, is an error that names it:
    /// acknowledged writes are never skipped.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        writer_epoch: u64,
        applied: u64,
    ) -> Result<(Self, Vec<(u64, Vec<WalRecord>)>)> {
        Self::open_objects(Objects::new(store), writer_epoch, applied).await
    }

    pub(super) async fn open_objects(
        objects: Objects,
        writer_epoch: u64,
        applied: u64,
    ) -> Result<(Self, Vec<(u64, Vec<WalRecord>)>)> {
        let mut records = Vec::new();
        let mut add = |seq: u64, name: &str, object: &Bytes| -> Result<()> {
            let (header, body) = envelope::open(name, Kind::Wal, object)?;
            if header.writer_epoch > writer_epoch {
                return Err(fenced_by(header.writer_epoch, writer_epoch));
            }
            let decoded = decode(name, &body)?;
            if !decoded.is_empty() {
                records.push((seq, decoded));
            }
            Ok(())
        };
        let mut last = applied;
        for (name, _) in objects.list(WAL).await? {
            let Some(seq) = numbered(WAL, &name).filter(|seq| *seq > applied) else { continue };
            if seq != last + 1 {
                return Err(damaged(&number_name(WAL, last + 1), "it is missing, but later ones exist")
                    .hint("Acknowledged writes are in it. Restore the object, or a newer manifest, from a backup."));
            }
            let object = objects.get(&name).await?.ok_or_else(|| damaged(&name, "it vanished while it was read"))?;
            add(seq, &name, &object)?;
            last = seq;
        }
        // The earlier writer may still append while we claim: then its record counts, and we claim the next number.
        let fence = envelope::seal(Kind::Wal, writer_epoch, &encode(&[])?);
        loop {
            let name = number_name(WAL, last + 1);
            match objects.create(&name, &fence).await? {
                Created::Ours => break,
                Created::Occupied(object) => add(last + 1, &name, &object)?,
            }
            last += 1;
        }
        let this = Self { objects, writer_epoch, last: tokio::sync::Mutex::new(last + 1) };
        Ok((this, records))
    }

    /// Makes records durable as one object, returns its sequence number. Calls must not overlap (the caller groups).
    ///
    /// On `FENCED` nothing was written and the process must stop. On `IO_ERROR` the outcome is not known. The next
    /// call settles it: either it takes the same number, and then the failed write never happened; or it fails with
    /// `OBJECT_NOT_IN_STATE`, because the failed write is in the log after all and only a restart applies it.
    pub async fn append(&self, records: &[WalRecord]) -> Result<u64> {
        let mut last = self.last.lock().await;
        let seq = *last + 1;
        let name = number_name(WAL, seq);
        let object = envelope::seal(Kind::Wal, self.writer_epoch, &encode(records)?);
        let stored = match self.objects.create(&name, &object).await? {
            Created::Ours => {
                *last = seq;
                return Ok(seq);
            }
            Created::Occupied(stored) => stored,
        };
        Err(match envelope::open(&name, Kind::Wal, &stored) {
            Ok((h, _)) if h.writer_epoch == self.writer_epoch => Error::new(
                SqlState::OBJECT_NOT_IN_STATE,
                format!("a write that was reported as failed is in the log (\"{name}\")"),
            )
            .hint("Restart the process: it will apply that write."),
            Ok((h, _)) => fenced_by(h.writer_epoch, self.writer_epoch),
            Err(e) => Error::new(SqlState::FENCED, "another process took over this data folder").detail(e.message),
        })
    }

    /// Number of the newest object, its own fence included: what a manifest that contains all of them says.
    pub async fn last_seq(&self) -> u64 {
        *self.last.lock().await
    }

    /// Deletes objects up to and including `seq`, except the newest one of the log: while it stands, a log that was
    /// cut too far for an older manifest is told from a log that ended there.
    pub async fn truncate(&self, seq: u64) -> Result<()> {
        let last = *self.last.lock().await;
        for (name, _) in self.objects.list(WAL).await? {
            if numbered(WAL, &name).is_some_and(|n| n <= seq && n < last) {
                self.objects.delete(&name).await?;
            }
        }
        Ok(())
    }
}

fn encode(records: &[WalRecord]) -> Result<Vec<u8>> {
    let count = u32::try_from(records.len()).map_err(|_| Error::internal("more than 4 billion records at once"))?;
    let mut body = count.to_le_bytes().to_vec();
    for r in records {
        body.extend_from_slice(&r.relation.to_le_bytes());
        let at = body.len();
        body.extend_from_slice(&[0; 8]);
        let weighted = r.batch.to_weighted().e()?;
        batches::encode(&weighted.schema(), &[weighted], &mut body)?;
        let length = (body.len() - at - 8) as u64;
        body[at..at + 8].copy_from_slice(&length.to_le_bytes());
    }
    Ok(body)
}

fn decode(name: &str, body: &[u8]) -> Result<Vec<WalRecord>> {
    let short = || damaged(name, "content ends too early");
    let (count, mut rest) = body.split_first_chunk::<4>().ok_or_else(short)?;
    let mut records = Vec::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let (relation, after) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let (length, after) = after.split_first_chunk::<8>().ok_or_else(short)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| short())?;
        let (stream, after) = after.split_at_checked(length).ok_or_else(short)?;
        let (schema, decoded) = batches::decode(name, stream)?;
        let one = arrow::compute::concat_batches(&schema, &decoded).e()?;
        records.push(WalRecord { relation: u64::from_le_bytes(*relation), batch: ZBatch::from_weighted(&one).e()? });
        rest = after;
    }
    if !rest.is_empty() {
        return Err(damaged(name, "content goes on after the last record"));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Faulty, ints, local, memory};
    use super::*;
    use crate::zset::Weights;

    fn record(relation: u64, values: &[i64]) -> WalRecord {
        let weights: Vec<i64> = values.iter().map(|v| if *v < 0 { -1 } else { 1 }).collect();
        WalRecord { relation, batch: ZBatch::new(ints(values), Weights::Dense(weights.into())) }
    }

    fn values(records: &[(u64, Vec<WalRecord>)]) -> Vec<(u64, u64, usize, i64)> {
        records
            .iter()
            .flat_map(|(seq, rs)| rs.iter().map(|r| (*seq, r.relation, r.batch.len(), r.batch.weight(0))))
            .collect()
    }

    #[tokio::test]
    async fn records_come_back_in_order_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        for store in [memory(), local(folder.path())] {
            let (wal, none) = Wal::open(Arc::clone(&store), 1, 0).await.unwrap();
            assert!(none.is_empty());
            assert_eq!(wal.append(&[record(5, &[1, 2]), record(6, &[-1])]).await.unwrap(), 2);
            assert_eq!(wal.append(&[record(5, &[3; 5000])]).await.unwrap(), 3);
            let (again, records) = Wal::open(Arc::clone(&store), 2, 0).await.unwrap();
            assert_eq!(values(&records), [(2, 5, 2, 1), (2, 6, 1, -1), (3, 5, 5000, 1)]);
            assert_eq!(records[0].1[0].batch.rows, ints(&[1, 2]));
            assert_eq!(again.last_seq().await, 4);
            let (_, later) = Wal::open(store, 3, 2).await.unwrap();
            assert_eq!(values(&later), [(3, 5, 5000, 1)]);
        }
    }

    #[tokio::test]
    async fn a_writer_that_was_taken_over_cannot_append() {
        let store = memory();
        let (old, _) = Wal::open(Arc::clone(&store), 7, 0).await.unwrap();
        old.append(&[record(1, &[1])]).await.unwrap();
        let (new, _) = Wal::open(Arc::clone(&store), 8, 0).await.unwrap();
        let e = old.append(&[record(1, &[2])]).await.unwrap_err();
        assert_eq!(e.code, SqlState::FENCED);
        assert_eq!(e.message, "another process took over (writer epoch 8 > 7)");
        new.append(&[record(1, &[3])]).await.unwrap();
        assert_eq!(old.append(&[record(1, &[2])]).await.unwrap_err().code, SqlState::FENCED);
        // And an old process that only now opens stops as well.
        let Err(e) = Wal::open(store, 7, 0).await else { panic!("opened behind a successor") };
        assert_eq!(e.code, SqlState::FENCED);
    }

    #[tokio::test]
    async fn a_lost_reply_is_not_mistaken_for_a_fence() {
        let faulty = Faulty::new(memory());
        let (wal, _) = Wal::open(faulty.clone(), 1, 0).await.unwrap();
        faulty.lose_replies(1);
        assert_eq!(wal.append(&[record(1, &[1])]).await.unwrap(), 2);
        assert_eq!(wal.append(&[record(1, &[2])]).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_write_of_unknown_outcome_is_settled_by_the_next_one() {
        let faulty = Faulty::new(memory());
        let (wal, _) = Wal::open_objects(Objects::new(faulty.clone()).impatient(), 1, 0).await.unwrap();
        faulty.refuse_everything(true);
        assert_eq!(wal.append(&[record(1, &[1])]).await.unwrap_err().code, SqlState::IO_ERROR);
        faulty.refuse_everything(false);
        assert_eq!(wal.append(&[record(1, &[2])]).await.unwrap(), 2, "the failed write never happened");

        faulty.refuse_replies(true);
        assert_eq!(wal.append(&[record(1, &[3])]).await.unwrap_err().code, SqlState::IO_ERROR);
        faulty.refuse_replies(false);
        let e = wal.append(&[record(1, &[4])]).await.unwrap_err();
        assert_eq!(e.code, SqlState::OBJECT_NOT_IN_STATE, "the failed write is durable: {e}");
        let (_, records) = Wal::open(faulty, 2, 0).await.unwrap();
        assert_eq!(values(&records), [(2, 1, 1, 1), (3, 1, 1, 1)]);
    }

    #[tokio::test]
    async fn truncation_keeps_the_rest_and_gaps_are_errors() {
        let store = memory();
        let (wal, _) = Wal::open(Arc::clone(&store), 1, 0).await.unwrap();
        for i in 0..4 {
            wal.append(&[record(1, &[i])]).await.unwrap();
        }
        wal.truncate(3).await.unwrap();
        let (_, records) = Wal::open(Arc::clone(&store), 2, 3).await.unwrap();
        assert_eq!(values(&records), [(4, 1, 1, 1), (5, 1, 1, 1)]);
        let Err(e) = Wal::open(Arc::clone(&store), 3, 1).await else { panic!("skipped writes") };
        assert_eq!(e.code, SqlState::DATA_CORRUPTED);
        assert!(e.message.contains("wal/00000000000000000002"), "{e}");
    }

    #[tokio::test]
    async fn cutting_everything_still_shows_that_older_manifests_lack_something() {
        let store = memory();
        let (wal, _) = Wal::open(Arc::clone(&store), 1, 0).await.unwrap();
        wal.append(&[record(1, &[1])]).await.unwrap();
        wal.append(&[record(1, &[2])]).await.unwrap();
        wal.truncate(3).await.unwrap();
        assert!(Wal::open(Arc::clone(&store), 2, 1).await.is_err());
        assert!(Wal::open(store, 2, 3).await.unwrap().1.is_empty());
    }

    #[tokio::test]
    async fn every_flipped_byte_of_a_record_is_detected() {
        let store = memory();
        let (wal, _) = Wal::open(Arc::clone(&store), 1, 0).await.unwrap();
        wal.append(&[record(1, &[1, 2, 3])]).await.unwrap();
        let objects = Objects::new(store);
        let name = number_name(WAL, 2);
        let object = objects.get(&name).await.unwrap().unwrap();
        for i in 0..object.len() {
            let mut bad = object.to_vec();
            bad[i] ^= 0x41;
            let damaged = super::super::testing::memory_with(&[
                (&number_name(WAL, 1), objects.get(&number_name(WAL, 1)).await.unwrap().unwrap()),
                (&name, bad.into()),
            ])
            .await;
            let Err(e) = Wal::open(damaged, 2, 0).await else { panic!("byte {i} passed") };
            assert_eq!(e.code, SqlState::DATA_CORRUPTED);
            assert!(e.message.contains(&name), "{e}");
        }
    }
}
