//! Keys by the time in one of their columns, so that those behind a watermark are found without looking at the others.

use std::collections::BTreeMap;

use millstream_sql::plan::time::micros_array;

use super::{KeyedState, LIVE};
use crate::error::Result;

/// Slots by time.
pub(super) struct Expiry {
    column: usize,
    by_time: BTreeMap<i64, Vec<u32>>,
    /// Slots whose time was not looked at yet.
    fresh: Vec<u32>,
}

impl Expiry {
    pub(super) fn appeared(&mut self, slot: u32) {
        self.fresh.push(slot);
    }
}

impl KeyedState {
    /// Slots whose key has a time before `bound` (microseconds) in this column; the caller removes them. Keys without a
    /// time stay. The first call looks at all keys, later ones at new keys and at those they return.
    pub fn expired(&mut self, column: usize, bound: i64) -> Result<Vec<u32>> {
        let mut e = match self.expiry.take() {
            Some(e) if e.column == column => e,
            _ => Expiry { column, by_time: BTreeMap::new(), fresh: self.live_slots() },
        };
        let mut fresh = std::mem::take(&mut e.fresh);
        fresh.retain(|s| self.flags[*s as usize] & LIVE != 0);
        for slots in fresh.chunks(64 * 1024) {
            let keys = self.key_columns(slots)?;
            let Some(times) = keys.get(column).and_then(micros_array) else { continue };
            for (slot, time) in slots.iter().zip(times.iter()) {
                if let Some(time) = time {
                    e.by_time.entry(time).or_default().push(*slot);
                }
            }
        }
        let mut out = Vec::new();
        while let Some(first) = e.by_time.first_entry()
            && *first.key() < bound
        {
            out.extend(first.remove());
        }
        self.expiry = Some(e);
        out.sort_unstable();
        out.dedup();
        // A slot may have been freed and taken by a younger key since it was noted.
        out.retain(|s| self.flags[*s as usize] & LIVE != 0);
        let keys = self.key_columns(&out)?;
        let times = keys.get(column).and_then(micros_array);
        let Some(times) = times else { return Ok(Vec::new()) };
        Ok(out.into_iter().zip(times.iter()).filter(|(_, t)| t.is_some_and(|t| t < bound)).map(|(s, _)| s).collect())
    }
}
