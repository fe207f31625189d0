//! Keeps a panic of a decoder to the record that caused it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;

use super::{Decoded, Decoder, Record, bad_record};
use crate::{ConnectorError, Result, SplitId};

/// A decoder that can be thrown away and made anew after a panic.
pub(super) trait Restart: Decoder + 'static {
    /// Drops everything half built.
    fn restart(&mut self) -> Result<()>;
}

/// Wraps a decoder.
pub(super) fn guarded(inner: impl Restart) -> Box<dyn Decoder> {
    Box::new(Guard { inner })
}

struct Guard<D> {
    inner: D,
}

impl<D: Restart> Guard<D> {
    /// Decodes a range; after a panic it halves the range until the record is found.
    fn range(
        &mut self,
        split: &SplitId,
        origin: &str,
        records: &[Record<'_>],
        first: u32,
        out: &mut Parts,
    ) -> Result<()> {
        let decoded = match catch_unwind(AssertUnwindSafe(|| self.inner.decode(split, origin, records))) {
            Ok(decoded) => decoded?,
            Err(panic) => {
                self.inner.restart()?;
                let [one] = records else {
                    let half = records.len() / 2;
                    self.range(split, origin, &records[..half], first, out)?;
                    return self.range(split, origin, &records[half..], first + half as u32, out);
                };
                let what = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("no message");
                out.bad.push(bad_record(
                    split,
                    origin,
                    one,
                    None,
                    format!("the decoder failed on this record: {what}"),
                ));
                return Ok(());
            }
        };
        out.rows.push(decoded.rows);
        out.from.extend(decoded.from.iter().map(|i| i + first));
        out.bad.extend(decoded.bad);
        Ok(())
    }
}

#[derive(Default)]
struct Parts {
    rows: Vec<RecordBatch>,
    from: Vec<u32>,
    bad: Vec<crate::BadRecord>,
}

impl<D: Restart> Decoder for Guard<D> {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn decode(&mut self, split: &SplitId, origin: &str, records: &[Record<'_>]) -> Result<Decoded> {
        let mut parts = Parts::default();
        self.range(split, origin, records, 0, &mut parts)?;
        let rows = match parts.rows.len() {
            0 => RecordBatch::new_empty(self.schema()),
            1 => parts.rows.swap_remove(0),
            _ => concat_batches(&self.schema(), &parts.rows)
                .map_err(|e| ConnectorError::bug(format!("decoded parts do not fit together: {e}")))?,
        };
        Ok(Decoded { rows, from: parts.from, bad: parts.bad })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Position;
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    struct Fragile(usize);
    impl Decoder for Fragile {
        fn schema(&self) -> SchemaRef {
            Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, false)]))
        }
        fn decode(&mut self, _: &SplitId, _: &str, records: &[Record<'_>]) -> Result<Decoded> {
            let v: Vec<i64> = records
                .iter()
                .map(|r| if r.payload == b"boom" { panic!("cannot take it") } else { r.payload.len() as i64 })
                .collect();
            let from = (0..v.len() as u32).collect();
            let rows = RecordBatch::try_new(self.schema(), vec![Arc::new(Int64Array::from(v)) as ArrayRef]).unwrap();
            Ok(Decoded { rows, from, bad: vec![] })
        }
    }
    impl Restart for Fragile {
        fn restart(&mut self) -> Result<()> {
            self.0 += 1;
            Ok(())
        }
    }

    #[test]
    fn a_panic_costs_one_record_and_the_rest_keeps_its_order() {
        let payloads: Vec<&[u8]> = vec![b"a", b"bb", b"boom", b"ccc", b"boom", b"dddd"];
        let records: Vec<Record<'_>> =
            payloads.iter().enumerate().map(|(i, p)| Record { payload: p, position: Position(i as u64) }).collect();
        let d = guarded(Fragile(0)).decode(&"0".into(), "t", &records).unwrap();
        assert_eq!(d.from, vec![0, 1, 3, 5]);
        assert_eq!(d.rows.num_rows(), 4);
        assert_eq!(d.bad.iter().map(|b| b.position.0).collect::<Vec<_>>(), vec![2, 4]);
        assert!(d.bad[0].reason.contains("cannot take it"));
    }
}
