//! The Postgres wire: accept loop, start-up and one task per connection.
//!
//! Messages are those of the `pgwire` crate; accepting, guarding and executing are ours, because subscriptions stream
//! for ever, COPY streams both ways, and a client that goes away must stop what it started.
//! There is no authentication and no TLS here yet; the server refuses to listen beyond loopback without being told.

pub mod cancel;
pub mod catalog;
pub mod conn;
pub mod copy;
pub mod encode;
pub mod error;
mod extended;
pub mod guard;
mod hint;
mod out;
pub mod param;
mod rows;
mod startup;
pub mod subscribe;
pub use millstream::text;
pub mod types;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use millstream::api::Engine;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Limits of the listener, each a setting.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sessions at a time.
    pub connections_max: usize,
    /// Connections that have not finished their start-up.
    pub startups_max: usize,
    /// Time for the start-up.
    pub startup_timeout: Duration,
    /// Largest message of a client.
    pub message_bytes_max: usize,
    /// Most bytes of one COPY FROM STDIN.
    pub copy_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 200,
            startups_max: 64,
            startup_timeout: Duration::from_secs(10),
            message_bytes_max: 16 << 20,
            copy_bytes_max: 512 << 20,
        }
    }
}

/// What all connections share.
pub struct Shared {
    /// The engine.
    pub engine: Engine,
    /// Limits.
    pub limits: Limits,
    /// Running statements, for CancelRequest.
    pub registry: Arc<cancel::Registry>,
    /// pg_catalog and information_schema.
    pub catalog: Arc<catalog::Catalog>,
    /// Source of cancel keys.
    pub rng: Mutex<StdRng>,
    /// The server stops.
    pub shutdown: CancellationToken,
    sessions: Arc<Semaphore>,
    startups: Arc<Semaphore>,
}

impl Shared {
    /// For one listener.
    pub fn new(engine: Engine, limits: Limits, rng: StdRng, shutdown: CancellationToken) -> Self {
        let relations = engine.clone();
        Self {
            catalog: Arc::new(catalog::Catalog::new(Arc::new(move || relations.relations()))),
            engine,
            registry: Arc::default(),
            rng: Mutex::new(rng),
            shutdown,
            sessions: Arc::new(Semaphore::new(limits.connections_max)),
            startups: Arc::new(Semaphore::new(limits.startups_max)),
            limits,
        }
    }
}

/// Accepts until shutdown; then waits until every connection has said good-bye.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let tasks = TaskTracker::new();
    loop {
        let socket = tokio::select! {
            () = shared.shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(e) => {
                    // Out of file descriptors, say: the next accept would fail at once as well.
                    tracing::warn!(error = %e, "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Ok(startup) = Arc::clone(&shared.startups).try_acquire_owned() else {
            tracing::warn!("too many connections are starting up; one was closed");
            continue;
        };
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            // A defect in one connection must not reach the others: it ends this task only.
            let connection = std::panic::AssertUnwindSafe(connection(socket, shared, startup));
            if connection.catch_unwind().await.is_err() {
                tracing::error!("a connection was closed after a panic");
            }
        });
    }
    tasks.close();
    if tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "connections did not end in time");
    }
}

async fn connection(mut socket: TcpStream, shared: Arc<Shared>, startup: tokio::sync::OwnedSemaphorePermit) {
    // Small answers must not wait for more to send; without it psql still works, only slower.
    if let Err(e) = socket.set_nodelay(true) {
        tracing::debug!(error = %e, "TCP_NODELAY");
    }
    let limit = shared.limits.startup_timeout;
    let started = tokio::select! {
        () = shared.shutdown.cancelled() => return,
        s = tokio::time::timeout(limit, startup::negotiate(&mut socket, &shared.registry)) => s,
    };
    let Ok(Some(parameters)) = started else { return };
    drop(startup);
    let Ok(_session) = Arc::clone(&shared.sessions).try_acquire_owned() else {
        let e = millstream::error::Error::new(
            millstream::error::SqlState("53300"),
            format!("sorry, too many clients already: at most {}", shared.limits.connections_max),
        )
        .hint("Close other sessions, or raise connections_max.");
        startup::refuse(&mut socket, &e).await;
        return;
    };
    conn::run(socket, shared, parameters).await;
}
