//! The extended protocol: prepared statements and portals.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use millstream::api::{Outcome, Prepared};
use millstream::error::{Error, SqlState};
use millstream::statement::Statement;
use pgwire::messages::PgWireFrontendMessage as Frontend;
use pgwire::messages::extendedquery::{Bind, Close, Describe, Execute, Parse};
use pgwire::messages::response::TransactionStatus;

use super::conn::{Conn, aborted, shift, tag_with_rows};
use super::encode::{self, Format};
use super::error::Fail;
use super::guard::protocol_violation;
use super::rows::{RowStream, Sent};
use super::{hint, param, subscribe, types};

/// Prepared statements and portals a session may hold.
const NAMES_MAX: usize = 10_000;

/// A statement that was parsed.
pub struct PreparedStatement {
    /// `None` for an empty string.
    prepared: Option<Prepared>,
    /// Type of each parameter.
    parameters: Vec<u32>,
    /// Columns; `None` for commands.
    schema: Option<SchemaRef>,
}

/// A statement with its parameters, and its result while it is being fetched.
pub struct Portal {
    statement: Arc<PreparedStatement>,
    parameters: Vec<ScalarValue>,
    formats: Vec<Format>,
    state: State,
}

enum State {
    Bound,
    Rows { rows: RowStream, tag: &'static str },
    Done { tag: &'static str },
}

impl Conn {
    pub(super) async fn extended(&mut self, m: Frontend) -> Result<(), Fail> {
        match m {
            Frontend::Parse(p) => self.parse(p).await,
            Frontend::Bind(b) => self.bind(b),
            Frontend::Describe(d) => self.describe(&d),
            Frontend::Execute(e) => {
                let r = self.execute(e).await;
                self.statement_ended();
                r
            }
            Frontend::Close(c) => self.close(&c),
            _ => Err(protocol_violation("unexpected message").into()),
        }
    }

    async fn parse(&mut self, p: Parse) -> Result<(), Fail> {
        let name = p.name.unwrap_or_default();
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(Error::new(SqlState("42P05"), format!("prepared statement \"{name}\" already exists")).into());
        }
        if self.statements.len() >= NAMES_MAX {
            return Err(Error::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("a session can hold at most {NAMES_MAX} prepared statements"),
            )
            .hint("Close statements that are not used any more, or DISCARD ALL.")
            .into());
        }
        let mut statements = self.shared.catalog.parse(&self.session, &p.query)?;
        statements.retain(|s| !matches!(s.statement, Statement::Empty));
        if statements.len() > 1 {
            return Err(Error::new(
                SqlState::SYNTAX_ERROR,
                "cannot insert multiple commands into a prepared statement",
            )
            .into());
        }
        let prepared = match statements.pop() {
            None => None,
            Some(parsed) => {
                let ends = matches!(parsed.statement, Statement::Commit | Statement::Rollback);
                if self.transaction == TransactionStatus::Error && !ends {
                    return Err(aborted().into());
                }
                Some(if ends || matches!(parsed.statement, Statement::Begin) {
                    Prepared { parsed, parameters: Vec::new(), schema: None }
                } else {
                    let control = self.control();
                    let r = control.run(self.session.prepare(&parsed)).await;
                    self.statement_ended();
                    r.map_err(|e| shift(e, parsed.offset))?
                })
            }
        };
        let inferred = prepared.as_ref().map(|p| p.parameters.as_slice()).unwrap_or_default();
        let cast = prepared.as_ref().map(|p| hint::from_casts(&p.parsed.statement)).unwrap_or_default();
        let count = inferred.len().max(p.type_oids.len()).max(cast.len());
        // What the client declares wins, then what the planner inferred, then casts; text if nothing says.
        let given = |oids: &[u32], i: usize| oids.get(i).copied().filter(|t| *t != 0);
        let parameters = (0..count)
            .map(|i| {
                given(&p.type_oids, i)
                    .or_else(|| inferred.get(i).and_then(Option::as_ref).map(|t| types::of(t).oid))
                    .or_else(|| given(&cast, i))
                    .unwrap_or(types::oid::TEXT)
            })
            .collect();
        let schema = prepared.as_ref().and_then(|p| match (&p.parsed.statement, &p.schema) {
            (Statement::Subscribe(s), Some(schema)) => Some(subscribe::described(schema, s.progress)),
            (Statement::CopyOut { .. } | Statement::CopySubscribe(_) | Statement::CopyIn { .. }, _) => None,
            (_, schema) => schema.clone(),
        });
        self.statements.insert(name, Arc::new(PreparedStatement { prepared, parameters, schema }));
        self.out.parse_complete()
    }

