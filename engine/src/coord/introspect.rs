//! What happens inside, as metrics and as relations of schema `ms`.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use millstream_connectors::SplitId;

use super::{EngineInner, SourceRt};
use millstream_sql::parse::mask_in_definition;

use crate::api::{IndexInfo, Metric, RelationInfo};
use crate::catalog::{Body, SYSTEM_SCHEMA};
use crate::error::{Result, ResultExt as _};

pub(crate) fn catalog_version(inner: &Arc<EngineInner>) -> u64 {
    inner.lock().catalog.version
}

pub(crate) fn relations(inner: &Arc<EngineInner>) -> Vec<RelationInfo> {
    let catalog = inner.lock().catalog.clone();
    catalog
        .relations
        .values()
        .filter(|r| r.schema_name != crate::catalog::TEMP_SCHEMA)
        .map(|r| RelationInfo {
            id: r.id.0,
            schema_name: r.schema_name.clone(),
            name: r.name.clone(),
            kind: r.kind(),
            schema: r.schema.clone(),
            primary_key: r.primary_key.iter().map(|i| r.schema.field(*i).name().clone()).collect(),
            definition: match &r.body {
                Body::View { query, .. } | Body::MaterializedView { query, .. } => query.clone(),
                _ => mask_in_definition(&r.definition),
            },
            comment: r.meta.comment.clone(),
            column_comments: r.meta.column_comments.clone(),
            indexes: r
                .meta
                .indexes
                .iter()
                .map(|i| IndexInfo { id: i.id.0, name: i.name.clone(), columns: i.columns.clone() })
                .collect(),
        })
        .collect()
}

pub(crate) fn metrics(inner: &Arc<EngineInner>) -> Vec<Metric> {
    let st = inner.lock();
    let mut out = Vec::new();
    let mut add = |name, help, counter, labels, value: f64| out.push(Metric { name, help, counter, labels, value });
    add("millstream_epoch", "Last sealed epoch.", false, vec![], st.sealed.0 as f64);
    add("millstream_checkpoints_total", "Checkpoints completed by this process.", true, vec![], st.checkpoints as f64);
    add("millstream_checkpoint_epoch", "Epoch of the newest checkpoint.", false, vec![], st.last_checkpoint.0 as f64);
    add("millstream_groups", "Groups of views that tick together.", false, vec![], st.groups.len() as f64);
    for r in st.catalog.relations.values() {
        let Some(rt) = st.relations.get(&r.id) else { continue };
        let label = || vec![("relation", r.display_name())];
        let c = &rt.counters;
        match &r.body {
            Body::MaterializedView { .. } => {
                let lag = st.sealed.0.saturating_sub(rt.frontier.0);
                add("millstream_view_rows_in_total", "Changes read.", true, label(), c.rows_in as f64);
                add("millstream_view_rows_out_total", "Changes of the view.", true, label(), c.rows_out as f64);
                add("millstream_view_ticks_total", "Ticks run.", true, label(), c.ticks as f64);
                add("millstream_view_busy_seconds_total", "Time in ticks.", true, label(), c.busy_us as f64 / 1e6);
                add("millstream_view_state_rows", "Rows of state.", false, label(), c.state_rows as f64);
                add("millstream_view_state_bytes", "Bytes of state, about.", false, label(), c.state_bytes as f64);
                add("millstream_view_lag_epochs", "Sealed epochs not yet seen.", false, label(), lag as f64);
                let bad = rt.quarantined.is_some();
                add("millstream_view_quarantined", "1 if quarantined.", false, label(), f64::from(u8::from(bad)));
            }
            Body::Connector { .. } => {
                let Some(s) = &rt.source else { continue };
                add("millstream_source_rows_total", "Rows decoded and sealed.", true, label(), s.rows as f64);
                add("millstream_source_bytes_total", "Bytes read.", true, label(), s.bytes as f64);
                add("millstream_source_errors_total", "Records in ms.errors.", true, label(), s.bad as f64);
                add("millstream_source_buffered_rows", "Rows not yet sealed.", false, label(), s.buffer_rows as f64);
            }
            Body::Table { .. } => {
                add("millstream_table_changes_total", "Changes sealed.", true, label(), c.rows_out as f64);
            }
            Body::View { .. } => {}
        }
    }
    out
}

