//! Patterns of numbers: `999,990.00`, `FM$990D99`, `S9999`, `9999MI`, `999PR`, `RN`.
//!
//! A `9` is a digit, blank before the number; a `0` a digit in any case; `.` and `D` the point, `,` and `G` the mark
//! between thousands; `S`, `MI`, `PL`, `SG` and `PR` say where the sign goes, `FM` that there is no padding.

use super::write::suffix;
use crate::error::{SqlError, SqlState};

/// A piece of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Nine,
    Zero,
    Point,
    Group,
    /// `S`
    Sign,
    /// `MI`
    Minus,
    /// `PL`
    Plus,
    /// `SG`
    Either,
    /// `TH`, `th`
    Ordinal(bool),
    Char(char),
}

/// A pattern, and what it says of the whole number.
#[derive(Default)]
struct Format {
    pieces: Vec<Piece>,
    /// Digits before and after the point.
    before: usize,
    after: usize,
    /// The number of the first `0` among the digits, counted from 1.
    first_zero: Option<usize>,
    /// The number of the last `0` among the digits.
    last_zero: usize,
    fill: bool,
    brackets: bool,
    /// `S` before or behind the digits.
    sign_at: Option<bool>,
    roman: Option<bool>,
}

fn bad(message: &str) -> SqlError {
    SqlError::new(SqlState::SYNTAX_ERROR, message)
}

impl Format {
    fn parse(text: &str) -> Result<Self, SqlError> {
        const WORDS: &[(&str, Piece)] = &[
            ("MI", Piece::Minus),
            ("PL", Piece::Plus),
            ("SG", Piece::Either),
            ("S", Piece::Sign),
            ("G", Piece::Group),
            (",", Piece::Group),
            ("D", Piece::Point),
            (".", Piece::Point),
            ("9", Piece::Nine),
            ("0", Piece::Zero),
        ];
        let mut out = Self::default();
        let mut rest = text;
        let mut point = false;
        while let Some(c) = rest.chars().next() {
            let starts = |word: &str| {
                rest.starts_with(word) || rest.get(..word.len()).is_some_and(|t| t == word.to_ascii_lowercase())
            };
            if starts("FM") {
                (out.fill, rest) = (true, &rest[2..]);
            } else if starts("PR") {
                (out.brackets, rest) = (true, &rest[2..]);
            } else if starts("RN") {
                (out.roman, rest) = (Some(rest.starts_with('R')), &rest[2..]);
            } else if starts("TH") {
                out.pieces.push(Piece::Ordinal(rest.starts_with('T')));
                rest = &rest[2..];
            } else if starts("EEEE") {
                return Err(SqlError::unsupported("\"EEEE\" in a pattern of numbers is not supported"));
            } else if starts("V") {
                return Err(SqlError::unsupported("\"V\" in a pattern of numbers is not supported"));
            } else if starts("L") {
                // The currency of the C locale has no symbol.
                out.pieces.push(Piece::Char(' '));
                rest = &rest[1..];
            } else if let Some((word, piece)) = WORDS.iter().find(|(word, _)| starts(word)) {
                match piece {
                    Piece::Point if point => return Err(bad("multiple decimal points")),
                    Piece::Point => point = true,
                    Piece::Nine | Piece::Zero => {
                        if point {
                            out.after += 1
                        } else {
                            out.before += 1
                        }
                        let at = out.before + out.after;
                        if *piece == Piece::Zero {
                            out.first_zero.get_or_insert(at);
                            out.last_zero = at;
                        }
                    }
                    Piece::Sign if out.sign_at.is_some() => return Err(bad("cannot use \"S\" twice")),
                    Piece::Sign => out.sign_at = Some(out.before + out.after == 0),
                    _ => {}
                }
                out.pieces.push(*piece);
                rest = &rest[word.len()..];
            } else if c == '"' {
                let mut chars = rest[1..].chars();
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => out.pieces.extend(chars.next().map(Piece::Char)),
                        c => out.pieces.push(Piece::Char(c)),
                    }
                }
                rest = chars.as_str();
            } else {
                out.pieces.push(Piece::Char(c));
                rest = &rest[c.len_utf8()..];
            }
        }
        let own_sign = out.pieces.iter().any(|p| matches!(p, Piece::Minus | Piece::Plus | Piece::Either));
        if (out.sign_at.is_some() && (own_sign || out.brackets)) || (out.brackets && own_sign) {
            return Err(bad("cannot use \"S\" and \"PL\"/\"MI\"/\"SG\"/\"PR\" together"));
        }
        Ok(out)
    }

    /// True if a minus has no place of its own.
    fn plain_sign(&self) -> bool {
        self.sign_at.is_none() && !self.pieces.iter().any(|p| matches!(p, Piece::Minus | Piece::Either))
    }
}

