//! What stands between the socket and the message decoder.
//!
//! Every frame is read whole, under a length limit of its phase, and its inner counts and strings are checked before
//! the decoder of the wire library sees it; that decoder trusts them and would panic or allocate what a stranger
//! announces. Nothing here allocates by an announced length before that length passed its limit.

use bytes::{Buf as _, BytesMut};
use millstream::error::{Error, Result, SqlState};
use pgwire::messages::{DecodeContext, PgWireFrontendMessage, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Postgres' limit of the first packet.
pub const STARTUP_BYTES_MAX: usize = 10_000;

/// `08P01`.
pub fn protocol_violation(message: impl Into<String>) -> Error {
    Error::new(SqlState("08P01"), message)
}

/// The first packet of a connection, without its length.
#[derive(Debug, PartialEq, Eq)]
pub enum First {
    /// SSLRequest.
    Ssl,
    /// GSSENCRequest.
    Gss,
    /// CancelRequest: process id and key.
    Cancel(i32, i32),
    /// StartupMessage: minor version and parameters.
    Startup {
        /// Minor protocol version asked for.
        minor: u16,
        /// Names and values.
        parameters: Vec<(String, String)>,
    },
}

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// Why a read ended without a frame.
#[derive(Debug)]
pub enum ReadError {
    /// The peer is gone.
    Closed,
    /// The peer broke the protocol: tell it, then close.
    Violation(Error),
}

impl From<std::io::Error> for ReadError {
    fn from(_: std::io::Error) -> Self {
        Self::Closed
    }
}

/// Reads the first packet: no byte more than it says.
pub async fn read_first<R: AsyncRead + Unpin>(socket: &mut R) -> Result<First, ReadError> {
    let len = socket.read_u32().await? as usize;
    if !(8..=STARTUP_BYTES_MAX).contains(&len) {
        return Err(ReadError::Violation(protocol_violation("invalid length of startup packet")));
    }
    let mut body = vec![0; len - 4];
    socket.read_exact(&mut body).await?;
    parse_first(&body).map_err(ReadError::Violation)
}

/// Reads a first packet without its length word.
pub fn parse_first(body: &[u8]) -> Result<First> {
    let mut b = body;
    if b.len() < 4 {
        return Err(protocol_violation("invalid length of startup packet"));
    }
    match b.get_u32() {
        SSL_REQUEST if b.is_empty() => Ok(First::Ssl),
        GSS_REQUEST if b.is_empty() => Ok(First::Gss),
        CANCEL_REQUEST if b.len() == 8 => Ok(First::Cancel(b.get_i32(), b.get_i32())),
        SSL_REQUEST | GSS_REQUEST | CANCEL_REQUEST => Err(protocol_violation("invalid length of startup packet")),
        version => {
            let (major, minor) = ((version >> 16) as u16, version as u16);
            if major != 3 {
                return Err(Error::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    format!("unsupported frontend protocol {major}.{minor}: server supports 3.0"),
                ));
            }
            let mut parameters = Vec::new();
            loop {
                let name = take_string(&mut b)?;
                if name.is_empty() {
                    break;
                }
                parameters.push((name, take_string(&mut b)?));
            }
            if !b.is_empty() {
                return Err(protocol_violation("invalid startup packet layout: expected terminator as last byte"));
            }
            Ok(First::Startup { minor, parameters })
        }
    }
}

fn take_string(b: &mut &[u8]) -> Result<String> {
    let end = b
        .iter()
        .position(|c| *c == 0)
        .ok_or_else(|| protocol_violation("invalid message: a string is not terminated"))?;
    let text = std::str::from_utf8(&b[..end])
        .map_err(|_| Error::new(SqlState("22021"), "invalid byte sequence for encoding \"UTF8\""))?
        .to_owned();
    b.advance(end + 1);
    Ok(text)
}

/// Reads frames of an open connection.
#[derive(Debug)]
pub struct FrameReader<R> {
    socket: R,
    message_bytes_max: usize,
    context: DecodeContext,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader of messages of at most `message_bytes_max` bytes.
    pub fn new(socket: R, message_bytes_max: usize) -> Self {
        let mut context = DecodeContext::default();
        context.protocol_version = ProtocolVersion::PROTOCOL3_0;
        context.awaiting_frontend_ssl = false;
        context.awaiting_frontend_startup = false;
        Self { socket, message_bytes_max, context }
    }

    /// The next message. Not cancel safe: a half read frame would be lost.
    pub async fn next(&mut self) -> Result<PgWireFrontendMessage, ReadError> {
        let mut header = [0u8; 5];
        self.socket.read_exact(&mut header).await?;
        let kind = header[0];
        let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        check_length(kind, len, self.message_bytes_max).map_err(ReadError::Violation)?;
        let mut frame = BytesMut::with_capacity((len + 1).min(64 * 1024));
        frame.extend_from_slice(&header);
        // The buffer grows with what really arrives, not with what was announced.
        let mut rest = (&mut self.socket).take((len - 4) as u64);
        while frame.len() < len + 1 {
            if rest.read_buf(&mut frame).await? == 0 {
                return Err(ReadError::Closed);
            }
        }
        decode(&mut frame, &self.context).map_err(ReadError::Violation)
    }
}

