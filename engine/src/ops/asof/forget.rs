//! What an ASOF join forgets behind the watermarks.
//!
//! No later left row is older than the left watermark, no right row comes or goes before the right one. Which rows that
//! makes superfluous says `millstream_sql::plan::time`: a bound for the time of each side, with
//!
//! * the latest right row as partner: left rows before the bound go; of the right rows of a key before theirs the last one
//!   stays, it is the partner of left rows to come.
//! * the earliest right row as partner: right rows before the bound go, and with them the left rows whose partners they
//!   are or would be. A left row without a partner waits for one, however old it is.
//!
//! Keys are noted by the time that lets the next row of theirs go, so that a tick looks at those alone.

use std::collections::BTreeSet;

use millstream_sql::plan::time::value_of;

use super::{AsOfOp, Group, Key, LEFT, Left, RIGHT, Right, partner};
use crate::error::{Result, ResultExt as _};
use crate::ops::TickCx;

/// By side: the time which a bound must pass for a row of a key to go. Empty: no bound passes it.
pub(super) type Due = [Option<Key>; 2];

/// Slots by that time, for each side.
#[derive(Default)]
pub(super) struct Dues([BTreeSet<(Key, u32)>; 2]);

impl Dues {
    fn note(&mut self, slot: u32, group: &mut Group, latest: bool) {
        let next = group.next_due(latest);
        let moved = |port: usize| (group.due[port].as_deref() != next[port]).then(|| next[port].map(Key::from));
        for (port, moved) in [LEFT, RIGHT].map(moved).into_iter().enumerate() {
            let Some(now) = moved else { continue };
            if let Some(before) = std::mem::replace(&mut group.due[port], now.clone()) {
                self.0[port].remove(&(before, slot));
            }
            if let Some(now) = now {
                self.0[port].insert((now, slot));
            }
        }
    }

    /// The slot whose row goes next, if the end has passed it.
    fn passed(&self, port: usize, end: &End, latest: bool) -> Option<u32> {
        let (time, slot) = if latest { self.0[port].first()? } else { self.0[port].last()? };
        end.passed(time, latest).then_some(*slot)
    }
}

/// Up to where rows go.
enum End {
    All,
    /// The place of this time, exclusively.
    Before(Key),
}

impl End {
    fn passed(&self, time: &[u8], latest: bool) -> bool {
        match self {
            Self::All => true,
            Self::Before(end) if latest => time < &end[..],
            Self::Before(end) => time > &end[..],
        }
    }
}

impl Group {
    fn next_due(&self, latest: bool) -> [Option<&[u8]>; 2] {
        if latest {
            let left = self.left.first_key_value().map(|(key, held)| &key[..held.time as usize]);
            // The first row goes when another one can stay.
            let second = self.right.iter().skip(1).find(|(_, held)| held.weight > 0);
            return [left, second.map(|(key, held)| &key[..held.time as usize])];
        }
        let left = self.left.last_key_value().map(|(_, held)| held.partner_time().unwrap_or_default());
        let right = self.right.last_key_value().map(|(key, held)| &key[..held.time as usize]);
        [left, right]
    }
}

impl Left {
    /// The time of the partner. Where something is forgotten, times are of one length.
    fn partner_time(&self) -> Option<&[u8]> {
        self.partner.as_ref()?.get(..self.time as usize)
    }
}

impl AsOfOp {
    /// Notes when rows of these keys can go next.
    pub(super) fn note_dues(&mut self, slots: &[u32]) {
        let Some(dues) = &mut self.dues else { return };
        for slot in slots {
            dues.note(*slot, &mut self.groups[*slot as usize], self.compare.latest());
        }
    }

    /// Forgets what no later change can reach.
    pub(super) fn forget(&mut self, cx: &TickCx<'_>) -> Result<()> {
        let bound = |port: usize, column: usize| {
            cx.time.forgettable(port).find(|(c, _)| *c == column).map(|(_, micros)| micros)
        };
        let of_key = self.sides[LEFT].key.iter().enumerate().find_map(|(i, c)| Some((i, bound(LEFT, *c)?)));
        let times = [LEFT, RIGHT].map(|port| bound(port, self.sides[port].time));
        let mut looked: Vec<u32> = Vec::new();
        if let Some((key, micros)) = of_key {
            looked = self.slots.expired(key, micros)?;
            for slot in &looked {
                self.clear(*slot, LEFT);
                self.clear(*slot, RIGHT);
            }
            self.note_dues(&looked);
        }
        if times.iter().any(Option::is_some) && self.dues.is_none() {
            self.dues = Some(Dues::default());
            let live = self.slots.live_slots();
            self.note_dues(&live);
        }
        // Left rows first: of the earliest right rows they are forgotten by their partners.
        for (port, micros) in times.into_iter().enumerate() {
            if let Some(micros) = micros
                && let Some(end) = self.end(port, micros)?
            {
                self.forget_side(port, &end, &mut looked);
            }
        }
        looked.sort_unstable();
        looked.dedup();
        self.remove_empty(&looked)
    }

