//! Event time of streams: which rows are late, and how far time has come.
//!
//! * A partition's watermark is the largest value of the stream's watermark expression over its rows so far. A row whose
//!   time is smaller than that is late. So which rows are late depends on a partition's own order alone: not on how it was
//!   cut into chunks, nor on how fast the others were, nor on when it is read again.
//! * The stream's watermark is the smallest of its partitions' that are not idle; it never goes back. A partition that
//!   comes back from being idle may have rows behind it: those are late as well, for windows they belong to are closed.
//! * Late rows are not rows of the stream. They go to the stream's late relation.
//!
//! Where all partitions are idle, time is where the furthest of them was, as in Flink.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::logical_expr::ExprSchemable;
use datafusion::physical_expr::PhysicalExpr;
use millstream_connectors::SplitId;
use millstream_connectors::options::parse_duration;
use millstream_sql::plan::RelationId;
use millstream_sql::plan::time::{Bound, Bounds, micros_array, micros_of};

use super::EngineInner;
use crate::catalog::{Body, Relation, Watermark};
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::time::Timestamp;
use crate::zset::ZBatch;

/// Column of a late relation: the watermark the row came after.
pub(crate) const LATE_WATERMARK: &str = "ms_watermark";
/// Column of a late relation: the row's partition.
pub(crate) const LATE_PARTITION: &str = "ms_partition";
/// The partition of rows that clients write.
pub(crate) const CLIENTS: &str = "clients";
const IDLE_TIMEOUT_DEFAULT: i64 = 30_000_000;

/// Columns of a stream's late relation.
pub(crate) fn late_schema(stream: &Schema, time: usize) -> SchemaRef {
    let mark = Field::new(LATE_WATERMARK, stream.field(time).data_type().clone(), true);
    let partition = Field::new(LATE_PARTITION, DataType::Utf8View, true);
    let all = stream.fields().iter().cloned().chain([Arc::new(mark), Arc::new(partition)]);
    Arc::new(Schema::new(all.collect::<Vec<_>>()))
}

/// `WATERMARK FOR c AS e` of a stream with these columns.
pub(crate) fn check_watermark(
    state: &SessionState,
    schema: &SchemaRef,
    def: &millstream_sql::statement::WatermarkDef,
) -> Result<Watermark> {
    let column = schema.index_of(&def.column).map_err(|_| {
        let message = format!("column \"{}\" of the watermark does not exist", def.column);
        Error::new(SqlState::UNDEFINED_COLUMN, message)
    })?;
    let t = schema.field(column).data_type();
    if !matches!(
        t,
        DataType::Timestamp(TimeUnit::Second | TimeUnit::Millisecond | TimeUnit::Microsecond | TimeUnit::Nanosecond, _)
    ) {
        let message = format!("the watermark's column \"{}\" must be a timestamp", def.column);
        return Err(Error::new(SqlState::DATATYPE_MISMATCH, message)
            .hint("Compute a timestamp: ts TIMESTAMPTZ AS to_timestamp(seconds), WATERMARK FOR ts."));
    }
    let watermark = Watermark { column, expr: def.expr.to_string(), late: None };
    Rule::new(state, schema, &watermark)?;
    Ok(watermark)
}

