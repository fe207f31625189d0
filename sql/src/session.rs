//! The one DataFusion session set-up: same functions, rules and options for views and for ad-hoc SELECT, so that
//! both always agree.

mod agree;
pub(crate) mod data_errors;
mod errors;
mod frames;
mod json_table;
mod names;
mod numbers;
mod operators;
mod order;
mod planner;
mod recursion;
mod rewrite;
mod rows;
mod syntax;
mod system_time;
mod ties;
mod unnested;
mod unsupported;
mod using;
mod window_tvf;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::config::Dialect;
use datafusion::error::Result as DfResult;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::optimizer::analyzer::function_rewrite::ApplyFunctionRewrites;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion::optimizer::{Analyzer, AnalyzerRule};
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement as DfStatement;
use sqlparser::ast;

use crate::asof;
use crate::decorrelate::Decorrelate;
use crate::error::{Result, SqlState};
use crate::functions;
use crate::functions::cast::CastRewrite;
use crate::matching::MatchRelations;
use crate::optimize;

use names::Clashes;

pub use data_errors::from_arrow;
pub use errors::{from_datafusion, from_datafusion_in};
pub use names::{visible, visible_schema};
pub use numbers::plan_expression;
pub use system_time::{VersionTime, VersionTimes, has_proctime, is_proctime};

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
    options.sql_parser.parse_float_as_decimal = true;
    // The optimizer may know of a column that it is never NULL where the physical plan does not (unions of constants): the
    // types agree, and nothing here relies on nullability.
    options.execution.skip_physical_aggregate_schema_check = true;
    // A plan may be kept and run again over other data: nothing in it may come from statistics or from a first run.
    options.execution.collect_statistics = false;
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    // It would choose among groups that tie by which came first.
    options.optimizer.enable_topk_aggregation = false;
    if target_partitions <= 1 {
        options.optimizer.enable_round_robin_repartition = false;
        options.optimizer.repartition_aggregations = false;
        options.optimizer.repartition_joins = false;
        options.optimizer.repartition_sorts = false;
        options.optimizer.repartition_windows = false;
        options.optimizer.repartition_file_scans = false;
    }
    // Before the default ones: `@>` of text is JSON, of arrays it is theirs.
    let planners: Vec<Arc<dyn ExprPlanner>> = vec![Arc::new(functions::json::JsonPlanner::new())];
    let builder = SessionStateBuilder::new()
        .with_config(config)
        .with_expr_planners(planners)
        .with_relation_planners(vec![Arc::new(MatchRelations)])
        .with_query_planner(Arc::new(planner::Planner))
        .with_default_features()
        .with_analyzer_rules(analyzer_rules())
        .with_optimizer_rules(optimize::batch_rules());
    // FilterPushdown goes by column names: a filter over a join whose sides have columns of one name ends up on the wrong
    // one. The logical optimizer has pushed what can be pushed.
    let rules = PhysicalOptimizer::new().rules;
    let rules = rules.into_iter().filter(|r| !r.name().starts_with("FilterPushdown")).collect();
    let mut builder = builder
        .with_physical_optimizer_rules(optimize::physical_rules(rules))
        .with_type_planner(Arc::new(numbers::TypesOfTime));
    let planners = builder.expr_planners().get_or_insert_default();
    planners.insert(1, Arc::new(operators::Operators));
    planners.insert(2, Arc::new(numbers::NumberOperators));
    functions::replace_defaults(&mut builder);
    let mut state = builder.build();
    register_rewrites(&mut state);
    state
}

/// DataFusion's analysis with our rules between.
fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = Vec::new();
    for rule in Analyzer::new().rules {
        if rule.name() == "type_coercion" {
            rules.push(Arc::new(numbers::MixedColumns));
        }
        rules.push(rule);
    }
    // Casts that coercion has added.
    rules.push(Arc::new(ApplyFunctionRewrites::new(vec![Arc::new(CastRewrite)])));
    rules.push(Arc::new(asof::FindAsOf));
    rules.push(Arc::new(Decorrelate));
    rules.push(Arc::new(optimize::FirstOfEach));
    rules.push(Arc::new(optimize::FloatKeys));
    rules.push(Arc::new(optimize::TotalOrder));
    rules
}

/// The plan with the types that its analysis will give it, for planners that must know them before. Subqueries stay.
pub(crate) fn coerced(plan: LogicalPlan, options: &ConfigOptions) -> DfResult<LogicalPlan> {
    let rules: [Arc<dyn AnalyzerRule + Send + Sync>; 4] = [
        Arc::new(ApplyFunctionRewrites::new(vec![Arc::new(numbers::NumberRewrite), Arc::new(CastRewrite)])),
        Arc::new(numbers::MixedColumns),
        Arc::new(TypeCoercion::new()),
        Arc::new(ApplyFunctionRewrites::new(vec![Arc::new(CastRewrite)])),
    ];
    rules.iter().try_fold(plan, |plan, rule| rule.analyze(plan, options))
}

fn register_rewrites(state: &mut SessionState) {
    use datafusion::logical_expr::registry::FunctionRegistry as _;
    let numbers = state.register_function_rewrite(Arc::new(numbers::NumberRewrite));
    let casts = state.register_function_rewrite(Arc::new(CastRewrite));
    debug_assert!(numbers.is_ok() && casts.is_ok(), "a session state takes rewrites");
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
    system_time::rewrite(&mut query, state, text).await?;
    unsupported::check_syntax(&query)?;
    let casts = recursion::check(&mut query, state, text)?;
    // Names are those of the text: they are given before it is rewritten.
    let mut named = query.clone();
    let beside_wildcards = names::assign(&mut named, Clashes::Written);
    let plan = match plan_named(state, named, text).await {
        Err(e) if beside_wildcards && matches!(e.code, SqlState::DUPLICATE_COLUMN | SqlState::AMBIGUOUS_COLUMN) => {
            names::assign(&mut query, Clashes::BesideWildcards);
            plan_named(state, query, text).await.map_err(|_| e)
        }
        done => done,
    }?;
    recursion::check_types(&plan, &casts)?;
    Ok(plan)
}

async fn plan_named(state: &SessionState, mut query: ast::Query, text: &str) -> Result<LogicalPlan> {
    using::rewrite(&mut query)?;
    order::rewrite(&mut query)?;
    json_table::rewrite(&mut query)?;
    ties::rewrite(&mut query)?;
    frames::rewrite(&mut query)?;
    rows::rewrite(&mut query)?;
    rewrite::rewrite(&mut query)?;
    syntax::expressions(&mut query)?;
    unnested::rewrite(&mut query)?;
    let statement = DfStatement::Statement(Box::new(ast::Statement::Query(Box::new(query))));
    let plan = state.statement_to_plan(statement).await;
    let plan = plan.map_err(|e| from_datafusion_in(e, text, &relation_names(state)))?;
    window_tvf::check_gaps(&plan)?;
    system_time::check(&plan, text)?;
    Ok(plan)
}

/// Names of relations a user could have meant.
fn relation_names(state: &SessionState) -> Vec<String> {
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
