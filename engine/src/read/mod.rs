//! Statements: what each one does.

pub(crate) mod alter;
pub(crate) mod ddl;
pub(crate) mod dml;
pub(crate) mod emit;
pub(crate) mod explain;
pub(crate) mod index;
pub(crate) mod limits;
pub(crate) mod provider;
pub(crate) mod query;
pub(crate) mod replace;
pub(crate) mod show;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use millstream_sql::statement::{Parsed, Statement, Subscribe, SubscribeTarget};

use crate::api::{CopyIn, Notice, Outcome, Prepared, Session, Subscription};
use crate::error::{Error, Result, SqlState};

/// Plans a statement for its parameters and columns.
pub(crate) async fn prepare(session: &Session, parsed: &Parsed) -> Result<Prepared> {
    let (parameters, schema) = match &parsed.statement {
        Statement::Query(q) => query::describe(session, q, &parsed.text).await?,
        Statement::Dml(s) => (dml::parameters(session, s, &parsed.text).await?, None),
        Statement::Show(s) => (Vec::new(), Some(show::show(session, s)?.schema())),
        Statement::Describe(name) => (Vec::new(), Some(show::describe(session, name)?.schema())),
        Statement::Explain { .. } => (Vec::new(), Some(explain::schema())),
        Statement::Subscribe(s) => (Vec::new(), Some(subscribe_schema(session, s, &parsed.text).await?)),
        _ => (Vec::new(), None),
    };
    Ok(Prepared { parsed: parsed.clone(), parameters, schema })
}

async fn subscribe_schema(session: &Session, s: &Subscribe, text: &str) -> Result<SchemaRef> {
    use arrow::datatypes::{DataType, Field, Schema};
    let row = match &s.target {
        SubscribeTarget::Relation(name) => session.engine.inner.lock().catalog.get(name)?.schema.clone(),
        SubscribeTarget::Query(q) => {
            query::describe(session, q, text).await?.1.ok_or_else(|| Error::internal("query without columns"))?
        }
    };
    let mut fields = vec![Field::new("ms_epoch", DataType::Int64, false)];
    if s.progress {
        fields.push(Field::new("ms_progressed", DataType::Boolean, false));
    }
    fields.push(Field::new("ms_diff", DataType::Int64, true));
    fields.extend(row.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)));
    Ok(std::sync::Arc::new(Schema::new(fields)))
}

/// Runs one statement.
pub(crate) async fn run(session: &mut Session, parsed: &Parsed, parameters: &[ScalarValue]) -> Result<Outcome> {
    if let Some(e) = session.engine.inner.failure() {
        return Err(e);
    }
    let text = parsed.text.as_str();
    match &parsed.statement {
        Statement::Query(q) => {
            let (schema, stream) = query::run(session, q, text, parameters).await?;
            Ok(Outcome::Rows { schema, stream, tag: "SELECT" })
        }
        Statement::Dml(s) => dml::run(session, s, text, parameters).await,
        Statement::CreateStream(c) => ddl::create_stream(session, c, text).await,
        Statement::CreateTable(c) => ddl::create_table(session, c, text).await,
        Statement::CreateView(c) => ddl::create_view(session, c, text).await,
        Statement::Drop { kind, if_exists, names, cascade } => {
            ddl::drop(session, *kind, *if_exists, names, *cascade).await
        }
        Statement::Alter { kind, if_exists, name, action } => {
            alter::alter(session, *kind, *if_exists, name, action).await
        }
        Statement::Comment { target, text } => alter::comment(session, target, text.as_deref()).await,
        Statement::CreateIndex(c) => index::create(session, c).await,
        Statement::DropIndex { if_exists, names } => index::drop(session, *if_exists, names).await,
        Statement::Subscribe(s) => Ok(Outcome::Subscribe(subscribe(session, s, text).await?)),
        Statement::CopySubscribe(s) => Ok(Outcome::CopySubscribe(subscribe(session, s, text).await?)),
        Statement::CopyOut { query: q, csv, header } => {
            let (schema, stream) = query::run(session, q, text, parameters).await?;
            Ok(Outcome::CopyOut { schema, stream, csv: *csv, header: *header })
        }
        Statement::CopyIn { table, columns, csv, header } => dml::copy_target(session, table, columns, *csv, *header),
        Statement::Show(s) => Ok(rows(show::show(session, s)?, "SHOW")),
        Statement::Describe(name) => Ok(rows(show::describe(session, name)?, "SHOW")),
        Statement::Explain { mode, statement, target } => {
            Ok(rows(explain::explain(session, *mode, statement, target.as_ref(), text).await?, "EXPLAIN"))
        }
        Statement::Set { name, value } => {
            let key = name.to_ascii_lowercase();
            if let Some(v) = value {
                show::check_setting(&key, v)?;
            }
            match value {
                Some(v) => session.settings.insert(key, v.clone()),
                None => session.settings.remove(&key),
            };
            Ok(command("SET"))
        }
        Statement::Reset(name) => {
            match name {
                Some(n) => drop(session.settings.remove(&n.to_ascii_lowercase())),
                None => session.settings.clear(),
            }
            Ok(command("RESET"))
        }
        Statement::Begin => Ok(command("BEGIN")),
        Statement::Commit => Ok(command("COMMIT")),
        Statement::Rollback => Ok(command("ROLLBACK")),
        Statement::Checkpoint => {
            crate::coord::checkpoint(&session.engine.inner).await?;
            Ok(command("CHECKPOINT"))
        }
        Statement::Flush => {
            flush(session).await?;
            Ok(command("FLUSH"))
        }
        Statement::Discard => {
            session.settings.clear();
            Ok(command("DISCARD ALL"))
        }
        Statement::Empty => Ok(Outcome::Command { tag: String::new(), notices: Vec::new() }),
    }
}

