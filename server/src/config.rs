//! Settings: flags over environment (`MILLSTREAM_*`) over a TOML file over defaults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream::api::EngineOptions;
use millstream::error::{Error, Result, SqlState};
use serde::Deserialize;

use crate::pg::Limits;

/// Flags that set what a file can set as well. Clap fills them from the environment too.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where state is kept: a folder, file:///.., s3://.., or memory:// [default: ./millstream-data]
    #[arg(long, env = "MILLSTREAM_DATA", value_name = "URL")]
    pub data: Option<String>,
    /// Address of the Postgres wire [default: 127.0.0.1:7433]
    #[arg(long, env = "MILLSTREAM_PG", value_name = "ADDR")]
    pub pg: Option<SocketAddr>,
    /// Address of HTTP: health and metrics [default: 127.0.0.1:7480]
    #[arg(long, env = "MILLSTREAM_HTTP", value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Worker threads of the dataflows [default: number of cores]
    #[arg(long, env = "MILLSTREAM_WORKERS", value_name = "N")]
    pub workers: Option<usize>,
    /// Memory for state, queries and buffers [default: 4GB]
    #[arg(long, env = "MILLSTREAM_MEMORY", value_name = "SIZE")]
    pub memory: Option<String>,
    /// Time between checkpoints; 0 means only at shutdown [default: 10s]
    #[arg(long, env = "MILLSTREAM_CHECKPOINT_INTERVAL", value_name = "TIME")]
    pub checkpoint_interval: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or per module [default: info]
    #[arg(long, env = "MILLSTREAM_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// How it is logged: text or json [default: text]
    #[arg(long, env = "MILLSTREAM_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Sessions at a time [default: 200]
    #[arg(long, env = "MILLSTREAM_CONNECTIONS_MAX", value_name = "N")]
    pub connections_max: Option<usize>,
    /// Largest message of a client [default: 16MB]
    #[arg(long, env = "MILLSTREAM_MESSAGE_BYTES_MAX", value_name = "SIZE")]
    pub message_bytes_max: Option<String>,
    /// Listen beyond this machine although nobody is asked for a password
    #[arg(long, env = "MILLSTREAM_INSECURE_ALLOW_REMOTE", num_args = 0..=1, default_missing_value = "true")]
    pub insecure_allow_remote: Option<bool>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Every setting, resolved.
#[derive(Debug, Clone)]
pub struct Config {
    /// See [`Settings`].
    pub data: String,
    /// See [`Settings`].
    pub pg: SocketAddr,
    /// See [`Settings`].
    pub http: SocketAddr,
    /// 0: cores.
    pub workers: usize,
    /// Bytes.
    pub memory_bytes: usize,
    /// Zero: only at shutdown.
    pub checkpoint_interval: Duration,
    /// See [`Settings`].
    pub log: String,
    /// See [`Settings`].
    pub log_format: LogFormat,
    /// Of the Postgres wire.
    pub limits: Limits,
    /// See [`Settings`].
    pub insecure_allow_remote: bool,
}

/// The file that is read if it is there.
const DEFAULT_FILE: &str = "millstream.toml";