/// Names of the relations made on the fly.
pub(crate) const SYSTEM_TABLES: &[&str] =
    &["jobs", "sources", "relations", "view_errors", "settings", "shared_indexes"];

/// A relation of schema `ms` as it is now.
pub(crate) fn system_table(inner: &Arc<EngineInner>, name: &str) -> Result<Option<RecordBatch>> {
    let st = inner.lock();
    let mut t = Table::default();
    match name {
        "jobs" => {
            for r in st.catalog.relations.values() {
                let Body::MaterializedView { plan, .. } = &r.body else { continue };
                let Some(rt) = st.relations.get(&r.id) else { continue };
                let status = match (&rt.quarantined, rt.paused, rt.backfilling) {
                    (Some(_), ..) => "quarantined",
                    (None, true, _) => "paused",
                    (None, false, true) => "backfilling",
                    (None, false, false) => "running",
                };
                let strategy = plan.nodes.iter().map(|n| n.op.tier()).max();
                let strategy = match strategy {
                    Some(millstream_sql::plan::Tier::FullRecompute) => "full recompute",
                    Some(millstream_sql::plan::Tier::KeyedRecompute) => "keyed recompute",
                    _ => "native",
                };
                t.row()
                    .int("id", r.id.0 as i64)
                    .text("name", Some(&r.display_name()))
                    .text("status", Some(status))
                    .text("strategy", Some(strategy))
                    .int("frontier", rt.frontier.0 as i64)
                    .int("lag_epochs", st.sealed.0.saturating_sub(rt.frontier.0) as i64)
                    .int("ticks", rt.counters.ticks as i64)
                    .int("rows_in", rt.counters.rows_in as i64)
                    .int("rows_out", rt.counters.rows_out as i64)
                    .int("busy_us", rt.counters.busy_us as i64)
                    .int("state_rows", rt.counters.state_rows as i64)
                    .int("state_bytes", rt.counters.state_bytes as i64)
                    .int("view_rows", rt.counters.view.rows as i64)
                    .int("view_bytes", rt.counters.view.bytes as i64)
                    .text("error", rt.quarantined.as_deref());
            }
            t.header(&[
                ("id", 'i'),
                ("name", 't'),
                ("status", 't'),
                ("strategy", 't'),
                ("frontier", 'i'),
                ("lag_epochs", 'i'),
                ("ticks", 'i'),
                ("rows_in", 'i'),
                ("rows_out", 'i'),
                ("busy_us", 'i'),
                ("state_rows", 'i'),
                ("state_bytes", 'i'),
                ("view_rows", 'i'),
                ("view_bytes", 'i'),
                ("error", 't'),
            ]);
        }
        "sources" => {
            for r in st.catalog.relations.values() {
                let Some(rt) = st.relations.get(&r.id) else { continue };
                let (source, time) = (rt.source.as_ref(), rt.time.as_ref());
                if source.is_none() && time.is_none() {
                    continue;
                }
                let stopped = SourceRt::default();
                let s = source.unwrap_or(&stopped);
                let known = s.positions.keys().chain(time.iter().flat_map(|t| t.partitions.keys()));
                let splits: BTreeSet<Option<SplitId>> = known.map(|k| Some(k.clone())).collect();
                let splits = if splits.is_empty() { BTreeSet::from([None]) } else { splits };
                let slowest = time.and_then(|t| t.slowest()).map(|(split, _)| split);
                for split in splits {
                    let position = split.as_ref().and_then(|k| s.positions.get(k)).map(|p| p.0);
                    let high = split.as_ref().and_then(|k| s.high_watermarks.get(k)).map(|p| p.0 as i64);
                    let partition = split.as_ref().and_then(|k| time?.partitions.get(k));
                    let finite = |w: Option<i64>| w.filter(|w| *w != i64::MAX);
                    t.row()
                        .time("watermark", finite(time.and_then(|t| t.watermark)))
                        .time("partition_watermark", partition.and_then(|p| p.sealed))
                        .opt_bool("idle", partition.map(|p| p.idle))
                        .opt_bool("holds_watermark", partition.map(|_| split.as_ref() == slowest))
                        .opt_int("late_rows", time.map(|t| t.late_rows as i64))
                        .text("relation", Some(&r.display_name()))
                        .text("partition", split.as_deref())
                        .opt_int("committed_offset", position.map(|p| p as i64))
                        .opt_int("high_watermark", high)
                        .opt_int("lag", position.and_then(|p| high.map(|h| (h - p as i64).max(0))))
                        .int("rows", s.rows as i64)
                        .int("bytes", s.bytes as i64)
                        .int("errors", s.bad as i64)
                        .text("status", source.map(|s| s.status.as_str()));
                }
            }
            t.header(&[
                ("relation", 't'),
                ("partition", 't'),
                ("committed_offset", 'i'),
                ("high_watermark", 'i'),
                ("lag", 'i'),
                ("rows", 'i'),
                ("bytes", 'i'),
                ("errors", 'i'),
                ("status", 't'),
                ("watermark", 'z'),
                ("partition_watermark", 'z'),
                ("idle", 'b'),
                ("holds_watermark", 'b'),
                ("late_rows", 'i'),
            ]);
        }
        "relations" => {
            for r in st.catalog.relations.values().filter(|r| r.schema_name != crate::catalog::TEMP_SCHEMA) {
                t.row()
                    .int("id", r.id.0 as i64)
                    .text("schema_name", Some(&r.schema_name))
                    .text("name", Some(&r.name))
                    .text("kind", Some(r.kind().noun()))
                    .text("definition", Some(&mask_in_definition(&r.definition)))
                    .bool("system", r.schema_name == SYSTEM_SCHEMA)
                    .text("comment", r.meta.comment.as_deref());
            }
            t.header(&[
                ("id", 'i'),
                ("schema_name", 't'),
                ("name", 't'),
                ("kind", 't'),
                ("definition", 't'),
                ("system", 'b'),
                ("comment", 't'),
            ]);
        }
        "view_errors" => {
            for r in st.catalog.relations.values() {
                let Some(rt) = st.relations.get(&r.id) else { continue };
                let Some((_, v)) = rt.version_at(rt.frontier) else { continue };
                for ((code, message, row), weight) in &v.errors.entries {
                    t.row()
                        .text("view", Some(&r.display_name()))
                        .text("code", Some(code))
                        .text("message", Some(message))
                        .text("row", Some(row))
                        .int("count", *weight);
                }
            }
            t.header(&[("view", 't'), ("code", 't'), ("message", 't'), ("row", 't'), ("count", 'i')]);
        }
        "shared_indexes" => {
            for (spec, views) in super::shared::wanted(&st.catalog, &BTreeSet::new()) {
                let Some(r) = st.catalog.relations.get(&spec.relation) else { continue };
                let rt = st.relations.get(&spec.relation);
                let index = rt.and_then(|rt| rt.version_at(rt.frontier)?.1.index(&spec.columns));
                let names: Vec<&str> = spec.columns.iter().map(|c| r.schema.field(*c).name().as_str()).collect();
                t.row()
                    .text("relation", Some(&r.display_name()))
                    .text("columns", Some(&names.join(", ")))
                    .int("views", views as i64)
                    .opt_int("rows", index.as_ref().map(|i| i.len() as i64))
                    .opt_int("bytes", index.as_ref().map(|i| i.bytes() as i64));
            }
            t.header(&[("relation", 't'), ("columns", 't'), ("views", 'i'), ("rows", 'i'), ("bytes", 'i')]);
        }
        "settings" => {
            let o = &inner.options;
            for (name, value) in [
                ("data", o.data.clone()),
                ("workers", inner.workers.to_string()),
                ("memory_bytes", o.memory_bytes.to_string()),
                ("checkpoint_interval_ms", o.checkpoint_interval.as_millis().to_string()),
                ("epoch_interval_ms", o.epoch_interval.as_millis().to_string()),
                ("epoch_rows_max", o.epoch_rows_max.to_string()),
            ] {
                t.row().text("name", Some(name)).text("value", Some(&value));
            }
            t.header(&[("name", 't'), ("value", 't')]);
        }
        _ => return Ok(None),
    }
    t.finish().map(Some)
}