/// Every source read to where it ends now, every view at the present.
async fn flush(session: &mut Session) -> Result<()> {
    let inner = session.engine.inner.clone();
    let streams: Vec<_> = {
        let st = inner.lock();
        st.catalog
            .relations
            .values()
            .filter(|r| matches!(r.body, crate::catalog::Body::Connector { .. }))
            .cloned()
            .collect()
    };
    for relation in streams {
        let unbounded_generator = matches!(&relation.body, crate::catalog::Body::Connector { options, .. }
            if options.get("connector").is_some_and(|c| c == "nexmark") && !options.contains_key("events"));
        if unbounded_generator {
            continue;
        }
        let source = crate::coord::open_relation_source(&inner, &relation).await?;
        let target = crate::error::ResultExt::e(source.end_positions().await)?;
        crate::coord::wait_for_positions(&inner, relation.id, &target).await?;
    }
    let (views, sealed) = {
        let st = inner.lock();
        let views = st
            .relations
            .iter()
            .filter(|(_, r)| r.quarantined.is_none() && !r.paused)
            .map(|(id, _)| *id)
            .collect::<std::collections::BTreeSet<_>>();
        (views, st.sealed)
    };
    let _cut = crate::coord::CutGuard::new(&inner, sealed);
    crate::coord::wait_for_frontier(&inner, &views, sealed).await?;
    session.read_floor = session.read_floor.max(sealed);
    Ok(())
}

async fn subscribe(session: &mut Session, s: &Subscribe, text: &str) -> Result<Subscription> {
    if s.up_to.is_some() {
        return Err(Error::unsupported("SUBSCRIBE .. UP TO is not supported yet"));
    }
    let mut subscription = match &s.target {
        SubscribeTarget::Relation(name) => {
            crate::coord::subscribe(&session.engine.inner, &name.to_string(), s.snapshot).await?
        }
        SubscribeTarget::Query(q) => ddl::subscribe_query(session, q, text, s.snapshot).await?,
    };
    subscription.progress = s.progress;
    Ok(subscription)
}

pub(crate) async fn copy_in(session: &mut Session, target: &CopyIn, rows: Vec<RecordBatch>) -> Result<u64> {
    dml::copy_in(session, target, rows).await
}

/// A finished command without messages.
pub(crate) fn command(tag: impl Into<String>) -> Outcome {
    Outcome::Command { tag: tag.into(), notices: Vec::new() }
}

/// A finished command with notices.
pub(crate) fn command_with(tag: impl Into<String>, notices: Vec<Notice>) -> Outcome {
    Outcome::Command { tag: tag.into(), notices }
}

/// A plain notice.
pub(crate) fn notice(message: impl Into<String>) -> Notice {
    Notice { severity: "NOTICE", code: "00000", message: message.into(), hint: None }
}

fn rows(batch: RecordBatch, tag: &'static str) -> Outcome {
    let schema = batch.schema();
    let stream = RecordBatchStreamAdapter::new(schema.clone(), futures::stream::iter([Ok(batch)]));
    Outcome::Rows { schema, stream: Box::pin(stream), tag }
}

/// The relation is of a kind the statement cannot use.
pub(crate) fn wrong_kind(name: &str, is: &str, want: &str) -> Error {
    Error::new(SqlState::WRONG_OBJECT_TYPE, format!("\"{name}\" is a {is}, not {want}"))
}
