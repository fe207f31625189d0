//! ALTER and COMMENT: changes of the catalog, some of which change what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_sql::parse::{rename_definition, rename_in_query};
use millstream_sql::plan::RelationId;
use millstream_sql::statement::{AlterAction, CommentTarget, ObjectKind, ObjectName};

use super::ddl::{plan_in, schema_name};
use super::query::PlanContext;
use super::{command, command_with, notice};
use crate::api::{Notice, Outcome, Session};
use crate::catalog::{Body, Catalog, Paused, Relation};
use crate::coord::{altered, open_checked, pause_views, persist_catalog, resume_views};
use crate::error::{Error, Result, SqlState};

/// The relation a statement names, if it is of the kind it says.
fn target(catalog: &Catalog, kind: ObjectKind, name: &ObjectName, verb: &str) -> Result<Arc<Relation>> {
    let relation = catalog.get(name)?;
    schema_name(&ObjectName { schema: Some(relation.schema_name.clone()), name: relation.name.clone() })?;
    if relation.kind() != kind {
        let article = if kind == ObjectKind::MaterializedView { "a materialized view" } else { kind.noun() };
        return Err(super::wrong_kind(&relation.name, relation.kind().noun(), article)
            .hint(format!("Use {verb} {}.", relation.kind().noun().to_uppercase())));
    }
    Ok(relation.clone())
}

/// ALTER of a relation.
pub(crate) async fn alter(
    session: &mut Session,
    kind: ObjectKind,
    if_exists: bool,
    name: &ObjectName,
    action: &AlterAction,
) -> Result<Outcome> {
    let inner = session.engine.inner.clone();
    let tag = format!("ALTER {}", kind.noun().to_uppercase());
    let ddl = inner.ddl.lock().await;
    let catalog = inner.lock().catalog.clone();
    if if_exists && catalog.get(name).is_err() {
        return Ok(command_with(tag, vec![notice(format!("relation \"{name}\" does not exist, skipping"))]));
    }
    let relation = target(&catalog, kind, name, "ALTER")?;
    let notices = match action {
        AlterAction::RenameTo(new) => {
            if catalog.taken(new) {
                return Err(Error::new(SqlState::DUPLICATE_TABLE, format!("relation \"{new}\" already exists")));
            }
            let next = renamed(session, &catalog, &[(relation.id, new.clone())]).await?;
            persist_catalog(&inner, next).await?;
            Vec::new()
        }
        AlterAction::SwapWith(other) => {
            let other = target(&catalog, kind, other, "ALTER")?;
            if other.id == relation.id {
                return Err(Error::new(SqlState::INVALID_PARAMETER_VALUE, "a relation cannot be swapped with itself"));
            }
            let names = [(relation.id, other.name.clone()), (other.id, relation.name.clone())];
            let next = renamed(session, &catalog, &names).await?;
            persist_catalog(&inner, next).await?;
            Vec::new()
        }
        AlterAction::OwnerTo(role) => {
            vec![notice(format!("there are no roles: the owner stays what it is, not \"{role}\""))]
        }
        AlterAction::Set(options) => {
            let set: Vec<(String, String)> = options.clone().into_iter().collect();
            set_options(session, &catalog, &relation, &set, &[]).await?
        }
        AlterAction::Reset(keys) => set_options(session, &catalog, &relation, &[], keys).await?,
        AlterAction::Pause | AlterAction::Resume => {
            let pause = *action == AlterAction::Pause;
            match &relation.body {
                Body::MaterializedView { .. } => {
                    // It happens whether or not the client waits for it.
                    let task = inner.clone();
                    drop(ddl);
                    let work = inner.tasks.spawn(async move {
                        let _ddl = task.ddl.lock().await;
                        if pause { pause_view(&task, relation.id).await } else { resume_view(&task, relation.id).await }
                    });
                    work.await.map_err(|e| Error::internal(format!("the change died: {e}")))??
                }
                Body::Connector { .. } => {
                    let paused = relation.meta.paused != Paused::No;
                    if paused == pause {
                        vec![notice(format!("stream \"{}\" is {} already", relation.name, state(pause)))]
                    } else {
                        let mut next = Catalog::clone(&catalog);
                        next.update(relation.id, |r| r.meta.paused = if pause { Paused::Yes } else { Paused::No });
                        persist_catalog(&inner, next).await?;
                        inner.restart_source(&mut inner.lock(), relation.id);
                        Vec::new()
                    }
                }
                _ => {
                    let what = if pause { "paused" } else { "resumed" };
                    return Err(Error::new(
                        SqlState::WRONG_OBJECT_TYPE,
                        format!("{} \"{}\" cannot be {what}: nothing runs for it", kind.noun(), relation.name),
                    )
                    .hint("Materialized views and streams over a connector can."));
                }
            }
        }
    };
    Ok(command_with(tag, notices))
}

fn state(paused: bool) -> &'static str {
    if paused { "paused" } else { "running" }
}

