//! One session: start-up answers, the simple protocol, COPY, transaction status. The extended protocol is in
//! [`super::extended`].
//!
//! A reader task owns the receiving half: it sees the client go away while a statement runs, and stops it.
//! There are no transactions: BEGIN, COMMIT and ROLLBACK keep the status clients expect, and every statement takes
//! effect at once, which the first write inside BEGIN says.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use millstream::api::{CopyIn, Notice, Outcome, Session};
use millstream::error::{Error, Result, SqlState};
use millstream::statement::{Parsed, Statement};
use pgwire::messages::PgWireBackendMessage as Message;
use pgwire::messages::PgWireFrontendMessage as Frontend;
use pgwire::messages::response::TransactionStatus;
use pgwire::messages::startup::{Authentication, BackendKeyData, NegotiateProtocolVersion, SecretKey};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::cancel::{Control, Registration, parse_timeout, shutting_down};
use super::encode::Format;
use super::error::{Fail, warning};
use super::extended::{Portal, PreparedStatement};
use super::guard::{FrameReader, ReadError, protocol_violation};
use super::out::Out;
use super::rows::{RowStream, copy_message};
use super::startup::Parameters;
use super::{Shared, copy, subscribe};

/// What `server_version` says: tools decide by the leading number what they may ask.
pub const SERVER_VERSION: &str = concat!("15.0 (Millstream ", env!("CARGO_PKG_VERSION"), ")");

/// Messages read ahead of the one that runs.
const MESSAGES_AHEAD: usize = 8;

/// Settings a client hears about when they change.
const REPORTED: &[(&str, &str)] = &[("application_name", "application_name"), ("timezone", "TimeZone")];

/// A session over a socket.
pub struct Conn {
    pub(super) out: Out<OwnedWriteHalf>,
    input: mpsc::Receiver<Result<Frontend, Error>>,
    pub(super) session: Session,
    pub(super) shared: Arc<Shared>,
    registration: Registration,
    gone: CancellationToken,
    pub(super) transaction: TransactionStatus,
    warned: bool,
    pub(super) statements: HashMap<String, Arc<PreparedStatement>>,
    pub(super) portals: HashMap<String, Portal>,
    /// After an error in the extended protocol everything is skipped up to the next Sync.
    skip: bool,
}

enum Next {
    Continue,
    Close,
}

/// Serves a socket whose start-up packet was read.
pub async fn run(socket: TcpStream, shared: Arc<Shared>, parameters: Parameters) {
    let (read, write) = socket.into_split();
    let gone = CancellationToken::new();
    let (tx, input) = mpsc::channel(MESSAGES_AHEAD);
    let mut reader = FrameReader::new(tokio::io::BufReader::new(read), shared.limits.message_bytes_max);
    let reader_gone = gone.clone();
    let reader = tokio::spawn(async move {
        loop {
            match reader.next().await {
                Ok(m) => {
                    // After Terminate nothing follows; what was sent before it still runs to its end.
                    let last = matches!(m, Frontend::Terminate(_));
                    if tx.send(Ok(m)).await.is_err() || last {
                        return;
                    }
                }
                Err(ReadError::Closed) => return reader_gone.cancel(),
                Err(ReadError::Violation(e)) => {
                    // The connection is being closed if nobody takes it.
                    let _ = tx.send(Err(e)).await;
                    return;
                }
            }
        }
    });
    let registration = shared.registry.register(&mut *shared.rng.lock());
    let mut session = shared.engine.session();
    shared.catalog.attach(&mut session, registration.pid);
    let mut conn = Conn {
        out: Out::new(write),
        input,
        session,
        shared,
        registration,
        gone,
        transaction: TransactionStatus::Idle,
        warned: false,
        statements: HashMap::new(),
        portals: HashMap::new(),
        skip: false,
    };
    match conn.serve(&parameters).await {
        Ok(()) | Err(Fail::Gone) => {}
        Err(Fail::Sql(e)) => {
            tracing::debug!(code = e.code.0, error = %e, "connection ends with an error");
            if conn.out.error(&e, true).is_ok() {
                let wait = std::time::Duration::from_secs(1);
                let _ = tokio::time::timeout(wait, conn.out.flush()).await;
            }
        }
    }
    reader.abort();
}

