//! MATCH_RECOGNIZE in FROM to a [`MatchNode`].

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::{Column, DFSchema, Diagnostic, Span, TableReference};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::logical_plan::Aggregate;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use sqlparser::ast::{self, MatchRecognizePattern, MatchRecognizeSymbol, Spanned, TableFactor};

use super::bind::{Binder, Clause};
use super::clauses::{Clauses, RowsPerMatch};
use super::{MatchNode, OutputColumn, Shape, Slot, Within, internal, slot_schema};
use crate::error::{SqlError, SqlState};
use crate::plan::SortColumn;
use crate::session::coerced;

/// See the module.
#[derive(Debug)]
pub struct MatchRelations;

/// The table of slots.
const SLOTS: &str = "__match";

impl RelationPlanner for MatchRelations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let TableFactor::MatchRecognize { table, partition_by, order_by, measures, pattern, symbols, alias, .. } =
            relation
        else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let clauses = read_clauses(&pattern)?;
        let input = context.plan(*table)?;
        let plan = Planning { context, clauses, input }.plan(partition_by, order_by, measures, symbols)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// What [`super::clauses::take`] left in the pattern.
fn read_clauses(pattern: &MatchRecognizePattern) -> Result<Clauses> {
    let text = match pattern {
        MatchRecognizePattern::Symbol(MatchRecognizeSymbol::Named(name)) => &name.value,
        _ => return Err(internal("a pattern that was not read")),
    };
    serde_json::from_str(text).map_err(|e| internal(format!("a pattern that was not read: {e}")))
}

/// An error at a place of the text.
pub(super) fn located(e: SqlError, span: sqlparser::tokenizer::Span) -> DataFusionError {
    let diagnostic = Diagnostic::new_error(e.message.clone(), Span::try_from_sqlparser_span(span));
    DataFusionError::External(Box::new(e)).with_diagnostic(diagnostic)
}

pub(super) fn user(e: SqlError) -> DataFusionError {
    DataFusionError::External(Box::new(e))
}

struct Planning<'a> {
    context: &'a mut dyn RelationPlannerContext,
    clauses: Clauses,
    input: LogicalPlan,
}

