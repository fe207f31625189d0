//! Zeros of either sign are one key, and so are all NaNs, in PARTITION BY and ORDER BY too.
//!
//! Arrow sorts -0.0 before 0.0 and tells them apart. Where equal keys matter (partitions, peers, a key with further ones
//! behind it) a key with floats in it is compared by `canonical(key)`.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::expr::{ScalarFunction, Sort as SortExpr};
use datafusion::logical_expr::logical_plan::{Sort, Window};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

use crate::functions::canonical;

/// See the module.
#[derive(Debug)]
pub struct FloatKeys;

impl AnalyzerRule for FloatKeys {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let done = plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Window(w) => {
                let new = w.window_expr.iter().map(|e| window(e, w.input.schema())).collect::<Result<Vec<_>>>()?;
                if new.iter().all(Option::is_none) {
                    return Ok(Transformed::no(LogicalPlan::Window(w)));
                }
                let names = w.window_expr.iter().map(Expr::qualified_name);
                let new = new.into_iter().zip(&w.window_expr).zip(names).map(|((new, old), (relation, name))| {
                    new.map_or_else(|| old.clone(), |new| new.alias_qualified(relation, name))
                });
                let new = new.collect();
                Ok(Transformed::yes(LogicalPlan::Window(Window::try_new_with_schema(new, w.input, w.schema)?)))
            }
            LogicalPlan::Sort(s) => {
                let last = s.expr.len().saturating_sub(1);
                let mut changed = false;
                let mut expr = Vec::with_capacity(s.expr.len());
                for (i, by) in s.expr.iter().enumerate() {
                    let key = if i < last { key(&by.expr, s.input.schema())? } else { None };
                    changed |= key.is_some();
                    expr.push(key.map_or_else(|| by.clone(), |e| SortExpr::new(e, by.asc, by.nulls_first)));
                }
                match changed {
                    true => Ok(Transformed::yes(LogicalPlan::Sort(Sort { expr, ..s }))),
                    false => Ok(Transformed::no(LogicalPlan::Sort(s))),
                }
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(done.data)
    }
    fn name(&self) -> &str {
        "float_keys"
    }
}

fn window(e: &Expr, input: &DFSchema) -> Result<Option<Expr>> {
    let f = match e {
        Expr::Alias(a) => return window(&a.expr, input),
        Expr::WindowFunction(f) => f,
        _ => return Ok(None),
    };
    let mut new = f.clone();
    let p = &mut new.params;
    let mut changed = false;
    for e in p.partition_by.iter_mut().chain(p.order_by.iter_mut().map(|s| &mut s.expr)) {
        if let Some(key) = key(e, input)? {
            *e = key;
            changed = true;
        }
    }
    Ok(changed.then(|| Expr::WindowFunction(new)))
}

/// The key to compare by, if it is not the one that is there.
fn key(e: &Expr, input: &DFSchema) -> Result<Option<Expr>> {
    let done = match e {
        Expr::Literal(..) => true,
        Expr::ScalarFunction(f) => f.func.name() == canonical::FUNCTION,
        _ => false,
    };
    if done || !canonical::has_float(&e.get_type(input)?) {
        return Ok(None);
    }
    let call = ScalarFunction::new_udf(Arc::new(canonical::function()), vec![e.clone()]);
    Ok(Some(Expr::ScalarFunction(call)))
}

/// The expression that a key of this module compares.
pub fn compared(e: &Expr) -> &Expr {
    match e {
        Expr::ScalarFunction(f) if f.func.name() == canonical::FUNCTION => f.args.first().unwrap_or(e),
        _ => e,
    }
}