/// The catalog with other names for some relations. Stored queries follow, and must still mean the same.
async fn renamed(session: &Session, catalog: &Catalog, names: &[(RelationId, String)]) -> Result<Catalog> {
    let mut next = Catalog::clone(catalog);
    let mut renames: BTreeMap<String, String> = BTreeMap::new();
    for (id, new) in names {
        let Some(r) = catalog.relations.get(id) else { continue };
        renames.insert(r.name.clone(), new.clone());
        let definition = rename_definition(&r.definition, new)?;
        next.update(*id, |r| {
            r.name = new.clone();
            r.definition = definition;
        });
    }
    let readers: BTreeSet<RelationId> =
        names.iter().flat_map(|(id, _)| catalog.dependents(*id)).map(|d| d.id).collect();
    for id in &readers {
        let Some(r) = catalog.relations.get(id) else { continue };
        let (Body::View { query, .. } | Body::MaterializedView { query, .. }) = &r.body else { continue };
        if r.schema_name == crate::catalog::TEMP_SCHEMA {
            continue;
        }
        let new = rename_in_query(query, &renames).map_err(|e| cannot_rename(r, &e))?;
        next.update(*id, |r| {
            // The query is the end of its statement, but for EMIT.
            if let Some(at) = r.definition.rfind(query.as_str()) {
                r.definition.replace_range(at..at + query.len(), &new);
            }
            if let Body::View { query, .. } | Body::MaterializedView { query, .. } = &mut r.body {
                *query = new;
            }
        });
    }
    // A plain view is its text: it must plan to the same columns over the same relations.
    let next = Arc::new(next);
    for id in readers {
        let (Some(old), Some(new)) = (catalog.relations.get(&id), next.relations.get(&id)) else { continue };
        let Body::View { query, columns } = &new.body else { continue };
        let context = PlanContext::of(session).with_catalog(next.clone());
        let parsed = millstream_sql::parse::parse_query(query)?;
        let planned = plan_in(context, &parsed, query, columns).await.map_err(|e| cannot_rename(old, &e))?;
        if planned.plan.schema().fields() != old.schema.fields() || planned.named != old.meta.named {
            return Err(cannot_rename(old, &Error::internal("it would read something else")));
        }
    }
    Ok(Catalog::clone(&next))
}

fn cannot_rename(view: &Relation, e: &Error) -> Error {
    Error::new(
        SqlState::DEPENDENT_OBJECTS,
        format!("{} \"{}\" cannot follow the new name: {}", view.kind().noun(), view.name, e.message),
    )
    .hint(format!("Drop \"{}\" and create it again after the change.", view.name))
}

/// SET and RESET of options of a stream.
async fn set_options(
    session: &Session,
    catalog: &Catalog,
    relation: &Relation,
    set: &[(String, String)],
    reset: &[String],
) -> Result<Vec<Notice>> {
    let inner = &session.engine.inner;
    let options = altered(relation, set, reset)?;
    let mut next = Catalog::clone(catalog);
    next.update(relation.id, |r| {
        if let Body::Connector { options: old, .. } = &mut r.body {
            *old = options;
        }
        r.definition = with_options(r);
    });
    if let Some(changed) = next.relations.get(&relation.id) {
        // Wrong options are found now, not by the readers.
        open_checked(inner, changed).await?;
    }
    persist_catalog(inner, next).await?;
    inner.restart_source(&mut inner.lock(), relation.id);
    Ok(Vec::new())
}

/// The statement that would make the stream as it is after ALTER .. SET.
fn with_options(r: &Relation) -> String {
    let Body::Connector { options, generated, metadata, .. } = &r.body else { return r.definition.clone() };
    let quote = |s: &str| format!("\"{}\"", s.replace('"', "\"\""));
    let columns: Vec<String> = r
        .schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, f)| {
            let name = quote(f.name());
            let t = millstream_sql::types::display_name(f.data_type());
            let rest = if let Some(g) = generated.iter().find(|g| g.name == *f.name()) {
                format!(" AS ({})", g.expr)
            } else if let Some((_, key)) = metadata.iter().find(|(n, _)| n == f.name()) {
                format!(" METADATA FROM '{key}'")
            } else if r.primary_key.contains(&i) || f.is_nullable() {
                String::new()
            } else {
                " NOT NULL".to_owned()
            };
            format!("{name} {t}{rest}")
        })
        .collect();
    let key: Vec<String> = r.primary_key.iter().map(|i| quote(r.schema.field(*i).name())).collect();
    let key = if key.is_empty() { String::new() } else { format!(", PRIMARY KEY ({})", key.join(", ")) };
    let options: Vec<String> = options.iter().map(|(k, v)| format!("{k} = '{}'", v.replace('\'', "''"))).collect();
    format!("CREATE STREAM {} ({}{key}) WITH ({})", quote(&r.name), columns.join(", "), options.join(", "))
}

type Inner = Arc<crate::coord::EngineInner>;

