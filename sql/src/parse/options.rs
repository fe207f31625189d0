//! `WITH (k = v, ..)` and `FORMAT .. ENCODE ..`, with the spellings of other systems mapped to ours.

use sqlparser::tokenizer::Token;

use super::cursor::Cursor;
use crate::error::{Result, SqlError, SqlState};
use crate::statement::Options;

/// Other systems' keys for ours.
const ALIASES: &[(&str, &str)] = &[
    ("properties.bootstrap.server", "bootstrap_servers"),
    ("properties.bootstrap.servers", "bootstrap_servers"),
    ("kafka.bootstrap.servers", "bootstrap_servers"),
    ("bootstrap.servers", "bootstrap_servers"),
    ("bootstrap_server", "bootstrap_servers"),
    ("kafka.brokers", "bootstrap_servers"),
    ("brokers", "bootstrap_servers"),
    ("kafka_topic", "topic"),
    ("kafka.topic", "topic"),
    ("value_format", "format"),
    ("value.format", "format"),
    ("connector.type", "connector"),
    ("source.idle.timeout", "idle_timeout"),
    ("scan.watermark.idle-timeout", "idle_timeout"),
    ("group.id", "properties.group.id"),
];

/// Keys that say where to start.
const START: &[&str] = &[
    "start",
    "scan.startup.mode",
    "scan_startup_mode",
    "auto.offset.reset",
    "properties.auto.offset.reset",
    "auto_offset_reset",
];

/// Keys that give the time to start from, in milliseconds.
const START_MILLIS: &[&str] = &[
    "scan.startup.timestamp.millis",
    "scan.startup.timestamp-millis",
    "scan.startup.timestamp_millis",
    "scan_startup_timestamp_millis",
];

/// `WITH ( .. )` if it is there.
pub(crate) fn with_options(c: &mut Cursor<'_>) -> Result<Options> {
    let mut out = Options::new();
    if c.eat(&["with"]) {
        list(c, &mut out)?;
    }
    Ok(out)
}

fn put(out: &mut Options, key: &str, value: String, at: usize) -> Result<()> {
    // `start = timestamp` only announces the key with the time.
    if key == "start" && out.get("start").is_some_and(|v| v == "timestamp") && value.starts_with("timestamp:") {
        out.insert(key.to_string(), value);
        return Ok(());
    }
    if key == "start" && value == "timestamp" && out.get("start").is_some_and(|v| v.starts_with("timestamp:")) {
        return Ok(());
    }
    if out.contains_key(key) {
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, format!("option \"{key}\" is given twice")).at(at));
    }
    out.insert(key.to_string(), value);
    Ok(())
}

/// `( k = v, .. )`.
pub(crate) fn list(c: &mut Cursor<'_>, out: &mut Options) -> Result<()> {
    let open_at = c.position();
    c.expect_token(&Token::LParen)?;
    if c.eat_token(&Token::RParen) {
        return Ok(());
    }
    loop {
        let at = c.position();
        let written = key(c)?;
        c.expect_token(&Token::Eq)?;
        let value_at = c.position();
        let is_time = c.looking_at(&["timestamp"]) || c.looking_at(&["timestamptz"]);
        let value = value(c)?;
        if START.contains(&written.as_str()) {
            let value = if is_time { format!("timestamp:{value}") } else { start_value(&written, &value, value_at)? };
            put(out, "start", value, at)?;
        } else if START_MILLIS.contains(&written.as_str()) {
            if value.trim().parse::<i64>().is_err() {
                let message = format!("option \"{written}\" must be a whole number of milliseconds, not \"{value}\"");
                return Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message).at(value_at));
            }
            put(out, "start", format!("timestamp:{}", value.trim()), at)?;
        } else {
            let key = ALIASES.iter().find(|(a, _)| *a == written).map_or(written.as_str(), |(_, k)| k);
            let value = if key == "connector" { value.to_ascii_lowercase() } else { value };
            if key == "format" {
                format_value(&value, value_at, at, out)?;
            } else {
                put(out, key, value, at)?;
            }
        }
        if !c.eat_token(&Token::Comma) {
            break;
        }
        if c.is_token(&Token::RParen) {
            break;
        }
    }
    c.expect_token(&Token::RParen)?;
    if out.get("start").is_some_and(|v| v == "timestamp") {
        let message = "the start mode timestamp needs a time";
        return Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
            .hint("Write start = TIMESTAMP '2026-01-01 00:00:00', or add scan.startup.timestamp.millis.")
            .at(open_at));
    }
    Ok(())
}

