//! EXPLAIN STALL: what holds back the results of a view now.

use std::collections::BTreeSet;
use std::sync::Arc;

use millstream_sql::plan::RelationId;

use super::{EngineInner, State};
use crate::catalog::{Body, Catalog, Relation};
use crate::time::Timestamp;

/// One line a finding, the view itself first, then each stream it depends on.
pub(crate) fn explain_stall(inner: &Arc<EngineInner>, view: &Relation) -> Vec<String> {
    let st = inner.lock();
    let now = inner.options.clock.now();
    let mut lines = Vec::new();
    let mut all = BTreeSet::new();
    upstream(&st.catalog, view.id, &mut all);
    // Ids grow from upstream to downstream.
    for id in all.iter().rev() {
        let Some(r) = st.catalog.relations.get(id) else { continue };
        match &r.body {
            Body::MaterializedView { .. } => lines.extend(of_view(&st, r)),
            Body::Connector { .. } | Body::Table { append_only: true, .. } => lines.extend(of_stream(&st, r, now)),
            Body::Table { .. } | Body::View { .. } => {}
        }
    }
    lines
}

/// For a view that holds back results: the stream, and the partition that holds its watermark back while others are further.
pub(crate) fn waits_for(inner: &Arc<EngineInner>, view: RelationId) -> Option<String> {
    let st = inner.lock();
    st.relations.get(&view)?.counters.held_back?;
    let mut all = BTreeSet::new();
    upstream(&st.catalog, view, &mut all);
    all.into_iter().find_map(|id| {
        let time = st.relations.get(&id)?.time.as_ref()?;
        let (split, p) = time.slowest()?;
        let furthest = time.partitions.values().filter_map(|p| p.sealed).max();
        if p.sealed >= furthest {
            return None;
        }
        let name = st.catalog.relations.get(&id)?.display_name();
        let at = p.sealed.map_or("has delivered nothing yet".into(), |w| format!("is at {}", shown(w)));
        Some(format!("results wait for the watermark of stream {name}: its partition {split} {at}"))
    })
}

fn upstream(catalog: &Catalog, id: RelationId, found: &mut BTreeSet<RelationId>) {
    if found.insert(id)
        && let Some(r) = catalog.relations.get(&id)
    {
        r.inputs.iter().for_each(|i| upstream(catalog, *i, found));
    }
}

/// Microseconds since 1970 as UTC.
fn shown(micros: i64) -> String {
    chrono::DateTime::from_timestamp_micros(micros)
        .map_or_else(|| micros.to_string(), |t| t.format("%Y-%m-%d %H:%M:%S%.f+00").to_string())
}

fn seconds(micros: i64) -> String {
    format!("{:.1} s", micros as f64 / 1e6)
}

fn of_view(st: &State, view: &Relation) -> Vec<String> {
    let Some(rt) = st.relations.get(&view.id) else { return Vec::new() };
    let name = view.display_name();
    let mut lines = vec![match (&rt.quarantined, rt.paused, rt.backfilling) {
        (Some(why), ..) => format!("view {name} is quarantined: {why}"),
        (None, true, _) => format!("view {name} is paused"),
        (None, false, true) => format!("view {name} still reads history"),
        (None, false, false) => match st.sealed.0.saturating_sub(rt.frontier.0) {
            0 => format!("view {name} has seen everything up to epoch {}", rt.frontier.0),
            behind => format!("view {name} is {behind} epochs behind, at epoch {}", rt.frontier.0),
        },
    }];
    if let Some((_, oldest)) = rt.counters.held_back {
        let until = match oldest {
            Some(at) => format!("until the watermark passes their windows; the oldest is of {}", shown(at)),
            None => "until the clock or the watermark comes further".into(),
        };
        lines.push(format!("  holds back results {until}"));
    }
    lines
}

fn of_stream(st: &State, stream: &Relation, now: Timestamp) -> Vec<String> {
    let Some(rt) = st.relations.get(&stream.id) else { return Vec::new() };
    let name = stream.display_name();
    let mut lines = Vec::new();
    if let Some(s) = &rt.source {
        let lag: u64 = s
            .high_watermarks
            .iter()
            .map(|(split, end)| end.0.saturating_sub(s.positions.get(split).map_or(0, |p| p.0)))
            .sum();
        let lag = if lag > 0 { format!(", about {lag} positions behind its origin") } else { String::new() };
        lines.push(format!("stream {name} is {}{lag}", s.status));
    }
    let Some(time) = &rt.time else { return lines };
    lines.push(match time.watermark {
        None => format!("stream {name} has no watermark yet"),
        Some(i64::MAX) => format!("stream {name} has ended: all windows are closed"),
        Some(w) => format!("stream {name} has its watermark at {}", shown(w)),
    });
    if let Some((split, p)) = time.slowest().filter(|_| time.watermark != Some(i64::MAX)) {
        let at = p.sealed.map_or("that has delivered nothing yet".into(), |w| format!("at {}", shown(w)));
        let silent = seconds(now.0.saturating_sub(p.seen.0).max(0));
        let idle = match time.idle_timeout {
            i64::MAX => String::new(),
            timeout => format!("; it counts as idle after {}", seconds(timeout)),
        };
        lines.push(format!("  held back by partition {split} {at}, silent for {silent}{idle}"));
    }
    let idle: Vec<&str> = time.partitions.iter().filter(|(_, p)| p.idle).map(|(s, _)| s.as_ref()).collect();
    if !idle.is_empty() {
        lines.push(format!("  idle partitions, which hold nothing back: {}", idle.join(", ")));
    }
    if time.late_rows > 0 {
        lines.push(format!("  {} rows were late since the start", time.late_rows));
    }
    lines
}