impl Conn {
    async fn serve(&mut self, parameters: &Parameters) -> Result<(), Fail> {
        self.start(parameters).await?;
        let shutdown = self.shared.shutdown.clone();
        loop {
            let message = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Err(shutting_down().into()),
                m = self.input.recv() => m,
            };
            match message {
                None => return Err(Fail::Gone),
                Some(Err(e)) => return Err(e.into()),
                Some(Ok(m)) => match self.handle(m).await? {
                    Next::Continue => {}
                    Next::Close => return Ok(()),
                },
            }
        }
    }

    async fn start(&mut self, parameters: &Parameters) -> Result<(), Fail> {
        if parameters.get("user").is_none_or(str::is_empty) {
            return Err(Error::new(SqlState("28000"), "no PostgreSQL user name specified in startup packet").into());
        }
        let strange: Vec<String> =
            parameters.values.iter().map(|(n, _)| n).filter(|n| n.starts_with("_pq_.")).cloned().collect();
        if parameters.minor > 0 || !strange.is_empty() {
            let m = NegotiateProtocolVersion::new(0, strange);
            self.out.message(&Message::NegotiateProtocolVersion(m))?;
        }
        if let Some(encoding) = parameters.get("client_encoding") {
            let plain = encoding.trim_matches(['\'', '"']).to_ascii_uppercase().replace(['-', '_'], "");
            if !matches!(plain.as_str(), "UTF8" | "UNICODE" | "SQLASCII" | "AUTO") {
                return Err(Error::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!("conversion between {encoding} and UTF8 is not supported"),
                )
                .hint("Set the client encoding to UTF8.")
                .into());
            }
        }
        if let Some(name) = parameters.get("application_name") {
            self.session.settings.insert("application_name".into(), name.to_owned());
        }
        for (name, value) in parse_options(parameters.get("options").unwrap_or_default())? {
            let parsed = Parsed {
                text: format!("SET {name} = '{value}'"),
                offset: 0,
                statement: Statement::Set { name, value: Some(value) },
            };
            let control = self.control();
            control.run(self.session.run(&parsed, &[])).await?;
        }
        self.out.message(&Message::Authentication(Authentication::Ok))?;
        for (name, value) in [
            ("server_version", SERVER_VERSION),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("IntervalStyle", "postgres"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
            ("TimeZone", "UTC"),
            ("is_superuser", "on"),
            ("in_hot_standby", "off"),
            ("default_transaction_read_only", "off"),
            ("session_authorization", parameters.get("user").unwrap_or_default()),
            ("application_name", parameters.get("application_name").unwrap_or_default()),
        ] {
            self.out.parameter(name, value)?;
        }
        let key = BackendKeyData::new(self.registration.pid, SecretKey::I32(self.registration.key));
        self.out.message(&Message::BackendKeyData(key))?;
        self.out.ready(self.transaction)?;
        self.out.flush().await
    }

    async fn handle(&mut self, m: Frontend) -> Result<Next, Fail> {
        match m {
            Frontend::Terminate(_) => return Ok(Next::Close),
            Frontend::Query(q) => {
                self.portals.remove("");
                self.statements.remove("");
                let r = self.simple(&q.query).await;
                self.report(r)?;
                self.end_of_implicit_transaction();
                self.out.ready(self.transaction)?;
                self.flush().await?;
            }
            Frontend::Sync(_) => {
                self.skip = false;
                self.end_of_implicit_transaction();
                self.out.ready(self.transaction)?;
                self.flush().await?;
            }
            Frontend::Flush(_) => self.flush().await?,
            // Left over of a COPY that failed while the client was still sending.
            Frontend::CopyData(_) | Frontend::CopyDone(_) | Frontend::CopyFail(_) => {}
            m if m.is_extended_query() => {
                if !self.skip {
                    let r = self.extended(m).await;
                    self.skip = r.is_err();
                    self.report(r)?;
                    if self.out.full() {
                        self.flush().await?;
                    }
                }
            }
            _ => return Err(protocol_violation("unexpected message").into()),
        }
        Ok(Next::Continue)
    }

    async fn flush(&mut self) -> Result<(), Fail> {
        let shutdown = self.shared.shutdown.clone();
        tokio::select! {
            biased;
            r = self.out.flush() => r,
            () = self.gone.cancelled() => Err(Fail::Gone),
            () = shutdown.cancelled() => Err(Fail::Gone),
        }
    }

    /// Tells the client about a failed statement; errors that end the connection pass on.
    fn report(&mut self, r: Result<(), Fail>) -> Result<(), Fail> {
        match r {
            Ok(()) => Ok(()),
            Err(Fail::Sql(e)) if e.code != SqlState::ADMIN_SHUTDOWN => {
                tracing::debug!(code = e.code.0, error = %e, "statement failed");
                if self.transaction == TransactionStatus::Transaction {
                    self.transaction = TransactionStatus::Error;
                }
                self.out.error(&e, false)
            }
            Err(fail) => Err(fail),
        }
    }

    fn end_of_implicit_transaction(&mut self) {
        if self.transaction == TransactionStatus::Idle {
            self.portals.clear();
        }
    }

    /// What may stop the statement that starts now.
    pub(super) fn control(&self) -> Control {
        let timeout = self.session.settings.get("statement_timeout").and_then(|s| parse_timeout(s));
        Control {
            cancel: self.registration.slot.begin(),
            gone: self.gone.clone(),
            shutdown: self.shared.shutdown.clone(),
            deadline: timeout.map(|t| tokio::time::Instant::now() + t),
        }
    }

    async fn simple(&mut self, sql: &str) -> Result<(), Fail> {
        let statements = self.shared.catalog.parse(&self.session, sql)?;
        let mut any = false;
        for parsed in &statements {
            if matches!(parsed.statement, Statement::Empty) {
                continue;
            }
            any = true;
            let control = self.control();
            let r = self.simple_one(parsed, &control).await;
            self.registration.slot.end();
            r?;
        }
        if !any {
            self.out.empty_query()?;
        }
        Ok(())
    }

    async fn simple_one(&mut self, parsed: &Parsed, control: &Control) -> Result<(), Fail> {
        if let Some(tag) = self.transaction_command(&parsed.statement)? {
            return self.out.complete(tag);
        }
        match self.run_statement(parsed, &[], control).await? {
            Outcome::Rows { schema, stream, tag } => {
                let formats = vec![Format::Text; schema.fields().len()];
                self.out.row_description(&schema, &formats)?;
                let mut rows = RowStream::query(stream, formats);
                self.send(&mut rows, control, parsed.offset).await?;
                self.out.complete(tag_with_rows(tag, rows.sent))
            }
            Outcome::Subscribe(s) => {
                let schema = subscribe::schema(&s.schema, s.progress);
                let formats = vec![Format::Text; schema.fields().len()];
                self.out.row_description(&schema, &formats)?;
                let mut rows = RowStream::live(s, schema, formats);
                self.send(&mut rows, control, parsed.offset).await?;
                self.out.complete(format!("SUBSCRIBE {}", rows.sent))
            }
            other => self.deliver(other, parsed, control).await,
        }
    }

    /// The outcomes that look the same in both protocols.
    pub(super) async fn deliver(&mut self, o: Outcome, parsed: &Parsed, control: &Control) -> Result<(), Fail> {
        match o {
            Outcome::Command { tag, notices } => {
                for n in &notices {
                    self.out.notice(n)?;
                }
                self.after_command(&parsed.statement)?;
                self.out.complete(tag)
            }
            Outcome::CopyOut { schema, stream, csv, header } => {
                self.out.copy_out(schema.fields().len())?;
                if header {
                    copy_message(&mut self.out.buffer, |b| copy::write_header(&schema, csv, b))?;
                }
                let mut rows = RowStream::query(stream, Vec::new()).into_copy(csv);
                self.send(&mut rows, control, parsed.offset).await?;
                self.out.copy_done()?;
                self.out.complete(format!("COPY {}", rows.sent))
            }
            Outcome::CopySubscribe(s) => {
                let schema = subscribe::schema(&s.schema, s.progress);
                self.out.copy_out(schema.fields().len())?;
                let mut rows = RowStream::live(s, schema, Vec::new()).into_copy(false);
                self.send(&mut rows, control, parsed.offset).await?;
                self.out.copy_done()?;
                self.out.complete(format!("COPY {}", rows.sent))
            }
            Outcome::CopyIn(target) => self.copy_in(&target, control).await,
            Outcome::Rows { .. } | Outcome::Subscribe(_) => {
                Err(Error::internal("a result set reached the wrong place").into())
            }
        }
    }

    async fn send(&mut self, rows: &mut RowStream, control: &Control, offset: usize) -> Result<(), Fail> {
        rows.send(&mut self.out, control, None).await.map(drop).map_err(|e| shift(e, offset))
    }

    /// Runs a statement that is not about transactions.
    pub(super) async fn run_statement(
        &mut self,
        parsed: &Parsed,
        parameters: &[ScalarValue],
        control: &Control,
    ) -> Result<Outcome, Fail> {
        self.warn_about_writes(&parsed.statement)?;
        let r = control.run(self.session.run(parsed, parameters)).await;
        r.map_err(|e| shift(e, parsed.offset))
    }

    async fn copy_in(&mut self, target: &CopyIn, control: &Control) -> Result<(), Fail> {
        let limit = self.shared.limits.copy_bytes_max;
        let mut reader =
            copy::Reader::new(&target.table, Arc::clone(&target.schema), target.csv, target.header, limit)?;
        self.out.copy_in(target.schema.fields().len())?;
        control.run(self.out.flush()).await?;
        loop {
            let input = &mut self.input;
            let message = control.run(async { Ok::<_, Fail>(input.recv().await) }).await?;
            match message {
                None => return Err(Fail::Gone),
                Some(Err(e)) => return Err(e.into()),
                Some(Ok(Frontend::CopyData(d))) => reader.feed(&d.data)?,
                Some(Ok(Frontend::CopyDone(_))) => break,
                Some(Ok(Frontend::CopyFail(f))) => {
                    return Err(
                        Error::new(SqlState::QUERY_CANCELED, format!("COPY from stdin failed: {}", f.message)).into()
                    );
                }
                Some(Ok(Frontend::Flush(_) | Frontend::Sync(_))) => {}
                Some(Ok(Frontend::Terminate(_))) => return Err(Fail::Gone),
                Some(Ok(_)) => return Err(protocol_violation("unexpected message type during COPY from stdin").into()),
            }
        }
        let batches = reader.finish()?;
        let n = control.run(self.session.copy_in(target, batches)).await?;
        self.out.complete(format!("COPY {n}"))
    }

    /// BEGIN, COMMIT and ROLLBACK, and the refusal of everything else in a failed transaction.
    pub(super) fn transaction_command(&mut self, s: &Statement) -> Result<Option<&'static str>, Fail> {
        use TransactionStatus as T;
        let idle = self.transaction == T::Idle;
        let failed = self.transaction == T::Error;
        match s {
            Statement::Begin if failed => {}
            Statement::Begin => {
                if !idle {
                    self.out.notice(&warning("25001", "there is already a transaction in progress"))?;
                }
                self.transaction = T::Transaction;
                return Ok(Some("BEGIN"));
            }
            Statement::Commit | Statement::Rollback => {
                if idle {
                    self.out.notice(&warning("25P01", "there is no transaction in progress"))?;
                }
                self.transaction = T::Idle;
                self.warned = false;
                self.portals.clear();
                let commit = matches!(s, Statement::Commit) && !failed;
                return Ok(Some(if commit { "COMMIT" } else { "ROLLBACK" }));
            }
            _ if failed => {}
            _ => return Ok(None),
        }
        Err(aborted().into())
    }

    fn warn_about_writes(&mut self, s: &Statement) -> Result<(), Fail> {
        let writes = matches!(
            s,
            Statement::Dml(_)
                | Statement::CopyIn { .. }
                | Statement::CreateStream(_)
                | Statement::CreateTable(_)
                | Statement::CreateView(_)
                | Statement::Drop { .. }
                | Statement::Alter { .. }
                | Statement::Comment { .. }
                | Statement::CreateIndex(_)
                | Statement::DropIndex { .. }
        );
        if writes && self.transaction == TransactionStatus::Transaction && !self.warned {
            self.warned = true;
            self.out.notice(&Notice {
                hint: Some("ROLLBACK does not undo it.".into()),
                ..warning("01000", "there are no transactions: every statement takes effect at once")
            })?;
        }
        Ok(())
    }

    fn after_command(&mut self, s: &Statement) -> Result<(), Fail> {
        match s {
            Statement::Set { name, value } => {
                if let Some((key, shown)) = REPORTED.iter().find(|(n, _)| name.eq_ignore_ascii_case(n)) {
                    // Values are always printed in UTC, whatever the session sets.
                    let value = if *key == "timezone" { "UTC" } else { value.as_deref().unwrap_or_default() };
                    self.out.parameter(shown, value)?;
                }
            }
            Statement::Discard => {
                self.statements.clear();
                self.portals.clear();
            }
            _ => {}
        }
        Ok(())
    }

    /// The statement is over: later cancels are not for it.
    pub(super) fn statement_ended(&self) {
        self.registration.slot.end();
    }
}

