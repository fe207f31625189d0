//! Adding nodes: hash-consing, fusing of maps, exchanges, changelog kinds.

use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::{Expr, lit};

use super::{
    Builder, ChangelogKind, Distribution, Fail, IncNode, IncOp, IncPlan, NodeId, PlanExpr, Planned, SqlError, nullable,
};
use crate::matching::OutputColumn;
use crate::plan::{JoinKind, PLAN_VERSION, SetOpKind, SortColumn};
use crate::session::from_datafusion;

/// The column of a row that needs none.
pub(super) const ROW: &str = "__row";

impl Builder<'_> {
    pub(super) fn node(&self, id: NodeId) -> &IncNode {
        &self.nodes[id.0 as usize]
    }

    pub(super) fn schema(&self, id: NodeId) -> SchemaRef {
        SchemaRef::clone(&self.node(id).schema)
    }

    pub(super) fn width(&self, id: NodeId) -> usize {
        self.node(id).schema.fields().len()
    }

    pub(super) fn add(&mut self, op: IncOp, inputs: Vec<NodeId>, schema: SchemaRef) -> NodeId {
        self.add_with_kind(op, inputs, schema, None)
    }

    /// Adds a node unless there is an equal one.
    pub(super) fn add_with_kind(
        &mut self,
        op: IncOp,
        inputs: Vec<NodeId>,
        schema: SchemaRef,
        kind: Option<ChangelogKind>,
    ) -> NodeId {
        let print = fingerprint(&op, &inputs, &schema);
        if let Some(id) = self.interned.get(&print) {
            return *id;
        }
        let id = NodeId(self.nodes.len() as u32);
        let kind = kind.unwrap_or_else(|| self.kind_of(&op, &inputs));
        let places = self.places_of(&op, &inputs);
        self.nodes.push(IncNode { op, inputs, schema, kind });
        self.places.push(places);
        self.interned.insert(print, id);
        id
    }

    fn kind_of(&self, op: &IncOp, inputs: &[NodeId]) -> ChangelogKind {
        let keeps = match op {
            IncOp::Source { .. } => false, // given by the relation
            IncOp::Values { .. }
            | IncOp::Map { .. }
            | IncOp::RowMap { .. }
            | IncOp::Union
            | IncOp::Distinct
            | IncOp::Exchange { .. } => true,
            // What the right side becomes changes nothing that is out.
            IncOp::ArrivalJoin { .. } => return ChangelogKind::Append,
            IncOp::Join { kind, .. } => *kind == JoinKind::Inner,
            IncOp::SetOp { kind } => *kind == SetOpKind::IntersectAll,
            IncOp::TemporalFilter { limits } => !limits.iter().any(|l| l.leaves),
            IncOp::Aggregate { .. } | IncOp::TopN { .. } | IncOp::TopRank { .. } => false,
            IncOp::AsOf { .. } | IncOp::Over { .. } | IncOp::Session { .. } => false,
            IncOp::MatchRecognize { .. } | IncOp::Recompute { .. } => false,
            IncOp::Recursive { .. } => false, // given by what its step does
            // Which of them it is depends on lateness: given where it is made, as of a pattern that is decided.
            IncOp::Emit { .. } => false,
        };
        if keeps && inputs.iter().all(|i| self.node(*i).kind == ChangelogKind::Append) {
            ChangelogKind::Append
        } else {
            ChangelogKind::Retract
        }
    }

    fn places_of(&self, op: &IncOp, inputs: &[NodeId]) -> Vec<Distribution> {
        let of = |i: usize| inputs.get(i).map_or(&[][..], |id| &self.places[id.0 as usize]);
        match op {
            IncOp::Exchange { distribution } => vec![distribution.clone()],
            // Emitted on shard 0 only.
            IncOp::Values { .. } => vec![Distribution::Single],
            IncOp::Map { exprs: None, .. } | IncOp::Distinct | IncOp::SetOp { .. } => of(0).to_vec(),
            IncOp::AsOf { .. } | IncOp::Emit { .. } => of(0).to_vec(),
            IncOp::TopN { .. } | IncOp::TopRank { .. } | IncOp::Over { .. } | IncOp::Session { .. } => of(0).to_vec(),
            IncOp::MatchRecognize { spec, .. } => {
                moved(of(0), |c| spec.shape.output.iter().position(|o| *o == OutputColumn::Column(c)))
            }
            IncOp::Map { exprs: Some(exprs), .. } => {
                moved(of(0), |column| exprs.iter().position(|e| e.as_column() == Some(column)))
            }
            IncOp::Aggregate { keys, .. } => moved(of(0), |column| keys.iter().position(|k| *k == column)),
            IncOp::Join { kind, .. } => {
                let left_width = inputs.first().map_or(0, |i| self.width(*i));
                let right = || moved(of(1), |column| Some(column + left_width));
                match kind {
                    JoinKind::Inner => of(0).iter().cloned().chain(right()).collect(),
                    JoinKind::Left | JoinKind::LeftSemi | JoinKind::LeftAnti => of(0).to_vec(),
                    JoinKind::Right => right(),
                    // A key is NULL in the rows of the other side.
                    JoinKind::Full => of(0).iter().filter(|d| **d == Distribution::Single).cloned().collect(),
                }
            }
            IncOp::ArrivalJoin { .. } => of(0).to_vec(),
            IncOp::Recompute { keys: Some(k), .. } if !k.output.is_empty() => {
                let input = k.inputs.first().map_or(&[][..], |i| i.as_slice());
                let hash = Distribution::Hash(input.to_vec());
                if of(0).contains(&hash) { vec![Distribution::Hash(k.output.clone())] } else { Vec::new() }
            }
            IncOp::Recompute { .. } | IncOp::Recursive { .. } => vec![Distribution::Single],
            IncOp::Union => {
                let shared = |d: &&Distribution| (1..inputs.len()).all(|i| of(i).contains(d));
                of(0).iter().filter(shared).cloned().collect()
            }
            IncOp::RowMap { .. } => of(0).iter().filter(|d| **d == Distribution::Single).cloned().collect(),
            // What it keeps over a restart comes out on any shard.
            IncOp::Source { .. } | IncOp::TemporalFilter { .. } => Vec::new(),
        }
    }

    /// The rows of `input` on the shards that own the hash of `columns`.
    pub(super) fn hashed(&mut self, input: NodeId, columns: Vec<usize>) -> NodeId {
        self.exchange(input, Distribution::Hash(columns))
    }

    /// The rows of `input` on shard 0.
    pub(super) fn single(&mut self, input: NodeId) -> NodeId {
        self.exchange(input, Distribution::Single)
    }

    /// Both joins' sides must agree, so only exactly the wanted distribution will do.
    fn exchange(&mut self, input: NodeId, distribution: Distribution) -> NodeId {
        // A step of a recursion runs where its rows are.
        if self.one_shard || self.places[input.0 as usize].contains(&distribution) {
            return input;
        }
        let schema = self.schema(input);
        self.add(IncOp::Exchange { distribution }, vec![input], schema)
    }

    pub(super) fn filter(&mut self, input: NodeId, predicates: Vec<PlanExpr>) -> Planned {
        let schema = self.schema(input);
        self.map(input, predicates, None, schema)
    }

    /// A map over `input`, fused with it if that is a map and no expression would be evaluated twice.
    pub(super) fn map(
        &mut self,
        input: NodeId,
        predicates: Vec<PlanExpr>,
        exprs: Option<Vec<PlanExpr>>,
        schema: SchemaRef,
    ) -> Planned {
        let input_schema = self.schema(input);
        // A batch without columns is a source of mistakes: where a query needs none, a constant stands in.
        let (exprs, schema) = match exprs {
            Some(e) if e.is_empty() => {
                let row = Field::new(ROW, arrow::datatypes::DataType::Boolean, true);
                (Some(vec![PlanExpr { expr: lit(true) }]), SchemaRef::new(Schema::new(vec![row])))
            }
            other => (other, schema),
        };
        for e in predicates.iter().chain(exprs.iter().flatten()) {
            e.compile(&input_schema).map_err(|e| Fail::Error(from_datafusion(e)))?;
        }
        let width = input_schema.fields().len();
        // Other names alone are no work, where the operator below names its own columns.
        let named = self.one_shard
            || !matches!(
                self.node(input).op,
                IncOp::Source { .. } | IncOp::Values { .. } | IncOp::Union | IncOp::Exchange { .. }
            );
        let exprs = exprs.filter(|e| {
            let same = |(a, b): (&FieldRef, &FieldRef)| a.name() == b.name();
            let same_names = named || input_schema.fields().iter().zip(schema.fields()).all(same);
            let identity = e.len() == width && e.iter().enumerate().all(|(i, e)| e.as_column() == Some(i));
            !(identity && same_names)
        });
        if predicates.is_empty() && exprs.is_none() {
            return Ok(input);
        }
        let (op, inputs) = match self.fuse(input, &predicates, exprs.as_deref()) {
            Some(fused) => fused,
            None => (IncOp::Map { predicates, exprs }, vec![input]),
        };
        Ok(self.add(op, inputs, nullable(&schema)))
    }

    fn fuse(&self, input: NodeId, predicates: &[PlanExpr], exprs: Option<&[PlanExpr]>) -> Option<(IncOp, Vec<NodeId>)> {
        let node = self.node(input);
        let IncOp::Map { predicates: inner_predicates, exprs: inner } = &node.op else { return None };
        let mut all = inner_predicates.clone();
        let Some(inner) = inner else {
            all.extend_from_slice(predicates);
            return Some((IncOp::Map { predicates: all, exprs: exprs.map(<[_]>::to_vec) }, node.inputs.clone()));
        };
        // Filtering what was computed keeps the computed columns: they would be computed twice.
        let mut uses = vec![0usize; inner.len()];
        for e in predicates.iter().chain(exprs.unwrap_or_default()) {
            for c in e.expr.column_refs() {
                if let Some(i) = (PlanExpr { expr: Expr::Column(c.clone()) }).as_column() {
                    // Counts an expression once per reference, not once per occurrence in it: see below.
                    uses[i] += occurrences(&e.expr, c);
                }
            }
        }
        if exprs.is_none() {
            uses.iter_mut().for_each(|n| *n += 1);
        }
        let trivial = |e: &PlanExpr| matches!(e.expr, Expr::Column(_) | Expr::Literal(..));
        if inner.iter().zip(&uses).any(|(e, n)| *n > 1 && !trivial(e)) {
            return None;
        }
        let put = |e: &PlanExpr| -> Option<PlanExpr> {
            let new = e.expr.clone().transform_down(|e| match &e {
                Expr::Column(_) => match (PlanExpr { expr: e.clone() }).as_column().and_then(|i| inner.get(i)) {
                    Some(found) => Ok(Transformed::new(
                        found.expr.clone(),
                        true,
                        datafusion::common::tree_node::TreeNodeRecursion::Jump,
                    )),
                    None => Ok(Transformed::no(e)),
                },
                _ => Ok(Transformed::no(e)),
            });
            new.ok().map(|t| PlanExpr { expr: t.data })
        };
        for p in predicates {
            all.push(put(p)?);
        }
        let exprs = match exprs {
            Some(e) => e.iter().map(put).collect::<Option<Vec<_>>>()?,
            None => inner.clone(),
        };
        Some((IncOp::Map { predicates: all, exprs: Some(exprs) }, node.inputs.clone()))
    }

    /// The reachable part of the graph, its output columns named as the query names them.
    pub(super) fn finish(self, root: NodeId, wanted: &Schema, read_order: Vec<SortColumn>) -> IncPlan {
        let mut used = vec![false; self.nodes.len()];
        used[root.0 as usize] = true;
        for i in (0..self.nodes.len()).rev() {
            if used[i] {
                self.nodes[i].inputs.iter().for_each(|n| used[n.0 as usize] = true);
            }
        }
        let mut new_ids = vec![NodeId(0); self.nodes.len()];
        let mut nodes: Vec<IncNode> = Vec::new();
        for (i, mut node) in self.nodes.into_iter().enumerate() {
            if used[i] {
                new_ids[i] = NodeId(nodes.len() as u32);
                node.inputs.iter_mut().for_each(|n| *n = new_ids[n.0 as usize]);
                nodes.push(node);
            }
        }
        let output = new_ids[root.0 as usize];
        nodes[output.0 as usize].schema = nullable(wanted);
        IncPlan { version: PLAN_VERSION, nodes, output, read_order }
    }

    /// `input` with further columns after its own, and where each of `exprs` is to be found.
    pub(super) fn with_columns(&mut self, input: NodeId, exprs: &[PlanExpr]) -> Planned<(NodeId, Vec<usize>)> {
        let schema = self.schema(input);
        let mut all: Vec<PlanExpr> = (0..schema.fields().len()).map(PlanExpr::column).collect();
        let mut at = Vec::with_capacity(exprs.len());
        for e in exprs {
            at.push(match all.iter().position(|x| x == e) {
                Some(i) => i,
                None => {
                    all.push(e.clone());
                    all.len() - 1
                }
            });
        }
        if all.len() == schema.fields().len() {
            return Ok((input, at));
        }
        let typed = self.typed(input, &all, |i| schema.fields().get(i).map(|f| f.name().clone()))?;
        Ok((self.map(input, Vec::new(), Some(all), typed)?, at))
    }

    /// The schema that these expressions over `input` have.
    pub(super) fn typed(
        &self,
        input: NodeId,
        exprs: &[PlanExpr],
        name: impl Fn(usize) -> Option<String>,
    ) -> Planned<SchemaRef> {
        let schema = self.schema(input);
        let positions = crate::plan::expr::positional_schema(&schema);
        let mut fields = Vec::with_capacity(exprs.len());
        for (i, e) in exprs.iter().enumerate() {
            let data_type = e.compile(&schema)?.data_type(&positions)?;
            let name = name(i).unwrap_or_else(|| format!("k{i}"));
            fields.push(Field::new(name, data_type, true));
        }
        Ok(SchemaRef::new(Schema::new(fields)))
    }

    /// Only the first `width` columns, named as in `schema`.
    pub(super) fn keep_columns(&mut self, input: NodeId, columns: Vec<usize>, schema: SchemaRef) -> Planned {
        if columns.iter().any(|c| *c >= self.width(input)) {
            return Err(SqlError::internal("a column that is not there").into());
        }
        let exprs = columns.into_iter().map(PlanExpr::column).collect();
        self.map(input, Vec::new(), Some(exprs), schema)
    }
}

fn occurrences(e: &Expr, column: &datafusion::common::Column) -> usize {
    let mut n = 0;
    let counted = e.apply(|x| {
        n += usize::from(matches!(x, Expr::Column(c) if c == column));
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    if counted.is_err() { usize::MAX / 2 } else { n }
}

/// Distributions after columns moved; those that lost a column are gone.
fn moved(places: &[Distribution], to: impl Fn(usize) -> Option<usize>) -> Vec<Distribution> {
    let one = |d: &Distribution| match d {
        Distribution::Single => Some(Distribution::Single),
        Distribution::Hash(columns) => {
            columns.iter().map(|c| to(*c)).collect::<Option<Vec<_>>>().map(Distribution::Hash)
        }
    };
    places.iter().filter_map(one).collect()
}

/// Two nodes with one print are the same computation. Names of columns do not count.
fn fingerprint(op: &IncOp, inputs: &[NodeId], schema: &Schema) -> String {
    let types: Vec<_> = schema.fields().iter().map(|f| f.data_type()).collect();
    format!("{op:?} {inputs:?} {types:?}")
}