impl Planning<'_> {
    fn plan(
        self,
        partition_by: Vec<ast::Expr>,
        order_by: Vec<ast::OrderByExpr>,
        measures: Vec<ast::Measure>,
        symbols: Vec<ast::SymbolDefinition>,
    ) -> Result<LogicalPlan> {
        let Self { context, clauses, input } = self;
        let width = input.schema().fields().len();
        let mut binder = Binder::new(context, &clauses, &input);
        let partition = partition_by.into_iter().map(|e| binder.partition_column(e)).collect::<Result<Vec<_>>>()?;
        let order = order_by.into_iter().map(|o| binder.order_column(o)).collect::<Result<Vec<SortColumn>>>()?;
        binder.order.clone_from(&order);

        let mut defined: Vec<(u32, ast::Expr, sqlparser::tokenizer::Span)> = Vec::new();
        for s in symbols {
            let name = super::bind::folded(&s.symbol);
            let Some(v) = clauses.variables.iter().position(|v| *v == name) else {
                let subset = clauses.subsets.iter().any(|s| s.0 == name);
                let message = match subset {
                    true => format!("subset \"{name}\" cannot have a condition of its own"),
                    false => format!("DEFINE names \"{name}\", which is not a variable of the pattern"),
                };
                return Err(located(SqlError::new(SqlState::UNDEFINED_OBJECT, message), s.symbol.span));
            };
            if defined.iter().any(|d| d.0 == v as u32) {
                let message = format!("variable \"{name}\" is defined twice");
                return Err(located(SqlError::new(SqlState::DUPLICATE_COLUMN, message), s.symbol.span));
            }
            let span = s.definition.span();
            let condition = binder.outer(s.definition, Clause::Define)?;
            defined.push((v as u32, condition, span));
        }
        defined.sort_by_key(|d| d.0);
        let measured: Vec<(ast::Expr, String)> = measures
            .into_iter()
            .map(|m| {
                let name = binder.context.normalize_ident(m.alias);
                Ok((binder.outer(m.expr, Clause::Measures)?, name))
            })
            .collect::<Result<_>>()?;
        if measured.is_empty() && partition.is_empty() && clauses.rows == RowsPerMatch::One {
            let message = "MATCH_RECOGNIZE would give rows without columns";
            return Err(user(SqlError::new(SqlState::SYNTAX_ERROR, message).hint("Add MEASURES or PARTITION BY.")));
        }

        // The relation with computed columns, and what its types will be.
        let Binder { computed, calls, slots, context, .. } = binder;
        let mut columns: Vec<Expr> = (0..width)
            .map(|i| Expr::Column(Column::from(input.schema().qualified_field(i))).alias(format!("c{i}")))
            .collect();
        columns.extend(computed.into_iter().enumerate().map(|(i, e)| e.alias(format!("c{}", width + i))));
        let input_names: Vec<String> = input.schema().fields().iter().map(|f| f.name().clone()).collect();
        let relation = LogicalPlanBuilder::from(input.clone()).project(columns)?.build()?;
        let options = context.context_provider().options().clone();
        let typed = coerced(relation.clone(), &options)?;
        let call_types = types_of_calls(&calls, &typed, &options)?;
        let types: Vec<DataType> = slots
            .iter()
            .map(|s| match s {
                Slot::Value { column, .. } => Ok(typed.schema().field(*column).data_type().clone()),
                Slot::Classifier { .. } => Ok(DataType::Utf8),
                Slot::Number => Ok(DataType::Int64),
                Slot::Aggregate { call, .. } => {
                    call_types.get(*call).cloned().ok_or_else(|| internal("an aggregate without a type"))
                }
            })
            .collect::<Result<_>>()?;

        // Conditions, then measures, over slots.
        let source = provider_as_source(Arc::new(EmptyTable::new(slot_schema(&types))));
        let scan = LogicalPlanBuilder::scan(TableReference::bare(SLOTS), source, None)?.build()?;
        let mut exprs = Vec::with_capacity(defined.len() + measured.len());
        for (i, (_, condition, _)) in defined.iter().enumerate() {
            exprs.push(plain(context.sql_to_expr(condition.clone(), scan.schema())?)?.alias(format!("d{i}")));
        }
        for (i, (measure, _)) in measured.iter().enumerate() {
            exprs.push(plain(context.sql_to_expr(measure.clone(), scan.schema())?)?.alias(format!("m{i}")));
        }
        let outer = LogicalPlanBuilder::from(scan).project(exprs)?.build()?;
        let typed_outer = coerced(outer.clone(), &options)?;
        for ((v, _, span), field) in defined.iter().zip(typed_outer.schema().fields()) {
            if !matches!(field.data_type(), DataType::Boolean | DataType::Null) {
                let name = clauses.shown.get(*v as usize).cloned().unwrap_or_default();
                let message = format!("the condition of {name} must be boolean, not {}", type_name(field.data_type()));
                return Err(located(SqlError::new(SqlState::DATATYPE_MISMATCH, message), *span));
            }
        }
        let measures: Vec<(String, DataType)> = measured
            .into_iter()
            .zip(typed_outer.schema().fields().iter().skip(defined.len()))
            .map(|((_, name), f)| (name, f.data_type().clone()))
            .collect();

        let within = within(&clauses, &order, typed.schema())?;
        sortable(&typed, width)?;
        let shape = Shape {
            width,
            output: output_columns(clauses.rows, width, &partition, &order, measures.len()),
            partition,
            order,
            variables: clauses.shown,
            pattern: clauses.pattern,
            rows: clauses.rows,
            skip: clauses.skip,
            within,
            slots,
            defined: defined.iter().map(|d| d.0).collect(),
        };
        super::program::Program::new(&shape.pattern).map_err(user)?;
        let schema = MatchNode::output_schema(&shape, typed.schema(), &input_names, &measures)?;
        let node = MatchNode { input: Arc::new(relation), outer: Arc::new(outer), calls, types, shape, schema };
        Ok(node.into_plan())
    }
}

