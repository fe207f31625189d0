//! Indexes of relations that joins of several jobs share: who needs which, building them while everything runs, and handing
//! their versions to the jobs. See [`crate::job::shared`].
//!
//! * Which inputs share an index follows from a view's plan and from what the relation is, so it is the same after a restart;
//!   nothing of an index is stored.
//! * An index of a table lives beside its rows and changes with every epoch; that of a view is in its job and changes with its
//!   ticks. A table's rows that are stored by those columns are the index.
//! * A job is given a version where it is at hand; where not, it keeps the changes since the last one itself. So a job that
//!   lags neither holds a version nor is held up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_sql::plan::{IncPlan, RelationId};

use super::index::{Cursor, Since, change_job};
use super::{EngineInner, State, Version};
use crate::catalog::{Body, Catalog};
use crate::error::{Error, Result};
use crate::job::JobRunner;
use crate::job::output::OutputSnapshot;
use crate::job::shared::{Hosted, IndexSpec, SharedIndexes, SharedInput, shared_inputs};
use crate::state::arrangement::ArrangementSnapshot;
use crate::time::Epoch;
use crate::zset::ZBatch;

/// The inputs of a plan that share an index.
pub(super) fn inputs_of(catalog: &Catalog, plan: &IncPlan) -> Vec<SharedInput> {
    shared_inputs(plan, &|id| rows_of(catalog, id))
}

/// Columns of a relation whose rows are all stored. Of what depends on a watermark a join may forget rows, and keeps its own.
fn rows_of(catalog: &Catalog, id: RelationId) -> Option<SchemaRef> {
    let relation = catalog.relations.get(&id)?;
    if !matches!(relation.body, Body::Table { .. } | Body::MaterializedView { .. }) {
        return None;
    }
    let (mut seen, mut next) = (BTreeSet::new(), vec![id]);
    while let Some(at) = next.pop() {
        if let Some(r) = catalog.relations.get(&at).filter(|_| seen.insert(at)) {
            if r.meta.watermark.is_some() || r.meta.late_of.is_some() {
                return None;
            }
            next.extend(&r.inputs);
        }
    }
    Some(relation.schema.clone())
}

/// Every index that some view shares, with the number of views.
pub(super) fn wanted(catalog: &Catalog, without: &BTreeSet<RelationId>) -> BTreeMap<IndexSpec, usize> {
    let mut found = BTreeMap::new();
    for r in catalog.relations.values().filter(|r| !without.contains(&r.id)) {
        if let Body::MaterializedView { plan, .. } = &r.body {
            let of_view: BTreeSet<IndexSpec> = inputs_of(catalog, plan).into_iter().map(|i| i.index).collect();
            of_view.into_iter().for_each(|spec| *found.entry(spec).or_default() += 1);
        }
    }
    found
}

/// The indexes that the joins of a plan share, each with the number of views that do.
pub(crate) fn shared_by(catalog: &Catalog, plan: &IncPlan) -> Vec<(IndexSpec, usize)> {
    let all = wanted(catalog, &BTreeSet::new());
    let own: BTreeSet<IndexSpec> = inputs_of(catalog, plan).into_iter().map(|i| i.index).collect();
    own.into_iter()
        .map(|spec| {
            let views = all.get(&spec).copied().unwrap_or(0);
            (spec, views)
        })
        .collect()
}

/// Columns of the indexes of one relation.
pub(super) fn columns_of(
    wanted: &BTreeMap<IndexSpec, usize>,
    relation: RelationId,
) -> impl Iterator<Item = &Vec<usize>> {
    wanted.keys().filter(move |spec| spec.relation == relation).map(|spec| &spec.columns)
}

impl Version {
    /// The rows by these columns, ascending.
    pub(super) fn index(&self, columns: &[usize]) -> Option<ArrangementSnapshot> {
        if let Some((_, index)) = self.shared.iter().find(|(c, _)| c == columns) {
            return Some(index.clone());
        }
        match self.shards.as_slice() {
            [OutputSnapshot::Indexed(rows)] => {
                let mut key = rows.key().to_vec();
                key.sort_unstable();
                (key == columns).then(|| rows.clone())
            }
            _ => None,
        }
    }
}

