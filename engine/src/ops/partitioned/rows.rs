//! The rows of one partition in order, each with its multiplicity and the last result of each of its copies.
//!
//! An entry is a row as bytes whose order is the order asked for, then the whole row: rows that agree in the first
//! `order` bytes are peers. Entries live in short sorted chunks, so that one is found, put in or taken out in about the
//! square root of their number, and a position is a count of copies, not of entries.

use std::sync::Arc;

/// A row as bytes.
pub(in crate::ops) type Key = Arc<[u8]>;

/// Entries of a full chunk.
const CHUNK: usize = 256;

/// One row.
pub(in crate::ops) struct Entry {
    pub(in crate::ops) key: Key,
    /// Bytes of the order in the key.
    pub(in crate::ops) order: u32,
    /// Multiplicity; may be negative in passing, then there are no copies.
    pub(in crate::ops) weight: i64,
    /// The last result of each copy as bytes, empty where there is none.
    pub(in crate::ops) results: Vec<Box<[u8]>>,
}

impl Entry {
    pub(in crate::ops) fn copies(&self) -> u64 {
        u64::try_from(self.weight).unwrap_or(0)
    }
    pub(in crate::ops) fn order(&self) -> &[u8] {
        &self.key[..self.order as usize]
    }
}

/// A place in the list: chunk and entry.
pub(in crate::ops) type Place = (usize, usize);

/// Entries in order, and the number of their copies.
#[derive(Default)]
struct Chunk {
    entries: Vec<Entry>,
    copies: u64,
}

impl Chunk {
    fn of(entries: Vec<Entry>) -> Self {
        let copies = entries.iter().map(Entry::copies).sum();
        Self { entries, copies }
    }
}

/// See the module.
#[derive(Default)]
pub(in crate::ops) struct Rows {
    chunks: Vec<Chunk>,
}

impl Rows {
    pub(in crate::ops) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The first entry for which `before` is false; it must be true for entries up to some place only.
    fn first_not(&self, before: impl Fn(&Entry) -> bool) -> Place {
        let chunk = self.chunks.partition_point(|c| c.entries.last().is_some_and(&before));
        let entry = self.chunks.get(chunk).map_or(0, |c| c.entries.partition_point(before));
        (chunk, entry)
    }

    /// Where the row is, or where it belongs.
    pub(in crate::ops) fn find(&self, key: &[u8]) -> Result<Place, Place> {
        let place = self.first_not(|e| e.key.as_ref() < key);
        match self.at(place) {
            Some(e) if e.key.as_ref() == key => Ok(place),
            _ => Err(place),
        }
    }

    pub(in crate::ops) fn at(&self, place: Place) -> Option<&Entry> {
        self.chunks.get(place.0)?.entries.get(place.1)
    }

    /// Results of the copies of the entry at a place.
    pub(in crate::ops) fn results_mut(&mut self, place: Place) -> Option<&mut Vec<Box<[u8]>>> {
        self.chunks.get_mut(place.0)?.entries.get_mut(place.1).map(|e| &mut e.results)
    }

    /// Changes the multiplicity of the entry at a place; returns it as it was and as it is.
    pub(in crate::ops) fn add_weight(&mut self, place: Place, weight: i64) -> (i64, i64) {
        let chunk = &mut self.chunks[place.0];
        let e = &mut chunk.entries[place.1];
        let (before, copies) = (e.weight, e.copies());
        e.weight += weight;
        chunk.copies = chunk.copies - copies + e.copies();
        (before, e.weight)
    }

    /// Puts an entry where [`Self::find`] said that it belongs.
    pub(in crate::ops) fn insert(&mut self, place: Place, entry: Entry) {
        // Past the end: into the last chunk, so that rows that come in order fill chunks.
        let (chunk, at) = match self.chunks.get(place.0) {
            Some(_) => place,
            None => match self.chunks.last() {
                Some(last) => (self.chunks.len() - 1, last.entries.len()),
                None => {
                    self.chunks.push(Chunk::default());
                    (0, 0)
                }
            },
        };
        let full = &mut self.chunks[chunk];
        full.copies += entry.copies();
        full.entries.insert(at, entry);
        if full.entries.len() > CHUNK {
            // A chunk that grows at its end is left full.
            let cut = if at + 1 == full.entries.len() { CHUNK } else { CHUNK / 2 };
            let rest = Chunk::of(full.entries.split_off(cut));
            full.copies -= rest.copies;
            self.chunks.insert(chunk + 1, rest);
        }
    }

    pub(in crate::ops) fn remove(&mut self, place: Place) {
        let chunk = &mut self.chunks[place.0];
        chunk.copies -= chunk.entries.remove(place.1).copies();
        if chunk.entries.is_empty() {
            self.chunks.remove(place.0);
        }
    }

