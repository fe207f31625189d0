//! The time of arrival: `PROCTIME()` columns of streams.
//!
//! A row's time of arrival is a fact that the engine makes, once: for a stream without a connector when a client's write is
//! taken, before it is durable, so that it is stored with the row; for a connector's rows when the epoch is sealed that they
//! are in. It grows with the epochs. So the clock is the column's watermark, with one exception: a write that has its time and
//! is on its way to the log is sealed after epochs that are later; while there is one, the promise stays behind it.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use millstream_sql::plan::RelationId;
use millstream_sql::plan::time::{Bound, Bounds, value_of};
use millstream_sql::session::{has_proctime, is_proctime};
use millstream_sql::statement::CreateStream;

use super::{Group, State};
use crate::catalog::Relation;
use crate::error::{Error, Result, ResultExt as _, SqlState};
use crate::time::{Epoch, Timestamp};
use crate::zset::ZBatch;

/// Without rows the promise goes on at full seconds, where windows end.
const STEP_MICROS: i64 = 1_000_000;

/// The statement with what is written of its `PROCTIME()` column made uniform, and that column's name.
pub(crate) fn declared(mut stream: CreateStream) -> Result<(CreateStream, Option<String>)> {
    let native = !stream.options.contains_key("connector");
    let mut found: Option<String> = None;
    for column in &mut stream.columns {
        let Some(expr) = &column.generated else { continue };
        if !is_proctime(expr) {
            if has_proctime(expr) {
                let message =
                    format!("column \"{}\": PROCTIME() inside of an expression is not supported", column.name);
                return Err(Error::unsupported(message)
                    .hint("Declare p AS PROCTIME() as a column, and compute from p in the queries that read it."));
            }
            continue;
        }
        if let Some(first) = &found {
            let message = format!("columns \"{first}\" and \"{}\" are both PROCTIME()", column.name);
            return Err(Error::unsupported(message).hint("One is enough: they would be the same."));
        }
        if !matches!(column.data_type, DataType::Timestamp(..)) {
            let message = format!("column \"{}\" is PROCTIME() and must be a timestamp", column.name);
            return Err(Error::new(SqlState::DATATYPE_MISMATCH, message)
                .hint("Write p AS PROCTIME(), which is TIMESTAMPTZ, or p TIMESTAMP AS PROCTIME(), in UTC."));
        }
        // Until it is stamped it holds NULL.
        column.nullable = true;
        if native {
            column.generated = None;
        }
        found = Some(column.name.clone());
    }
    let named = |columns: &[String]| found.as_ref().is_some_and(|p| columns.contains(p));
    if named(&stream.primary_key) {
        return Err(Error::unsupported("a PRIMARY KEY of PROCTIME()"));
    }
    if let Some(w) = &stream.watermark
        && named(std::slice::from_ref(&w.column))
    {
        let message = format!("a watermark for column \"{}\", which is PROCTIME()", w.column);
        return Err(Error::unsupported(message).hint("Leave WATERMARK out: the clock is the watermark of this column."));
    }
    Ok((stream, found))
}

/// Rows that arrived at this time.
pub(crate) fn stamp(batch: ZBatch, column: usize, at: Timestamp) -> Result<ZBatch> {
    let rows = stamp_rows(&batch.rows, column, at)?;
    Ok(batch.with_rows(rows))
}

/// [`stamp`] of rows without weights.
pub(crate) fn stamp_rows(rows: &RecordBatch, column: usize, at: Timestamp) -> Result<RecordBatch> {
    let mut columns = rows.columns().to_vec();
    let time = columns.get_mut(column).ok_or_else(|| Error::internal("rows without their time of arrival"))?;
    let value = value_of(at.0, time.data_type()).ok_or_else(|| Error::internal("a time of arrival that is no time"))?;
    *time = value.to_array_of_size(rows.num_rows()).e()?;
    RecordBatch::try_new(rows.schema(), columns).e()
}

/// Adds what is promised of a relation's time of arrival.
pub(crate) fn add_bound(relation: &Relation, arrived: Option<i64>, bounds: &mut Bounds) {
    let Some((column, arrived)) = relation.meta.proctime.zip(arrived) else { return };
    bounds.resize(relation.schema.fields().len(), None);
    bounds[column] = bounds[column].max(Some(Bound::At(arrived)));
}

impl State {
    /// Gives the rows of clients that are about to be made durable their time of arrival.
    pub(super) fn stamp_writes<'w>(
        &mut self,
        now: Timestamp,
        writes: impl Iterator<Item = &'w mut (RelationId, ZBatch)>,
    ) -> Result<()> {
        let at = self.clock.max(now);
        for (relation, batch) in writes {
            let Some(column) = self.relations.get(relation).and_then(|r| r.arrival) else { continue };
            *batch = stamp(batch.clone(), column, at)?;
            self.stamped = Some(at);
        }
        Ok(())
    }

    /// Notes what is promised from an epoch on, when it is sealed: no row of a later one arrived before this.
    pub(super) fn note_arrivals(&mut self, epoch: Epoch) {
        let before = self.arrivals.back().map(|(_, at)| *at);
        let at = self.stamped.map_or(self.clock, |s| s.min(self.clock));
        self.arrivals.push_back((epoch, before.map_or(at, |b| b.max(at))));
    }

    /// What is promised at the end of an epoch.
    pub(super) fn arrived_at(&self, epoch: Epoch) -> Option<i64> {
        let after = self.arrivals.partition_point(|(e, _)| *e <= epoch);
        after.checked_sub(1).map(|i| self.arrivals[i].1.0).filter(|at| *at > i64::MIN)
    }

    /// True if the times of arrival of some of these relations came to another second between two epochs.
    pub(super) fn arrivals_moved(&self, relations: &BTreeSet<RelationId>, from: Epoch, to: Epoch) -> bool {
        let second = |epoch| self.arrived_at(epoch).map(|at| at.div_euclid(STEP_MICROS));
        self.reads_arrivals(relations) && second(to) > second(from)
    }

    /// True if some of these relations have a time of arrival.
    pub(super) fn reads_arrivals(&self, relations: &BTreeSet<RelationId>) -> bool {
        relations.iter().any(|id| self.relations.get(id).is_some_and(|r| r.arrival.is_some()))
    }

    /// True if an idle group keeps something that the clock alone may have made final.
    pub(super) fn arrivals_due(&self, now: Timestamp) -> bool {
        let second = |at: i64| at.div_euclid(STEP_MICROS);
        let promised = self.arrivals.back().map_or(i64::MIN, |(_, at)| at.0);
        if self.stamped.is_some() || second(now.0) <= second(promised) {
            return false;
        }
        // What came back with a restart is not counted before the first tick.
        let keeps = |id: &RelationId| {
            self.relations.get(id).is_some_and(|r| {
                let c = &r.counters;
                c.ticks == 0 || c.held_back.is_some() || c.state_rows > c.view.rows
            })
        };
        self.groups.values().any(|g: &Group| {
            !g.running && g.frontier == self.sealed && g.jobs.iter().any(keeps) && self.reads_arrivals(&g.inputs)
        })
    }
}
