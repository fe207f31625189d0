//! Functions of ours, one registry for batch and incremental paths.
