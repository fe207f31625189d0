//! HTTP: health, readiness, metrics, and one page that says what this is. Nothing here changes anything.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use millstream::api::{Engine, Metric};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
struct Shared {
    engine: Engine,
    stop: CancellationToken,
    /// Set when the engine has failed.
    failed: CancellationToken,
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, engine: Engine, stop: CancellationToken) {
    let failed = CancellationToken::new();
    let watch = tokio::spawn({
        let (engine, failed) = (engine.clone(), failed.clone());
        async move {
            let _ = engine.failed().await;
            failed.cancel();
        }
    });
    let shared = Shared { engine, stop: stop.clone(), failed };
    let app = Router::new()
        .route("/", get(page))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(shared);
    let served = axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await }).await;
    if let Err(e) = served {
        tracing::error!(error = %e, "HTTP stopped");
    }
    watch.abort();
}

async fn ready(State(s): State<Shared>) -> impl IntoResponse {
    if s.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n");
    }
    if s.failed.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the engine has failed\n");
    }
    (StatusCode::OK, "ready\n")
}

async fn metrics(State(s): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], exposition(&s.engine.metrics()))
}

async fn page(State(s): State<Shared>) -> Html<String> {
    let mut rows = String::new();
    for r in s.engine.relations() {
        let name = if r.schema_name == "public" { r.name } else { format!("{}.{}", r.schema_name, r.name) };
        let _ = writeln!(rows, "<tr><td>{}</td><td>{}</td></tr>", escape(&name), r.kind.noun());
    }
    Html(format!(
        "<!doctype html><meta charset=utf-8><title>Millstream</title><h1>Millstream {}</h1>\n\
         <p>SQL views that are always right. Connect with psql; see <a href=/metrics>metrics</a>, \
         <a href=/readyz>readiness</a>.</p>\n<table>\n<tr><th>Relation</th><th>Kind</th></tr>\n{rows}</table>\n",
        env!("CARGO_PKG_VERSION")
    ))
}

fn escape(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Prometheus' text format: samples of one name together, under one HELP and TYPE.
fn exposition(metrics: &[Metric]) -> String {
    let mut by_name: BTreeMap<&str, Vec<&Metric>> = BTreeMap::new();
    for m in metrics {
        by_name.entry(m.name).or_default().push(m);
    }
    let mut out = String::new();
    for (name, samples) in by_name {
        let kind = if samples[0].counter { "counter" } else { "gauge" };
        let help = samples[0].help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for m in samples {
            out.push_str(name);
            for (i, (k, v)) in m.labels.iter().enumerate() {
                let v = v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let _ = write!(out, "{}{k}=\"{v}\"", if i == 0 { '{' } else { ',' });
            }
            if !m.labels.is_empty() {
                out.push('}');
            }
            let _ = writeln!(out, " {}", m.value);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_grouped_and_escaped() {
        let m = |name, labels, value| Metric { name, help: "Rows.", counter: true, labels, value };
        let text = exposition(&[
            m("ms_rows_total", vec![("view", "a\"b".into())], 1.0),
            m("ms_bytes_total", vec![], 2.5),
            m("ms_rows_total", vec![("view", "c".into())], 3.0),
        ]);
        assert_eq!(
            text,
            "# HELP ms_bytes_total Rows.\n# TYPE ms_bytes_total counter\nms_bytes_total 2.5\n\
             # HELP ms_rows_total Rows.\n# TYPE ms_rows_total counter\n\
             ms_rows_total{view=\"a\\\"b\"} 1\nms_rows_total{view=\"c\"} 3\n"
        );
    }
}