fn bad(message: impl Into<String>) -> Error {
    Error::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

impl Config {
    /// Settings over the file (the named one, or `./millstream.toml` if there is one) over defaults.
    pub fn load(settings: Settings, file: Option<&Path>) -> Result<Self> {
        let path = match file {
            Some(p) => Some(p.to_owned()),
            None => Some(PathBuf::from(DEFAULT_FILE)).filter(|p| p.exists()),
        };
        let from_file = match path {
            None => Settings::default(),
            Some(p) => {
                let text = std::fs::read_to_string(&p)
                    .map_err(|e| bad(format!("cannot read the configuration file {}: {e}", p.display())))?;
                parse_file(&text).map_err(|e| Error { message: format!("{}: {}", p.display(), e.message), ..e })?
            }
        };
        settings.over(from_file).resolve()
    }

    /// Refuses what would expose an unprotected server.
    pub fn check(&self) -> Result<()> {
        for (flag, addr) in [("--pg", self.pg), ("--http", self.http)] {
            if !addr.ip().is_loopback() && !self.insecure_allow_remote {
                return Err(bad(format!(
                    "{flag} {addr} would let other machines in, and there is no authentication yet"
                ))
                .hint("Listen on 127.0.0.1 and tunnel, or pass --insecure-allow-remote in a network you trust."));
            }
        }
        Ok(())
    }

    /// Options of the engine.
    pub fn engine_options(&self) -> EngineOptions {
        EngineOptions {
            data: self.data.clone(),
            workers: self.workers,
            memory_bytes: self.memory_bytes,
            checkpoint_interval: self.checkpoint_interval,
            ..EngineOptions::default()
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "./millstream-data".into(),
            pg: SocketAddr::from(([127, 0, 0, 1], 7433)),
            http: SocketAddr::from(([127, 0, 0, 1], 7480)),
            workers: 0,
            memory_bytes: 4 << 30,
            checkpoint_interval: Duration::from_secs(10),
            log: "info".into(),
            log_format: LogFormat::Text,
            limits: Limits::default(),
            insecure_allow_remote: false,
        }
    }
}

impl Settings {
    /// These settings where they say something, `below` elsewhere.
    pub fn over(self, below: Self) -> Self {
        Self {
            data: self.data.or(below.data),
            pg: self.pg.or(below.pg),
            http: self.http.or(below.http),
            workers: self.workers.or(below.workers),
            memory: self.memory.or(below.memory),
            checkpoint_interval: self.checkpoint_interval.or(below.checkpoint_interval),
            log: self.log.or(below.log),
            log_format: self.log_format.or(below.log_format),
            connections_max: self.connections_max.or(below.connections_max),
            message_bytes_max: self.message_bytes_max.or(below.message_bytes_max),
            insecure_allow_remote: self.insecure_allow_remote.or(below.insecure_allow_remote),
        }
    }

    fn resolve(self) -> Result<Config> {
        let d = Config::default();
        let size = |name: &str, v: Option<String>, default: usize| match v {
            None => Ok(default),
            Some(s) => parse_size(&s).ok_or_else(|| {
                bad(format!("invalid value \"{s}\" of {name}")).hint("Write a number with B, KB, MB, GB or TB.")
            }),
        };
        let interval = match self.checkpoint_interval {
            None => d.checkpoint_interval,
            Some(s) => parse_duration(&s).ok_or_else(|| {
                bad(format!("invalid value \"{s}\" of checkpoint_interval"))
                    .hint("Write a number with ms, s, min or h.")
            })?,
        };
        Ok(Config {
            data: self.data.unwrap_or(d.data),
            pg: self.pg.unwrap_or(d.pg),
            http: self.http.unwrap_or(d.http),
            workers: self.workers.unwrap_or(d.workers),
            memory_bytes: size("memory", self.memory, d.memory_bytes)?,
            checkpoint_interval: interval,
            log: self.log.unwrap_or(d.log),
            log_format: self.log_format.unwrap_or(d.log_format),
            limits: Limits {
                connections_max: self.connections_max.unwrap_or(d.limits.connections_max),
                message_bytes_max: size("message_bytes_max", self.message_bytes_max, d.limits.message_bytes_max)?,
                ..d.limits
            },
            insecure_allow_remote: self.insecure_allow_remote.unwrap_or(d.insecure_allow_remote),
        })
    }
}

/// Names a file may set.
const KEYS: &[&str] = &[
    "data",
    "pg",
    "http",
    "workers",
    "memory",
    "checkpoint_interval",
    "log",
    "log_format",
    "connections_max",
    "message_bytes_max",
    "insecure_allow_remote",
];

fn parse_file(text: &str) -> Result<Settings> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| bad(e.to_string().trim_end().to_owned()))?;
    if let Some(unknown) = table.keys().find(|k| !KEYS.contains(&k.as_str())) {
        let nearest = KEYS.iter().min_by_key(|k| millstream::catalog::edit_distance(k, unknown));
        let e = bad(format!("unknown setting \"{unknown}\""));
        return Err(match nearest {
            Some(n) => e.hint(format!("Did you mean \"{n}\"? Settings are: {}.", KEYS.join(", "))),
            None => e,
        });
    }
    table.try_into().map_err(|e: toml::de::Error| bad(e.to_string().trim_end().to_owned()))
}

