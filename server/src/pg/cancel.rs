//! Cancellation: a key per connection, a token per running statement.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use millstream::error::{Error, SqlState};
use parking_lot::Mutex;
use rand::Rng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::Fail;

/// The running statement of one connection.
#[derive(Debug, Default)]
pub struct Slot {
    running: Mutex<Option<CancellationToken>>,
}

impl Slot {
    /// A statement starts: cancels from now on are meant for it.
    pub fn begin(&self) -> CancellationToken {
        let token = CancellationToken::new();
        *self.running.lock() = Some(token.clone());
        token
    }
    /// The statement is over.
    pub fn end(&self) {
        *self.running.lock() = None;
    }
    fn cancel(&self) {
        if let Some(t) = &*self.running.lock() {
            t.cancel();
        }
    }
}

/// All connections by process id.
#[derive(Debug, Default)]
pub struct Registry {
    slots: Mutex<HashMap<i32, (i32, Arc<Slot>)>>,
}

/// A connection's place in the registry; leaves it when dropped.
#[derive(Debug)]
pub struct Registration {
    registry: Arc<Registry>,
    /// Process id for BackendKeyData.
    pub pid: i32,
    /// Secret key for BackendKeyData.
    pub key: i32,
    /// The statement.
    pub slot: Arc<Slot>,
}

impl Registry {
    /// A new connection gets an unused id and a random key.
    pub fn register(self: &Arc<Self>, rng: &mut impl Rng) -> Registration {
        let slot = Arc::new(Slot::default());
        let key = rng.random();
        let mut slots = self.slots.lock();
        let pid = loop {
            let pid = rng.random_range(1..i32::MAX);
            if !slots.contains_key(&pid) {
                break pid;
            }
        };
        slots.insert(pid, (key, Arc::clone(&slot)));
        Registration { registry: Arc::clone(self), pid, key, slot }
    }
    /// Cancels the statement of `pid` if the key fits; a wrong key looks the same from outside.
    pub fn cancel(&self, pid: i32, key: i32) {
        if let Some((k, slot)) = self.slots.lock().get(&pid)
            && *k == key
        {
            slot.cancel();
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.slots.lock().remove(&self.pid);
    }
}

/// Everything that may stop a statement from outside.
#[derive(Debug, Clone)]
pub struct Control {
    /// CancelRequest.
    pub cancel: CancellationToken,
    /// The client closed its end.
    pub gone: CancellationToken,
    /// The server stops.
    pub shutdown: CancellationToken,
    /// `statement_timeout`.
    pub deadline: Option<Instant>,
}

impl Control {
    /// Waits for `work`, unless something stops the statement first; then the work is dropped.
    pub async fn run<T, E: Into<Fail>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, Fail> {
        let timeout = async {
            match self.deadline {
                Some(d) => tokio::time::sleep_until(d).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.gone.cancelled() => Err(Fail::Gone),
            () = self.shutdown.cancelled() => Err(shutting_down().into()),
            () = self.cancel.cancelled() => {
                Err(Error::new(SqlState::QUERY_CANCELED, "canceling statement due to user request").into())
            }
            () = timeout => {
                Err(Error::new(SqlState::QUERY_CANCELED, "canceling statement due to statement timeout").into())
            }
            r = work => r.map_err(Into::into),
        }
    }
}

/// `57P01`.
pub fn shutting_down() -> Error {
    Error::new(SqlState::ADMIN_SHUTDOWN, "terminating connection: the server is shutting down")
}

/// `500`, `500ms`, `5s`, `2min`, `1h`, `1d` as a duration; zero means none. Bare numbers are milliseconds.
pub fn parse_timeout(s: &str) -> Option<Duration> {
    let s = s.trim().trim_matches('\'');
    let split = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    let n: u64 = s[..split].parse().ok()?;
    let ms = match s[split..].trim() {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    n.checked_mul(ms).filter(|n| *n > 0).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn only_the_right_key_cancels_and_only_a_running_statement() {
        let registry = Arc::new(Registry::default());
        let r = registry.register(&mut rand::rngs::SmallRng::seed_from_u64(1));
        registry.cancel(r.pid, r.key);
        let token = r.slot.begin();
        assert!(!token.is_cancelled(), "a cancel before the statement is not for it");
        registry.cancel(r.pid, r.key.wrapping_add(1));
        assert!(!token.is_cancelled());
        registry.cancel(r.pid, r.key);
        assert!(token.is_cancelled());
        let (pid, key) = (r.pid, r.key);
        drop(r);
        registry.cancel(pid, key);
        assert!(registry.slots.lock().is_empty());
    }

    #[test]
    fn timeouts_have_units() {
        assert_eq!(parse_timeout("500"), Some(Duration::from_millis(500)));
        assert_eq!(parse_timeout("5s"), Some(Duration::from_secs(5)));
        assert_eq!(parse_timeout("2 min"), Some(Duration::from_secs(120)));
        assert_eq!(parse_timeout("0"), None);
        assert_eq!(parse_timeout("x"), None);
    }
}
