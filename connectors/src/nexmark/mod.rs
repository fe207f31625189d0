//! The built-in Nexmark generator: persons, auctions and bids of an auction site.
//!
//! - Event `n` is a pure function of the seed and `n`, so the position of a split is an event number over all three
//!   types, and replay from any position gives the same rows.
//! - Event time is `start_time + n * event_gap_us`; the wall clock decides only *when* an event is due if a `rate` is
//!   given, never what is in it. Pacing starts when a reader is opened, at the position it starts from.
//! - Whole groups of 50 events (1 person, 3 auctions, 46 bids) go to the splits in turn.
//! - The end of an unbounded generator ([`Source::end_positions`]) is what is due by `rate` since the source was
//!   opened in this process, or what its following readers have delivered, if that is more; flat out without a reader
//!   it is 0. So a one-shot SELECT always ends.
//! - `extra` is 20 to 50 bytes, not padded to the sizes of the original (200, 500 and 100 bytes an event).

mod batch;
mod generator;
mod reader;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;

pub use batch::schema;
pub use generator::Kind;

use crate::instant::parse_time_us;
use crate::options::Options;
use crate::{ConnectorError, Position, Positions, Result, Source, SourceConfig, SourceReader, SplitId};
use batch::Slice;
use generator::Tables;
use reader::{Pace, Reader, Split};

/// Event time of event 0 unless `start_time` says otherwise: 2026-01-01T00:00:00Z.
pub const DEFAULT_START_US: i64 = 1_767_225_600_000_000;
/// Event time between two events unless `event_gap_us` says otherwise: 10 000 events per second of event time.
pub const DEFAULT_GAP_US: u64 = 100;

const MAX_SPLITS: u64 = 1024;

const OPTIONS: &[&str] =
    &["type", "table", "nexmark.table.type", "events", "rate", "seed", "splits", "start_time", "event_gap_us"];

/// Time since a fixed moment, for pacing only.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Makes events by number. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Nexmark {
    tables: Arc<Tables>,
}

impl Nexmark {
    /// With the default base time and event gap.
    pub fn new(seed: u64) -> Self {
        Self::with_time(seed, DEFAULT_START_US, DEFAULT_GAP_US)
    }

    /// With event time `start_us + n * gap_us` for event `n`.
    pub fn with_time(seed: u64, start_us: i64, gap_us: u64) -> Self {
        Self { tables: Arc::new(Tables::new(seed, start_us, gap_us)) }
    }

    /// The events of one kind with numbers in `from..to`, with all columns of [`schema`].
    pub fn batch(&self, kind: Kind, from: u64, to: u64) -> RecordBatch {
        let schema = schema(kind);
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let slice = Slice { kind, split: 0, splits: 1 };
        let (arrays, _, rows) = batch::generate(&self.tables, slice, from, to, &all, false);
        batch::record_batch(schema, arrays, rows)
    }

    /// Appends the events of one kind with numbers in `range` as JSON lines whose fields are the columns;
    /// timestamps are `YYYY-MM-DDTHH:MM:SS.ffffff`.
    pub fn write_json(&self, kind: Kind, range: Range<u64>, out: &mut Vec<u8>) {
        let mut from = range.start;
        while from < range.end {
            let to = (from + 50_000).min(range.end);
            batch::write_ndjson(&self.batch(kind, from, to), out);
            from = to;
        }
    }
}

/// [`Nexmark::write_json`] with seed 0, the default base time and event gap.
pub fn write_json(kind: Kind, range: Range<u64>, out: &mut Vec<u8>) {
    Nexmark::new(0).write_json(kind, range, out);
}

/// Opens a nexmark source.
pub fn open(config: SourceConfig) -> Result<Arc<dyn Source>> {
    let origin = Instant::now();
    Ok(Arc::new(NexmarkSource::new(config, Arc::new(move || origin.elapsed()))?))
}

/// What a chunk of this source has, in order.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub schema: SchemaRef,
    /// Indexes into the kind's schema of the first columns.
    pub projection: Vec<usize>,
    /// The metadata columns after them.
    pub metadata: Vec<Metadata>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Metadata {
    /// The event number.
    Offset,
    /// The split's number.
    Partition,
}

