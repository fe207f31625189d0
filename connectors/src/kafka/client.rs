//! Questions to the cluster: which partitions a topic has, and where they begin and end. Every call blocks for at
//! most its timeout, so callers run it on a thread that may block.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::settings::Settings;
use crate::options::nearest;
use crate::{ConnectorError, ErrorKind, Result};

/// Takes the client's log lines and keeps the last error for messages.
pub(super) struct Context {
    stream: String,
    last_error: Mutex<Option<String>>,
}

impl Context {
    pub fn new(stream: &str) -> Self {
        Self { stream: stream.to_owned(), last_error: Mutex::new(None) }
    }

    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters reaches the user through errors; lost connections are logged by the client many times over.
        tracing::debug!(target: "kafka", stream = %self.stream, ?level, facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        // Says less than the error before it.
        if code != Some(RDKafkaErrorCode::AllBrokersDown) || self.last_error.lock().is_none() {
            *self.last_error.lock() = Some(reason.to_owned());
        }
        tracing::debug!(target: "kafka", stream = %self.stream, ?code, "{reason}");
    }
}

impl ConsumerContext for Context {}

/// What a failed question means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// While the stream is created: the user's options are wrong.
    Create,
    /// Later: a missing topic is a loss, and a broker that is down may come back.
    Running,
}

impl When {
    fn unreachable(self) -> ErrorKind {
        match self {
            Self::Create => ErrorKind::Config,
            Self::Running => ErrorKind::Retryable,
        }
    }

    fn missing(self) -> ErrorKind {
        match self {
            Self::Create => ErrorKind::Config,
            Self::Running => ErrorKind::Lost,
        }
    }
}

/// Asks about the topic through a consumer.
pub(super) struct Asker<'a> {
    pub settings: &'a Settings,
    pub consumer: &'a BaseConsumer<Context>,
    /// The consumer is not also read from, so its event queue may be served here.
    pub serve: bool,
}