/// `25P02`.
pub(super) fn aborted() -> Error {
    Error::new(SqlState("25P02"), "current transaction is aborted, commands ignored until end of transaction block")
}

/// Moves the position of an error from its statement to the whole text.
pub(super) fn shift(f: Fail, offset: usize) -> Fail {
    match f {
        Fail::Sql(mut e) => {
            e.position = e.position.map(|p| p + offset);
            Fail::Sql(e)
        }
        Fail::Gone => Fail::Gone,
    }
}

/// `SELECT 5`; SHOW and EXPLAIN have no count.
pub(super) fn tag_with_rows(tag: &str, rows: u64) -> String {
    match tag {
        "SELECT" | "FETCH" | "VALUES" => format!("SELECT {rows}"),
        other => other.to_owned(),
    }
}

/// `-c name=value --name=value`, as libpq's `options`.
fn parse_options(options: &str) -> Result<Vec<(String, String)>> {
    let bad = || Error::new(SqlState::SYNTAX_ERROR, format!("invalid command-line argument in options: {options}"));
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.extend(chars.next()),
            c if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    let mut out = Vec::new();
    let mut words = words.into_iter();
    while let Some(w) = words.next() {
        let setting = match w.strip_prefix("--") {
            Some(s) => s.to_owned(),
            None => match w.strip_prefix("-c") {
                Some("") => words.next().ok_or_else(bad)?,
                Some(s) => s.to_owned(),
                None => return Err(bad()),
            },
        };
        let (name, value) = setting.split_once('=').ok_or_else(bad)?;
        let name = name.trim().replace('-', "_").to_ascii_lowercase();
        if name.is_empty() {
            return Err(bad());
        }
        out.push((name, value.to_owned()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_as_libpq_writes_them() {
        assert_eq!(
            parse_options(r"-c statement_timeout=5s --search-path=a\ b -cx=y").expect("options"),
            [("statement_timeout", "5s"), ("search_path", "a b"), ("x", "y")].map(|(a, b)| (a.into(), b.into()))
        );
        assert!(parse_options("-c").is_err());
        assert!(parse_options("x").is_err());
    }

    #[test]
    fn tags_count_rows_of_selects_only() {
        assert_eq!(tag_with_rows("SELECT", 3), "SELECT 3");
        assert_eq!(tag_with_rows("SHOW", 3), "SHOW");
    }
}