/// A Nexmark stream: the events of one kind.
struct NexmarkSource {
    name: Arc<str>,
    generator: Nexmark,
    kind: Kind,
    events: Option<u64>,
    rate: Option<f64>,
    splits: u64,
    layout: Layout,
    clock: Clock,
    opened: Duration,
    /// The furthest position any following reader has delivered.
    furthest: Arc<AtomicU64>,
}

impl NexmarkSource {
    fn new(config: SourceConfig, clock: Clock) -> Result<Self> {
        let options = Options::new("nexmark", &config.options);
        options.check(OPTIONS, &[])?;
        let kind = kind_option(options)?;
        if let Some(start) = options.get("start")
            && !start.eq_ignore_ascii_case("earliest")
        {
            let hint = "A generator starts at 'earliest'; start_time is the event time of its first event.";
            return Err(options.invalid("start", start, hint));
        }
        if let Some(format) = options.get("format") {
            return Err(options.invalid("format", format, "The generator has no format: leave the option out."));
        }
        if let Some(envelope) = options.get("envelope")
            && !["none", "append"].contains(&envelope.to_ascii_lowercase().as_str())
        {
            return Err(options.invalid("envelope", envelope, "The generator only appends: leave the option out."));
        }
        let events = options.number_opt("events")?;
        let rate: Option<f64> = options.number_opt("rate")?;
        if let Some(rate) = rate
            && (!rate.is_finite() || rate < 0.0)
        {
            return Err(options.invalid("rate", &rate.to_string(), "Give events per second, or 0 for flat out."));
        }
        let splits = options.number("splits", 1)?;
        if !(1..=MAX_SPLITS).contains(&splits) {
            return Err(options.invalid("splits", &splits.to_string(), format!("Give 1 to {MAX_SPLITS}.")));
        }
        let start_us = match options.get("start_time") {
            None => DEFAULT_START_US,
            Some(text) => parse_time_us(text)
                .ok_or_else(|| options.invalid("start_time", text, "For example 2026-01-01T00:00:00Z."))?,
        };
        let gap_us = options.number("event_gap_us", DEFAULT_GAP_US)?;
        let seed = options.number("seed", 0)?;
        let layout = layout(kind, &config)?;
        let opened = clock();
        Ok(Self {
            name: config.name.into(),
            generator: Nexmark::with_time(seed, start_us, gap_us),
            kind,
            events,
            rate: rate.filter(|r| *r > 0.0),
            splits,
            layout,
            clock,
            opened,
            furthest: Arc::new(AtomicU64::new(0)),
        })
    }

    fn positions(&self, at: u64) -> Positions {
        (0..self.splits).map(|i| (split_id(i), Position(at))).collect()
    }
}

fn split_id(i: u64) -> SplitId {
    i.to_string().into()
}

fn kind_option(options: Options<'_>) -> Result<Kind> {
    const HINT: &str = "It is 'person', 'auction' or 'bid'.";
    let Some((key, text)) = ["type", "table", "nexmark.table.type"].iter().find_map(|k| Some((k, options.get(k)?)))
    else {
        return Err(ConnectorError::config("connector \"nexmark\" needs option \"type\"").hint(HINT));
    };
    Kind::parse(text).ok_or_else(|| options.invalid(key, text, HINT))
}

