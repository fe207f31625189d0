//! Text to [`Statement`](crate::statement::Statement)s.

use crate::error::{Result, SqlError};
use crate::statement::Parsed;

/// Splits at semicolons and parses every statement. Limits on length and depth are checked first.
pub fn parse(sql: &str) -> Result<Vec<Parsed>> {
    let _ = sql;
    Err(SqlError::internal("not built yet"))
}
