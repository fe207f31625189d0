//! What a view may not call: functions whose value is not a function of the rows. The statement's time may be compared
//! with in conditions, which [`super::clock`] looks at.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};

use super::clock;
use crate::error::{Result, SqlError};
use crate::session::from_datafusion;

/// An error that names the function and the clause if the plan calls a function that is not immutable, other than in a
/// condition on the clock.
pub(super) fn check(plan: &LogicalPlan) -> Result<()> {
    check_for(plan, &|node, e| {
        let condition = matches!(node, LogicalPlan::Filter(_) | LogicalPlan::Join(_));
        if condition && clock::is_clock(e) { None } else { changing(e) }
    })
}

/// The same for the statement's time, when conditions on it have been found.
pub(super) fn check_clock(plan: &LogicalPlan) -> Result<()> {
    check_for(plan, &|_, e| if clock::is_clock(e) { changing(e) } else { None })
}

fn check_for(plan: &LogicalPlan, refused: &dyn Fn(&LogicalPlan, &Expr) -> Option<String>) -> Result<()> {
    let mut found: Option<(String, &'static str)> = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|e| {
            e.apply(|e| {
                if let Some(name) = refused(node, e) {
                    found.get_or_insert((name, clause(node)));
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })
    .map_err(from_datafusion)?;
    let Some((name, clause)) = found else { return Ok(()) };
    let error = SqlError::unsupported(format!("function {name}() cannot be used in {clause} of a view"));
    Err(match name.as_str() {
        "random" | "uuid" => error.detail("Its value changes from call to call, so the view could not be maintained."),
        "now" | "localtimestamp" | "current_date" => error
            .detail("Its value changes while no row changes, so the view could not be maintained.")
            .hint(clock::FORMS),
        _ => error
            .detail("Its value changes while no row changes, so the view could not be maintained.")
            .hint("Use it in the query that reads the view."),
    })
}

fn changing(e: &Expr) -> Option<String> {
    match e {
        Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable => Some(f.name().to_owned()),
        Expr::AggregateFunction(f) if f.func.signature().volatility == Volatility::Volatile => {
            Some(f.func.name().to_owned())
        }
        _ => None,
    }
}

fn clause(node: &LogicalPlan) -> &'static str {
    match node {
        LogicalPlan::Filter(f) if matches!(f.input.as_ref(), LogicalPlan::Aggregate(_)) => "the HAVING clause",
        LogicalPlan::Filter(_) | LogicalPlan::TableScan(_) => "the WHERE clause",
        LogicalPlan::Aggregate(_) => "GROUP BY or an aggregate",
        LogicalPlan::Join(_) => "the join condition",
        LogicalPlan::Sort(_) => "the ORDER BY clause",
        LogicalPlan::Window(_) => "a window function",
        LogicalPlan::Values(_) => "the VALUES list",
        LogicalPlan::Limit(_) => "the LIMIT clause",
        _ => "the select list",
    }
}

/// An error of a plan with the place of the function or clause it is about, if the statement's text has one such word only.
pub fn placed(error: SqlError, text: &str) -> SqlError {
    const WORDS: [&str; 9] = [
        "now",
        "current_timestamp",
        "localtimestamp",
        "current_date",
        "mz_now",
        "transaction_timestamp",
        "statement_timestamp",
        "random",
        "uuid",
    ];
    let about: &[&str] = match &error.message {
        _ if error.position.is_some() => &[],
        m if m.contains("FOR SYSTEM_TIME") => &["system_time"],
        m if m.contains("now()") || m.starts_with("function ") => &WORDS,
        _ => &[],
    };
    let mut places = about.iter().flat_map(|w| words(text, w));
    match (places.next(), places.next()) {
        (Some(at), None) => error.at(at),
        _ => error,
    }
}

/// 1-based character positions where a word stands alone.
fn words(text: &str, word: &str) -> Vec<usize> {
    let chars: Vec<char> = text.chars().map(|c| c.to_ascii_lowercase()).collect();
    let word: Vec<char> = word.chars().collect();
    let part = |i: usize| chars.get(i).is_some_and(|c| c.is_alphanumeric() || *c == '_');
    let alone = |i: usize| i.checked_sub(1).is_none_or(|before| !part(before)) && !part(i + word.len());
    (0..chars.len()).filter(|i| chars[*i..].starts_with(&word) && alone(*i)).map(|i| i + 1).collect()
}
