//! The settings that keep views from growing or from being slow without anybody noticing: `unbounded_state` and
//! `full_recompute`, each `allow`, `warn` or `error` at CREATE.

use std::collections::BTreeMap;

use millstream_sql::plan::bounds::{Growth, Inputs, bounds};
use millstream_sql::plan::{IncOp, IncPlan, RelationId, Tier};

use crate::api::{Notice, Session};
use crate::catalog::{Body, Catalog};
use crate::error::{Error, Result};

/// How the rows of a relation grow, through the views it reads.
pub(super) fn growth(catalog: &Catalog, id: RelationId) -> Growth {
    let Some(r) = catalog.relations.get(&id) else { return Growth::Unbounded(format!("#{}", id.0)) };
    match &r.body {
        Body::Connector { options, .. } if bounded_generator(options) => Growth::Bounded(format!("stream {}", r.name)),
        Body::Connector { .. } | Body::Table { append_only: true, .. } => Growth::Unbounded(r.display_name()),
        Body::Table { .. } => Growth::Bounded(format!("table {}", r.display_name())),
        Body::MaterializedView { plan, .. } => with_inputs(catalog, |inputs| bounds(plan, inputs).view.growth),
        // A plain view is its text: plans read what it reads.
        Body::View { .. } => Growth::Bounded(format!("view {}", r.display_name())),
    }
}

/// What the analysis of bounds asks about relations.
pub(super) fn with_inputs<T>(catalog: &Catalog, f: impl FnOnce(&Inputs<'_>) -> T) -> T {
    let (growth, time) = (|id| growth(catalog, id), |id| super::emit::time_columns(catalog, id));
    f(&Inputs { growth: &growth, time: &time })
}

fn bounded_generator(options: &BTreeMap<String, String>) -> bool {
    options.get("connector").is_some_and(|c| c == "nexmark") && options.contains_key("events")
}

/// Applies the settings to a plan that is about to be created.
pub(super) fn check(session: &Session, catalog: &Catalog, plan: &IncPlan, materialized: bool) -> Result<Vec<Notice>> {
    let mut notices = Vec::new();
    if !materialized {
        return Ok(notices);
    }
    let mut apply = |setting: &str, found: Option<(String, String)>| {
        let Some((message, hint)) = found else { return Ok(()) };
        match session.settings.get(setting).map(|v| v.to_ascii_lowercase()).as_deref() {
            Some("error") => Err(Error::unsupported(message).hint(format!("{hint} Or SET {setting} = 'allow'."))),
            Some("warn") => {
                notices.push(Notice { severity: "WARNING", code: "01000", message, hint: Some(hint) });
                Ok(())
            }
            _ => Ok(()),
        }
    };
    let all = with_inputs(catalog, |inputs| bounds(plan, inputs));
    let worst = all.state.iter().flatten().chain([&all.view]).find(|s| s.unbounded());
    apply(
        "unbounded_state",
        worst.map(|s| {
            (
                format!("the view keeps state without bound: {}", s.text()),
                "EXPLAIN (STATE) shows what each operator keeps.".to_owned(),
            )
        }),
    )?;
    let full = plan.nodes.iter().find_map(|n| match &n.op {
        op @ IncOp::Recompute { reason, .. } if op.tier() == Tier::FullRecompute => Some(reason.clone()),
        _ => None,
    });
    apply(
        "full_recompute",
        full.map(|reason| {
            (
                format!("the view is computed anew as a whole at every change: {reason}"),
                "EXPLAIN shows the operator.".to_owned(),
            )
        }),
    )?;
    Ok(notices)
}