impl Asker<'_> {
    /// Numbers of the topic's partitions, ascending.
    pub fn partitions(&self, when: When) -> Result<Vec<i32>> {
        let deadline = Instant::now() + self.settings.timeout;
        loop {
            match self.partitions_now(remaining(deadline), when)? {
                Some(partitions) => return Ok(partitions),
                // A topic that was just created has no leaders yet.
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
                None => {
                    return Err(ConnectorError::new(
                        when.unreachable(),
                        format!("topic \"{}\" has no leader on \"{}\"", self.settings.topic, self.settings.brokers),
                    ));
                }
            }
        }
    }

    fn partitions_now(&self, timeout: Duration, when: When) -> Result<Option<Vec<i32>>> {
        let topic = &self.settings.topic;
        let metadata = self.consumer.fetch_metadata(Some(topic), timeout).map_err(|e| self.unreachable(&e, when))?;
        let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else {
            return Err(self.missing(when));
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::InvalidTopic) => {
                return Err(self.missing(when));
            }
            Some(RDKafkaErrorCode::LeaderNotAvailable) => return Ok(None),
            Some(other) => {
                return Err(ConnectorError::new(
                    when.unreachable(),
                    format!("topic \"{topic}\" on \"{}\": {other}", self.settings.brokers),
                ));
            }
        }
        let mut partitions: Vec<i32> = found.partitions().iter().map(|p| p.id()).collect();
        partitions.sort_unstable();
        Ok((!partitions.is_empty()).then_some(partitions))
    }

    /// The offsets that stand for the given ones: `Beginning`, `End` (under read_committed the end of what is
    /// committed), or a time in milliseconds as `Offset`, for which the answer is `None` if no record is that late.
    pub fn offsets(&self, of: &[(i32, Offset)], when: When) -> Result<BTreeMap<i32, Option<u64>>> {
        if of.is_empty() {
            return Ok(BTreeMap::new());
        }
        let topic = &self.settings.topic;
        let mut list = TopicPartitionList::with_capacity(of.len());
        for (partition, offset) in of {
            list.add_partition_offset(topic, *partition, *offset)
                .map_err(|e| ConnectorError::bug(format!("offset of {topic}/{partition}: {e}")))?;
        }
        let answer =
            self.consumer.offsets_for_times(list, self.settings.timeout).map_err(|e| self.unreachable(&e, when))?;
        let mut out = BTreeMap::new();
        for element in answer.elements() {
            element.error().map_err(|e| self.unreachable(&e, when))?;
            let offset = match element.offset() {
                Offset::Offset(o) if o >= 0 => Some(o.unsigned_abs()),
                _ => None,
            };
            out.insert(element.partition(), offset);
        }
        Ok(out)
    }

    /// `offsets` for one kind that always has an answer.
    pub fn bounds(&self, partitions: &[i32], at: Offset, when: When) -> Result<BTreeMap<i32, u64>> {
        let of: Vec<(i32, Offset)> = partitions.iter().map(|p| (*p, at)).collect();
        self.offsets(&of, when)?
            .into_iter()
            .map(|(partition, offset)| match offset {
                Some(o) => Ok((partition, o)),
                None => Err(ConnectorError::retryable(format!(
                    "no offset for partition {partition} of topic \"{}\"",
                    self.settings.topic
                ))),
            })
            .collect()
    }

    fn missing(&self, when: When) -> ConnectorError {
        let Settings { topic, brokers, timeout, .. } = self.settings;
        let error = ConnectorError::new(when.missing(), format!("topic \"{topic}\" does not exist on \"{brokers}\""));
        if when == When::Running {
            return error.hint("It was deleted: its records are gone. Drop the stream, or create the topic anew.");
        }
        let all = self.consumer.fetch_metadata(None, *timeout).ok();
        let names: Vec<&str> = all.iter().flat_map(|m| m.topics()).map(|t| t.name()).collect();
        match nearest(topic, names) {
            Some(near) => error.hint(format!("Did you mean \"{near}\"?")),
            None => error.hint("Create the topic first."),
        }
    }

    fn unreachable(&self, error: &KafkaError, when: When) -> ConnectorError {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition) {
            return self.missing(when);
        }
        if self.serve {
            // The reason of a failed connection waits in the event queue.
            for _ in 0..16 {
                if self.consumer.poll(Duration::ZERO).is_none() {
                    break;
                }
            }
        }
        let reason = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::BrokerTransportFailure) => {
                self.consumer.context().last_error()
            }
            _ => None,
        };
        let code = error.rdkafka_error_code().map_or_else(|| error.to_string(), |c| c.to_string());
        ConnectorError::new(
            when.unreachable(),
            format!(
                "no answer about topic \"{}\" from Kafka at \"{}\": {}",
                self.settings.topic,
                self.settings.brokers,
                reason.unwrap_or(code)
            ),
        )
        .hint("Check bootstrap_servers, and that the broker's advertised listeners can be reached from here.")
    }
}

fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

/// A client for questions; connections stay open between them.
pub(super) struct Admin {
    settings: Arc<Settings>,
    /// Taken only by drop.
    consumer: Option<Arc<BaseConsumer<Context>>>,
}

impl Admin {
    pub fn new(settings: Arc<Settings>) -> Result<Self> {
        let consumer = settings
            .client(false)
            .create_with_context(Context::new(&settings.name))
            .map_err(|e| ConnectorError::config(format!("Kafka client for topic \"{}\": {e}", settings.topic)))?;
        Ok(Self { settings, consumer: Some(Arc::new(consumer)) })
    }

    /// Asks on a thread that may block.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(Asker<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let settings = Arc::clone(&self.settings);
        let Some(consumer) = self.consumer.clone() else {
            return Err(ConnectorError::bug("the Kafka client is closed"));
        };
        tokio::task::spawn_blocking(move || question(Asker { settings: &settings, consumer: &consumer, serve: true }))
            .await
            .map_err(|e| ConnectorError::bug(format!("a question to Kafka failed: {e}")))?
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // Closing a client waits for its threads; that must not hold up an async worker.
        if let Some(consumer) = self.consumer.take() {
            let close = std::thread::Builder::new().name("kafka-close".into()).spawn(move || drop(consumer));
            if let Err(e) = close {
                tracing::debug!(target: "kafka", "closed in place: {e}");
            }
        }
    }
}
