//! What a stream's options say about Kafka.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

use crate::format::{FORMAT_OPTIONS, Format, FormatSpec};
use crate::instant::parse_time_us;
use crate::options::{Options, nearest};
use crate::{ConnectorError, Result, SourceConfig};

const OPTIONS: &[&str] = &["topic", "bootstrap_servers", "discovery_interval", "connect_timeout"];
const PROPERTIES: &str = "properties.";

/// Client properties the connector sets itself, with the reason.
const RESERVED: &[(&str, &str)] = &[
    ("enable.auto.commit", "positions live in checkpoints"),
    ("enable.auto.offset.store", "positions live in checkpoints"),
    ("auto.offset.reset", "a gap must be an error; use the option start"),
    ("enable.partition.eof", "bounded reads need it"),
    ("allow.auto.create.topics", "a source never creates a topic"),
    ("bootstrap.servers", "use the option bootstrap_servers"),
    ("metadata.broker.list", "use the option bootstrap_servers"),
];

/// Well-known client properties, to offer the nearest one for a typing error.
const KNOWN: &[&str] = &[
    "broker.address.family",
    "check.crcs",
    "client.id",
    "client.rack",
    "debug",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "group.id",
    "isolation.level",
    "max.partition.fetch.bytes",
    "message.max.bytes",
    "metadata.max.age.ms",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "receive.message.max.bytes",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "sasl.jaas.config",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.oauthbearer.config",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.timeout.ms",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "topic.metadata.refresh.interval.ms",
];

/// Where a new stream starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Start {
    Earliest,
    Latest,
    /// The first record at or after these milliseconds since 1970.
    Time(i64),
    /// By partition; the others at the beginning of their logs.
    Offsets(BTreeMap<i32, u64>),
}

impl Start {
    fn parse(options: Options<'_>) -> Result<Self> {
        let Some(text) = options.get("start") else { return Ok(Self::Earliest) };
        let trimmed = text.trim();
        match trimmed.to_ascii_lowercase().as_str() {
            "earliest" | "earliest-offset" | "beginning" => return Ok(Self::Earliest),
            "latest" | "latest-offset" | "end" => return Ok(Self::Latest),
            _ => {}
        }
        let hint = "Give 'earliest', 'latest', a timestamp like '2026-01-01T00:00:00Z', milliseconds since 1970, or \
                    'offsets:0=12,1=40'.";
        let wrong = || options.invalid("start", text, hint);
        if let Some(list) = trimmed.strip_prefix("offsets:") {
            let mut offsets = BTreeMap::new();
            for item in list.split(',') {
                let (partition, offset) = item.split_once(['=', ':']).ok_or_else(wrong)?;
                let partition: i32 = partition.trim().parse().ok().filter(|p| *p >= 0).ok_or_else(wrong)?;
                // Kafka's offsets are signed 64 bit.
                let offset: i64 = offset.trim().parse().ok().filter(|o| *o >= 0).ok_or_else(wrong)?;
                if offsets.insert(partition, offset.unsigned_abs()).is_some() {
                    return Err(options.invalid("start", text, format!("Partition {partition} is there twice.")));
                }
            }
            return Ok(Self::Offsets(offsets));
        }
        let time = trimmed.strip_prefix("timestamp:").unwrap_or(trimmed);
        let ms = match time.trim().parse::<i64>() {
            Ok(ms) => ms,
            Err(_) => parse_time_us(time).ok_or_else(wrong)?.div_euclid(1000),
        };
        if ms < 0 {
            return Err(wrong());
        }
        Ok(Self::Time(ms))
    }
}

/// The options of a Kafka stream, checked.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub name: String,
    pub topic: String,
    pub brokers: String,
    pub start: Start,
    pub format: FormatSpec,
    /// How often new partitions are looked for.
    pub discovery: Duration,
    /// Longest wait for an answer about the topic.
    pub timeout: Duration,
    properties: Vec<(String, String)>,
}

impl Settings {
    pub fn new(config: &SourceConfig) -> Result<Self> {
        let options = Options::new("kafka", &config.options);
        let known: Vec<&str> = OPTIONS.iter().chain(FORMAT_OPTIONS).copied().collect();
        options.check(&known, &[PROPERTIES])?;
        match options.choice("envelope", &["none", "append", "upsert", "debezium"], "none")? {
            "none" | "append" => {}
            other => {
                return Err(ConnectorError::config(format!("envelope \"{other}\" is not supported yet"))
                    .hint("Leave the option out to append every record."));
            }
        }
        let topic = options.require("topic")?.trim();
        if topic.is_empty() || topic.starts_with('^') {
            return Err(options.invalid("topic", topic, "Give the name of one topic."));
        }
        let brokers = options.require("bootstrap_servers")?.trim();
        if brokers.is_empty() {
            return Err(options.invalid("bootstrap_servers", brokers, "Give host:port, or several with commas."));
        }
        let settings = Self {
            name: config.name.clone(),
            topic: topic.to_owned(),
            brokers: brokers.to_owned(),
            start: Start::parse(options)?,
            format: FormatSpec::from_options(&options, Some(Format::Json))?,
            discovery: options.duration("discovery_interval", Duration::from_secs(5))?.max(Duration::from_millis(100)),
            timeout: options.duration("connect_timeout", Duration::from_secs(5))?.max(Duration::from_millis(100)),
            properties: properties(&config.options)?,
        };
        settings.check_properties()?;
        Ok(settings)
    }