fn check_length(kind: u8, len: usize, message_bytes_max: usize) -> Result<()> {
    let shown = kind as char;
    let max = match kind {
        // Messages of data.
        b'Q' | b'P' | b'B' | b'd' | b'f' => message_bytes_max,
        // Names and numbers only.
        b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' => STARTUP_BYTES_MAX,
        _ => return Err(protocol_violation(format!("invalid frontend message type {kind}"))),
    };
    if len < 4 {
        return Err(protocol_violation(format!("invalid length {len} of message \"{shown}\"")));
    }
    if len > max {
        return Err(Error::new(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("message \"{shown}\" of {len} bytes is too large"),
        )
        .detail(format!("At most {max} bytes are accepted (setting message_bytes_max).")));
    }
    Ok(())
}

/// Checks a whole frame (type, length, body) and decodes it.
pub fn decode(frame: &mut BytesMut, context: &DecodeContext) -> Result<PgWireFrontendMessage> {
    if frame.len() < 5 {
        return Err(protocol_violation("message without a length"));
    }
    let kind = frame[0];
    check_body(kind, &frame[5..])?;
    match PgWireFrontendMessage::decode(frame, context) {
        Ok(Some(m)) if frame.is_empty() => Ok(m),
        Ok(_) => Err(protocol_violation(format!("invalid message format of \"{}\"", kind as char))),
        Err(e) => Err(protocol_violation(format!("invalid message \"{}\": {e}", kind as char))),
    }
}

/// Everything the decoder relies on.
fn check_body(kind: u8, body: &[u8]) -> Result<()> {
    let mut b = body;
    match kind {
        b'Q' | b'f' => drop(take_string(&mut b)?),
        b'P' => {
            take_string(&mut b)?;
            take_string(&mut b)?;
            skip_counted(&mut b, 4)?;
        }
        b'B' => {
            take_string(&mut b)?;
            take_string(&mut b)?;
            skip_counted(&mut b, 2)?;
            for _ in 0..take_count(&mut b)? {
                need(b, 4)?;
                let len = b.get_i32();
                if len < -1 {
                    return Err(protocol_violation(format!("invalid length {len} of a parameter")));
                }
                let len = usize::try_from(len).unwrap_or(0);
                need(b, len)?;
                b.advance(len);
            }
            skip_counted(&mut b, 2)?;
        }
        b'C' | b'D' => {
            need(b, 1)?;
            if !matches!(b.get_u8(), b'S' | b'P') {
                return Err(protocol_violation(format!("invalid subtype of message \"{}\"", kind as char)));
            }
            take_string(&mut b)?;
        }
        b'E' => {
            take_string(&mut b)?;
            need(b, 4)?;
            b.advance(4);
        }
        b'd' => b = &[],
        _ => {}
    }
    if b.is_empty() {
        return Ok(());
    }
    Err(protocol_violation(format!("invalid message format: {} bytes too many in \"{}\"", b.len(), kind as char)))
}

fn need(b: &[u8], n: usize) -> Result<()> {
    if b.len() < n { Err(protocol_violation("insufficient data left in message")) } else { Ok(()) }
}

fn take_count(b: &mut &[u8]) -> Result<usize> {
    need(b, 2)?;
    Ok(usize::from(b.get_u16()))
}

