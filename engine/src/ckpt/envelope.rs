//! The envelope of every stored object: nothing is parsed before its checksum was verified.
//!
//! One flipped bit in a bare Arrow IPC stream decodes to wrong data more often than to an error, and may make the
//! decoder allocate without bound. So every object is framed like this (integers little-endian):
//!
//! | offset   | bytes | content                                                    |
//! |----------|-------|------------------------------------------------------------|
//! | 0        | 8     | magic `MILLSTRM`                                           |
//! | 8        | 4     | format version                                             |
//! | 12       | 1     | kind: 1 manifest, 2 run, 3 WAL                             |
//! | 13       | 3     | zero                                                       |
//! | 16       | 8     | writer epoch                                               |
//! | 24       | 8     | length n of the body                                       |
//! | 32       | n     | body                                                       |
//! | 32 + n   | 16    | xxh3-128 of everything before                              |
//! | 48 + n   | 8     | trailer magic `mrtsllim`                                   |
//!
//! The frame is the same in every format version; the version says how the body is read. That is why the checksum can
//! be verified before the version is believed: a damaged version byte is damage, not "written by a newer release".

use bytes::{BufMut as _, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_128;

use super::manifest::FORMAT_VERSION;
use crate::error::{Error, Result, SqlState};

const MAGIC: &[u8; 8] = b"MILLSTRM";
const TRAILER: &[u8; 8] = b"mrtsllim";
const HEADER_BYTES: usize = 32;
const FOOTER_BYTES: usize = 24;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A checkpoint's root.
    Manifest = 1,
    /// Arrow batches of operator or table state.
    Run = 2,
    /// Client writes of one group commit.
    Wal = 3,
}

/// The verified header of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the object is.
    pub kind: Kind,
    /// Layout of the body.
    pub format_version: u32,
    /// Fencing number of the process that wrote it.
    pub writer_epoch: u64,
}

/// xxh3-128 of an object as 32 hex digits.
pub fn object_hash(object: &[u8]) -> String {
    format!("{:032x}", xxh3_128(object))
}

/// Frames a body.
pub fn seal(kind: Kind, writer_epoch: u64, body: &[u8]) -> Bytes {
    seal_version(kind, FORMAT_VERSION, writer_epoch, body)
}

fn seal_version(kind: Kind, format_version: u32, writer_epoch: u64, body: &[u8]) -> Bytes {
    let mut b = BytesMut::with_capacity(HEADER_BYTES + body.len() + FOOTER_BYTES);
    b.put_slice(MAGIC);
    b.put_u32_le(format_version);
    b.put_u8(kind as u8);
    b.put_bytes(0, 3);
    b.put_u64_le(writer_epoch);
    b.put_u64_le(body.len() as u64);
    b.put_slice(body);
    let checksum = xxh3_128(&b);
    b.put_u128_le(checksum);
    b.put_slice(TRAILER);
    b.freeze()
}

