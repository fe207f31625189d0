//! Helpers of the whole-system tests, and the scripts that start real services.

pub mod kafka;
pub mod local;
pub mod nexmark;
pub mod oracle;
pub mod postgres;
pub mod python;
pub mod server;
pub mod tpch;
