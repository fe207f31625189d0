//! The Postgres wire below any driver: start-up, bad frames, limits, shutdown. Bytes against a server in this process.

use std::net::SocketAddr;
use std::time::Duration;

use millstream_server::config::Config;
use millstream_server::{RunningServer, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn config() -> Config {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    Config { data: "memory://".into(), pg: local, http: local, workers: 1, ..Config::default() }
}

async fn server() -> RunningServer {
    Server::start(config()).await.expect("server starts")
}

fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let mut p = (body.len() as u32 + 8).to_be_bytes().to_vec();
    p.extend(code.to_be_bytes());
    p.extend(body);
    p
}

fn startup() -> Vec<u8> {
    packet(3 << 16, b"user\0u\0database\0anything\0\0")
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut m = vec![kind];
    m.extend((body.len() as u32 + 4).to_be_bytes());
    m.extend(body);
    m
}

/// Sends bytes on a connection of its own.
async fn connect(server: &RunningServer, bytes: &[u8]) -> TcpStream {
    let mut s = TcpStream::connect(server.pg_addr).await.expect("connects");
    s.write_all(bytes).await.expect("writes");
    s
}

/// Messages up to and including one of type `until`, or up to the end of the connection.
async fn messages(s: &mut TcpStream, until: u8) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    let read = async {
        loop {
            let mut head = [0u8; 5];
            if s.read_exact(&mut head).await.is_err() {
                return;
            }
            let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let mut body = vec![0; len - 4];
            s.read_exact(&mut body).await.expect("a whole message");
            all.push((head[0], body));
            if head[0] == until {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("an answer in time");
    all
}

/// The SQLSTATE of the first ErrorResponse.
fn sqlstate(messages: &[(u8, Vec<u8>)]) -> Option<String> {
    let (_, body) = messages.iter().find(|(k, _)| *k == b'E')?;
    let field = body.split(|c| *c == 0).find(|f| f.first() == Some(&b'C'))?;
    Some(String::from_utf8_lossy(&field[1..]).into_owned())
}

#[tokio::test]
async fn a_session_starts_with_parameters_and_a_cancel_key() {
    let server = server().await;
    let mut s = connect(&server, &startup()).await;
    let all = messages(&mut s, b'Z').await;
    let kinds: String = all.iter().map(|(k, _)| *k as char).collect();
    assert!(kinds.starts_with('R') && kinds.ends_with("KZ"), "{kinds}");
    let version = all.iter().any(|(k, b)| *k == b'S' && b.starts_with(b"server_version\x0015.0 (Millstream "));
    assert!(version);
    s.write_all(&message(b'Q', b"\0")).await.expect("writes");
    let kinds: String = messages(&mut s, b'Z').await.iter().map(|(k, _)| *k as char).collect();
    assert_eq!(kinds, "IZ", "an empty query");
    s.write_all(&message(b'X', b"")).await.expect("writes");
    assert!(messages(&mut s, b'?').await.is_empty());
    server.shutdown().await.expect("shuts down");
}

#[tokio::test]
async fn encryption_is_declined_and_plaintext_sent_too_early_refused() {
    let server = server().await;
    for code in [80_877_103u32, 80_877_104] {
        let mut s = connect(&server, &packet(code, b"")).await;
        let mut answer = [0u8; 1];
        s.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(answer, *b"N");
        s.write_all(&startup()).await.expect("writes");
        assert_eq!(messages(&mut s, b'Z').await.last().map(|(k, _)| *k), Some(b'Z'));

        let early = [packet(code, b""), startup(), message(b'Q', b"select 1\0")].concat();
        let mut s = connect(&server, &early).await;
        let all = messages(&mut s, b'Z').await;
        assert_eq!(sqlstate(&all).as_deref(), Some("08P01"));
        assert!(!all.iter().any(|(k, _)| *k == b'Z'));
    }
}

#[tokio::test]
async fn bad_start_up_packets_end_the_connection() {
    let server = server().await;
    for (what, bytes, code) in [
        ("http", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Some("08P01")),
        ("too long", vec![0, 1, 0, 0], Some("08P01")),
        ("too short", vec![0, 0, 0, 4], Some("08P01")),
        ("version 2", packet(2 << 16, b"\0"), Some("0A000")),
        ("no user", packet(3 << 16, b"database\0x\0\0"), Some("28000")),
        ("latin1", packet(3 << 16, b"user\0u\0client_encoding\0LATIN1\0\0"), Some("22023")),
        ("cancel of nobody", packet(80_877_102, &[0, 0, 0, 1, 0, 0, 0, 2]), None),
    ] {
        let mut s = connect(&server, &bytes).await;
        let all = messages(&mut s, b'Z').await;
        assert_eq!(sqlstate(&all).as_deref(), code, "{what}");
    }
}

#[tokio::test]
async fn bad_frames_end_their_own_session_only() {
    let server = server().await;
    let mut good = connect(&server, &startup()).await;
    messages(&mut good, b'Z').await;
    for (what, bytes, code) in [
        ("unknown type", message(b'?', b""), "08P01"),
        ("900 MiB announced", vec![b'Q', 0x38, 0x40, 0, 0], "54000"),
        ("password out of place", vec![0x70, 0, 0, 0, 0], "08P01"),
        ("bind without a body", message(b'B', b""), "08P01"),
    ] {
        let mut s = connect(&server, &startup()).await;
        messages(&mut s, b'Z').await;
        s.write_all(&bytes).await.expect("writes");
        assert_eq!(sqlstate(&messages(&mut s, b'Z').await).as_deref(), Some(code), "{what}");
    }
    good.write_all(&message(b'Q', b"\0")).await.expect("writes");
    assert_eq!(messages(&mut good, b'Z').await.last().map(|(k, _)| *k), Some(b'Z'));
}

#[tokio::test]
async fn after_an_error_messages_are_skipped_up_to_sync() {
    let server = server().await;
    let mut s = connect(&server, &startup()).await;
    messages(&mut s, b'Z').await;
    let bytes = [
        message(b'B', b"\0nope\0\0\0\0\0\0\0"),
        message(b'E', b"\0\0\0\0\0"),
        message(b'S', b""),
        message(b'P', b"\0\0\0\0"),
        message(b'B', b"\0\0\0\0\0\0\0\0"),
        message(b'E', b"\0\0\0\0\0"),
        message(b'S', b""),
    ]
    .concat();
    s.write_all(&bytes).await.expect("writes");
    let kinds = |m: &[(u8, Vec<u8>)]| m.iter().map(|(k, _)| *k as char).collect::<String>();
    let first = messages(&mut s, b'Z').await;
    assert_eq!((kinds(&first).as_str(), sqlstate(&first).as_deref()), ("EZ", Some("26000")));
    assert_eq!(kinds(&messages(&mut s, b'Z').await), "12IZ");
}

#[tokio::test]
async fn sessions_beyond_the_limit_are_refused_and_places_come_back() {
    let mut c = config();
    c.limits.connections_max = 1;
    let server = Server::start(c).await.expect("server starts");
    let mut first = connect(&server, &startup()).await;
    messages(&mut first, b'Z').await;
    let mut second = connect(&server, &startup()).await;
    assert_eq!(sqlstate(&messages(&mut second, b'Z').await).as_deref(), Some("53300"));
    drop(first);
    for _ in 0..100 {
        let mut again = connect(&server, &startup()).await;
        if messages(&mut again, b'Z').await.last().map(|(k, _)| *k) == Some(b'Z') {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the place of a closed session was not given back");
}

#[tokio::test]
async fn shutdown_tells_every_session() {
    let server = server().await;
    let mut s = connect(&server, &startup()).await;
    messages(&mut s, b'Z').await;
    let http = server.http_addr;
    server.shutdown().await.expect("shuts down");
    assert_eq!(sqlstate(&messages(&mut s, b'Z').await).as_deref(), Some("57P01"));
    assert!(TcpStream::connect(http).await.is_err(), "HTTP has stopped as well");
}

#[tokio::test]
async fn health_and_metrics_answer() {
    let server = server().await;
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/", 200), ("/nothing", 404)] {
        let mut s = TcpStream::connect(server.http_addr).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        s.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        s.read_to_string(&mut answer).await.expect("reads");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_server_beyond_loopback_must_be_asked_for() {
    let c = Config { pg: SocketAddr::from(([0, 0, 0, 0], 0)), ..config() };
    let e = Server::start(c).await.err().expect("refused");
    assert!(e.hint.expect("hint").contains("--insecure-allow-remote"));
}
