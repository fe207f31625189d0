//! Millstream as a server: the Postgres wire and HTTP over an embedded engine.
//!
//! *Architecture invariant*: everything a client can do goes through `millstream::api`; this crate holds no state of
//! its own that outlives a connection.

pub mod config;
pub mod demo;
pub mod http;
pub mod oneshot;
pub mod pg;
pub mod script;

use std::net::SocketAddr;
use std::sync::Arc;

use millstream::api::Engine;
use millstream::error::{Error, Result, SqlState};
use rand::SeedableRng as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use config::Config;

/// Starts servers.
pub struct Server;

/// A server that listens.
pub struct RunningServer {
    /// Where the Postgres wire is.
    pub pg_addr: SocketAddr,
    /// Where HTTP is.
    pub http_addr: SocketAddr,
    /// The engine below.
    pub engine: Engine,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// Opens the engine, then both listeners. Port 0 picks a free one.
    pub async fn start(config: Config) -> Result<RunningServer> {
        config.check()?;
        // Bound before the data folder is opened: a taken port must not fence a running server.
        let pg = listen(config.pg).await?;
        let http = listen(config.http).await?;
        let engine = Engine::open(config.engine_options()).await?;
        let pg_addr = local(&pg)?;
        let http_addr = local(&http)?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let rng = rand::rngs::StdRng::from_os_rng();
        let shared = Arc::new(pg::Shared::new(engine.clone(), config.limits.clone(), rng, stop.clone()));
        tasks.spawn(pg::serve(pg, shared));
        tasks.spawn(http::serve(http, engine.clone(), stop.clone()));
        tasks.close();
        tracing::info!(%pg_addr, %http_addr, data = %config.data, "listening");
        Ok(RunningServer { pg_addr, http_addr, engine, stop, tasks })
    }
}

impl RunningServer {
    /// Stops accepting, ends the connections, takes a last checkpoint.
    pub async fn shutdown(self) -> Result<()> {
        self.stop.cancel();
        self.tasks.wait().await;
        self.engine.shutdown().await
    }
    /// Stops listening without a checkpoint, for an engine that failed.
    pub fn abandon(self) {
        self.stop.cancel();
    }
}

async fn listen(addr: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|e| {
        Error::new(SqlState::IO_ERROR, format!("cannot listen on {addr}: {e}"))
            .hint("Choose another address with --pg or --http.")
    })
}

fn local(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|e| Error::new(SqlState::IO_ERROR, format!("no local address: {e}")))
}

/// The exit code for an error that ends the process, after sysexits.h: a supervisor can tell what restarting helps.
pub fn exit_code(e: &Error) -> u8 {
    match e.code {
        // EX_TEMPFAIL: another process owns the data; it works when that one is gone.
        SqlState::FENCED => 75,
        // EX_IOERR: a stored object is damaged; restarting does not help.
        SqlState::DATA_CORRUPTED => 74,
        // EX_CONFIG: settings, or data of a newer format.
        SqlState::INVALID_PARAMETER_VALUE | SqlState::FEATURE_NOT_SUPPORTED => 78,
        _ => 1,
    }
}
