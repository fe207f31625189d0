//! The sending half of a connection: messages into a buffer, the buffer to the socket when it is full or flushed.

use bytes::BytesMut;
use pgwire::messages::PgWireBackendMessage as Message;
use pgwire::messages::copy::{CopyDone, CopyInResponse, CopyOutResponse};
use pgwire::messages::data::{FieldDescription, NoData, ParameterDescription, RowDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete, PortalSuspended};
use pgwire::messages::response::{CommandComplete, EmptyQueryResponse, ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::ParameterStatus;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use arrow::datatypes::SchemaRef;
use millstream::api::Notice;
use millstream::error::Error;

use super::encode::Format;
use super::error::{self, Fail};
use super::types;

/// The buffer is written out from here on.
const FLUSH_BYTES: usize = 64 * 1024;

/// Messages to the client.
pub struct Out<W> {
    socket: W,
    /// Bytes not yet written; messages are appended whole.
    pub buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> Out<W> {
    /// Sends to `socket`.
    pub fn new(socket: W) -> Self {
        Self { socket, buffer: BytesMut::with_capacity(8 * 1024) }
    }

    /// Appends a message.
    pub fn message(&mut self, m: &Message) -> Result<(), Fail> {
        let start = self.buffer.len();
        m.encode(&mut self.buffer).map_err(|e| {
            self.buffer.truncate(start);
            Fail::Sql(Error::internal(format!("a message could not be encoded: {e}")))
        })
    }

    /// Writes everything out. Cancel safe: what was not written stays in the buffer.
    pub async fn flush(&mut self) -> Result<(), Fail> {
        while !self.buffer.is_empty() {
            if self.socket.write_buf(&mut self.buffer).await? == 0 {
                return Err(Fail::Gone);
            }
        }
        self.socket.flush().await?;
        Ok(())
    }

    /// True if it is time for [`Self::flush`].
    pub fn full(&self) -> bool {
        self.buffer.len() >= FLUSH_BYTES
    }

    /// ErrorResponse.
    pub fn error(&mut self, e: &Error, fatal: bool) -> Result<(), Fail> {
        self.message(&Message::ErrorResponse(error::response(e, fatal)))
    }
    /// NoticeResponse.
    pub fn notice(&mut self, n: &Notice) -> Result<(), Fail> {
        self.message(&Message::NoticeResponse(error::notice(n)))
    }
    /// CommandComplete.
    pub fn complete(&mut self, tag: impl Into<String>) -> Result<(), Fail> {
        self.message(&Message::CommandComplete(CommandComplete::new(tag.into())))
    }
    /// ReadyForQuery.
    pub fn ready(&mut self, status: TransactionStatus) -> Result<(), Fail> {
        self.message(&Message::ReadyForQuery(ReadyForQuery::new(status)))
    }
    /// ParameterStatus.
    pub fn parameter(&mut self, name: &str, value: &str) -> Result<(), Fail> {
        self.message(&Message::ParameterStatus(ParameterStatus::new(name.to_owned(), value.to_owned())))
    }
    /// RowDescription.
    pub fn row_description(&mut self, schema: &SchemaRef, formats: &[Format]) -> Result<(), Fail> {
        super::encode::check_columns(schema)?;
        let fields = schema
            .fields()
            .iter()
            .zip(formats)
            .map(|(f, format)| {
                let t = types::of_field(f);
                let code = i16::from(*format == Format::Binary);
                FieldDescription::new(f.name().replace('\0', ""), 0, 0, t.oid, t.len, t.modifier, code)
            })
            .collect();
        self.message(&Message::RowDescription(RowDescription::new(fields)))
    }
    /// ParameterDescription.
    pub fn parameter_description(&mut self, oids: &[u32]) -> Result<(), Fail> {
        self.message(&Message::ParameterDescription(ParameterDescription::new(oids.to_vec())))
    }
    /// CopyOutResponse, text format.
    pub fn copy_out(&mut self, columns: usize) -> Result<(), Fail> {
        self.message(&Message::CopyOutResponse(CopyOutResponse::new(0, columns as i16, vec![0; columns])))
    }
    /// CopyInResponse, text format.
    pub fn copy_in(&mut self, columns: usize) -> Result<(), Fail> {
        self.message(&Message::CopyInResponse(CopyInResponse::new(0, columns as i16, vec![0; columns])))
    }
    /// CopyDone.
    pub fn copy_done(&mut self) -> Result<(), Fail> {
        self.message(&Message::CopyDone(CopyDone::new()))
    }
    /// EmptyQueryResponse.
    pub fn empty_query(&mut self) -> Result<(), Fail> {
        self.message(&Message::EmptyQueryResponse(EmptyQueryResponse::new()))
    }
    /// NoData.
    pub fn no_data(&mut self) -> Result<(), Fail> {
        self.message(&Message::NoData(NoData::new()))
    }
    /// ParseComplete.
    pub fn parse_complete(&mut self) -> Result<(), Fail> {
        self.message(&Message::ParseComplete(ParseComplete::new()))
    }
    /// BindComplete.
    pub fn bind_complete(&mut self) -> Result<(), Fail> {
        self.message(&Message::BindComplete(BindComplete::new()))
    }
    /// CloseComplete.
    pub fn close_complete(&mut self) -> Result<(), Fail> {
        self.message(&Message::CloseComplete(CloseComplete::new()))
    }
    /// PortalSuspended.
    pub fn portal_suspended(&mut self) -> Result<(), Fail> {
        self.message(&Message::PortalSuspended(PortalSuspended::new()))
    }
}
