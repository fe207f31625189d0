//! CREATE OR REPLACE VIEW and MATERIALIZED VIEW, under those that read them.
//!
//! The new view, and a new edition of every materialized view that depends on it, are built beside the old ones under
//! names nobody can ask for. When all are complete the catalog changes: from one statement to the next, every name means
//! the new edition. Until then, and if anything fails, the old ones go on.
//!
//! A dependent goes on if the columns it uses are still there with their types; its own columns stay what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion::common::Column;
use datafusion::logical_expr::Expr;
use millstream_sql::plan::{IncOp, RelationId};
use millstream_sql::statement::CreateView;

use super::ddl::{ViewPlan, add_relation, plan_in};
use super::notice;
use super::query::{PlanContext, sqlparser_ast::Query};
use crate::api::{Notice, Session};
use crate::catalog::{Body, Catalog, Meta, Paused, Relation, TEMP_SCHEMA, USER_SCHEMA};
use crate::coord::{EngineInner, create_view as start_view, drop_anonymous, drop_relations, persist_catalog};
use crate::error::{Error, Result, SqlState};

/// A view that takes the place of another.
struct Edition {
    old: RelationId,
    new: Arc<Relation>,
}

/// What is going to be: the catalog after the change, and what must be built for it.
struct Change {
    catalog: Catalog,
    built: Vec<Edition>,
    /// Plain views and what they read now.
    texts: Vec<Arc<Relation>>,
    notices: Vec<Notice>,
}

fn cannot(root: &Relation, dependent: &Relation, detail: String) -> Error {
    Error::new(
        SqlState::DEPENDENT_OBJECTS,
        format!(
            "cannot replace {} \"{}\" because {} \"{}\" depends on it",
            root.kind().noun(),
            root.name,
            dependent.kind().noun(),
            dependent.name
        ),
    )
    .detail(detail)
    .hint(format!("Keep the columns that \"{}\" uses, or drop it first.", dependent.name))
}

/// Replaces a view, and lets what depends on it go on over the new one.
pub(super) async fn replace(
    session: &Session,
    c: &CreateView,
    text: &str,
    old: &Arc<Relation>,
    planned: ViewPlan,
) -> Result<Vec<Notice>> {
    let inner = session.engine.inner.clone();
    let ddl = inner.ddl.lock().await;
    let catalog = inner.lock().catalog.clone();
    let change = prepare(session, &catalog, c, text, old, planned).await?;
    let before = catalog.downstream(old.id);
    // Built under names nobody can ask for; the plans go by id.
    {
        let mut hidden = Catalog::clone(&catalog);
        hidden.next_id = change.catalog.next_id;
        for e in &change.built {
            add_relation(&inner, &e.new)?;
            let name = format!("replace_{}", e.new.id.0);
            hidden.insert(Relation { schema_name: TEMP_SCHEMA.into(), name, ..Relation::clone(&e.new) });
        }
        let mut st = inner.lock();
        for e in &change.built {
            if let Some(r) = st.relations.get_mut(&e.new.id) {
                r.backfilling = true;
            }
        }
        st.catalog = Arc::new(hidden);
    }
    drop(ddl);
    let mut undo = Undo { inner: inner.clone(), ids: change.built.iter().map(|e| e.new.id).collect() };
    for e in &change.built {
        start_view(&inner, e.new.id, true).await?;
    }
    let ids = std::mem::take(&mut undo.ids);
    // From here on it happens whether or not the client waits for it.
    let (task, old, notices) = (inner.clone(), old.clone(), change.notices.clone());
    let swapped = inner.tasks.spawn(async move {
        let result = swap(&task, &old, &before, change).await;
        if result.is_err() {
            drop(Undo { inner: task, ids });
        }
        result
    });
    swapped.await.map_err(|e| Error::internal(format!("the replacement died: {e}")))??;
    Ok(notices)
}