/// A double; NaN and infinity have no digits.
pub(super) fn write_double(value: f64, format: &str) -> Result<String, SqlError> {
    if !value.is_finite() {
        let format = Format::parse(format)?;
        let width = format.before + format.after + usize::from(format.after > 0) + 1;
        return Ok("#".repeat(width));
    }
    let format_of = Format::parse(format)?;
    // Fifteen digits are certain.
    let magnitude = if value == 0.0 { 0 } else { value.abs().log10().floor() as i64 + 1 };
    let digits = usize::try_from(15 - magnitude.max(1)).unwrap_or(0).min(format_of.after);
    write(&format!("{value:.digits$}"), format)
}

/// A number in its digits, `-12.50`.
pub(super) fn write(digits: &str, format: &str) -> Result<String, SqlError> {
    let format = Format::parse(format)?;
    let (negative, unsigned) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    if let Some(upper) = format.roman {
        return Ok(roman(negative, whole, fraction, format.fill, upper));
    }
    let (whole, fraction) = rounded(whole, fraction, format.after);
    let zero = whole.bytes().chain(fraction.bytes()).all(|b| b == b'0');
    Ok(shown(&format, negative && !zero, &whole, &fraction))
}

/// With so many digits after the point, halves away from zero; no zeros at the beginning.
fn rounded(whole: &str, fraction: &str, after: usize) -> (String, String) {
    let mut all: Vec<u8> = whole.trim_start_matches('0').bytes().collect();
    let before = all.len();
    all.extend(fraction.bytes().chain(std::iter::repeat(b'0')).take(after));
    let up = fraction.as_bytes().get(after).is_some_and(|d| *d >= b'5');
    let mut before = before;
    if up {
        let mut at = all.len();
        loop {
            if at == 0 {
                all.insert(0, b'1');
                before += 1;
                break;
            }
            at -= 1;
            if all[at] == b'9' {
                all[at] = b'0';
            } else {
                all[at] += 1;
                break;
            }
        }
    }
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (text(&all[..before]), text(&all[before..]))
}

