//! The envelope of every stored object.
