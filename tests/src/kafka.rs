//! A real Kafka broker for tests: one for the whole test binary, or one of its own for a test that stops it.
//!
//! `MILLSTREAM_TEST_KAFKA=host:port` names a broker to use instead of starting one. Without Java or Maven a test that
//! asks for a broker gets none, says why and passes; `MILLSTREAM_REQUIRE_KAFKA=1` makes that a failure. A broker that
//! was started here is killed, and its folder removed, when the test process ends, however it ends.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/scripts/kafka.sh");
/// What the script says when Java or Maven is missing.
const MISSING: i32 = 77;
const TIMEOUT: Duration = Duration::from_secs(30);

/// A broker.
pub struct Kafka {
    port: u16,
    address: String,
    dir: Option<PathBuf>,
}

/// A record to produce.
#[derive(Debug, Clone, Default)]
pub struct Produced<'a> {
    /// Partition.
    pub partition: i32,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Payload; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Milliseconds since 1970; `None`: now.
    pub timestamp: Option<i64>,
    /// Headers.
    pub headers: Option<OwnedHeaders>,
}

impl<'a> Produced<'a> {
    /// A payload to a partition.
    pub fn to(partition: i32, payload: &'a [u8]) -> Self {
        Self { partition, payload: Some(payload), ..Self::default() }
    }
}

