//! The engine's error: a SQLSTATE with message, detail, hint and position, whatever went wrong below.

pub use millstream_sql::{SqlError as Error, SqlState};

/// Result with the engine's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Conversions from the errors of our libraries. (A trait because both types are foreign to this crate.)
pub trait IntoError {
    /// The same failure as an engine error.
    fn into_error(self) -> Error;
}

impl IntoError for arrow::error::ArrowError {
    fn into_error(self) -> Error {
        millstream_sql::session::from_arrow(&self)
    }
}

impl IntoError for datafusion::error::DataFusionError {
    fn into_error(self) -> Error {
        millstream_sql::session::from_datafusion(self)
    }
}

impl IntoError for millstream_connectors::ConnectorError {
    fn into_error(self) -> Error {
        use millstream_connectors::ErrorKind as K;
        let code = match self.kind {
            K::Config => SqlState::INVALID_PARAMETER_VALUE,
            K::Retryable | K::Lost => SqlState::IO_ERROR,
            K::Bug => SqlState::INTERNAL_ERROR,
        };
        let e = Error::new(code, self.message);
        match self.hint {
            Some(h) => e.hint(h),
            None => e,
        }
    }
}

impl IntoError for object_store::Error {
    fn into_error(self) -> Error {
        Error::new(SqlState::IO_ERROR, self.to_string())
    }
}

/// `?` with conversion: `.e()?`.
pub trait ResultExt<T> {
    /// Converts the error.
    fn e(self) -> Result<T>;
}

impl<T, E: IntoError> ResultExt<T> for std::result::Result<T, E> {
    fn e(self) -> Result<T> {
        self.map_err(IntoError::into_error)
    }
}