/// Verifies the frame of object `name` and gives its body without copying. The order is: length, checksum, then
/// everything else.
pub fn open(name: &str, expected: Kind, object: &Bytes) -> Result<(Header, Bytes)> {
    let n = object.len();
    if n < HEADER_BYTES + FOOTER_BYTES {
        return Err(damaged(name, format!("it has {n} bytes, less than an empty object")));
    }
    let found = xxh3_128(&object[..n - FOOTER_BYTES]);
    let stored = u128::from_le_bytes(array(object, n - FOOTER_BYTES));
    if found != stored {
        return Err(damaged(name, format!("checksum {stored:032x} expected, {found:032x} found")));
    }
    if &object[n - TRAILER.len()..] != TRAILER {
        return Err(damaged(name, "the trailer is not ours"));
    }
    if &object[..MAGIC.len()] != MAGIC {
        return Err(damaged(name, "it does not start with the magic bytes"));
    }
    let format_version = u32::from_le_bytes(array(object, 8));
    if format_version > FORMAT_VERSION {
        return Err(Error::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("\"{name}\" has storage format {format_version}, this release reads up to {FORMAT_VERSION}"),
        )
        .hint("The data was written by a newer release. Start that release or a later one; nothing was changed."));
    }
    if format_version == 0 {
        return Err(damaged(name, "format version 0 never existed"));
    }
    let kind = match object[12] {
        1 => Kind::Manifest,
        2 => Kind::Run,
        3 => Kind::Wal,
        k => return Err(damaged(name, format!("unknown kind {k}"))),
    };
    if kind != expected {
        return Err(damaged(name, format!("it is a {kind:?} object where a {expected:?} object should be")));
    }
    let writer_epoch = u64::from_le_bytes(array(object, 16));
    let length = u64::from_le_bytes(array(object, 24));
    let body = object.slice(HEADER_BYTES..n - FOOTER_BYTES);
    if length != body.len() as u64 {
        return Err(damaged(name, format!("{length} bytes of content expected, {} found", body.len())));
    }
    Ok((Header { kind, format_version, writer_epoch }, body))
}

/// An `XX001` error that names the object.
pub(super) fn damaged(name: &str, what: impl std::fmt::Display) -> Error {
    Error::new(SqlState::DATA_CORRUPTED, format!("stored object \"{name}\" is damaged: {what}"))
}

/// `N` bytes at an offset that the caller has checked to be inside.
fn array<const N: usize>(object: &[u8], at: usize) -> [u8; N] {
    let mut a = [0; N];
    a.copy_from_slice(&object[at..at + N]);
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_round_trips() {
        let o = seal(Kind::Run, 7, b"hello");
        let (h, body) = open("runs/x", Kind::Run, &o).unwrap();
        assert_eq!(h, Header { kind: Kind::Run, format_version: FORMAT_VERSION, writer_epoch: 7 });
        assert_eq!(&body[..], b"hello");
    }

    #[test]
    fn the_frame_is_the_format_and_does_not_change() {
        let hex: String = seal(Kind::Run, 7, b"abc").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "4d494c4c5354524d",
                "01000000",
                "02000000",
                "0700000000000000",
                "0300000000000000",
                "616263",
                "d25e15ea9ed4c4ba9d655accf5b76746",
                "6d7274736c6c696d",
            )
        );
    }

    #[test]
    fn every_flipped_bit_is_detected() {
        let o = seal(Kind::Wal, 3, b"some body");
        for i in 0..o.len() {
            for bit in 0..8 {
                let mut bad = o.to_vec();
                bad[i] ^= 1 << bit;
                let e = open("wal/1", Kind::Wal, &bad.into()).unwrap_err();
                assert_eq!(e.code, SqlState::DATA_CORRUPTED, "byte {i} bit {bit}: {e}");
                assert!(e.message.contains("wal/1"), "{e}");
            }
        }
    }

    #[test]
    fn every_truncation_and_extension_is_detected() {
        let o = seal(Kind::Wal, 3, b"some body");
        for n in 0..o.len() {
            assert!(open("wal/1", Kind::Wal, &o.slice(..n)).is_err());
        }
        let mut longer = o.to_vec();
        longer.push(0);
        assert!(open("wal/1", Kind::Wal, &longer.into()).is_err());
    }

    #[test]
    fn an_object_of_another_kind_is_refused() {
        let e = open("runs/x", Kind::Run, &seal(Kind::Wal, 1, b"")).unwrap_err();
        assert_eq!(e.code, SqlState::DATA_CORRUPTED);
    }

    #[test]
    fn a_newer_format_is_refused_with_a_clear_message() {
        let e = open("runs/x", Kind::Run, &seal_version(Kind::Run, FORMAT_VERSION + 1, 1, b"")).unwrap_err();
        assert_eq!(e.code, SqlState::FEATURE_NOT_SUPPORTED);
        assert!(e.message.contains("storage format 2"), "{e}");
    }
}
