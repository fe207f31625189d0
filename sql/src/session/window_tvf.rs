//! Window table functions.
use crate::error::Result;
use sqlparser::ast;
pub(super) fn rewrite(_query: &mut ast::Query, _text: &str) -> Result<()> {
    Ok(())
}