    /// Takes out the entries from the first one on that have all of their copies before a position; returns how many copies
    /// those were.
    pub(in crate::ops) fn forget(&mut self, upto: u64, mut f: impl FnMut(Entry)) -> u64 {
        let mut gone = 0;
        let whole = self.chunks.iter().take_while(|c| {
            // Entries without copies at the position itself stay.
            let before = gone + c.copies < upto;
            gone += if before { c.copies } else { 0 };
            before
        });
        let whole = whole.count();
        self.chunks.drain(..whole).flat_map(|c| c.entries).for_each(&mut f);
        let Some(first) = self.chunks.first_mut() else { return gone };
        let before = gone;
        let some = first.entries.iter().take_while(|e| {
            let before = gone + e.copies() <= upto && gone < upto;
            gone += if before { e.copies() } else { 0 };
            before
        });
        let some = some.count();
        first.entries.drain(..some).for_each(f);
        first.copies -= gone - before;
        if first.entries.is_empty() {
            self.chunks.remove(0);
        }
        gone
    }

    pub(in crate::ops) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.chunks.iter().flat_map(|c| &c.entries)
    }

    /// Results of every row.
    pub(in crate::ops) fn each_result_mut(&mut self, mut f: impl FnMut(&Key, &mut Box<[u8]>)) {
        for e in self.chunks.iter_mut().flat_map(|c| &mut c.entries) {
            e.results.iter_mut().for_each(|r| f(&e.key, r));
        }
    }

    /// Calls `f` with every entry that has a copy at a position in `from..to`, and the positions of its copies.
    pub(in crate::ops) fn each(&self, starts: &Starts, from: u64, to: u64, mut f: impl FnMut(&Entry, u64, u64)) {
        let first = starts.chunk_of(from);
        for (chunk, start) in self.chunks.iter().zip(&starts.of).skip(first) {
            let mut at = *start;
            if at >= to {
                return;
            }
            for e in &chunk.entries {
                let end = at + e.copies();
                if end > from && at < to {
                    f(e, at, end);
                }
                at = end;
            }
        }
    }

    /// Like [`Self::each`], with the results to change and the position of the first copy.
    pub(in crate::ops) fn each_results_mut(
        &mut self,
        starts: &Starts,
        from: u64,
        to: u64,
        mut f: impl FnMut(&Key, &mut [Box<[u8]>], u64),
    ) {
        let first = starts.chunk_of(from);
        for (chunk, start) in self.chunks.iter_mut().zip(&starts.of).skip(first) {
            let mut at = *start;
            if at >= to {
                return;
            }
            for e in &mut chunk.entries {
                let end = at + e.copies();
                if end > from && at < to {
                    f(&e.key, &mut e.results, at);
                }
                at = end;
            }
        }
    }

    /// Positions, until the list is next changed.
    pub(in crate::ops) fn starts(&self) -> Starts {
        let mut total = 0;
        let of = self
            .chunks
            .iter()
            .map(|c| {
                let start = total;
                total += c.copies;
                start
            })
            .collect();
        Starts { of, total }
    }
}

/// Positions of the first copy of each chunk.
pub(in crate::ops) struct Starts {
    of: Vec<u64>,
    /// Number of copies.
    pub(in crate::ops) total: u64,
}

impl Starts {
    fn chunk_of(&self, position: u64) -> usize {
        self.of.partition_point(|s| *s <= position).saturating_sub(1)
    }

    /// The position of the first copy of the entry at a place, or of the one after it if it has none.
    pub(in crate::ops) fn position(&self, rows: &Rows, place: Place) -> u64 {
        match (self.of.get(place.0), rows.chunks.get(place.0)) {
            (Some(start), Some(chunk)) => start + chunk.entries.iter().take(place.1).map(Entry::copies).sum::<u64>(),
            _ => self.total,
        }
    }

    /// The first position of rows that do not come before an order.
    pub(in crate::ops) fn first_from(&self, rows: &Rows, order: &[u8]) -> u64 {
        self.position(rows, rows.first_not(|e| e.order() < order))
    }

    /// The position after the last row that does not come after an order.
    pub(in crate::ops) fn end_of(&self, rows: &Rows, order: &[u8]) -> u64 {
        self.position(rows, rows.first_not(|e| e.order() <= order))
    }