fn shown(format: &Format, negative: bool, whole: &str, fraction: &str) -> String {
    let mut out = String::new();
    // A number below one has a zero before the point.
    if whole.len().max(1) > format.before {
        // As many marks as there would be digits.
        return overflow(format, negative);
    }
    let blanks = format.before - whole.len();
    // Digits after the point that FM leaves out: zeros behind the last one that counts.
    let kept = match format.fill {
        true => fraction.trim_end_matches('0').len().max(format.last_zero.saturating_sub(format.before)),
        false => fraction.len(),
    };
    // A zero before the point is shown where a pattern has no digits after it, or asks for it.
    let zeros_from = format.first_zero.filter(|z| *z <= format.before);
    let begins = blanks.min(zeros_from.map_or(usize::MAX, |z| z - 1));
    let lone_zero = whole.is_empty() && format.after == 0 && zeros_from.is_none() && format.before > 0;
    let begins = if lone_zero { format.before - 1 } else { begins };
    let mut signed = !format.plain_sign();
    let sign = |out: &mut String| match (format.brackets, negative) {
        (true, true) => out.push('<'),
        (false, true) => out.push('-'),
        (_, false) if !format.fill => out.push(' '),
        _ => {}
    };
    if format.sign_at == Some(true) {
        // Directly before the first digit.
        signed = false;
    }
    let put_sign = |out: &mut String| match format.sign_at {
        Some(true) => out.push(if negative { '-' } else { '+' }),
        _ => sign(out),
    };
    let (mut place, mut started) = (0, false);
    let last_digit = format.before + format.after;
    for piece in &format.pieces {
        match piece {
            Piece::Nine | Piece::Zero => {
                if place >= begins && !signed {
                    put_sign(&mut out);
                    signed = true;
                }
                place += 1;
                if place <= begins && place <= format.before {
                    if !format.fill {
                        out.push(' ');
                    }
                } else if place <= format.before {
                    started = true;
                    out.push(match place > blanks {
                        true => char::from(whole.as_bytes()[place - blanks - 1]),
                        false => '0',
                    });
                } else if place - format.before <= kept {
                    started = true;
                    out.push(char::from(fraction.as_bytes()[place - format.before - 1]));
                }
                if place == last_digit && format.brackets {
                    match negative {
                        true => out.push('>'),
                        false if !format.fill => out.push(' '),
                        false => {}
                    }
                }
            }
            Piece::Point => {
                if !signed {
                    put_sign(&mut out);
                    signed = true;
                }
                // FM9.9 shows 0.5 as .5 and 0 as 0.
                if format.fill && !started && kept == 0 {
                    out.push('0');
                }
                started = true;
                out.push('.');
            }
            Piece::Group => match started {
                true => out.push(','),
                false if !format.fill => out.push(' '),
                false => {}
            },
            Piece::Sign => {
                if format.sign_at == Some(false) {
                    out.push(if negative { '-' } else { '+' });
                }
            }
            Piece::Minus => match negative {
                true => out.push('-'),
                false if !format.fill => out.push(' '),
                false => {}
            },
            Piece::Plus => match negative {
                false => out.push('+'),
                true if !format.fill => out.push(' '),
                true => {}
            },
            Piece::Either => out.push(if negative { '-' } else { '+' }),
            Piece::Ordinal(upper) => {
                if !negative && format.after == 0 {
                    let text = suffix(whole);
                    out.push_str(&if *upper { text.to_ascii_uppercase() } else { text.to_owned() });
                }
            }
            Piece::Char(c) => out.push(*c),
        }
    }
    out
}

fn overflow(format: &Format, negative: bool) -> String {
    let mut out = String::new();
    let sign = if negative { '-' } else { '+' };
    let mut signed = !format.plain_sign();
    for piece in &format.pieces {
        if !signed && matches!(piece, Piece::Nine | Piece::Zero | Piece::Point) {
            signed = true;
            match (format.brackets, negative) {
                (true, true) => out.push('<'),
                (false, true) => out.push('-'),
                _ if !format.fill => out.push(' '),
                _ => {}
            }
        }
        match piece {
            Piece::Nine | Piece::Zero => out.push('#'),
            Piece::Point => out.push('.'),
            Piece::Group => out.push(','),
            Piece::Sign | Piece::Either => out.push(sign),
            Piece::Minus if negative => out.push('-'),
            Piece::Plus if !negative => out.push('+'),
            Piece::Minus | Piece::Plus if !format.fill => out.push(' '),
            Piece::Minus | Piece::Plus | Piece::Ordinal(_) => {}
            Piece::Char(c) => out.push(*c),
        }
    }
    if format.brackets {
        match negative {
            true => out.push('>'),
            false if !format.fill => out.push(' '),
            false => {}
        }
    }
    out
}