    fn bind(&mut self, b: Bind) -> Result<(), Fail> {
        let name = b.portal_name.unwrap_or_default();
        let statement = self.statement(b.statement_name.as_deref().unwrap_or_default())?;
        if let Some(p) = &statement.prepared
            && self.transaction == TransactionStatus::Error
            && !matches!(p.parsed.statement, Statement::Commit | Statement::Rollback)
        {
            return Err(aborted().into());
        }
        if b.parameters.len() != statement.parameters.len() {
            return Err(protocol_violation(format!(
                "bind message supplies {} parameters, but the prepared statement requires {}",
                b.parameters.len(),
                statement.parameters.len()
            ))
            .into());
        }
        let codes = encode::formats(&b.parameter_format_codes, b.parameters.len())?;
        let inferred = statement.prepared.as_ref().map(|p| p.parameters.as_slice()).unwrap_or_default();
        let mut parameters = Vec::with_capacity(b.parameters.len());
        for (i, value) in b.parameters.iter().enumerate() {
            let wanted = inferred.get(i).and_then(Option::as_ref);
            parameters.push(param::decode(i + 1, value.as_deref(), codes[i], statement.parameters[i], wanted)?);
        }
        let columns = statement.schema.as_ref().map_or(0, |s| s.fields().len());
        let formats = if statement.schema.is_some() {
            encode::formats(&b.result_column_format_codes, columns)?
        } else {
            Vec::new()
        };
        if self.portals.len() >= NAMES_MAX {
            return Err(Error::new(
                SqlState::PROGRAM_LIMIT_EXCEEDED,
                format!("a session can hold at most {NAMES_MAX} portals"),
            )
            .into());
        }
        let portal = Portal { statement, parameters, formats, state: State::Bound };
        match self.portals.entry(name) {
            Entry::Occupied(e) if !e.key().is_empty() => {
                return Err(Error::new(SqlState("42P03"), format!("cursor \"{}\" already exists", e.key())).into());
            }
            Entry::Occupied(mut e) => drop(e.insert(portal)),
            Entry::Vacant(e) => drop(e.insert(portal)),
        }
        self.out.bind_complete()
    }

    fn statement(&self, name: &str) -> Result<Arc<PreparedStatement>, Fail> {
        self.statements.get(name).cloned().ok_or_else(|| {
            let what = if name.is_empty() {
                "unnamed prepared statement does not exist".to_owned()
            } else {
                format!("prepared statement \"{name}\" does not exist")
            };
            Error::new(SqlState("26000"), what).into()
        })
    }

    fn describe(&mut self, d: &Describe) -> Result<(), Fail> {
        let name = d.name.as_deref().unwrap_or_default();
        if d.target_type == b'S' {
            let s = self.statement(name)?;
            self.out.parameter_description(&s.parameters)?;
            return match &s.schema {
                Some(schema) => self.out.row_description(schema, &vec![Format::Text; schema.fields().len()]),
                None => self.out.no_data(),
            };
        }
        let p = self.portals.get(name).ok_or_else(|| no_portal(name))?;
        match &p.statement.schema {
            Some(schema) => self.out.row_description(schema, &p.formats),
            None => self.out.no_data(),
        }
    }

    fn close(&mut self, c: &Close) -> Result<(), Fail> {
        let name = c.name.as_deref().unwrap_or_default();
        if c.target_type == b'S' {
            self.statements.remove(name);
        } else {
            self.portals.remove(name);
        }
        self.out.close_complete()
    }

    async fn execute(&mut self, e: Execute) -> Result<(), Fail> {
        let name = e.name.unwrap_or_default();
        let limit = u64::try_from(e.max_rows).ok().filter(|n| *n > 0);
        // Taken out while it runs: a statement that fails leaves no portal behind.
        let mut portal = self.portals.remove(&name).ok_or_else(|| no_portal(&name))?;
        let statement = Arc::clone(&portal.statement);
        let Some(prepared) = &statement.prepared else {
            self.out.empty_query()?;
            self.portals.insert(name, portal);
            return Ok(());
        };
        let parsed = &prepared.parsed;
        let control = self.control();
        if matches!(portal.state, State::Bound) {
            if let Some(tag) = self.transaction_command(&parsed.statement)? {
                return self.out.complete(tag);
            }
            let outcome = self.run_statement(parsed, &portal.parameters, &control).await?;
            let formats = portal.formats.clone();
            portal.state = match outcome {
                Outcome::Rows { schema, stream, tag } => {
                    statement.check_columns(&schema)?;
                    State::Rows { rows: RowStream::query(stream, formats), tag }
                }
                Outcome::Subscribe(s) => {
                    let schema = subscribe::schema(&s.schema, s.progress);
                    statement.check_columns(&schema)?;
                    State::Rows { rows: RowStream::live(s, schema, formats), tag: "SUBSCRIBE" }
                }
                other => return self.deliver(other, parsed, &control).await,
            };
        } else if self.transaction == TransactionStatus::Error {
            return Err(aborted().into());
        }
        match &mut portal.state {
            State::Rows { rows, tag } => {
                let tag = *tag;
                let before = rows.sent;
                let sent = rows.send(&mut self.out, &control, limit).await.map_err(|e| shift(e, parsed.offset))?;
                match sent {
                    Sent::Suspended => self.out.portal_suspended()?,
                    Sent::All => {
                        let n = rows.sent - before;
                        portal.state = State::Done { tag };
                        self.out.complete(tag_with_rows(tag, n))?;
                    }
                }
            }
            State::Done { tag } => {
                let tag = tag_with_rows(tag, 0);
                self.out.complete(tag)?;
            }
            State::Bound => return Err(Error::internal("portal did not start").into()),
        }
        self.portals.insert(name, portal);
        Ok(())
    }
}

fn no_portal(name: &str) -> Error {
    Error::new(SqlState("34000"), format!("portal \"{name}\" does not exist"))
}

impl PreparedStatement {
    /// Relations may have changed since the statement was described; the client decodes by the description.
    fn check_columns(&self, now: &SchemaRef) -> Result<(), Error> {
        let same = self.schema.as_ref().is_some_and(|then| {
            then.fields().len() == now.fields().len()
                && then.fields().iter().zip(now.fields()).all(|(a, b)| types::of_field(a).oid == types::of_field(b).oid)
        });
        if same {
            return Ok(());
        }
        Err(Error::unsupported("cached plan must not change result type").hint("Prepare the statement again."))
    }
}
