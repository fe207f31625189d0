//! Indexes of relations that the joins of all jobs share.
//!
//! A join looks rows of one input up by its key. Where that input is a relation with stored rows as it is, whoever joins it
//! by the same columns needs the same index: the relation keeps one, and each version of the relation has the version of it.
//! The shared description is found by equality of plan: `Join` over `Exchange hash(k)` over `Source r`, nothing between.
//! See [`crate::ops::DeltaOp::share`] for what the join does with it.

use std::collections::{BTreeSet, HashMap};

use arrow::datatypes::SchemaRef;
use millstream_sql::plan::{Distribution, IncOp, IncPlan, RelationId};

use super::JobRunner;
use crate::error::Result;
use crate::state::arrangement::{Arrangement, ArrangementSnapshot};
use crate::zset::ZBatch;

/// An index: a relation, and its columns in ascending order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexSpec {
    /// Whose rows.
    pub relation: RelationId,
    /// By which columns.
    pub columns: Vec<usize>,
}

/// Versions of shared indexes.
pub type SharedIndexes = HashMap<IndexSpec, ArrangementSnapshot>;

/// An input of a join that is in a shared index.
#[derive(Debug, Clone)]
pub struct SharedInput {
    node: usize,
    port: usize,
    /// The index.
    pub index: IndexSpec,
    /// The columns of the relation that the join sees.
    columns: Vec<usize>,
}

/// Inputs of a plan's joins that can share an index. `rows_of`: columns of a relation that has all its rows stored; `None`
/// of one that has not, or whose rows a join may forget.
pub fn shared_inputs(plan: &IncPlan, rows_of: &dyn Fn(RelationId) -> Option<SchemaRef>) -> Vec<SharedInput> {
    let mut found = Vec::new();
    for (node, n) in plan.nodes.iter().enumerate() {
        let (on, ports) = match &n.op {
            IncOp::Join { on, ranges: None, .. } => (on, 0..2),
            IncOp::ArrivalJoin { on, .. } => (on, 1..2),
            _ => continue,
        };
        for port in ports {
            let key: Vec<usize> = on.iter().map(|(l, r)| if port == 0 { *l } else { *r }).collect();
            let exchange = plan.node(n.inputs[port]);
            let (IncOp::Exchange { distribution: Distribution::Hash(by) }, [source]) =
                (&exchange.op, exchange.inputs.as_slice())
            else {
                continue;
            };
            let source = plan.node(*source);
            let IncOp::Source { relation, projection } = &source.op else { continue };
            let Some(schema) = rows_of(*relation).filter(|_| *by == key) else { continue };
            let same_types =
                source.schema.fields().len() == projection.len()
                    && source.schema.fields().iter().zip(projection).all(|(f, column)| {
                        schema.fields().get(*column).is_some_and(|of| of.data_type() == f.data_type())
                    });
            let columns: Option<BTreeSet<usize>> = key.iter().map(|k| projection.get(*k).copied()).collect();
            let Some(columns) = columns.filter(|c| same_types && !c.is_empty() && c.len() == key.len()) else {
                continue;
            };
            let index = IndexSpec { relation: *relation, columns: columns.into_iter().collect() };
            found.push(SharedInput { node, port, index, columns: projection.clone() });
        }
    }
    found
}

/// Indexes that others share over the rows of one relation.
#[derive(Default)]
pub(crate) struct Hosted {
    indexes: Vec<(Vec<usize>, Arrangement)>,
}

impl Hosted {
    /// An index of these rows by these columns, to be given to [`Self::add`].
    pub fn build(schema: SchemaRef, columns: &[usize], rows: &[ZBatch]) -> Result<Arrangement> {
        let mut index = Arrangement::for_snapshots(schema, columns.to_vec());
        rows.iter().try_for_each(|b| index.append(b))?;
        while index.maintain(usize::MAX)? {}
        Ok(index)
    }
    pub fn add(&mut self, columns: &[usize], index: Arrangement) {
        self.indexes.retain(|(c, _)| c != columns);
        self.indexes.push((columns.to_vec(), index));
    }
    /// True if one went.
    pub fn retain(&mut self, wanted: impl Fn(&[usize]) -> bool) -> bool {
        let before = self.indexes.len();
        self.indexes.retain(|(c, _)| wanted(c));
        self.indexes.len() < before
    }
    pub fn append(&mut self, changes: &[ZBatch]) -> Result<()> {
        self.indexes.iter_mut().try_for_each(|(_, index)| index.append_all(changes))
    }
    pub fn snapshots(&self) -> Vec<(Vec<usize>, ArrangementSnapshot)> {
        self.indexes.iter().map(|(c, index)| (c.clone(), index.snapshot())).collect()
    }
    pub fn maintain(&mut self, fuel: usize) -> Result<bool> {
        let mut more = false;
        for (_, index) in &mut self.indexes {
            more |= index.maintain(fuel)?;
        }
        Ok(more)
    }
    /// Rows and bytes of each index.
    pub fn stats(&self) -> impl Iterator<Item = (&[usize], crate::ops::StateStats)> {
        self.indexes.iter().map(|(c, index)| (c.as_slice(), index.stats()))
    }
}

impl JobRunner {
    /// From now on these inputs of joins are in shared indexes; called before anything else.
    pub fn share(&mut self, inputs: Vec<SharedInput>) -> Result<()> {
        for s in &mut self.shards {
            for i in &inputs {
                if let Some(op) = s.ops.get_mut(i.node).and_then(Option::as_mut) {
                    op.share(i.port, &i.columns)?;
                }
            }
        }
        self.shared = inputs;
        Ok(())
    }

    /// The indexes it shares.
    pub fn shared(&self) -> impl Iterator<Item = &IndexSpec> {
        self.shared.iter().map(|i| &i.index)
    }

    /// Gives it the relations' rows as they are when the tick is over, as far as they are at hand.
    pub fn rebase(&mut self, indexes: &SharedIndexes) -> Result<()> {
        for i in &self.shared {
            let Some(rows) = indexes.get(&i.index) else { continue };
            for s in &mut self.shards {
                if let Some(op) = s.ops.get_mut(i.node).and_then(Option::as_mut) {
                    op.rebase(i.port, rows)?;
                }
            }
        }
        Ok(())
    }

    /// Indexes that others share over this view's rows.
    pub(crate) fn hosted(&self) -> &Hosted {
        &self.hosted
    }

    /// See [`Self::hosted`].
    pub(crate) fn hosted_mut(&mut self) -> &mut Hosted {
        &mut self.hosted
    }

    /// All rows of the view.
    pub(crate) fn rows(&self) -> Result<Vec<ZBatch>> {
        let mut rows = Vec::new();
        for s in &self.shards {
            rows.extend(s.output.snapshot().scan()?);
        }
        Ok(rows)
    }
}
