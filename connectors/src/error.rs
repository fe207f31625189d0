//! Errors of connectors; the kind decides what the engine does next.

/// What the engine does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Try again with backoff: the outside may heal.
    Retryable,
    /// The user's options are wrong: report at CREATE.
    Config,
    /// Data that was promised is gone (retention, deleted topic or file): stop the source and say what is missing.
    Lost,
    /// A defect of ours.
    Bug,
}

/// A connector's error.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ConnectorError {
    /// What to do about it.
    pub kind: ErrorKind,
    /// Lower case, names the object and the value.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
}

impl ConnectorError {
    /// With a kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }
    /// [`ErrorKind::Config`].
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }
    /// [`ErrorKind::Retryable`].
    pub fn retryable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Retryable, message)
    }
    /// [`ErrorKind::Lost`].
    pub fn lost(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Lost, message)
    }
    /// [`ErrorKind::Bug`].
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bug, message)
    }
    /// Adds a hint.
    pub fn hint(mut self, s: impl Into<String>) -> Self {
        self.hint = Some(s.into());
        self
    }
}

/// Result with a [`ConnectorError`].
pub type Result<T, E = ConnectorError> = std::result::Result<T, E>;