fn split_unit(s: &str) -> (f64, String) {
    let s = s.trim();
    let at = s.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.len());
    (s[..at].parse().unwrap_or(f64::NAN), s[at..].trim().to_ascii_lowercase())
}

/// `4GB`, `512 MB`, `1.5GiB`, `1000`: bytes, in powers of 1 024.
pub fn parse_size(s: &str) -> Option<usize> {
    let (n, unit) = split_unit(s);
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let bytes = n * f64::from(1u32 << shift.min(30)) * if shift > 30 { 1024.0 } else { 1.0 };
    (1.0..9e15).contains(&bytes).then_some(bytes as usize)
}

/// `500ms`, `10s`, `2min`, `1h`, `0`; bare numbers are seconds.
pub fn parse_duration(s: &str) -> Option<Duration> {
    let (n, unit) = split_unit(s);
    let seconds = match unit.as_str() {
        "ms" => 0.001,
        "" | "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let v = n * seconds;
    (v.is_finite() && v < 1e9).then(|| Duration::from_secs_f64(v))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = parse_file("memory = '1GB'\nworkers = 3\npg = '127.0.0.1:1'").expect("file");
        let flags = Settings { workers: Some(2), ..Settings::default() };
        let c = flags.over(file).resolve().expect("config");
        assert_eq!((c.workers, c.memory_bytes, c.pg.port(), c.http.port()), (2, 1 << 30, 1, 7480));
    }

    #[test]
    fn an_unknown_key_names_the_nearest_one() {
        let e = parse_file("chekpoint_interval = '5s'").expect_err("unknown");
        assert!(e.hint.expect("hint").starts_with("Did you mean \"checkpoint_interval\"?"));
        assert!(parse_file("workers = 'many'").is_err());
        assert!(parse_file("= 1").is_err());
    }

    #[test]
    fn every_setting_of_a_file_is_known() {
        let text = "data='x'\npg='127.0.0.1:1'\nhttp='127.0.0.1:2'\nworkers=1\nmemory='1GB'\ncheckpoint_interval='1s'\n\
                    log='debug'\nlog_format='json'\nconnections_max=1\nmessage_bytes_max='1MB'\n\
                    insecure_allow_remote=true";
        let c = parse_file(text).expect("file").resolve().expect("config");
        assert!(c.insecure_allow_remote && c.log_format == LogFormat::Json);
        assert_eq!(text.lines().count(), KEYS.len());
    }

    #[test]
    fn remote_addresses_need_to_be_asked_for() {
        let mut c = Config { pg: SocketAddr::from(([0, 0, 0, 0], 7433)), ..Config::default() };
        assert_eq!(c.check().expect_err("remote").code, SqlState::INVALID_PARAMETER_VALUE);
        c.insecure_allow_remote = true;
        c.check().expect("asked for");
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(parse_size("4GB"), Some(4 << 30));
        assert_eq!(parse_size("1.5 KiB"), Some(1536));
        assert_eq!(parse_size("2TB"), Some(2 << 40));
        assert_eq!(parse_size("x"), None);
        assert_eq!(parse_size("-1"), None);
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
        assert_eq!(parse_duration("1 fortnight"), None);
    }
}
