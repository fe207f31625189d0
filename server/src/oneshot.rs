//! `millstream sql`: statements on an engine in memory, results as a table, CSV or JSON.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::csv::WriterBuilder;
use arrow::datatypes::SchemaRef;
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use futures::{StreamExt as _, TryStreamExt as _};
use millstream::api::{Engine, EngineOptions, Outcome, Subscription};
use millstream::error::{Error, IntoError as _, Result, SqlState};

use crate::pg::subscribe;

/// How results look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// Aligned columns.
    Table,
    /// Comma separated, with a header line.
    Csv,
    /// One JSON object a line.
    Json,
}

/// Why a run stopped: an error of a statement, or of the output.
#[derive(Debug)]
pub enum Stop {
    /// The statement failed.
    Sql(Error),
    /// Nobody reads the output any more.
    Output(std::io::Error),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Self::Sql(e)
    }
}
impl From<std::io::Error> for Stop {
    fn from(e: std::io::Error) -> Self {
        Self::Output(e)
    }
}

/// Runs every statement of `sql` on a fresh engine in memory and prints its results.
pub async fn run(sql: &str, format: OutputFormat, out: &mut impl Write) -> Result<(), Stop> {
    let engine = Engine::open(EngineOptions { file_tables: true, ..EngineOptions::default() }).await?;
    let r = statements(&engine, sql, format, out).await;
    let stopped = engine.shutdown().await;
    r?;
    Ok(stopped?)
}

async fn statements(engine: &Engine, sql: &str, format: OutputFormat, out: &mut impl Write) -> Result<(), Stop> {
    let mut session = engine.session();
    for parsed in session.parse(sql)? {
        let at = |mut e: Error| {
            e.position = e.position.map(|p| p + parsed.offset);
            e
        };
        match session.run(&parsed, &[]).await.map_err(at)? {
            Outcome::Rows { schema, stream, .. } => {
                let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(|e| at(e.into_error()))?;
                write_batches(&schema, &batches, format, true, out)?;
            }
            Outcome::CopyOut { schema, stream, header, .. } => {
                let batches: Vec<RecordBatch> = stream.try_collect().await.map_err(|e| at(e.into_error()))?;
                write_batches(&schema, &batches, OutputFormat::Csv, header, out)?;
            }
            Outcome::Command { tag, notices } => {
                for n in notices {
                    tracing::info!(severity = n.severity, "{}", n.message);
                }
                if format == OutputFormat::Table {
                    writeln!(out, "{tag}")?;
                }
            }
            Outcome::Subscribe(s) | Outcome::CopySubscribe(s) => follow(s, format, out).await?,
            Outcome::CopyIn(_) => {
                return Err(Error::unsupported("COPY FROM STDIN needs a connection")
                    .hint("Read the file with SELECT * FROM 'path', or connect with psql.")
                    .into());
            }
        }
    }
    Ok(())
}

/// Prints changes as they come, for ever or until the relation ends.
async fn follow(mut s: Subscription, format: OutputFormat, out: &mut impl Write) -> Result<(), Stop> {
    let schema = subscribe::schema(&s.schema, s.progress);
    let mut first = true;
    while let Some(delta) = s.next().await {
        if let Some(batch) = subscribe::rows(&schema, s.progress, &delta?)? {
            write_batches(&schema, &[batch], format, first, out)?;
            out.flush()?;
            first = false;
        }
    }
    Ok(())
}

/// Prints a result.
pub fn write_batches(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    format: OutputFormat,
    header: bool,
    out: &mut impl Write,
) -> Result<(), Stop> {
    match format {
        OutputFormat::Table => {
            let options = FormatOptions::new().with_null("NULL").with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"));
            let empty = [RecordBatch::new_empty(schema.clone())];
            let shown = if batches.is_empty() { &empty[..] } else { batches };
            let table = pretty_format_batches_with_options(shown, &options).map_err(|e| e.into_error())?;
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            writeln!(out, "{table}\n({rows} row{})", if rows == 1 { "" } else { "s" })?;
        }
        OutputFormat::Csv => {
            let mut w = WriterBuilder::new().with_header(header).build(&mut *out);
            if batches.is_empty() && header {
                w.write(&RecordBatch::new_empty(schema.clone())).map_err(|e| e.into_error())?;
            }
            for b in batches {
                w.write(b).map_err(|e| e.into_error())?;
            }
        }
        OutputFormat::Json => {
            let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
            let mut w = builder.build::<_, arrow::json::writer::LineDelimited>(&mut *out);
            for b in batches {
                w.write(b).map_err(|e| e.into_error())?;
            }
            w.finish().map_err(|e| e.into_error())?;
        }
    }
    Ok(())
}

/// An error as psql shows it, with the line and a caret under the place.
pub fn render(e: &Error, sql: &str) -> String {
    let mut s = format!("ERROR:  {}", e.message);
    if e.code == SqlState::INTERNAL_ERROR {
        s.push_str(" (this is a defect of Millstream: please report it)");
    }
    if let Some(p) = e.position.filter(|p| *p > 0) {
        let mut at = p - 1;
        for (n, line) in sql.split('\n').enumerate() {
            let len = line.chars().count();
            if at <= len {
                let label = format!("LINE {}: ", n + 1);
                let shown: String = line.chars().map(|c| if c == '\t' { ' ' } else { c }).collect();
                let blank = " ".repeat(label.len() + at);
                s.push_str(&format!("\n{label}{}\n{blank}^", shown.trim_end()));
                break;
            }
            at -= len + 1;
        }
    }
    if let Some(d) = &e.detail {
        s.push_str(&format!("\nDETAIL:  {d}"));
    }
    if let Some(h) = &e.hint {
        s.push_str(&format!("\nHINT:  {h}"));
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;
    use std::sync::Arc;

    #[test]
    fn errors_show_the_place() {
        let e = Error::new(SqlState::UNDEFINED_TABLE, "relation \"x\" does not exist").hint("Create it.").at(25);
        assert_eq!(
            render(&e, "SELECT 1;\nSELECT * FROM x"),
            "ERROR:  relation \"x\" does not exist\nLINE 2: SELECT * FROM x\n                      ^\nHINT:  Create it."
        );
    }

    #[test]
    fn results_print_in_every_format() {
        let b =
            RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![Some(1), None])) as _)]).expect("batch");
        let shown = |f| {
            let mut out = Vec::new();
            write_batches(&b.schema(), std::slice::from_ref(&b), f, true, &mut out).expect("writes");
            String::from_utf8(out).expect("utf-8")
        };
        assert_eq!(shown(OutputFormat::Csv), "a\n1\n\"\"\n");
        assert_eq!(shown(OutputFormat::Json), "{\"a\":1}\n{\"a\":null}\n");
        assert!(shown(OutputFormat::Table).ends_with("| NULL |\n+------+\n(2 rows)\n"));
    }
}