/// Plans everything over the catalog as it is going to be.
async fn prepare(
    session: &Session,
    catalog: &Catalog,
    c: &CreateView,
    text: &str,
    old: &Arc<Relation>,
    planned: ViewPlan,
) -> Result<Change> {
    let downstream = catalog.downstream(old.id);
    if let Some(r) = planned.named.iter().find(|id| **id == old.id || downstream.contains(id)) {
        let name = catalog.relations.get(r).map_or_else(String::new, |r| r.name.clone());
        return Err(Error::new(
            SqlState::INVALID_TABLE_DEFINITION,
            format!("the new query of \"{}\" reads \"{name}\", which is made from \"{}\"", old.name, old.name),
        )
        .hint("A view cannot read itself."));
    }
    for id in std::iter::once(&old.id).chain(&downstream) {
        if let Some(r) = catalog.relations.get(id).filter(|r| r.meta.paused != Paused::No) {
            return Err(Error::new(SqlState::OBJECT_NOT_IN_STATE, format!("view \"{}\" is paused", r.name))
                .hint(format!("ALTER MATERIALIZED VIEW {} RESUME first.", r.name)));
        }
    }
    let before = PlanContext::of(session).with_catalog(Arc::new(catalog.clone()));
    let mut next = Catalog::clone(catalog);
    let mut change = Change { catalog: Catalog::default(), built: Vec::new(), texts: Vec::new(), notices: Vec::new() };
    // Old id to new id; a plain view keeps its own.
    let mut ids: BTreeMap<RelationId, RelationId> = BTreeMap::new();
    let mut relation = Relation {
        id: old.id,
        schema_name: old.schema_name.clone(),
        name: old.name.clone(),
        schema: planned.plan.schema().clone(),
        primary_key: Vec::new(),
        definition: text.to_owned(),
        inputs: planned.inputs.clone(),
        meta: Meta { named: planned.named.clone(), emit: c.emit.as_ref().map(Into::into), ..old.meta.clone() },
        body: Body::View { query: c.query_text.clone(), columns: c.columns.clone() },
    };
    if c.materialized {
        relation.id = next.allocate();
        relation.body = Body::MaterializedView { query: c.query_text.clone(), plan: Arc::new(planned.plan) };
        change.notices.extend(keep_indexes(old, &mut relation));
        change.built.push(Edition { old: old.id, new: Arc::new(relation.clone()) });
        ids.insert(old.id, relation.id);
    } else {
        change.texts.push(Arc::new(relation.clone()));
    }
    relation.meta.column_comments.retain(|c, _| relation.schema.field_with_name(c).is_ok());
    next.remove(old.id);
    let root_schema = relation.schema.clone();
    next.insert(relation);
    // First what can be said of a column by name; a plan that fails says less.
    for id in &downstream {
        if let Some(dependent) = catalog.relations.get(id)
            && let Body::MaterializedView { plan, .. } = &dependent.body
            && dependent.schema_name != TEMP_SCHEMA
        {
            check_columns(old, &root_schema, dependent, plan)?;
        }
    }
    for id in &downstream {
        let Some(dependent) = catalog.relations.get(id).cloned() else { continue };
        if dependent.schema_name == TEMP_SCHEMA {
            continue;
        }
        let (query, materialized) = match &dependent.body {
            Body::View { query, .. } => (query.clone(), false),
            Body::MaterializedView { query, .. } => (query.clone(), true),
            _ => continue,
        };
        let context = PlanContext::of(session).with_catalog(Arc::new(next.clone()));
        let fits = plan_dependent(&before, context, &query, &dependent.schema).await;
        let (planned, picked) = fits.map_err(|e| cannot(old, &dependent, format!("{}.", e.message)))?;
        let planned = match &dependent.meta.emit {
            Some(emit) => super::emit::apply(&next, planned, emit)
                .map_err(|e| cannot(old, &dependent, format!("{}.", e.message)))?,
            None => planned,
        };
        let written = query.clone();
        let query = match picked {
            // The text must keep to the columns it had, too.
            Some(columns) => {
                let quote = |s: &String| format!("\"{}\"", s.replace('"', "\"\""));
                let columns: Vec<String> = columns.iter().map(quote).collect();
                format!("SELECT {} FROM ({query}) AS {}", columns.join(", "), quote(&dependent.name))
            }
            None => query,
        };
        let mut edition = Relation::clone(&dependent);
        if query != written
            && let Some(at) = edition.definition.rfind(written.as_str())
        {
            edition.definition.replace_range(at..at + written.len(), &query);
        }
        edition.inputs = planned.inputs;
        edition.meta.named = planned.named;
        if materialized {
            edition.id = next.allocate();
            edition.schema = planned.plan.schema().clone();
            edition.body = Body::MaterializedView { query, plan: Arc::new(planned.plan) };
            ids.insert(*id, edition.id);
            next.remove(*id);
            change.built.push(Edition { old: *id, new: Arc::new(edition.clone()) });
        } else {
            if let Body::View { query: text, .. } = &mut edition.body {
                *text = query;
            }
            change.texts.push(Arc::new(edition.clone()));
        }
        next.insert(edition);
    }
    change.catalog = next;
    Ok(change)
}

