//! Our server in the process of the test: its answers as a client sees them, without a binary.

use std::time::Duration;

use millstream_server::config::Config;
use millstream_server::{RunningServer, Server};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// A server on a folder of its own.
pub struct Local {
    server: RunningServer,
    /// Lives as long as the server.
    _data: TempDir,
}

impl Local {
    /// Starts one; state is written only when it is asked for.
    pub async fn start(workers: usize) -> Self {
        let data = TempDir::new().expect("a folder");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config {
            data: data.path().display().to_string(),
            pg: any,
            http: any,
            workers,
            memory_bytes: 512 << 20,
            checkpoint_interval: Duration::ZERO,
            ..Config::default()
        };
        let server = Server::start(config).await.expect("our server starts");
        Self { server, _data: data }
    }

    /// A session.
    pub async fn connect(&self) -> Client {
        let parameters = format!("host=127.0.0.1 port={} user=test dbname=millstream", self.server.pg_addr.port());
        let (client, connection) = tokio_postgres::connect(&parameters, NoTls).await.expect("our server answers");
        // It ends with the client.
        tokio::spawn(async move { drop(connection.await) });
        client
    }

    /// Stops it in order.
    pub async fn stop(self) {
        self.server.shutdown().await.expect("our server stops");
    }
}