    fn forget_side(&mut self, port: usize, end: &End, looked: &mut Vec<u32>) {
        let latest = self.compare.latest();
        if latest && port == RIGHT && matches!(end, End::All) {
            // No left row will ask for any of them.
            if self.sides[RIGHT].live > 0 {
                let live = self.slots.live_slots();
                live.iter().for_each(|slot| self.clear(*slot, RIGHT));
                self.note_dues(&live);
                looked.extend(live);
            }
            return;
        }
        while let Some(slot) = self.dues.as_ref().and_then(|dues| dues.passed(port, end, latest)) {
            match (port, latest) {
                (LEFT, true) => self.forget_first_left(slot, end),
                (LEFT, false) => self.forget_last_left(slot, end),
                (_, true) => self.forget_superseded(slot, end),
                (_, false) => self.forget_last_right(slot, end),
            }
            self.note_dues(&[slot]);
            looked.push(slot);
        }
    }

    /// Left rows before the end.
    fn forget_first_left(&mut self, slot: u32, end: &End) {
        let group = &mut self.groups[slot as usize];
        while let Some(first) = group.left.first_entry()
            && end.passed(&first.key()[..first.get().time as usize], true)
        {
            let (key, held) = first.remove_entry();
            self.sides[LEFT].removed(key, held.stored);
        }
    }

    /// Left rows whose partners are before the end.
    fn forget_last_left(&mut self, slot: u32, end: &End) {
        let group = &mut self.groups[slot as usize];
        while let Some(last) = group.left.last_entry()
            && end.passed(last.get().partner_time().unwrap_or_default(), false)
        {
            let (key, held) = last.remove_entry();
            self.sides[LEFT].removed(key, held.stored);
        }
    }

    /// Right rows before the last one before the end.
    fn forget_superseded(&mut self, slot: u32, end: &End) {
        let group = &mut self.groups[slot as usize];
        let End::Before(end) = end else { return };
        let Some(last) = partner(&group.right, end, false) else { return };
        let kept = group.right.split_off(&last);
        for (key, held) in std::mem::replace(&mut group.right, kept) {
            self.sides[RIGHT].removed(key, held.stored);
        }
    }

    /// Right rows before the end.
    fn forget_last_right(&mut self, slot: u32, end: &End) {
        let group = &mut self.groups[slot as usize];
        while let Some(last) = group.right.last_entry()
            && end.passed(&last.key()[..last.get().time as usize], false)
        {
            let (key, held) = last.remove_entry();
            self.sides[RIGHT].removed(key, held.stored);
        }
    }

    /// All rows of a side.
    fn clear(&mut self, slot: u32, port: usize) {
        let group = &mut self.groups[slot as usize];
        let rows: Vec<(Key, bool)> = match port {
            LEFT => std::mem::take(&mut group.left).into_iter().map(|(k, held): (_, Left)| (k, held.stored)).collect(),
            _ => std::mem::take(&mut group.right).into_iter().map(|(k, held): (_, Right)| (k, held.stored)).collect(),
        };
        rows.into_iter().for_each(|(key, stored)| self.sides[port].removed(key, stored));
    }

    /// The place of a bound in the order of a side's times. `None` if there is none.
    fn end(&self, port: usize, micros: i64) -> Result<Option<End>> {
        if micros == i64::MAX {
            return Ok(Some(End::All));
        }
        let side = &self.sides[port];
        let value = value_of(micros, side.plain.field(side.time).data_type());
        let Some(value) = value.filter(|v| !v.is_null()) else { return Ok(None) };
        let rows = side.times.convert_columns(&[value.to_array().e()?]).e()?;
        Ok(Some(End::Before(rows.row(0).data().into())))
    }
}