impl Kafka {
    /// The broker of this test binary. `None`: there is no Java or Maven here, and the reason was printed.
    pub fn shared() -> Option<&'static Kafka> {
        static SHARED: OnceLock<Result<Kafka, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| match std::env::var("MILLSTREAM_TEST_KAFKA") {
            Ok(address) => Ok(Kafka { port: 0, address, dir: None }),
            Err(_) => Kafka::launch(),
        });
        match shared {
            Ok(kafka) => Some(kafka),
            Err(reason) => Self::without(reason),
        }
    }

    /// A broker of the caller's own, to stop and start. `None` as in [`Kafka::shared`].
    pub fn own() -> Option<Kafka> {
        Self::launch().map_or_else(|reason| Self::without(&reason), Some)
    }

    fn without<T>(reason: &str) -> Option<T> {
        let required = std::env::var("MILLSTREAM_REQUIRE_KAFKA").is_ok_and(|v| v == "1");
        assert!(!required, "Kafka is required but {reason}");
        println!("ignored: {reason}");
        None
    }

    /// `Err` says what is missing here; anything else that fails, fails the test.
    fn launch() -> Result<Kafka, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("millstream-kafka-{}-{count}", std::process::id()));
        // A port that was free a moment ago; another process may take it before the broker does.
        for attempt in 0.. {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = listener.local_addr().expect("the port").port();
            drop(listener);
            let kafka = Kafka { port, address: format!("127.0.0.1:{port}"), dir: Some(dir.clone()) };
            match kafka.script_start() {
                Ok(()) => {
                    kafka.wait();
                    return Ok(kafka);
                }
                Err((MISSING, text)) => return Err(text),
                Err((code, text)) if attempt == 2 => panic!("kafka.sh failed with {code}: {text}"),
                Err(_) => drop(std::fs::remove_dir_all(&dir)),
            }
        }
        unreachable!("the loop returns or panics")
    }

    fn script_start(&self) -> Result<(), (i32, String)> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let output = Command::new("bash")
            .arg(SCRIPT)
            .arg("start")
            .arg(dir)
            .args([self.port.to_string(), std::process::id().to_string()])
            .stdin(Stdio::null())
            .output()
            .expect("bash runs");
        if output.status.success() {
            return Ok(());
        }
        Err((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    /// Waits until the broker answers.
    fn wait(&self) {
        let consumer: BaseConsumer = self.client().create().expect("a client");
        let deadline = Instant::now() + Duration::from_secs(60);
        while consumer.fetch_metadata(None, Duration::from_secs(1)).is_err() {
            assert!(Instant::now() < deadline, "no answer from Kafka at {}", self.address);
        }
    }

    /// Kills the broker; its logs stay.
    pub fn stop(&self) {
        let dir = self.dir.as_ref().expect("a broker of this test");
        let status = Command::new("bash").arg(SCRIPT).arg("stop").arg(dir).status().expect("bash runs");
        assert!(status.success());
    }

    /// Starts it again where it was.
    pub fn start(&self) {
        self.script_start().expect("the broker starts again");
        self.wait();
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Configuration of a client, to add to.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address);
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("an admin client")
    }

    /// A topic name no other test uses.
    pub fn name(prefix: &str) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
    }

    /// Creates a topic of a new name and waits until it can be used.
    pub async fn topic(&self, prefix: &str, partitions: i32) -> String {
        let name = Self::name(prefix);
        let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        let done = self.admin().create_topics([&topic], &options()).await.expect("create topic");
        done.into_iter().for_each(|r| drop(r.expect("create topic")));
        name
    }

    /// Raises the number of partitions.
    pub async fn grow(&self, topic: &str, partitions: usize) {
        let new = NewPartitions::new(topic, partitions);
        let done = self.admin().create_partitions([&new], &options()).await.expect("create partitions");
        done.into_iter().for_each(|r| drop(r.expect("create partitions")));
    }

    /// Deletes a topic.
    pub async fn delete(&self, topic: &str) {
        let done = self.admin().delete_topics(&[topic], &options()).await.expect("delete topic");
        done.into_iter().for_each(|r| drop(r.expect("delete topic")));
    }

    /// Deletes the records of a partition before an offset, as retention would.
    pub async fn trim(&self, topic: &str, partition: i32, before: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before)).expect("an offset");
        self.admin().delete_records(&list, &options()).await.expect("delete records");
    }

    /// Produces records and waits until all are acknowledged.
    pub async fn produce(&self, topic: &str, records: &[Produced<'_>]) {
        let producer: FutureProducer =
            self.client().set("linger.ms", "5").set("enable.idempotence", "true").create().expect("a producer");
        send(&producer, topic, records).await;
    }

    /// Produces records in one transaction.
    pub async fn transaction(&self, topic: &str, records: &[Produced<'_>], commit: bool) {
        let producer = self.begin(topic, records).await;
        finish(producer, commit).await;
    }

    /// Produces records in a transaction that stays open.
    pub async fn begin(&self, topic: &str, records: &[Produced<'_>]) -> FutureProducer {
        let producer: FutureProducer = self
            .client()
            .set("transactional.id", Self::name("transaction"))
            .set("linger.ms", "5")
            .create()
            .expect("a transactional producer");
        let producer = tokio::task::spawn_blocking(move || {
            producer.init_transactions(TIMEOUT).expect("init transactions");
            producer.begin_transaction().expect("begin transaction");
            producer
        })
        .await
        .expect("no panic");
        send(&producer, topic, records).await;
        producer
    }
}

/// Ends a transaction of [`Kafka::begin`].
pub async fn finish(producer: FutureProducer, commit: bool) {
    tokio::task::spawn_blocking(move || {
        if commit {
            producer.commit_transaction(TIMEOUT).expect("commit");
        } else {
            producer.abort_transaction(TIMEOUT).expect("abort");
        }
    })
    .await
    .expect("no panic");
}

async fn send(producer: &FutureProducer, topic: &str, records: &[Produced<'_>]) {
    let mut waiting = Vec::with_capacity(records.len());
    for record in records {
        let mut next = FutureRecord::<[u8], [u8]>::to(topic).partition(record.partition);
        next.key = record.key;
        next.payload = record.payload;
        next.timestamp = record.timestamp;
        next.headers = record.headers.clone();
        // Retried only if the local queue is full.
        loop {
            match producer.send_result(next) {
                Ok(delivery) => {
                    waiting.push(delivery);
                    break;
                }
                Err((rdkafka::error::KafkaError::MessageProduction(_), back)) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    next = back;
                }
                Err((e, _)) => panic!("produce: {e}"),
            }
        }
    }
    for delivery in waiting {
        delivery.await.expect("the producer lives").expect("delivered");
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT))
}

impl Drop for Kafka {
    fn drop(&mut self) {
        // Never for the shared one: its watchdog ends it with the process.
        if let Some(dir) = &self.dir
            && dir.exists()
        {
            self.stop();
            drop(std::fs::remove_dir_all(dir));
        }
    }
}
