//! Places in text: sqlparser counts lines and columns, Postgres counts characters, slicing needs bytes.

use sqlparser::tokenizer::Location;

/// A place in a text, counted in characters and in bytes (both from 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Place {
    /// Characters before it.
    pub chars: usize,
    /// Bytes before it.
    pub bytes: usize,
}

/// Turns ascending locations into places in one pass over the text.
#[derive(Debug)]
pub struct Walker<'a> {
    rest: std::str::Chars<'a>,
    line: u64,
    column: u64,
    place: Place,
}

impl<'a> Walker<'a> {
    /// At the beginning of `text`.
    pub fn new(text: &'a str) -> Self {
        Self { rest: text.chars(), line: 1, column: 1, place: Place::default() }
    }

    /// The place of `to`; a location before the last one gives the last place, one past the end gives the end.
    pub fn advance(&mut self, to: Location) -> Place {
        while (self.line, self.column) < (to.line, to.column) {
            let Some(c) = self.rest.next() else { break };
            self.place.chars += 1;
            self.place.bytes += c.len_utf8();
            if c == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        self.place
    }
}

/// The 1-based character position of a location in `text`, as [`crate::SqlError::position`] counts. `None` for the
/// empty location, which sqlparser uses where it knows none.
pub fn char_position(text: &str, location: Location) -> Option<usize> {
    (location.line > 0).then(|| Walker::new(text).advance(location).chars + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_counted_not_bytes() {
        let text = "sélect\n  ü x";
        assert_eq!(char_position(text, Location::new(2, 5)), Some(12));
        let mut w = Walker::new(text);
        assert_eq!(w.advance(Location::new(2, 5)), Place { chars: 11, bytes: 13 });
    }

    #[test]
    fn a_place_past_the_end_is_the_end_and_an_empty_location_is_none() {
        assert_eq!(char_position("ab", Location::new(9, 9)), Some(3));
        assert_eq!(char_position("ab", Location::empty()), None);
    }
}
