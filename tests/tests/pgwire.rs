//! The server through a real driver: both protocols, types, errors, COPY, subscriptions, cancel.

use std::net::SocketAddr;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _, pin_mut};
use millstream_server::config::Config;
use millstream_server::{RunningServer, Server};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

async fn server() -> RunningServer {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let c = Config { data: "memory://".into(), pg: local, http: local, workers: 1, ..Config::default() };
    Server::start(c).await.expect("server starts")
}

async fn client(server: &RunningServer) -> Client {
    let how = format!("host=127.0.0.1 port={} user=anybody dbname=anything", server.pg_addr.port());
    let (client, connection) = tokio_postgres::connect(&how, NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

/// Rows of a simple query, as text.
async fn rows(c: &Client, sql: &str) -> Vec<Vec<Option<String>>> {
    c.simple_query(sql)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e:?}"))
        .into_iter()
        .filter_map(|m| match m {
            SimpleQueryMessage::Row(r) => Some((0..r.len()).map(|i| r.get(i).map(str::to_owned)).collect()),
            _ => None,
        })
        .collect()
}

fn texts(values: &[&str]) -> Vec<Option<String>> {
    values.iter().map(|v| Some((*v).to_owned())).collect()
}

fn db(e: &tokio_postgres::Error) -> &tokio_postgres::error::DbError {
    e.as_db_error().unwrap_or_else(|| panic!("not an error of the server: {e:?}"))
}

#[tokio::test]
async fn simple_queries_run_statement_by_statement() {
    let server = server().await;
    let c = client(&server).await;
    let sql = "CREATE TABLE t (a INT PRIMARY KEY, b TEXT); INSERT INTO t VALUES (1, 'x'), (2, NULL); SELECT a, b FROM t ORDER BY a";
    assert_eq!(rows(&c, sql).await, [texts(&["1", "x"]), vec![Some("2".into()), None]]);
    // The first error stops the rest; what ran before it stays.
    let e = c.simple_query("INSERT INTO t VALUES (3, 'y'); SELECT nope FROM t; INSERT INTO t VALUES (4, 'z')").await;
    assert_eq!(db(&e.expect_err("unknown column")).code().code(), "42703");
    assert_eq!(rows(&c, "SELECT count(*) FROM t").await, [texts(&["3"])]);
    server.shutdown().await.expect("shuts down");
}

#[tokio::test]
async fn parameters_and_results_travel_in_binary() {
    let server = server().await;
    let c = client(&server).await;
    let row = c
        .query_one(
            "SELECT $1::bigint AS a, $2::text AS b, $3::double precision AS c, $4::boolean AS d, $5::int AS e",
            &[&7i64, &"seven", &f64::NAN, &true, &None::<i32>],
        )
        .await
        .expect("query");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, &str>(1), row.get::<_, bool>(3)), (7, "seven", true));
    assert!(row.get::<_, f64>(2).is_nan());
    assert_eq!(row.get::<_, Option<i32>>(4), None);
    c.batch_execute("CREATE TABLE t (k BIGINT PRIMARY KEY, at TIMESTAMP, day DATE, note TEXT)").await.expect("create");
    let statement = c.prepare("SELECT note FROM t WHERE k = $1").await.expect("prepare");
    assert_eq!(statement.params(), [tokio_postgres::types::Type::INT8]);
    c.execute("INSERT INTO t VALUES (1, TIMESTAMP '2024-02-29 01:02:03', DATE '2024-02-29', 'leap')", &[])
        .await
        .expect("insert");
    let row = c.query_one(&statement, &[&1i64]).await.expect("query");
    assert_eq!(row.get::<_, &str>(0), "leap");
    assert_eq!(rows(&c, "SELECT at, day FROM t").await, [texts(&["2024-02-29 01:02:03", "2024-02-29"])]);
}

#[tokio::test]
async fn a_portal_is_fetched_in_pieces() {
    let server = server().await;
    let mut c = client(&server).await;
    let transaction = c.transaction().await.expect("begin");
    let portal = transaction.bind("SELECT * FROM (VALUES (1), (2), (3)) AS v(x) ORDER BY x", &[]).await.expect("bind");
    let mut sizes = Vec::new();
    for _ in 0..2 {
        sizes.push(transaction.query_portal(&portal, 2).await.expect("fetch").len());
    }
    assert_eq!(sizes, [2, 1]);
    transaction.commit().await.expect("commit");
}

