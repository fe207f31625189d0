//! Helpers of the whole-system tests, and the scripts that start real services.

pub mod kafka;
pub mod oracle;
pub mod nexmark;
pub mod python;
pub mod server;
pub mod nexmark;
pub mod python;
pub mod server;
pub mod oracle;