/// The columns a view's plan takes from the one that is replaced must be there still, with their types.
fn check_columns(
    old: &Relation,
    new: &Schema,
    dependent: &Relation,
    plan: &millstream_sql::plan::IncPlan,
) -> Result<()> {
    for node in &plan.nodes {
        let IncOp::Source { relation, projection } = &node.op else { continue };
        if *relation != old.id {
            continue;
        }
        for column in projection {
            let field = old.schema.field(*column);
            let detail = match new.field_with_name(field.name()) {
                Err(_) => format!("It uses column \"{}\", which the new view does not have.", field.name()),
                Ok(f) if !same_type(f, field) => format!(
                    "It uses column \"{}\" of type {}, which is of type {} in the new view.",
                    field.name(),
                    millstream_sql::types::display_name(field.data_type()),
                    millstream_sql::types::display_name(f.data_type())
                ),
                Ok(_) => continue,
            };
            return Err(cannot(old, dependent, detail));
        }
    }
    Ok(())
}

/// The same type in SQL: text may be stored in more than one way.
fn same_type(a: &Field, b: &Field) -> bool {
    let name = |f: &Field| millstream_sql::types::display_name(f.data_type());
    a.data_type() == b.data_type() || name(a) == name(b)
}

/// Names of the columns of a query as it is written.
async fn columns_of(context: &PlanContext, query: &Query, text: &str) -> Result<Vec<Column>> {
    Ok(context.plan(query, text).await?.plan.schema().columns())
}

/// Plans a dependent anew; its columns must come out as they were. `SELECT *` may give more columns than it did, in another
/// order: then those there were are taken by their names, and the second part names them.
async fn plan_dependent(
    before: &PlanContext,
    after: PlanContext,
    query: &str,
    schema: &Schema,
) -> Result<(ViewPlan, Option<Vec<String>>)> {
    let parsed: Box<Query> = millstream_sql::parse::parse_query(query)?;
    let (was, is) = (columns_of(before, &parsed, query).await?, columns_of(&after, &parsed, query).await?);
    let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
    let as_it_was = was.len() == is.len() && was.iter().zip(&is).all(|(a, b)| a.name == b.name);
    let (plan, picked) = if as_it_was {
        (plan_in(after, &parsed, query, &names).await?, None)
    } else {
        let mut keep = Vec::new();
        for (old, name) in was.iter().zip(&names) {
            let mut found = is.iter().filter(|c| c.name == old.name);
            let (Some(now), None) = (found.next(), found.next()) else {
                let message = format!("its column \"{name}\" is not there any more, or not the only one of its name");
                return Err(Error::new(SqlState::UNDEFINED_COLUMN, message));
            };
            keep.push(Expr::Column(now.clone()).alias(name));
        }
        let picked = was.into_iter().map(|c| c.name).collect();
        (super::ddl::plan_projected(after, &parsed, query, keep).await?, Some(picked))
    };
    for (i, f) in schema.fields().iter().enumerate() {
        if !plan.plan.schema().fields().get(i).is_some_and(|n| n.name() == f.name() && same_type(n, f)) {
            let message = format!("its column \"{}\" would change its type", f.name());
            return Err(Error::new(SqlState::DATATYPE_MISMATCH, message));
        }
    }
    Ok((plan, picked))
}