    /// Configuration of a client that only asks (`reads` false) or that reads.
    pub fn client(&self, reads: bool) -> ClientConfig {
        let mut c = ClientConfig::new();
        c.set_log_level(RDKafkaLogLevel::Warning)
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", format!("millstream-{}", self.name))
            .set("allow.auto.create.topics", "false")
            .set("isolation.level", "read_committed")
            .set("reconnect.backoff.max.ms", "2000");
        if reads {
            // A group is only a name here: nothing is subscribed or committed.
            c.set("group.id", format!("millstream-{}", self.name))
                .set("enable.auto.commit", "false")
                .set("enable.auto.offset.store", "false")
                .set("auto.offset.reset", "error")
                .set("enable.partition.eof", "true")
                // Bounds what is fetched ahead of decoding.
                .set("queued.max.messages.kbytes", "32768")
                .set("fetch.queue.backoff.ms", "10");
        }
        for (key, value) in &self.properties {
            if reads || key != "group.id" {
                c.set(key, value);
            }
        }
        c
    }

    fn check_properties(&self) -> Result<()> {
        let Err(error) = self.client(true).create_native_config() else { return Ok(()) };
        Err(match &error {
            KafkaError::ClientConfig(_, reason, key, value) => {
                let e = ConnectorError::config(format!("option \"{PROPERTIES}{key}\" = \"{value}\": {reason}"));
                match nearest(key, KNOWN.iter().copied().filter(|k| k != key)) {
                    Some(near) if reason.contains("No such") => e.hint(format!("Did you mean \"{PROPERTIES}{near}\"?")),
                    _ => e.hint("Properties are those of librdkafka."),
                }
            }
            _ => ConnectorError::config(format!("wrong client properties: {error}")),
        })
    }
}

fn properties(options: &BTreeMap<String, String>) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    for (full, value) in options {
        let Some(key) = full.strip_prefix(PROPERTIES) else { continue };
        if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| *reserved == key) {
            return Err(ConnectorError::config(format!("option \"{full}\" cannot be set: {why}")));
        }
        // Nothing else takes it, and the client would let the hyphen-less name pass as unknown.
        if key == "isolation.level" && !["read_committed", "read_uncommitted"].contains(&value.as_str()) {
            return Err(ConnectorError::config(format!("invalid value \"{value}\" for option \"{full}\""))
                .hint("Values are: read_committed, read_uncommitted."));
        }
        out.push((key.to_owned(), value.clone()));
    }
    Ok(out)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn config(options: &[(&str, &str)]) -> SourceConfig {
        let always = [("connector", "kafka"), ("topic", "t"), ("bootstrap_servers", "127.0.0.1:1")];
        SourceConfig {
            name: "s".into(),
            options: always.iter().chain(options).map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            schema: None,
            metadata: Vec::new(),
            primary_key: Vec::new(),
            base_dir: None,
        }
    }

    fn start(text: &str) -> Result<Start> {
        Settings::new(&config(&[("start", text)])).map(|s| s.start)
    }

    #[test]
    fn starts_are_read_in_all_their_forms() {
        assert_eq!(start("earliest").unwrap(), Start::Earliest);
        assert_eq!(start("LATEST").unwrap(), Start::Latest);
        assert_eq!(start("1767225600000").unwrap(), Start::Time(1_767_225_600_000));
        assert_eq!(start("2026-01-01T00:00:00Z").unwrap(), Start::Time(1_767_225_600_000));
        assert_eq!(start("timestamp:2026-01-01").unwrap(), Start::Time(1_767_225_600_000));
        assert_eq!(start("offsets:0=12, 1=40").unwrap(), Start::Offsets(BTreeMap::from([(0, 12), (1, 40)])));
        for wrong in ["soon", "-5", "offsets:", "offsets:0", "offsets:0=-1", "offsets:0=1,0=2", "offsets:x=1"] {
            assert!(start(wrong).unwrap_err().message.contains("\"start\""), "{wrong}");
        }
    }

    #[test]
    fn wrong_options_name_the_key_and_what_is_near() {
        let e = |options: &[(&str, &str)]| Settings::new(&config(options)).unwrap_err();
        assert_eq!(e(&[("bootstrap_server", "x")]).hint.as_deref(), Some("Did you mean \"bootstrap_servers\"?"));
        let unknown = e(&[("properties.security.protocl", "ssl")]);
        assert!(unknown.message.contains("security.protocl"), "{unknown}");
        assert_eq!(unknown.hint.as_deref(), Some("Did you mean \"properties.security.protocol\"?"));
        assert!(e(&[("properties.enable.auto.commit", "true")]).message.contains("cannot be set"));
        assert!(e(&[("properties.fetch.min.bytes", "many")]).message.contains("fetch.min.bytes"));
        assert!(e(&[("envelope", "upsert")]).message.contains("not supported yet"));
        assert!(e(&[("format", "parquet"), ("header", "true")]).message.contains("header"));
        let mut none = config(&[]);
        none.options.remove("topic");
        assert!(Settings::new(&none).unwrap_err().message.contains("needs option \"topic\""));
    }

    #[test]
    fn properties_reach_the_client_and_override_the_defaults() {
        let s = Settings::new(&config(&[
            ("properties.isolation.level", "read_uncommitted"),
            ("properties.group.id", "mine"),
            ("properties.sasl.username", "u"),
        ]))
        .unwrap();
        let c = s.client(true);
        assert_eq!(c.get("isolation.level"), Some("read_uncommitted"));
        assert_eq!(c.get("group.id"), Some("mine"));
        assert_eq!(c.get("sasl.username"), Some("u"));
        assert_eq!(c.get("enable.auto.commit"), Some("false"));
        assert_eq!(s.client(false).get("group.id"), None);
    }
}
