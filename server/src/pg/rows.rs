//! A result on its way to the client: batches of a query or deltas of a subscription, sent row by row, resumable at
//! any row for portals with a row limit.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::{BufMut as _, BytesMut};
use datafusion::execution::SendableRecordBatchStream;
use futures::{FutureExt as _, StreamExt as _};
use millstream::api::Subscription;
use millstream::error::{Error, IntoError as _, Result};
use tokio::io::AsyncWrite;

use super::cancel::Control;
use super::copy;
use super::encode::{Format, Rows};
use super::error::Fail;
use super::out::Out;
use super::subscribe;

enum Source {
    Query(SendableRecordBatchStream),
    Live(Subscription, SchemaRef),
}

/// How the rows are sent.
enum Shape {
    DataRows(Vec<Format>),
    Copy { csv: bool, scratch: BytesMut },
}

/// A result that is being sent.
pub struct RowStream {
    source: Source,
    shape: Shape,
    batch: Option<(Rows, usize)>,
    /// Rows sent so far.
    pub sent: u64,
}

/// How far [`RowStream::send`] came.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// No more rows.
    All,
    /// The row limit was reached; there may be more.
    Suspended,
}

impl RowStream {
    /// Rows of a query.
    pub fn query(stream: SendableRecordBatchStream, formats: Vec<Format>) -> Self {
        Self { source: Source::Query(stream), shape: Shape::DataRows(formats), batch: None, sent: 0 }
    }
    /// Rows of a subscription, whose columns are `schema`.
    pub fn live(subscription: Subscription, schema: SchemaRef, formats: Vec<Format>) -> Self {
        Self { source: Source::Live(subscription, schema), shape: Shape::DataRows(formats), batch: None, sent: 0 }
    }
    /// Lines instead of rows.
    pub fn into_copy(mut self, csv: bool) -> Self {
        self.shape = Shape::Copy { csv, scratch: BytesMut::new() };
        self
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        match &mut self.source {
            Source::Query(s) => s.next().await.transpose().map_err(|e| e.into_error()),
            Source::Live(s, schema) => {
                while let Some(delta) = s.next().await.transpose()? {
                    if let Some(b) = subscribe::rows(schema, s.progress, &delta)? {
                        return Ok(Some(b));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Sends rows until there are no more, `limit` is reached, or something stops the statement. A subscription with
    /// a limit also pauses as soon as it has sent something and would have to wait for more.
    pub async fn send<W: AsyncWrite + Unpin>(
        &mut self,
        out: &mut Out<W>,
        control: &Control,
        limit: Option<u64>,
    ) -> Result<Sent, Fail> {
        let live = matches!(self.source, Source::Live(..));
        let mut n = 0;
        loop {
            if let Some((rows, at)) = &mut self.batch {
                while *at < rows.len && limit.is_none_or(|l| n < l) {
                    match &mut self.shape {
                        Shape::DataRows(formats) => rows.data_row(*at, formats, &mut out.buffer)?,
                        Shape::Copy { csv, scratch } => copy_data(rows, *at, *csv, scratch, &mut out.buffer)?,
                    }
                    *at += 1;
                    n += 1;
                    self.sent += 1;
                    if out.full() {
                        control.run(out.flush()).await?;
                    }
                }
                if *at == rows.len {
                    self.batch = None;
                }
            }
            if limit.is_some_and(|l| n >= l) {
                return Ok(Sent::Suspended);
            }
            let ready = self.next().now_or_never();
            let next = match ready {
                Some(r) => r?,
                None if live && limit.is_some() && n > 0 => return Ok(Sent::Suspended),
                None => {
                    if live {
                        // What is known is shown before we wait for more.
                        control.run(out.flush()).await?;
                    }
                    control.run(self.next()).await?
                }
            };
            // A query that always has a batch ready must still be cancellable.
            if control.cancel.is_cancelled() || control.gone.is_cancelled() || control.shutdown.is_cancelled() {
                control.run(std::future::pending::<Result<()>>()).await?;
            }
            match next {
                Some(b) => self.batch = Some((Rows::new(&b)?, 0)),
                None => return Ok(Sent::All),
            }
        }
    }
}

/// One line as a CopyData message.
fn copy_data(rows: &Rows, i: usize, csv: bool, scratch: &mut BytesMut, out: &mut BytesMut) -> Result<()> {
    copy_message(out, |out| copy::write_row(rows, i, csv, scratch, out))
}

/// A CopyData message whose body is written by `body`.
pub fn copy_message(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) -> Result<()> {
    let start = out.len();
    out.put_u8(b'd');
    out.put_i32(0);
    body(out);
    let Ok(len) = i32::try_from(out.len() - start - 1) else {
        out.truncate(start);
        return Err(Error::new(
            millstream::error::SqlState::PROGRAM_LIMIT_EXCEEDED,
            "a row is too large to send: more than 2 GiB",
        ));
    };
    out[start + 1..start + 5].copy_from_slice(&len.to_be_bytes());
    Ok(())
}