/// A key: quoted, or words with dots and minus signs between them and no spaces.
pub(crate) fn key(c: &mut Cursor<'_>) -> Result<String> {
    if let Some(s) = c.eat_string() {
        return Ok(s.to_ascii_lowercase());
    }
    let mut out = String::new();
    let mut end = None;
    while let Some(t) = c.peek() {
        if end.is_some_and(|e| e != t.start) {
            break;
        }
        end = Some(t.end);
        match &t.token.token {
            Token::Word(w) => out.push_str(&w.value),
            Token::Number(..) | Token::Period | Token::Minus | Token::Colon if !out.is_empty() => {
                out.push_str(c.src.token_text(c.pos));
            }
            _ => break,
        }
        c.pos += 1;
    }
    if out.is_empty() { Err(c.unexpected("an option name")) } else { Ok(out.to_ascii_lowercase()) }
}

/// A value as text: string, number, word, or INTERVAL/TIMESTAMP with a string.
fn value(c: &mut Cursor<'_>) -> Result<String> {
    if c.looking_at(&["interval"]) {
        return super::query::interval(c);
    }
    if c.looking_at(&["secret"]) && c.nth(1).is_some_and(|t| matches!(t.token.token, Token::Word(_))) {
        return Err(SqlError::unsupported("SECRET references are not supported")
            .hint("Write '${NAME}' to take the value from an environment variable of the server.")
            .at(c.position()));
    }
    let _ = c.eat(&["timestamp"]) || c.eat(&["timestamptz"]);
    if let Some(s) = c.eat_string() {
        return Ok(s);
    }
    let sign = if c.eat_token(&Token::Minus) { "-" } else { "" };
    match c.peek().map(|t| &t.token.token) {
        Some(Token::Number(n, _)) => {
            c.pos += 1;
            let unit = match c.peek().map(|t| &t.token.token) {
                // `10s` arrives as a number and a word.
                Some(Token::Word(w)) => {
                    c.pos += 1;
                    w.value.to_ascii_lowercase()
                }
                _ => String::new(),
            };
            Ok(format!("{sign}{n}{unit}"))
        }
        Some(Token::Word(w)) if sign.is_empty() => {
            c.pos += 1;
            Ok(if w.quote_style.is_some() { w.value.clone() } else { w.value.to_ascii_lowercase() })
        }
        _ => Err(c.unexpected("a string, a number, a word or an INTERVAL")),
    }
}

fn start_value(key: &str, value: &str, at: usize) -> Result<String> {
    let lower = value.trim().to_ascii_lowercase();
    match lower.as_str() {
        "earliest" | "earliest-offset" | "earliest_offset" | "smallest" | "beginning" => Ok("earliest".into()),
        "latest" | "latest-offset" | "latest_offset" | "largest" | "end" => Ok("latest".into()),
        "timestamp" => Ok("timestamp".into()),
        v if v.starts_with("timestamp:") || v.starts_with("offsets:") => Ok(value.trim().to_string()),
        _ => Err(SqlError::new(SqlState::INVALID_PARAMETER_VALUE, format!("option \"{key}\" cannot be \"{value}\""))
            .hint("Use 'earliest', 'latest', TIMESTAMP '..' or 'offsets:0=12,1=40'.")
            .at(at)),
    }
}

/// Formats of other systems carry the envelope in their name.
fn format_value(value: &str, value_at: usize, at: usize, out: &mut Options) -> Result<()> {
    let lower = value.to_ascii_lowercase();
    let (format, envelope) = match lower.as_str() {
        "debezium-json" | "debezium_json" => ("json", Some("debezium")),
        "ndjson" | "jsonl" | "json_sr" => ("json", None),
        other => (other, None),
    };
    put(out, "format", format.to_string(), value_at)?;
    if let Some(e) = envelope {
        put(out, "envelope", e.to_string(), at)?;
    }
    Ok(())
}

/// `FORMAT {PLAIN|UPSERT|DEBEZIUM} ENCODE e [( .. )]`, if it is there.
pub(crate) fn format_encode(c: &mut Cursor<'_>, out: &mut Options) -> Result<()> {
    let at = c.position();
    if !c.eat(&["format"]) {
        return Ok(());
    }
    let envelope = if c.eat(&["plain"]) || c.eat(&["native"]) {
        None
    } else if c.eat(&["upsert"]) {
        Some("upsert")
    } else if c.eat(&["debezium"]) {
        Some("debezium")
    } else {
        return Err(c.unexpected("PLAIN, UPSERT or DEBEZIUM after FORMAT"));
    };
    c.expect(&["encode"])?;
    let encode_at = c.position();
    let encode = c.ident("an encoding such as JSON")?;
    format_value(&encode, encode_at, at, out)?;
    if let Some(e) = envelope {
        put(out, "envelope", e.to_string(), at)?;
    }
    if c.is_token(&Token::LParen) {
        list(c, out)?;
    }
    Ok(())
}