/// Rows collected by name, then laid out as columns.
#[derive(Default)]
struct Table {
    header: Vec<(&'static str, char)>,
    rows: Vec<Vec<(&'static str, Cell)>>,
}

enum Cell {
    Int(Option<i64>),
    Text(Option<String>),
    Bool(Option<bool>),
    /// Microseconds since 1970.
    Time(Option<i64>),
}

impl Table {
    fn header(&mut self, columns: &[(&'static str, char)]) {
        self.header = columns.to_vec();
    }
    fn row(&mut self) -> &mut Self {
        self.rows.push(Vec::new());
        self
    }
    fn cell(&mut self, name: &'static str, cell: Cell) -> &mut Self {
        if let Some(r) = self.rows.last_mut() {
            r.push((name, cell));
        }
        self
    }
    fn int(&mut self, name: &'static str, v: i64) -> &mut Self {
        self.cell(name, Cell::Int(Some(v)))
    }
    fn opt_int(&mut self, name: &'static str, v: Option<i64>) -> &mut Self {
        self.cell(name, Cell::Int(v))
    }
    fn text(&mut self, name: &'static str, v: Option<&str>) -> &mut Self {
        self.cell(name, Cell::Text(v.map(str::to_owned)))
    }
    fn bool(&mut self, name: &'static str, v: bool) -> &mut Self {
        self.cell(name, Cell::Bool(Some(v)))
    }
    fn opt_bool(&mut self, name: &'static str, v: Option<bool>) -> &mut Self {
        self.cell(name, Cell::Bool(v))
    }
    fn time(&mut self, name: &'static str, v: Option<i64>) -> &mut Self {
        self.cell(name, Cell::Time(v))
    }
    fn finish(&self) -> Result<RecordBatch> {
        let find = |row: &'_ Vec<(&'static str, Cell)>, name: &str| row.iter().position(|(n, _)| *n == name);
        let mut fields = Vec::new();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for (name, kind) in &self.header {
            let cells = || self.rows.iter().map(|r| find(r, name).map(|i| &r[i].1));
            let (data_type, column): (DataType, ArrayRef) = match kind {
                'i' => {
                    let v = cells().map(|c| if let Some(Cell::Int(v)) = c { *v } else { None });
                    (DataType::Int64, Arc::new(v.collect::<Int64Array>()))
                }
                'b' => {
                    let v = cells().map(|c| if let Some(Cell::Bool(v)) = c { *v } else { None });
                    (DataType::Boolean, Arc::new(v.collect::<BooleanArray>()))
                }
                'z' => {
                    let v = cells().map(|c| if let Some(Cell::Time(v)) = c { *v } else { None });
                    let v = v.collect::<TimestampMicrosecondArray>().with_timezone("UTC");
                    (DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), Arc::new(v))
                }
                _ => {
                    let v = cells().map(|c| if let Some(Cell::Text(v)) = c { v.clone() } else { None });
                    (DataType::Utf8View, Arc::new(v.collect::<StringViewArray>()))
                }
            };
            fields.push(Field::new(*name, data_type, true));
            columns.push(column);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).e()
    }
}