    /// The entry that has the copy at a position.
    pub(in crate::ops) fn entry<'r>(&self, rows: &'r Rows, position: u64) -> Option<&'r Entry> {
        let mut at = *self.of.get(self.chunk_of(position))?;
        let mut chunk = self.chunk_of(position);
        // Entries without copies may end a chunk.
        loop {
            for e in &rows.chunks.get(chunk)?.entries {
                at += e.copies();
                if at > position {
                    return Some(e);
                }
            }
            chunk += 1;
        }
    }

    /// The start of the peers of a position, and of `groups` groups of peers before them.
    pub(in crate::ops) fn groups_back(&self, rows: &Rows, mut position: u64, groups: u64) -> u64 {
        for n in 0..=groups {
            let before = if n == 0 { position } else { position - 1 };
            let Some(order) = self.entry(rows, before).map(Entry::order) else { return position };
            position = self.position(rows, rows.first_not(|e| e.order() < order));
            if position == 0 {
                break;
            }
        }
        position
    }

    /// The end of the peers of the position before `end`, and of `groups` groups of peers after them.
    pub(in crate::ops) fn groups_on(&self, rows: &Rows, mut end: u64, groups: u64) -> u64 {
        for n in 0..=groups {
            let within = if n == 0 { end.saturating_sub(1) } else { end };
            let Some(order) = self.entry(rows, within).map(Entry::order) else { return end };
            end = self.position(rows, rows.first_not(|e| e.order() <= order));
            if end >= self.total {
                break;
            }
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::aggregate::harness::Random;

    /// Two bytes of order, then one of row.
    fn key(n: u64) -> Key {
        let n = n as u32;
        Arc::from([(n >> 8) as u8, (n >> 2) as u8, n as u8].as_slice())
    }

    #[test]
    fn places_positions_and_peers_are_those_of_a_sorted_list() {
        let mut r = Random(7);
        let mut rows = Rows::default();
        let mut model: Vec<(Key, i64)> = Vec::new();
        for step in 0..6000 {
            let k = key(r.below(2048));
            match rows.find(&k) {
                Ok(place) if r.below(2) == 0 => {
                    rows.remove(place);
                    model.retain(|m| m.0 != k);
                }
                Ok(place) => {
                    let (_, w) = rows.add_weight(place, r.below(5) as i64 - 2);
                    model.iter_mut().find(|m| m.0 == k).unwrap().1 = w;
                }
                Err(place) => {
                    let w = r.below(4) as i64 - 1;
                    rows.insert(place, Entry { key: k.clone(), order: 2, weight: w, results: Vec::new() });
                    model.push((k, w));
                    model.sort();
                }
            }
            if step % 97 != 0 {
                continue;
            }
            let flat: Vec<Key> =
                model.iter().flat_map(|(k, w)| std::iter::repeat_n(k.clone(), (*w).max(0) as usize)).collect();
            let starts = rows.starts();
            assert_eq!(starts.total as usize, flat.len());
            assert!(rows.iter().map(|e| &e.key).eq(model.iter().map(|m| &m.0)));
            if step % 970 == 0 {
                let upto = r.below(flat.len() as u64 + 2);
                let mut forgotten = Vec::new();
                let copies = rows.forget(upto, |e| forgotten.push(e.key));
                let kept = model.iter().position(|m| !forgotten.contains(&m.0)).unwrap_or(model.len());
                assert_eq!(forgotten, model.drain(..kept).map(|m| m.0).collect::<Vec<_>>());
                assert!(copies <= upto && rows.starts().total == flat.len() as u64 - copies);
                assert!(rows.iter().map(|e| &e.key).eq(model.iter().map(|m| &m.0)));
                if let Some(next) = rows.iter().next() {
                    assert!(copies + next.copies() > upto || copies == upto, "one more could go");
                }
                continue;
            }
            for _ in 0..20 {
                if flat.is_empty() {
                    break;
                }
                let (at, groups) = (r.below(flat.len() as u64), r.below(3));
                assert_eq!(starts.entry(&rows, at).unwrap().key, flat[at as usize]);
                let group = |i: u64| &flat[i as usize][..2];
                let mut from = at;
                for n in 0..=groups {
                    let g = if n == 0 {
                        group(from).to_vec()
                    } else if from > 0 {
                        group(from - 1).to_vec()
                    } else {
                        break;
                    };
                    while from > 0 && group(from - 1) == g {
                        from -= 1;
                    }
                }
                assert_eq!(starts.groups_back(&rows, at, groups), from);
                let (mut to, total) = (at + 1, flat.len() as u64);
                for n in 0..=groups {
                    let g = if n == 0 {
                        group(to - 1).to_vec()
                    } else if to < total {
                        group(to).to_vec()
                    } else {
                        break;
                    };
                    while to < total && group(to) == g {
                        to += 1;
                    }
                }
                assert_eq!(starts.groups_on(&rows, at + 1, groups), to);
                let mut seen = Vec::new();
                rows.each(&starts, at, to, |e, first, end| {
                    seen.extend((first.max(at)..end.min(to)).map(|_| e.key.clone()));
                });
                assert_eq!(seen, flat[at as usize..to as usize]);
            }
        }
    }
}