fn skip_counted(b: &mut &[u8], width: usize) -> Result<()> {
    let n = take_count(b)? * width;
    need(b, n)?;
    b.advance(n);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<PgWireFrontendMessage, ReadError> {
        FrameReader::new(bytes, 1 << 20).next().await
    }
    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut f = vec![kind];
        f.extend((body.len() as u32 + 4).to_be_bytes());
        f.extend(body);
        f
    }

    #[tokio::test]
    async fn bad_frames_are_answered_and_never_decoded() {
        let table: Vec<(&str, Vec<u8>, &str)> = vec![
            ("unknown type", frame(b'?', b""), "08P01"),
            ("password without a question", vec![0x70, 0, 0, 0, 0], "08P01"),
            ("length below four", vec![b'Q', 0, 0, 0, 3], "08P01"),
            ("length with the top bit", vec![b'Q', 0xff, 0xff, 0xff, 0xff], "54000"),
            ("more than the limit", vec![b'Q', 0x3f, 0, 0, 0], "54000"),
            ("a huge Sync", vec![b'S', 0, 1, 0, 0], "54000"),
            ("string without end", frame(b'Q', b"select 1"), "08P01"),
            ("bytes behind the string", frame(b'Q', b"select 1\0x"), "08P01"),
            ("not UTF-8", frame(b'Q', b"\xff\0"), "22021"),
            ("parse with too many oids", frame(b'P', b"\0\0\xff\xff"), "08P01"),
            ("parse without a count", frame(b'P', b"\0\0"), "08P01"),
            ("bind with a negative length", frame(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"), "08P01"),
            ("bind with a value cut off", frame(b'B', b"\0\0\0\0\0\x01\0\0\0\x09a\0\0"), "08P01"),
            ("bind with a count of 65535", frame(b'B', b"\0\0\0\0\xff\xff"), "08P01"),
            ("describe of nothing", frame(b'D', b""), "08P01"),
            ("describe of an X", frame(b'D', b"X\0"), "08P01"),
            ("execute without rows", frame(b'E', b"\0\0"), "08P01"),
            ("sync with a body", frame(b'S', b"x"), "08P01"),
        ];
        for (what, bytes, code) in table {
            match read(&bytes).await {
                Err(ReadError::Violation(e)) => assert_eq!(e.code.0, code, "{what}: {e}"),
                other => panic!("{what}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_frame_that_is_cut_off_is_a_closed_connection() {
        assert!(matches!(read(&[b'Q', 0, 0, 0, 20, b's']).await, Err(ReadError::Closed)));
        assert!(matches!(read(&[b'Q', 0]).await, Err(ReadError::Closed)));
    }

    #[tokio::test]
    async fn good_frames_pass() {
        assert!(matches!(read(&frame(b'Q', b"select 1\0")).await, Ok(PgWireFrontendMessage::Query(_))));
        assert!(matches!(read(&frame(b'S', b"")).await, Ok(PgWireFrontendMessage::Sync(_))));
        assert!(matches!(read(&frame(b'd', b"1\t2\n")).await, Ok(PgWireFrontendMessage::CopyData(_))));
        let bind = frame(b'B', b"\0s\0\0\x01\0\x01\0\x02\0\0\0\x01a\xff\xff\xff\xff\0\0");
        match read(&bind).await {
            Ok(PgWireFrontendMessage::Bind(b)) => assert_eq!(b.parameters.len(), 2),
            other => panic!("{other:?}"),
        }
        let long = "x".repeat(200_000);
        let parse = frame(b'P', format!("\0{long}\0\0\0").as_bytes());
        match read(&parse).await {
            Ok(PgWireFrontendMessage::Parse(p)) => assert_eq!(p.query.len(), 200_000),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn random_frames_never_panic() {
        use rand::{Rng as _, SeedableRng as _};
        let mut rng = rand::rngs::SmallRng::seed_from_u64(7);
        let kinds = b"QPBCDEHSXdcfp?";
        for _ in 0..50_000 {
            let n = rng.random_range(0..24);
            let body: Vec<u8> = (0..n).map(|_| if rng.random_bool(0.5) { 0 } else { rng.random() }).collect();
            let _ = read(&frame(kinds[rng.random_range(0..kinds.len())], &body)).await;
        }
    }

    #[test]
    fn first_packets() {
        let with = |code: u32, rest: &[u8]| [code.to_be_bytes().as_slice(), rest].concat();
        assert_eq!(parse_first(&with(SSL_REQUEST, b"")).expect("ssl"), First::Ssl);
        assert_eq!(parse_first(&with(GSS_REQUEST, b"")).expect("gss"), First::Gss);
        assert_eq!(parse_first(&with(CANCEL_REQUEST, &[0, 0, 0, 1, 0, 0, 0, 2])).expect("cancel"), First::Cancel(1, 2));
        assert_eq!(
            parse_first(&with(3 << 16, b"user\0u\0\0")).expect("startup"),
            First::Startup { minor: 0, parameters: vec![("user".into(), "u".into())] }
        );
        for (what, body) in [
            ("http", b"GET / HTTP/1.1".to_vec()),
            ("no terminator", with(3 << 16, b"user\0u\0")),
            ("value missing", with(3 << 16, b"user\0")),
            ("bytes behind", with(3 << 16, b"user\0u\0\0x")),
            ("old protocol", with(2 << 16, b"\0")),
            ("long cancel", with(CANCEL_REQUEST, &[0; 12])),
            ("short cancel", with(CANCEL_REQUEST, &[0; 3])),
            ("long ssl", with(SSL_REQUEST, b"x")),
        ] {
            assert!(parse_first(&body).is_err(), "{what}");
        }
    }

    #[tokio::test]
    async fn startup_packets_have_postgres_limits() {
        for len in [0u32, 7, 10_001, u32::MAX] {
            let bytes = len.to_be_bytes();
            assert!(matches!(read_first(&mut bytes.as_slice()).await, Err(ReadError::Violation(_))), "{len}");
        }
    }
}