#[tokio::test]
async fn errors_have_code_position_and_hint() {
    let server = server().await;
    let c = client(&server).await;
    c.batch_execute("CREATE TABLE orders (id INT PRIMARY KEY)").await.expect("create");
    let e = c.simple_query("SELECT 1; SELECT * FROM ordres").await.expect_err("unknown table");
    let e = db(&e);
    assert_eq!(e.code().code(), "42P01");
    assert_eq!(e.position(), Some(&tokio_postgres::error::ErrorPosition::Original(25)), "{e:?}");
    let e = c.simple_query("SELEKT 1").await.expect_err("syntax");
    assert_eq!(db(&e).code().code(), "42601");
    let e = c.query("SELECT 1 / $1::int", &[&0i32]).await.expect_err("division");
    assert_eq!(db(&e).code().code(), "22012");
    let e = c.prepare("SELECT 1; SELECT 2").await.expect_err("two statements");
    assert_eq!(db(&e).code().code(), "42601");
    assert_eq!(rows(&c, "SELECT 1").await, [texts(&["1"])], "the session goes on");
}

#[tokio::test]
async fn a_failed_transaction_refuses_everything_until_rollback() {
    let server = server().await;
    let c = client(&server).await;
    c.batch_execute("BEGIN").await.expect("begin");
    c.simple_query("SELECT nope").await.expect_err("fails");
    let e = c.simple_query("SELECT 1").await.expect_err("aborted");
    assert_eq!(db(&e).code().code(), "25P02");
    c.batch_execute("ROLLBACK").await.expect("rollback");
    assert_eq!(rows(&c, "SELECT 1").await, [texts(&["1"])]);
}

#[tokio::test]
async fn copy_goes_in_and_out() {
    let server = server().await;
    let c = client(&server).await;
    c.batch_execute("CREATE TABLE t (a INT PRIMARY KEY, b TEXT)").await.expect("create");
    let sink = c.copy_in("COPY t FROM STDIN").await.expect("copy in");
    pin_mut!(sink);
    sink.send(bytes::Bytes::from_static(b"1\tone\n2\t\\N\n3\tta")).await.expect("send");
    sink.send(bytes::Bytes::from_static(b"b\\t\n")).await.expect("send");
    assert_eq!(sink.finish().await.expect("finish"), 3);
    let mut out = Vec::new();
    let stream = c.copy_out("COPY (SELECT a, b FROM t ORDER BY a) TO STDOUT").await.expect("copy out");
    pin_mut!(stream);
    while let Some(b) = stream.next().await {
        out.extend(b.expect("bytes"));
    }
    assert_eq!(String::from_utf8(out).expect("utf-8"), "1\tone\n2\t\\N\n3\ttab\\t\n");

    let sink = c.copy_in("COPY t (a) FROM STDIN WITH (FORMAT csv, HEADER)").await.expect("copy in");
    pin_mut!(sink);
    sink.send(bytes::Bytes::from_static(b"a\nfour\n")).await.expect("send");
    let e = sink.finish().await.expect_err("not a number");
    let e = db(&e);
    assert_eq!((e.code().code(), e.detail()), ("22P02", Some("COPY t, line 2, column a.")));
    assert_eq!(rows(&c, "SELECT count(*) FROM t").await, [texts(&["3"])], "a COPY is all or nothing");
}