/// From 1 to 3999, in 15 characters.
fn roman(negative: bool, whole: &str, fraction: &str, fill: bool, upper: bool) -> String {
    const LETTERS: [(u32, &str); 13] = [
        (1000, "M"),
        (900, "CM"),
        (500, "D"),
        (400, "CD"),
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ];
    let (whole, _) = rounded(whole, fraction, 0);
    let number = whole.parse::<u32>().ok().filter(|n| !negative && (1..4000).contains(n));
    let text = match number {
        None => "#".repeat(15),
        Some(mut n) => {
            let mut out = String::new();
            for (value, letters) in LETTERS {
                while n >= value {
                    out.push_str(letters);
                    n -= value;
                }
            }
            out
        }
    };
    let text = if upper { text } else { text.to_lowercase() };
    if fill { text } else { format!("{text:>15}") }
}

/// The number a text shows by a pattern, in its digits.
pub(super) fn read(text: &str, format: &str) -> Result<String, SqlError> {
    let parsed = Format::parse(format)?;
    if parsed.roman.is_some() {
        return Err(SqlError::unsupported("\"RN\" in to_number is not supported"));
    }
    let mut rest = text.trim_start();
    let (mut negative, mut digits, mut point) = (false, String::new(), false);
    // A sign comes first or last, whatever the pattern calls it.
    let sign = |rest: &mut &str, negative: &mut bool| {
        let after = rest.trim_start();
        if let Some(tail) = after.strip_prefix(['-', '<']) {
            (*negative, *rest) = (true, tail);
        } else if let Some(tail) = after.strip_prefix(['+', '>']) {
            *rest = tail;
        }
    };
    let (mut whole, mut fraction) = (0, 0);
    for piece in &parsed.pieces {
        if rest.is_empty() {
            break;
        }
        match piece {
            Piece::Nine | Piece::Zero => {
                if digits.is_empty() {
                    sign(&mut rest, &mut negative);
                    rest = rest.trim_start();
                }
                if let Some(c) = rest.chars().next().filter(char::is_ascii_digit) {
                    let room = if point { fraction < parsed.after } else { whole < parsed.before };
                    if room {
                        if point {
                            fraction += 1
                        } else {
                            whole += 1
                        }
                        digits.push(c);
                        rest = &rest[1..];
                    }
                } else if let (false, Some(tail)) = (point, rest.strip_prefix('.'))
                    && parsed.after > 0
                {
                    // Fewer digits than the pattern has.
                    (point, rest) = (true, tail);
                    digits.push('.');
                    if let Some(c) = rest.chars().next().filter(char::is_ascii_digit) {
                        fraction += 1;
                        digits.push(c);
                        rest = &rest[1..];
                    }
                }
            }
            Piece::Point => {
                if !point && let Some(tail) = rest.strip_prefix('.') {
                    (point, rest) = (true, tail);
                    digits.push('.');
                }
            }
            Piece::Group => rest = rest.strip_prefix(',').unwrap_or(rest),
            Piece::Sign | Piece::Minus | Piece::Plus | Piece::Either => sign(&mut rest, &mut negative),
            Piece::Ordinal(_) => rest = rest.get(2..).unwrap_or(""),
            Piece::Char(_) => {
                // It stands for any character that is no part of a number.
                let mut chars = rest.chars();
                if chars.next().is_some_and(|c| !c.is_ascii_digit() && !matches!(c, '.' | '-' | '+')) {
                    rest = chars.as_str();
                }
            }
        }
    }
    if rest.trim_start().starts_with('-') {
        negative = true;
    }
    if !digits.bytes().any(|b| b.is_ascii_digit()) {
        let message = format!("invalid input syntax for type numeric: \"{text}\"");
        return Err(SqlError::new(SqlState::INVALID_TEXT_REPRESENTATION, message));
    }
    Ok(format!("{}{digits}", if negative { "-" } else { "" }))
}