/// ONE ROW: partition and measures. ALL ROWS: partition, order, measures, and the other columns.
fn output_columns(
    rows: RowsPerMatch,
    width: usize,
    partition: &[usize],
    order: &[SortColumn],
    measures: usize,
) -> Vec<OutputColumn> {
    let mut first: Vec<usize> = Vec::new();
    let ordered = order.iter().map(|o| o.column).filter(|c| *c < width && rows != RowsPerMatch::One);
    for c in partition.iter().copied().chain(ordered) {
        if !first.contains(&c) {
            first.push(c);
        }
    }
    let rest = (0..width).filter(|c| rows != RowsPerMatch::One && !first.contains(c)).collect::<Vec<_>>();
    let columns = first.into_iter().map(OutputColumn::Column).chain((0..measures).map(OutputColumn::Measure));
    columns.chain(rest.into_iter().map(OutputColumn::Column)).collect()
}

/// Expressions over slots read nothing else.
fn plain(e: Expr) -> Result<Expr> {
    if e.contains_outer() {
        return Err(user(
            SqlError::unsupported("MATCH_RECOGNIZE cannot read columns of an outer query")
                .hint("Join the outer query with the result of MATCH_RECOGNIZE."),
        ));
    }
    Ok(e)
}

fn types_of_calls(
    calls: &[Expr],
    input: &LogicalPlan,
    options: &datafusion::common::config::ConfigOptions,
) -> Result<Vec<DataType>> {
    let mut types = Vec::with_capacity(calls.len());
    // One by one: equal calls of one aggregate would be columns of one name.
    for call in calls {
        let one = Aggregate::try_new(Arc::new(input.clone()), Vec::new(), vec![call.clone()])?;
        let typed = coerced(LogicalPlan::Aggregate(one), options)?;
        types.push(typed.schema().field(0).data_type().clone());
    }
    Ok(types)
}

fn within(clauses: &Clauses, order: &[SortColumn], schema: &DFSchema) -> Result<Option<Within>> {
    let Some((text, at)) = &clauses.within else { return Ok(None) };
    let bad = |code, message: &str| SqlError::new(code, message.to_owned()).at(*at);
    let Some(first) = order.first() else {
        let e = bad(SqlState::SYNTAX_ERROR, "WITHIN needs an ORDER BY");
        return Err(user(e.hint("Order by the column that has the time of the rows.")));
    };
    let time = schema.field(first.column).data_type();
    if !matches!(time, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64) {
        let message = format!("WITHIN needs an order by a time, not by {}", type_name(time));
        return Err(user(bad(SqlState::DATATYPE_MISMATCH, &message)));
    }
    if first.descending {
        return Err(user(bad(SqlState::FEATURE_NOT_SUPPORTED, "WITHIN needs an ascending order")));
    }
    let parsed = arrow::compute::kernels::cast_utils::parse_interval_month_day_nano(text)
        .map_err(|_| user(bad(SqlState::INVALID_DATETIME_FORMAT, &format!("invalid interval \"{text}\" in WITHIN"))))?;
    let (months, days, nanoseconds) = (parsed.months, parsed.days, parsed.nanoseconds);
    if months < 0 || days < 0 || nanoseconds < 0 || (months, days, nanoseconds) == (0, 0, 0) {
        return Err(user(bad(SqlState::INVALID_PARAMETER_VALUE, "the interval of WITHIN must be positive")));
    }
    Ok(Some(Within { months, days, nanoseconds }))
}

/// Rows are ordered by all of their columns.
fn sortable(input: &LogicalPlan, width: usize) -> Result<()> {
    for field in input.schema().fields().iter().take(width) {
        let sort = vec![arrow::row::SortField::new(super::sort::plain_type(field.data_type()))];
        if !arrow::row::RowConverter::supports_fields(&sort) {
            return Err(user(SqlError::unsupported(format!(
                "MATCH_RECOGNIZE over rows with column \"{}\" of type {}, which has no order",
                field.name(),
                type_name(field.data_type())
            ))));
        }
    }
    Ok(())
}

fn type_name(t: &DataType) -> String {
    crate::types::display_name(t)
}