impl State {
    /// Versions of indexes at an epoch, where they are at hand. Unless the epoch is held, a relation that is ahead of it
    /// may not have its version any more.
    pub(super) fn shared_at<'a>(
        &self,
        specs: impl Iterator<Item = &'a IndexSpec>,
        at: Epoch,
        held: bool,
    ) -> SharedIndexes {
        let one = |spec: &IndexSpec| {
            let r = self.relations.get(&spec.relation)?;
            let ahead = r.published.keys().next_back().is_some_and(|newest| *newest > at);
            if r.frontier < at || ahead && !held {
                return None;
            }
            r.version_at(at)?.1.index(&spec.columns)
        };
        specs.filter_map(|spec| Some((spec.clone(), one(spec)?))).collect()
    }

    /// Indexes nobody shares any more go; those of views with their next tick. `without`: views on their way out.
    pub(super) fn release_shared(&mut self, without: &BTreeSet<RelationId>) {
        let wanted = wanted(&self.catalog, without);
        let holds: Vec<Epoch> = self.holds.keys().copied().collect();
        for (id, r) in self.relations.iter_mut().filter(|(_, r)| !r.derived) {
            if r.hosted.retain(|c| columns_of(&wanted, *id).any(|w| w == c))
                && let (Some(version), Some(at)) = (r.stored_version(), r.published.keys().next_back().copied())
            {
                r.publish(at, version, &holds);
            }
        }
        self.shared_wanted = wanted.into_keys().collect();
    }
}

/// Indexes over what a paused view has seen of the relations it reads.
pub(super) fn as_seen<'a>(
    catalog: &Catalog,
    specs: impl Iterator<Item = &'a IndexSpec>,
    seen: &BTreeMap<RelationId, Vec<ZBatch>>,
) -> Result<SharedIndexes> {
    let mut out = SharedIndexes::new();
    for spec in specs {
        let relation = catalog.relations.get(&spec.relation);
        let schema = relation.ok_or_else(|| Error::internal("a paused view reads what is not there"))?.schema.clone();
        let rows = seen.get(&spec.relation).map_or(&[][..], Vec::as_slice);
        out.insert(spec.clone(), Hosted::build(schema, &spec.columns, rows)?.snapshot());
    }
    Ok(out)
}

/// Prepares a job that has not begun: its joins share indexes, which exist when this returns.
pub(super) async fn share(inner: &Arc<EngineInner>, job: &mut JobRunner) -> Result<()> {
    let inputs = inputs_of(&inner.lock().catalog, job.plan());
    let specs: BTreeSet<IndexSpec> = inputs.iter().map(|i| i.index.clone()).collect();
    job.share(inputs)?;
    for spec in specs {
        install(inner, spec).await?;
    }
    Ok(())
}

/// Builds an index from a version of the relation while it goes on, then catches up with it.
async fn install(inner: &Arc<EngineInner>, spec: IndexSpec) -> Result<()> {
    let IndexSpec { relation, columns } = spec.clone();
    let (cursor, from, joined, version, schema, derived) = {
        let mut st = inner.lock();
        st.shared_wanted.insert(spec);
        let r = st.relation(relation)?;
        let (from, joined, schema, derived) = (r.frontier, r.joined, r.schema.clone(), r.derived);
        let version = r.version_at(from).map(|(_, v)| v);
        let there = |v: &Arc<Version>| match derived {
            true => v.shared.iter().any(|(c, _)| *c == columns),
            false => v.index(&columns).is_some(),
        };
        if version.as_ref().is_some_and(there) {
            return Ok(());
        }
        (st.add_cursor(BTreeSet::from([relation]), from, false), from, joined, version, schema, derived)
    };
    let cursor = Cursor { inner: inner.clone(), cursor };
    let by = columns.clone();
    let built = tokio::task::spawn_blocking(move || {
        let mut rows = Vec::new();
        for shard in version.iter().flat_map(|v| &v.shards) {
            rows.extend(shard.scan()?);
        }
        Hosted::build(schema, &by, &rows)
    });
    let mut built = built.await.map_err(|e| Error::internal(format!("building an index died: {e}")))??;
    if derived {
        change_job(inner, relation, Some(Since { epoch: from, joined }), move |j, changes| {
            built.append_all(&changes)?;
            j.hosted_mut().add(&columns, built);
            Ok(())
        })
        .await?;
    } else {
        let mut st = inner.lock();
        let holds: Vec<Epoch> = st.holds.keys().copied().collect();
        if let Some(r) = st.relations.get_mut(&relation) {
            for delta in r.deltas_between(from, r.frontier) {
                built.append_all(&delta.batches)?;
            }
            r.hosted.add(&columns, built);
            // The same rows, now with the index.
            if let Some(version) = r.stored_version() {
                let at = r.published.keys().next_back().copied().unwrap_or(from);
                r.publish(at, version, &holds);
            }
        }
    }
    drop(cursor);
    Ok(())
}