/// Indexes go on over the columns of their names.
fn keep_indexes(old: &Relation, new: &mut Relation) -> Vec<Notice> {
    let mut notices = Vec::new();
    new.meta.indexes.retain_mut(|index| {
        let names: Vec<&str> = index.columns.iter().map(|c| old.schema.field(*c).name().as_str()).collect();
        let columns: Option<Vec<usize>> = names.iter().map(|n| new.schema.index_of(n).ok()).collect();
        match columns {
            Some(columns) => {
                index.columns = columns;
                true
            }
            None => {
                notices.push(notice(format!("index \"{}\" is dropped: a column of it is gone", index.name)));
                false
            }
        }
    });
    notices
}

/// The new editions take the names.
async fn swap(inner: &Arc<EngineInner>, root: &Relation, before: &BTreeSet<RelationId>, change: Change) -> Result<()> {
    let _ddl = inner.ddl.lock().await;
    let now = inner.lock().catalog.clone();
    let hidden: BTreeSet<RelationId> = change.built.iter().map(|e| e.new.id).collect();
    let anonymous = |id: &RelationId| now.relations.get(id).is_some_and(|r| r.schema_name == TEMP_SCHEMA);
    let named = |ids: &BTreeSet<RelationId>| -> BTreeSet<RelationId> {
        ids.iter().filter(|id| !hidden.contains(id) && !anonymous(id)).copied().collect()
    };
    let current = now.downstream(root.id);
    let moved = now.relations.get(&root.id).is_none_or(|r| r.name != root.name);
    let paused = current.iter().any(|id| now.relations.get(id).is_some_and(|r| r.meta.paused != Paused::No));
    if moved || paused || named(&current) != named(before) {
        return Err(Error::new(
            SqlState::OBJECT_NOT_IN_STATE,
            format!("\"{}\" or what depends on it was changed while its replacement was built", root.name),
        )
        .hint("Try again."));
    }
    let mut next = Catalog::clone(&now);
    let mut gone: Vec<RelationId> =
        current.iter().filter(|id| anonymous(id) && !hidden.contains(id)).copied().collect();
    gone.iter().for_each(|id| next.remove(*id));
    for e in &change.built {
        next.remove(e.old);
        gone.push(e.old);
        // Comments may have been made meanwhile.
        let mut new = Relation::clone(&e.new);
        if let Some(old) = now.relations.get(&e.old) {
            new.schema_name = USER_SCHEMA.into();
            new.meta.comment = old.meta.comment.clone();
        }
        next.insert(new);
    }
    for text in change.texts {
        next.insert(Relation::clone(&text));
    }
    persist_catalog(inner, next).await?;
    inner.lock().replaced.extend(gone.iter().copied());
    gone.sort_unstable();
    gone.reverse();
    drop_relations(inner, &gone).await
}

/// Takes back what was built.
struct Undo {
    inner: Arc<EngineInner>,
    ids: Vec<RelationId>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        let (inner, ids) = (self.inner.clone(), std::mem::take(&mut self.ids));
        if ids.is_empty() {
            return;
        }
        self.inner.tasks.spawn(async move {
            for id in ids.into_iter().rev() {
                if let Err(e) = drop_anonymous(&inner, id).await {
                    tracing::warn!("what was built for a replacement could not be removed: {}", e.message);
                }
            }
        });
    }
}