/// The option `idle_timeout`, in microseconds.
fn idle_timeout(relation: &Relation) -> i64 {
    let Body::Connector { options, .. } = &relation.body else { return i64::MAX };
    options
        .get("idle_timeout")
        .and_then(|t| parse_duration(t))
        .map_or(IDLE_TIMEOUT_DEFAULT, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

/// A stream's watermark expression, compiled.
pub(crate) struct Rule {
    column: usize,
    expr: Arc<dyn PhysicalExpr>,
    late: SchemaRef,
}

/// Rows of one partition, told apart.
pub(crate) struct Sorted {
    pub on_time: ZBatch,
    /// Columns of the late relation.
    pub late: Option<ZBatch>,
    /// The partition's watermark after them.
    pub mark: Option<i64>,
}

impl Rule {
    pub(crate) fn new(state: &SessionState, schema: &SchemaRef, watermark: &Watermark) -> Result<Self> {
        let df = DFSchema::try_from(schema.as_ref().clone()).e()?;
        let expr = millstream_sql::session::plan_expression(state, &watermark.expr, &df)?;
        let expr = expr.cast_to(schema.field(watermark.column).data_type(), &df).e()?;
        let expr = state.create_physical_expr(expr, &df).e()?;
        Ok(Self { column: watermark.column, expr, late: late_schema(schema, watermark.column) })
    }

    /// The watermark every row brings; `None` where the expression is NULL or cannot be evaluated.
    fn marks(&self, rows: &RecordBatch) -> Result<Vec<Option<i64>>> {
        if let Ok(v) = self.expr.evaluate(rows) {
            let marks = micros_array(&v.into_array(rows.num_rows()).e()?);
            return Ok(marks.map_or_else(|| vec![None; rows.num_rows()], |m| m.iter().collect()));
        }
        // One row's failure must not hold up time for the others.
        let one = |i: usize| {
            let value = self.expr.evaluate(&rows.slice(i, 1)).and_then(|v| v.into_array(1)).ok()?;
            micros_of(&value, 0)
        };
        Ok((0..rows.num_rows()).map(one).collect())
    }

    /// Tells late rows apart. `before`: the partition's watermark; `floor`: the stream's.
    pub(crate) fn sort(
        &self,
        split: &SplitId,
        batch: ZBatch,
        before: Option<i64>,
        floor: Option<i64>,
    ) -> Result<Sorted> {
        let marks = self.marks(&batch.rows)?;
        let times = batch.rows.column(self.column);
        let at = micros_array(times).ok_or_else(|| Error::internal("a watermark over a column that is no time"))?;
        let (mut running, mut late, mut passed) = (before, Vec::new(), Vec::new());
        for (i, mark) in marks.into_iter().enumerate() {
            let limit = running.max(floor);
            let is_late = limit.is_some_and(|l| at.is_valid(i) && at.value(i) < l);
            if is_late {
                late.push(i);
                passed.push(limit);
            } else {
                running = running.max(mark);
            }
        }
        if late.is_empty() {
            return Ok(Sorted { on_time: batch, late: None, mark: running });
        }
        let mut keep = vec![true; batch.len()];
        late.iter().for_each(|i| keep[*i] = false);
        let keep = BooleanArray::from(keep);
        let late_rows = batch.filter(&arrow::compute::not(&keep).e()?).e()?;
        let time_type = times.data_type();
        let mark: ArrayRef = Arc::new(Int64Array::from(passed));
        let mark = arrow::compute::cast(&mark, &DataType::Timestamp(TimeUnit::Microsecond, zone(time_type))).e()?;
        let mark = arrow::compute::cast(&mark, time_type).e()?;
        let partition: ArrayRef = Arc::new(StringViewArray::from_iter_values(vec![split.as_ref(); late.len()]));
        let columns = late_rows.rows.columns().iter().cloned().chain([mark, partition]).collect();
        let rows = RecordBatch::try_new(self.late.clone(), columns).e()?;
        Ok(Sorted { on_time: batch.filter(&keep).e()?, late: Some(late_rows.with_rows(rows)), mark: running })
    }
}

fn zone(t: &DataType) -> Option<Arc<str>> {
    match t {
        DataType::Timestamp(_, tz) => tz.clone(),
        _ => None,
    }
}

/// Rows of history without the late ones: what the stream has, whoever reads it.
pub(crate) struct OnTime {
    rule: Arc<Rule>,
    marks: BTreeMap<SplitId, i64>,
}

impl OnTime {
    /// For reading from where the partitions had these watermarks; none at the start.
    pub(crate) fn new(rule: Arc<Rule>, marks: BTreeMap<SplitId, i64>) -> Self {
        Self { rule, marks }
    }
    /// A partition's watermark after what was read of it.
    pub(crate) fn mark(&self, split: &SplitId) -> Option<i64> {
        self.marks.get(split).copied()
    }
    pub(crate) fn keep(&mut self, split: &SplitId, batch: ZBatch) -> Result<ZBatch> {
        let sorted = self.rule.sort(split, batch, self.marks.get(split).copied(), None)?;
        if let Some(m) = sorted.mark {
            self.marks.insert(split.clone(), m);
        }
        Ok(sorted.on_time)
    }
}

/// The durable part of a stream's event time.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoredTime {
    /// Watermark of every partition, in microseconds.
    pub partitions: BTreeMap<SplitId, i64>,
    /// The stream's.
    pub watermark: Option<i64>,
}

/// One partition.
#[derive(Debug, Clone)]
pub(crate) struct PartitionTime {
    /// Its watermark at the last sealed epoch.
    pub sealed: Option<i64>,
    /// With the rows that wait for a seal.
    ahead: Option<i64>,
    /// When it last delivered.
    pub seen: Timestamp,
    /// It has delivered nothing for the idle timeout and there is nothing to deliver.
    pub idle: bool,
    /// It will never deliver again.
    pub ended: bool,
}

/// Event time of a stream that runs.
pub(crate) struct EventTime {
    rule: Arc<Rule>,
    /// Where late rows go.
    pub late: Option<RelationId>,
    pub partitions: BTreeMap<SplitId, PartitionTime>,
    /// The stream's watermark at the last sealed epoch.
    pub watermark: Option<i64>,
    pub late_rows: u64,
    pub idle_timeout: i64,
}

impl EventTime {
    /// Of a stream, where it has a watermark.
    pub(crate) fn of(
        state: &SessionState,
        relation: &Relation,
        stored: StoredTime,
        now: Timestamp,
    ) -> Result<Option<Self>> {
        let Some(watermark) = &relation.meta.watermark else { return Ok(None) };
        let mut time = Self {
            rule: Arc::new(Rule::new(state, &relation.schema, watermark)?),
            late: watermark.late,
            partitions: BTreeMap::new(),
            watermark: None,
            late_rows: 0,
            idle_timeout: idle_timeout(relation),
        };
        time.restore(stored, now);
        Ok(Some(time))
    }

    pub(crate) fn rule(&self) -> Arc<Rule> {
        self.rule.clone()
    }

    /// Begins at this place.
    pub(crate) fn restore(&mut self, stored: StoredTime, now: Timestamp) {
        let partition =
            |mark| PartitionTime { sealed: Some(mark), ahead: Some(mark), seen: now, idle: false, ended: false };
        self.partitions = stored.partitions.into_iter().map(|(split, m)| (split, partition(m))).collect();
        self.watermark = stored.watermark;
    }

    /// The place at the last sealed epoch.
    pub(crate) fn stored(&self) -> StoredTime {
        let marks = self.partitions.iter().filter_map(|(split, p)| Some((split.clone(), p.sealed?)));
        StoredTime { partitions: marks.collect(), watermark: self.watermark }
    }

    /// A partition exists: time waits for it until it is idle.
    pub(crate) fn expect(&mut self, split: &SplitId, now: Timestamp) {
        self.partitions.entry(split.clone()).or_insert(PartitionTime {
            sealed: None,
            ahead: None,
            seen: now,
            idle: false,
            ended: false,
        });
    }

    /// Tells apart the rows a partition delivers.
    pub(crate) fn deliver(&mut self, split: &SplitId, batch: ZBatch, now: Timestamp) -> Result<Sorted> {
        self.expect(split, now);
        let floor = self.watermark;
        let Some(p) = self.partitions.get_mut(split) else { return Err(Error::internal("a partition vanished")) };
        p.seen = now;
        p.idle = false;
        p.ended = false;
        let sorted = self.rule.sort(split, batch, p.ahead, floor)?;
        p.ahead = sorted.mark;
        self.late_rows += sorted.late.as_ref().map_or(0, |l| l.len() as u64);
        Ok(sorted)
    }

    /// Rows were sealed; their partition's watermark is this now.
    pub(crate) fn seal(&mut self, split: &SplitId, mark: Option<i64>) {
        if let Some(p) = self.partitions.get_mut(split) {
            p.sealed = p.sealed.max(mark);
        }
    }

    /// Rows that were delivered and not sealed will be delivered again.
    pub(crate) fn forget_unsealed(&mut self) {
        for p in self.partitions.values_mut() {
            p.ahead = p.sealed;
            p.ended = false;
        }
    }

    /// Nothing more will come.
    pub(crate) fn end_all(&mut self) {
        self.partitions.values_mut().for_each(|p| p.ended = true);
    }

    /// Partitions that have delivered nothing for long become idle; `behind` says that one has rows that were not read yet.
    pub(crate) fn find_idle(&mut self, now: Timestamp, behind: impl Fn(&SplitId) -> bool) {
        for (split, p) in &mut self.partitions {
            let waits = p.ahead != p.sealed;
            if !p.idle && !waits && now.0.saturating_sub(p.seen.0) >= self.idle_timeout && !behind(split) {
                p.idle = true;
            }
        }
    }

    /// Where the watermark could be now.
    pub(crate) fn due(&self) -> Option<i64> {
        if !self.partitions.is_empty() && self.partitions.values().all(|p| p.ended && p.ahead == p.sealed) {
            return Some(i64::MAX);
        }
        let mut active = self.partitions.values().filter(|p| !p.idle && !p.ended).peekable();
        let due = if active.peek().is_some() {
            active.map(|p| p.sealed).min().flatten()
        } else {
            self.partitions.values().filter_map(|p| p.sealed).max()
        };
        due.max(self.watermark)
    }

    /// The partition that holds the watermark back: of those that are not idle the one with the smallest.
    pub(crate) fn slowest(&self) -> Option<(&SplitId, &PartitionTime)> {
        self.partitions.iter().filter(|(_, p)| !p.idle && !p.ended).min_by_key(|(_, p)| p.sealed)
    }
}

/// Moves the watermark of a stream that clients write to; see [`crate::api::Engine::advance_watermark`].
pub(crate) fn advance(inner: &Arc<EngineInner>, stream: &str, to: Timestamp) -> Result<()> {
    let mut st = inner.lock();
    let name = millstream_sql::statement::ObjectName { schema: None, name: stream.to_owned() };
    let relation = st.catalog.get(&name)?.clone();
    let no = |what: &str| {
        Error::new(SqlState::WRONG_OBJECT_TYPE, format!("the watermark of \"{stream}\" cannot be moved: it {what}"))
    };
    if matches!(relation.body, Body::Connector { .. }) {
        return Err(no("has a connector, whose rows move it"));
    }
    let Some(time) = st.relations.get_mut(&relation.id).and_then(|r| r.time.as_mut()) else {
        return Err(no("has no WATERMARK"));
    };
    let clients = SplitId::from(CLIENTS);
    time.expect(&clients, to);
    if let Some(p) = time.partitions.get_mut(&clients) {
        p.sealed = p.sealed.max(Some(to.0));
        p.ahead = p.ahead.max(p.sealed);
    }
    inner.advance(&mut st);
    Ok(())
}

/// A watermark as a promise about later rows.
pub(crate) fn bound(watermark: Option<i64>) -> Option<Bound> {
    watermark.map(|w| if w == i64::MAX { Bound::Never } else { Bound::At(w) })
}

/// The promise for each column of a relation: a stream, or a late relation.
pub(crate) fn bounds_of(relation: &Relation, watermark: Option<i64>) -> Bounds {
    let mut bounds: Bounds = vec![None; relation.schema.fields().len()];
    let bound = bound(watermark);
    if let Some(w) = &relation.meta.watermark {
        bounds[w.column] = bound;
    } else if relation.meta.late_of.is_some()
        && let Ok(c) = relation.schema.index_of(LATE_WATERMARK)
    {
        bounds[c] = bound;
    }
    if bound == Some(Bound::Never) {
        bounds.fill(bound);
    }
    bounds
}

#[cfg(test)]
mod tests;
