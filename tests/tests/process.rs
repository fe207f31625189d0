//! The server as a process: it stops in order, goes on where it stopped, and psql works with it.

use millstream_tests::server::{Server, ServerOptions};

#[tokio::test]
async fn a_stop_in_order_exits_with_zero_and_the_next_start_goes_on() {
    let mut server = Server::start(ServerOptions { checkpoint_interval: "0".into(), ..Default::default() }).await;
    server.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT)").await;
    server.execute("CREATE MATERIALIZED VIEW v AS SELECT n, count(*) AS c FROM t GROUP BY n").await;
    server.execute("INSERT INTO t VALUES (1, 7), (2, 7), (3, 8)").await;
    assert_eq!(server.stop().await, Some(0));
    server.restart().await;
    server.execute("INSERT INTO t VALUES (4, 8)").await;
    let rows = server.connect().await.query("SELECT n, c FROM v ORDER BY n", &[]).await.expect("rows");
    let rows: Vec<(i64, i64)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
    assert_eq!(rows, [(7, 2), (8, 2)]);
}

#[tokio::test]
async fn psql_runs_statements_and_its_own_commands() {
    let server = Server::start(ServerOptions::default()).await;
    let script = "CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT);\n\
                  INSERT INTO t VALUES (1, 'one'), (2, NULL);\n\
                  CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, count(name) AS named FROM t;\n\
                  SELECT * FROM v;\n\\d\n\\d t\n\\dm\n\\l\n\\dn\n";
    let Some(output) = server.psql(&["-v", "ON_ERROR_STOP=1"], script) else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for part in ["CREATE TABLE", "INSERT 0 2", "2 |     1", "materialized view", "\"public.t\"", "millstream"] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    // An error has a position and reaches the exit code.
    let wrong = server.psql(&["-v", "ON_ERROR_STOP=1"], "SELECT nmae FROM t;\n").expect("psql is there");
    assert_eq!(wrong.status.code(), Some(3));
    let text = String::from_utf8_lossy(&wrong.stderr);
    assert!(text.contains("LINE 1: SELECT nmae FROM t") && text.contains("^"), "{text}");
}
