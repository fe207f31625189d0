//! The one DataFusion session set-up: same functions, rules and options for views and for ad-hoc SELECT, so that
//! both always agree.

mod errors;
mod unsupported;
mod window_tvf;

#[cfg(test)]
mod tests;

use datafusion::config::Dialect;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement as DfStatement;
use sqlparser::ast;

use crate::error::Result;
use crate::functions;

pub use errors::{from_datafusion, from_datafusion_in};

/// The catalog every session starts in.
pub const CATALOG: &str = "millstream";
/// The schema every session starts in.
pub const SCHEMA: &str = "public";

/// A fresh session state with our functions, analyzer and optimizer rules and options. Tables are added by the caller
/// (catalog `millstream`, default schema `public`).
///
/// `target_partitions` matters only for ad-hoc SELECT.
pub fn session_state(target_partitions: usize) -> SessionState {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(true)
        .with_information_schema(true)
        .with_target_partitions(target_partitions.max(1));
    let options = config.options_mut();
    options.sql_parser.dialect = Dialect::PostgreSQL;
    options.sql_parser.enable_ident_normalization = true;
    options.sql_parser.collect_spans = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    // The optimizer may know of a column that it is never NULL where the physical plan does not (unions of constants): the
    // types agree, and nothing here relies on nullability.
    options.execution.skip_physical_aggregate_schema_check = true;
    // A plan may be kept and run again over other data: nothing in it may come from statistics or from a first run.
    options.execution.collect_statistics = false;
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    // An uncorrelated scalar subquery that gives two rows is an error; the rewrite to a join would duplicate rows.
    options.optimizer.enable_physical_uncorrelated_scalar_subquery = true;
    if target_partitions <= 1 {
        options.optimizer.enable_round_robin_repartition = false;
        options.optimizer.repartition_aggregations = false;
        options.optimizer.repartition_joins = false;
        options.optimizer.repartition_sorts = false;
        options.optimizer.repartition_windows = false;
        options.optimizer.repartition_file_scans = false;
    }
    let builder = SessionStateBuilder::new().with_config(config).with_default_features();
    // FilterPushdown goes by column names: a filter over a join whose sides have columns of one name ends up on the wrong
    // one. The logical optimizer has pushed what can be pushed.
    let rules = PhysicalOptimizer::new().rules;
    let mut builder = builder
        .with_physical_optimizer_rules(rules.into_iter().filter(|r| !r.name().starts_with("FilterPushdown")).collect());
    // Later registrations win: ours replace the default ones of the same name.
    builder.aggregate_functions().get_or_insert_default().extend(functions::aggregates());
    builder.scalar_functions().get_or_insert_default().extend(functions::scalars());
    let optimizer = builder.optimizer().get_or_insert_default();
    optimizer.rules = crate::optimize::guarded(std::mem::take(&mut optimizer.rules));
    builder.build()
}

/// The state that plans and runs fragments of views: one partition, no repartitioning.
pub fn session_state_for_views() -> SessionState {
    session_state(1)
}

/// Plans a query (not yet optimised): rewrites window table functions, resolves names, checks limits.
/// `text` is the statement's text, for positions in errors.
pub async fn plan_query(state: &SessionState, query: &ast::Query, text: &str) -> Result<LogicalPlan> {
    let mut query = query.clone();
    window_tvf::rewrite(&mut query, text)?;
    unsupported::check_syntax(&query)?;
    let statement = DfStatement::Statement(Box::new(ast::Statement::Query(Box::new(query))));
    let plan = state.statement_to_plan(statement).await.map_err(|e| from_datafusion_in(e, text, &names(state)))?;
    unsupported::check_plan(&plan)?;
    Ok(plan)
}

/// Names of relations a user could have meant.
fn names(state: &SessionState) -> Vec<String> {
    let catalogs = state.catalog_list();
    let Some(catalog) = catalogs.catalog(CATALOG) else { return Vec::new() };
    let mut names = Vec::new();
    for schema in catalog.schema_names() {
        if let Some(provider) = catalog.schema(&schema) {
            let qualify = |t: String| if schema == SCHEMA { t } else { format!("{schema}.{t}") };
            names.extend(provider.table_names().into_iter().map(qualify));
        }
    }
    names
}