/// PAUSE: the view and all that read it.
async fn pause_view(inner: &Inner, id: RelationId) -> Result<Vec<Notice>> {
    let catalog = inner.lock().catalog.clone();
    let Some(relation) = catalog.relations.get(&id) else {
        return Err(Error::new(SqlState::UNDEFINED_TABLE, "the view was dropped"));
    };
    let mut next = Catalog::clone(&catalog);
    if relation.meta.paused != Paused::No {
        // Said of a view that stands still because of another, it stays when that one goes on.
        next.update(id, |r| r.meta.paused = Paused::Yes);
        persist_catalog(inner, next).await?;
        return Ok(vec![notice(format!("materialized view \"{}\" is paused already", relation.name))]);
    }
    let mut views = BTreeSet::from([id]);
    next.update(id, |r| r.meta.paused = Paused::Yes);
    let mut notices = Vec::new();
    for d in catalog.downstream(id) {
        let Some(r) = catalog.relations.get(&d) else { continue };
        if matches!(r.body, Body::MaterializedView { .. }) && r.meta.paused == Paused::No {
            // A subscription to a query simply hears nothing new.
            views.insert(d);
            next.update(d, |r| r.meta.paused = Paused::WithInput);
            if r.schema_name != crate::catalog::TEMP_SCHEMA {
                notices.push(notice(format!("materialized view \"{}\", which reads it, is paused too", r.name)));
            }
        }
    }
    pause_views(inner, &views, next).await?;
    Ok(notices)
}

/// RESUME: the view, and those that stand still because of it.
async fn resume_view(inner: &Inner, id: RelationId) -> Result<Vec<Notice>> {
    let catalog = inner.lock().catalog.clone();
    let Some(relation) = catalog.relations.get(&id) else {
        return Err(Error::new(SqlState::UNDEFINED_TABLE, "the view was dropped"));
    };
    let stopped = |id: &RelationId| inner.lock().relations.get(id).is_some_and(|r| r.quarantined.is_some() || r.paused);
    if relation.meta.paused == Paused::No && !stopped(&id) {
        return Ok(vec![notice(format!("materialized view \"{}\" is running already", relation.name))]);
    }
    let stands = |id: &RelationId| {
        catalog.relations.get(id).is_some_and(|r| {
            matches!(r.body, Body::MaterializedView { .. }) && (r.meta.paused != Paused::No || stopped(id))
        })
    };
    if let Some(input) = relation.inputs.iter().find(|i| stands(i)) {
        let name = catalog.relations.get(input).map_or_else(String::new, |r| r.name.clone());
        return Err(Error::new(
            SqlState::OBJECT_NOT_IN_STATE,
            format!("materialized view \"{}\" reads \"{name}\", which is paused or quarantined", relation.name),
        )
        .hint(format!("ALTER MATERIALIZED VIEW {name} RESUME first.")));
    }
    let mut next = Catalog::clone(&catalog);
    let mut views = vec![id];
    next.update(id, |r| r.meta.paused = Paused::No);
    // Ids grow from upstream to downstream.
    for d in catalog.downstream(id) {
        let Some(r) = catalog.relations.get(&d) else { continue };
        let waits = r.meta.paused == Paused::WithInput || (r.meta.paused == Paused::No && stopped(&d));
        let free = r.inputs.iter().all(|i| views.contains(i) || !stands(i));
        if matches!(r.body, Body::MaterializedView { .. }) && waits && free {
            views.push(d);
            next.update(d, |r| r.meta.paused = Paused::No);
        }
    }
    persist_catalog(inner, next).await?;
    resume_views(inner, &views).await?;
    Ok(Vec::new())
}

/// COMMENT ON.
pub(crate) async fn comment(session: &mut Session, of: &CommentTarget, text: Option<&str>) -> Result<Outcome> {
    let inner = session.engine.inner.clone();
    let _ddl = inner.ddl.lock().await;
    let mut next = Catalog::clone(&inner.lock().catalog);
    let text = text.map(str::to_owned);
    match of {
        CommentTarget::Relation(kind, name) => {
            let relation = target(&next, *kind, name, "COMMENT ON")?;
            next.update(relation.id, |r| r.meta.comment = text);
        }
        CommentTarget::Column(name, column) => {
            let relation = next.get(name)?.clone();
            schema_name(&ObjectName { schema: Some(relation.schema_name.clone()), name: relation.name.clone() })?;
            if relation.schema.field_with_name(column).is_err() {
                return Err(Error::new(
                    SqlState::UNDEFINED_COLUMN,
                    format!("column \"{column}\" of relation \"{}\" does not exist", relation.name),
                ));
            }
            next.update(relation.id, |r| match text {
                Some(t) => drop(r.meta.column_comments.insert(column.clone(), t)),
                None => drop(r.meta.column_comments.remove(column)),
            });
        }
    }
    persist_catalog(&inner, next).await?;
    Ok(command("COMMENT"))
}