/// Declared columns must be columns of the kind; undeclared, all of them.
fn layout(kind: Kind, config: &SourceConfig) -> Result<Layout> {
    let full = schema(kind);
    let (mut fields, mut projection): (Vec<Arc<Field>>, Vec<usize>) = (Vec::new(), Vec::new());
    match &config.schema {
        None => {
            fields.extend(full.fields().iter().cloned());
            projection.extend(0..full.fields().len());
        }
        Some(declared) => {
            for field in declared.fields() {
                let Ok(index) = full.index_of(field.name()) else {
                    let names: Vec<&str> = full.fields().iter().map(|f| f.name().as_str()).collect();
                    return Err(ConnectorError::config(format!(
                        "column \"{}\" is not in a nexmark {}",
                        field.name(),
                        kind.name()
                    ))
                    .hint(format!("Columns are: {}.", names.join(", "))));
                };
                let have = full.field(index).data_type();
                if have != field.data_type() {
                    return Err(ConnectorError::config(format!(
                        "column \"{}\" of a nexmark {} is {have}, not {}",
                        field.name(),
                        kind.name(),
                        field.data_type()
                    ))
                    .hint("Leave the columns out to get them with their types."));
                }
                if projection.contains(&index) {
                    return Err(ConnectorError::config(format!("column \"{}\" is declared twice", field.name())));
                }
                fields.push(Arc::clone(field));
                projection.push(index);
            }
        }
    }
    let mut metadata = Vec::new();
    for (name, key, data_type) in &config.metadata {
        metadata.push(match key.as_str() {
            "offset" => Metadata::Offset,
            "partition" => Metadata::Partition,
            _ => {
                return Err(ConnectorError::config(format!("connector \"nexmark\" has no metadata \"{key}\""))
                    .hint("It has: offset (the event number), partition (the split)."));
            }
        });
        if !matches!(data_type, DataType::Int32 | DataType::Int64) {
            return Err(ConnectorError::config(format!("metadata column \"{name}\" must be an integer")));
        }
        fields.push(Arc::new(Field::new(name, data_type.clone(), false)));
    }
    Ok(Layout { schema: Arc::new(Schema::new(fields)), projection, metadata })
}

#[async_trait]
impl Source for NexmarkSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.layout.schema)
    }

    async fn start_positions(&self) -> Result<Positions> {
        Ok(self.positions(0))
    }

    async fn end_positions(&self) -> Result<Positions> {
        let end = self.events.unwrap_or_else(|| {
            let since = (self.clock)().saturating_sub(self.opened);
            let due = self.rate.map_or(0, |rate| (since.as_secs_f64() * rate) as u64);
            due.max(self.furthest.load(Ordering::Relaxed))
        });
        Ok(self.positions(end))
    }

    fn bounded(&self) -> bool {
        self.events.is_some()
    }

    async fn open(
        &self,
        from: &Positions,
        to: Option<&Positions>,
        parallelism: usize,
    ) -> Result<Vec<Box<dyn SourceReader>>> {
        for id in from.keys().chain(to.into_iter().flat_map(|to| to.keys())) {
            if !id.parse::<u64>().is_ok_and(|i| i < self.splits) {
                return Err(ConnectorError::lost(format!(
                    "\"{}\" has positions of split {id}, but it has {} splits now",
                    self.name, self.splits
                )));
            }
        }
        let readers = parallelism.clamp(1, self.splits as usize);
        let mut groups: Vec<Vec<Split>> = (0..readers).map(|_| Vec::new()).collect();
        for i in 0..self.splits {
            let id = split_id(i);
            let end = match to {
                Some(to) => match to.get(&id) {
                    Some(end) => Some(self.events.map_or(end.0, |events| events.min(end.0))),
                    None => continue,
                },
                None => self.events,
            };
            let at = from.get(&id).map_or(0, |p| p.0);
            groups[i as usize % readers].push(Split::new(id, i, at, end));
        }
        let pace = match (to, self.rate) {
            // A bounded read asks for events that were due already.
            (None, Some(rate)) => Some(Pace { rate, clock: Arc::clone(&self.clock), opened: (self.clock)() }),
            _ => None,
        };
        Ok(groups
            .into_iter()
            .filter(|splits| !splits.is_empty())
            .map(|splits| {
                Box::new(Reader {
                    tables: Arc::clone(&self.generator.tables),
                    kind: self.kind,
                    of: self.splits,
                    layout: self.layout.clone(),
                    splits,
                    next: 0,
                    pace: pace.clone(),
                    furthest: to.is_none().then(|| Arc::clone(&self.furthest)),
                }) as Box<dyn SourceReader>
            })
            .collect())
    }
}

#[cfg(test)]
mod tests;
