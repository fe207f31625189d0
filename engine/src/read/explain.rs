//! EXPLAIN: how a query would be maintained, or run.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_sql::plan::explain as explain_plan;
use millstream_sql::statement::{ExplainMode, ObjectName, Statement};

use super::provider::{Bindings, plan_text};
use super::query::{PlanContext, deep};
use super::show::text_table;
use crate::api::Session;
use crate::catalog::Body;
use crate::error::{Error, Result, ResultExt as _, SqlState};

/// The one column of every EXPLAIN.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("QUERY PLAN", DataType::Utf8View, true)]))
}

pub(crate) async fn explain(
    session: &mut Session,
    mode: ExplainMode,
    statement: &Statement,
    target: Option<&ObjectName>,
    text: &str,
) -> Result<RecordBatch> {
    let lines = match target {
        Some(name) => explain_view(session, mode, name).await?,
        None => {
            let query = match statement {
                Statement::Query(q) => q.clone(),
                Statement::CreateView(c) => c.query.clone(),
                _ => return Err(Error::unsupported("EXPLAIN of this statement").hint("EXPLAIN a query or a view.")),
            };
            match mode {
                ExplainMode::Incremental | ExplainMode::State => {
                    let view = match statement {
                        Statement::CreateView(c) => super::ddl::plan_created(session, c, text).await?,
                        _ => super::ddl::plan_view(session, &query, text, &[]).await?,
                    };
                    let mut lines = incremental(session, &view.plan, mode);
                    if matches!(statement, Statement::Query(_)) {
                        // A query that cannot run now, because a view it reads has errors, say, can be explained.
                        lines.extend(super::index::explain(session, &query, text).await.unwrap_or_default());
                    }
                    lines
                }
                ExplainMode::Logical => {
                    let planned = PlanContext::of(session).plan(&query, text).await?;
                    let plan = planned.state.optimize(&planned.plan).e()?;
                    plan.display_indent().to_string().lines().map(str::to_owned).collect()
                }
                ExplainMode::Physical => {
                    let planned = PlanContext::of(session).plan(&query, text).await?;
                    physical(session, planned).await?
                }
                ExplainMode::Analyze => analyze(session, &query, text).await?,
                ExplainMode::Stall => {
                    return Err(
                        Error::unsupported("EXPLAIN STALL of a query").hint("EXPLAIN STALL v, of a materialized view.")
                    );
                }
            }
        }
    };
    text_table(&["QUERY PLAN"], lines.into_iter().map(|l| vec![Some(l)]).collect())
}

fn incremental(session: &Session, plan: &millstream_sql::plan::IncPlan, mode: ExplainMode) -> Vec<String> {
    let catalog = session.engine.inner.lock().catalog.clone();
    let name = |id| catalog.relations.get(&id).map_or_else(|| format!("#{}", id.0), |r| r.display_name());
    if mode == ExplainMode::State {
        let mut lines = super::limits::with_inputs(&catalog, |inputs| explain_plan::explain_state(plan, &name, inputs));
        for (index, views) in crate::coord::shared_by(&catalog, plan) {
            let Some(r) = catalog.relations.get(&index.relation) else { continue };
            let columns: Vec<&str> = index.columns.iter().map(|c| r.schema.field(*c).name().as_str()).collect();
            let views = match views {
                0 => String::new(),
                1 => ", of 1 view".to_owned(),
                n => format!(", of {n} views"),
            };
            lines.push(format!("Shared index of {} ({}){views}", r.display_name(), columns.join(", ")));
        }
        return lines;
    }
    explain_plan::explain(plan, &name, false)
}

async fn explain_view(session: &mut Session, mode: ExplainMode, name: &ObjectName) -> Result<Vec<String>> {
    let relation = session.engine.inner.lock().catalog.get(name)?.clone();
    match &relation.body {
        Body::MaterializedView { .. } if mode == ExplainMode::Stall => {
            Ok(crate::coord::explain_stall(&session.engine.inner, &relation))
        }
        _ if mode == ExplainMode::Stall => {
            Err(Error::new(SqlState::WRONG_OBJECT_TYPE, format!("\"{name}\" is not a materialized view")))
        }
        // The plan that runs, not the one the same text would get today.
        Body::MaterializedView { plan, .. } => Ok(incremental(session, plan, mode)),
        Body::View { query, .. } => {
            let (context, query) = (PlanContext::of(session), query.clone());
            deep(async move {
                let state = context.state(&Arc::new(Bindings::default()))?;
                let plan = plan_text(&state, &query).await?;
                Ok::<_, Error>(plan.display_indent().to_string().lines().map(str::to_owned).collect())
            })
            .await?
        }
        _ => Err(Error::new(SqlState::WRONG_OBJECT_TYPE, format!("\"{name}\" is not a view"))),
    }
}

async fn physical(session: &mut Session, planned: super::query::Planned) -> Result<Vec<String>> {
    let (plan, _) = super::query::physical_plan(session, planned, &[]).await?;
    let shown = datafusion::physical_plan::displayable(plan.as_ref()).indent(true).to_string();
    Ok(shown.lines().map(str::to_owned).collect())
}

async fn analyze(session: &mut Session, query: &super::query::sqlparser_ast::Query, text: &str) -> Result<Vec<String>> {
    use futures::TryStreamExt as _;
    let planned = PlanContext::of(session).plan(query, text).await?;
    let (plan, state) = super::query::physical_plan(session, planned, &[]).await?;
    let started = std::time::Instant::now();
    let batches: Vec<RecordBatch> =
        datafusion::physical_plan::execute_stream(plan.clone(), state.task_ctx()).e()?.try_collect().await.e()?;
    let elapsed = started.elapsed();
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let shown = datafusion::physical_plan::display::DisplayableExecutionPlan::with_metrics(plan.as_ref());
    let mut lines: Vec<String> = shown.indent(true).to_string().lines().map(str::to_owned).collect();
    lines.push(format!("Rows: {rows}"));
    lines.push(format!("Execution Time: {:.3} ms", elapsed.as_secs_f64() * 1e3));
    Ok(lines)
}
