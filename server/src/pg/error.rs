//! Engine errors and notices as ErrorResponse and NoticeResponse fields. The SQLSTATE is the engine's own; this is the
//! only place that turns it into wire fields.

use millstream::api::Notice;
use millstream::error::{Error, SqlState};
use pgwire::messages::response::{ErrorResponse, NoticeResponse};

/// Longest message, detail or hint we send: an error may quote a value, and a value may be huge.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// Why a statement stopped.
#[derive(Debug)]
pub enum Fail {
    /// Tell the client.
    Sql(Error),
    /// Nobody is there to be told.
    Gone,
}

impl From<Error> for Fail {
    fn from(e: Error) -> Self {
        Self::Sql(e)
    }
}

impl From<std::io::Error> for Fail {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

fn text(s: &str) -> String {
    // A string on the wire ends at its first zero byte.
    let clean = s.replace('\0', "\u{fffd}");
    if clean.len() <= TEXT_BYTES_MAX {
        return clean;
    }
    let end = (0..=TEXT_BYTES_MAX).rev().find(|i| clean.is_char_boundary(*i)).unwrap_or(0);
    format!("{}...", &clean[..end])
}

fn fields(severity: &str, code: SqlState, message: &str) -> Vec<(u8, String)> {
    vec![(b'S', severity.to_owned()), (b'V', severity.to_owned()), (b'C', code.0.to_owned()), (b'M', text(message))]
}

/// An error as a message; `fatal` if the connection ends with it.
pub fn response(e: &Error, fatal: bool) -> ErrorResponse {
    let mut f = fields(if fatal { "FATAL" } else { "ERROR" }, e.code, &e.message);
    if let Some(d) = &e.detail {
        f.push((b'D', text(d)));
    }
    if let Some(h) = &e.hint {
        f.push((b'H', text(h)));
    }
    if let Some(p) = e.position {
        f.push((b'P', p.to_string()));
    }
    ErrorResponse::new(f)
}

/// A notice as a message.
pub fn notice(n: &Notice) -> NoticeResponse {
    let mut f = fields(n.severity, SqlState(n.code), &n.message);
    if let Some(h) = &n.hint {
        f.push((b'H', text(h)));
    }
    NoticeResponse::new(f)
}

/// A `WARNING`.
pub fn warning(code: &'static str, message: impl Into<String>) -> Notice {
    Notice { severity: "WARNING", code, message: message.into(), hint: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_an_error_is_a_field() {
        let e = Error::new(SqlState::UNDEFINED_TABLE, "relation \"x\" does not exist").detail("D.").hint("H.").at(15);
        let f = response(&e, false).fields;
        let get = |k: u8| f.iter().find(|(c, _)| *c == k).map(|(_, v)| v.as_str());
        assert_eq!(get(b'S'), Some("ERROR"));
        assert_eq!(get(b'C'), Some("42P01"));
        assert_eq!(get(b'D'), Some("D."));
        assert_eq!(get(b'H'), Some("H."));
        assert_eq!(get(b'P'), Some("15"));
    }

    #[test]
    fn long_texts_are_cut_and_zero_bytes_replaced() {
        let e = Error::internal(format!("a\0{}", "é".repeat(10_000)));
        let f = response(&e, true).fields;
        let m = &f.iter().find(|(c, _)| *c == b'M').expect("message").1;
        assert!(m.len() <= TEXT_BYTES_MAX + 3 && !m.contains('\0') && m.ends_with("..."));
    }
}