#[tokio::test]
async fn a_subscription_is_live_and_ends_by_cancel() {
    let server = server().await;
    let (reader, writer) = (client(&server).await, client(&server).await);
    writer
        .batch_execute("CREATE TABLE t (a INT PRIMARY KEY); CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM t")
        .await
        .expect("create");
    let cancel = reader.cancel_token();
    let stream = reader.copy_out("COPY (SUBSCRIBE v) TO STDOUT").await.expect("subscribe");
    pin_mut!(stream);
    let next = async |stream: &mut std::pin::Pin<&mut tokio_postgres::CopyOutStream>| {
        let line = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.expect("in time");
        line.map(|l| l.map(|b| String::from_utf8_lossy(&b).into_owned()))
    };
    let first = next(&mut stream).await.expect("a line").expect("no error");
    assert!(first.ends_with("\t1\t0\n"), "the snapshot: {first:?}");
    writer.batch_execute("INSERT INTO t VALUES (1)").await.expect("insert");
    let mut lines = [0, 0];
    for _ in 0..2 {
        let line = next(&mut stream).await.expect("a line").expect("no error");
        lines[usize::from(line.ends_with("\t1\t1\n"))] += 1;
        assert!(line.ends_with("\t1\t1\n") || line.ends_with("\t-1\t0\n"), "{line:?}");
    }
    assert_eq!(lines, [1, 1], "the old count is retracted, the new one asserted");
    cancel.cancel_query(NoTls).await.expect("cancel");
    let end = next(&mut stream).await.expect("an end").expect_err("cancelled");
    assert_eq!(db(&end).code().code(), "57014");
    assert_eq!(rows(&reader, "SELECT 1").await, [texts(&["1"])], "the session goes on");
}

#[tokio::test]
async fn a_statement_timeout_stops_a_statement() {
    let server = server().await;
    let c = client(&server).await;
    c.batch_execute("CREATE TABLE t (a INT PRIMARY KEY); SET statement_timeout = '200ms'").await.expect("set");
    let e = c.simple_query("SUBSCRIBE t").await.expect_err("times out");
    assert_eq!(db(&e).code().code(), "57014");
}

/// psql itself, if it is installed.
fn psql(server: &RunningServer, command: &str) -> Option<String> {
    let port = server.pg_addr.port().to_string();
    let args = ["-X", "-h", "127.0.0.1", "-p", &port, "-U", "u", "-d", "millstream", "-c", command];
    let out = std::process::Command::new("psql").args(args).env("PGCONNECT_TIMEOUT", "10").output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    Some(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_backslash_commands_show_what_there_is() {
    let server = server().await;
    let c = client(&server).await;
    c.batch_execute(
        "CREATE TABLE account (id INT PRIMARY KEY, note TEXT); \
         CREATE STREAM bid (*) WITH (connector = 'nexmark', type = 'bid', events = '50'); \
         CREATE VIEW plain AS SELECT id FROM account",
    )
    .await
    .expect("create");
    let Some(version) = psql(&server, "SELECT 1 AS one") else {
        eprintln!("psql is not installed: nothing was tried");
        return;
    };
    assert!(version.contains("one"), "{version}");
    let mut wrong = String::new();
    for (command, parts) in [
        ("\\d", vec!["account", "foreign table", "view"]),
        ("\\dt", vec!["account"]),
        ("\\dv", vec!["plain"]),
        ("\\dE", vec!["bid"]),
        ("\\l", vec!["millstream", "UTF8"]),
        ("\\dn", vec!["public"]),
        ("\\du", vec!["millstream"]),
        ("\\df", vec!["(0 rows)"]),
        ("\\d account", vec!["id", "integer", "note", "text"]),
        ("\\d bid", vec!["auction", "bigint", "Server: millstream"]),
        ("\\d plain", vec!["id", "integer"]),
        ("\\d+ plain", vec!["View definition", "account"]),
    ] {
        let shown = psql(&server, command).expect("psql runs");
        let missing: Vec<&str> = parts.into_iter().filter(|p| !shown.contains(p)).collect();
        if !missing.is_empty() || shown.contains("ERROR") {
            wrong.push_str(&format!("{command} should show {missing:?}:\n{shown}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_shows_materialized_views() {
    let server = server().await;
    let c = client(&server).await;
    c.batch_execute(
        "CREATE TABLE account (id INT PRIMARY KEY); \
         CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n FROM account",
    )
    .await
    .expect("create");
    for (command, parts) in [
        ("\\dm", vec!["totals", "materialized view"]),
        ("\\d totals", vec!["n", "bigint"]),
        ("\\d+ totals", vec!["View definition", "count"]),
    ] {
        let Some(shown) = psql(&server, command) else {
            eprintln!("psql is not installed: nothing was tried");
            return;
        };
        for p in parts {
            assert!(shown.contains(p), "{command} should show {p}:\n{shown}");
        }
    }
}
