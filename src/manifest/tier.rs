//! `spec` of a Tier.

use super::{
    TierSpec,
    cursor::Table,
    log::{Log, Problem},
    scalar,
};
use crate::policy::{DEFAULT_TIER, DEFAULT_TIER_ORDER, Order};

pub(super) const FIELDS: [&str; 2] = ["order", "defaultAction"];

pub(super) fn read(log: &mut Log, root: &Table<'_, '_>, name: &str) -> TierSpec {
    if name.contains('.') {
        let problem = Problem::new("the name of a tier has no dot");
        let problem = problem.help("policies are named <tier>.<name>; use dashes");
        root.error_below(log, "metadata", "name", problem);
    }
    let Some(spec) = root.table(log, "spec", &FIELDS) else {
        return TierSpec::default();
    };
    let order = spec.read(log, "order", scalar::number);
    if name == DEFAULT_TIER && order.is_some_and(|order| order != DEFAULT_TIER_ORDER) {
        let problem = Problem::new(format!("the default tier stands at {DEFAULT_TIER_ORDER}"));
        spec.error(log, "order", problem.help("give other tiers another order"));
    }
    let action = spec.read(log, "defaultAction", |node| {
        scalar::word(node, &[("Deny", true), ("Pass", false)])
    });
    if action == Some(false) {
        let problem = Problem::new("the end of a tier always denies what its policies select");
        let problem = problem.help("end its last policy with a rule of action Pass");
        spec.error(log, "defaultAction", problem);
    }
    let usual = (name == DEFAULT_TIER).then_some(DEFAULT_TIER_ORDER);
    TierSpec {
        order: Order(order.or(usual)),
    }
}
