//! IncPlan as text.

use super::IncPlan;

/// An indented tree, one operator a line: name, arguments, `[native]`, `[keyed recompute: reason]` or
/// `[full recompute: reason]`. `relation_name` gives names of relations. Shared nodes are printed once and referred to.
/// With `state`, each stateful operator says what it keeps.
pub fn explain(plan: &IncPlan, relation_name: &dyn Fn(super::RelationId) -> String, state: bool) -> Vec<String> {
    let _ = (plan, relation_name, state);
    Vec::new()
}
