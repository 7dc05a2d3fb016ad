//! `spec` of a GlobalNetworkPolicy or StagedGlobalNetworkPolicy.

use super::{
    Kind, PolicySpec, Spec, StagedAction,
    cursor::Table,
    log::{Log, Problem},
    rule, scalar,
    tree::{Node, short},
};
use crate::policy::{DEFAULT_TIER, Order, Policy, Rule, Selector};

/// The last one is of staged policies only.
pub(super) const FIELDS: [&str; 13] = [
    "tier",
    "order",
    "selector",
    "namespaceSelector",
    "serviceAccountSelector",
    "types",
    "ingress",
    "egress",
    "doNotTrack",
    "preDNAT",
    "applyOnForward",
    "performanceHints",
    "stagedAction",
];
/// Which direction `types` names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Ingress,
    Egress,
}

/// `None` when there is no spec to read; what is wrong was reported.
pub(super) fn read(
    log: &mut Log,
    root: &Table<'_, '_>,
    name: &str,
    is_staged: bool,
) -> Option<Spec> {
    if !root.has("spec") {
        root.missing(log, "spec", "add spec with tier, selector, types and rules");
    }
    let fields = FIELDS.get(..FIELDS.len() - usize::from(!is_staged))?;
    let spec = root.table(log, "spec", fields)?;
    let tier = spec.read(log, "tier", tier);
    // A tier that is wrong was reported, and says nothing about the name.
    let name = match (&tier, spec.has("tier")) {
        (None, true) => name.to_owned(),
        _ => full_name(log, root, &spec, name, tier.as_deref()),
    };
    let order = spec.read(log, "order", scalar::number);
    let chosen = spec.read(log, "selector", selector).flatten();
    let namespaces = spec.read(log, "namespaceSelector", selector);
    let ingress = rule::rules(log, &spec, "ingress");
    let egress = rule::rules(log, &spec, "egress");
    let types = types(log, &spec);
    let (has_ingress, has_egress) = directions(log, &spec, &types, &ingress, &egress);
    refused(log, &spec);
    let staged_action = is_staged.then(|| staged_action(log, &spec));
    let policy = Policy {
        name: name.into(),
        tier: tier.unwrap_or_else(|| DEFAULT_TIER.to_owned()),
        order: Order(order),
        selector: match chosen {
            Some(selector) => selector,
            None => everything()?,
        },
        namespace_selector: namespaces.flatten(),
        has_ingress,
        has_egress,
        ingress,
        egress,
        is_staged,
    };
    Some(Spec::Policy(PolicySpec {
        policy,
        staged_action,
    }))
}

/// What a policy without a selector is for.
fn everything() -> Option<Selector> {
    "all()".parse().ok()
}

fn tier(node: &Node<'_>) -> Result<String, Problem> {
    let tier = scalar::text(node)?;
    if super::kind::is_name(tier) && !tier.contains('.') {
        return Ok(tier.to_owned());
    }
    let problem = Problem::new(format!("{} is not the name of a tier", short(tier)));
    Err(problem.help("a tier has lower-case letters, digits and dashes"))
}

/// `<tier>.<name>`; in the default tier the prefix may be missing.
fn full_name(
    log: &mut Log,
    root: &Table<'_, '_>,
    spec: &Table<'_, '_>,
    name: &str,
    tier: Option<&str>,
) -> String {
    let wanted = tier.unwrap_or(DEFAULT_TIER);
    let in_tier = name
        .strip_prefix(wanted)
        .is_some_and(|rest| rest.len() > 1 && rest.starts_with('.'));
    if in_tier || name.is_empty() {
        return name.to_owned();
    }
    if wanted == DEFAULT_TIER && !name.contains('.') {
        return Kind::GlobalNetworkPolicy.id(name).name;
    }
    match (name.split_once('.'), tier) {
        (Some((first, _)), None) => {
            let problem = Problem::new(format!("missing: the name begins with {first}"));
            let problem = problem.help(format!(
                "add tier: {first}, or name the policy {DEFAULT_TIER}.{name}"
            ));
            spec.error(log, "tier", problem);
        }
        _ => {
            let problem = Problem::new(format!("the name must begin with its tier, {wanted}."));
            let bare = name.split_once('.').map_or(name, |(_, bare)| bare);
            let problem = problem.help(format!("name it {wanted}.{bare}"));
            root.error_below(log, "metadata", "name", problem);
        }
    }
    name.to_owned()
}

/// A selector; `None` where it is empty.
pub(super) fn selector(node: &Node<'_>) -> Result<Option<Selector>, Problem> {
    const LONGEST: usize = 4096;
    let text = scalar::text(node)?;
    if text.len() > LONGEST {
        return Err(Problem::new(format!("longer than {LONGEST} bytes")));
    }
    if text.trim().is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|error: crate::policy::SelectorError| {
            Problem::new(format!("not a selector: {}", error.message)).at(error.at)
        })
}

fn types(log: &mut Log, spec: &Table<'_, '_>) -> Vec<Type> {
    let words = [("Ingress", Type::Ingress), ("Egress", Type::Egress)];
    let types = spec.list(log, "types", |node| scalar::word(node, &words));
    let twice = types
        .iter()
        .enumerate()
        .any(|(i, found)| types.iter().take(i).any(|other| other == found));
    if twice {
        let problem = Problem::new("a direction is there twice").help("keep one of them");
        spec.error(log, "types", problem);
    }
    types
}

/// Whether the policy is for what comes in and for what goes out (Calico's default where no types are
/// written).
fn directions(
    log: &mut Log,
    spec: &Table<'_, '_>,
    types: &[Type],
    ingress: &[Rule],
    egress: &[Rule],
) -> (bool, bool) {
    if types.is_empty() {
        return (!ingress.is_empty() || egress.is_empty(), !egress.is_empty());
    }
    for (kind, word, key, rules) in [
        (Type::Ingress, "Ingress", "ingress", ingress),
        (Type::Egress, "Egress", "egress", egress),
    ] {
        if !types.contains(&kind) && !rules.is_empty() {
            let problem = Problem::new(format!("these rules do nothing: types lacks {word}"));
            spec.warning(
                log,
                key,
                problem.help(format!("add {word} to types, or remove them")),
            );
        }
    }
    (
        types.contains(&Type::Ingress),
        types.contains(&Type::Egress),
    )
}

/// Fields that only say something on a cluster: taken where they change nothing.
fn refused(log: &mut Log, spec: &Table<'_, '_>) {
    let accounts = spec.read(log, "serviceAccountSelector", |node| {
        Ok(scalar::text(node)?.trim().is_empty())
    });
    if accounts == Some(false) {
        let problem = Problem::new("service accounts are not known on a host");
        let problem = problem.help(
            "leave it empty, and select by labels of the pod or by unit, user, exe or container",
        );
        spec.error(log, "serviceAccountSelector", problem);
    }
    for (key, why) in [
        ("doNotTrack", "feedgate's flows are those of conntrack"),
        ("preDNAT", "feedgate sees packets behind destination NAT"),
    ] {
        if spec.read(log, key, scalar::boolean) == Some(true) {
            let problem = Problem::new(format!("only false is taken: {why}"));
            spec.error(log, key, problem.help("remove it"));
        }
    }
    // What a host forwards is judged by its policies anyway.
    let _ = spec.read(log, "applyOnForward", scalar::boolean);
    let hint = [("AssumeNeededOnEveryNode", ())];
    let _ = spec.list(log, "performanceHints", |node| scalar::word(node, &hint));
}

fn staged_action(log: &mut Log, spec: &Table<'_, '_>) -> StagedAction {
    let words = [
        StagedAction::Set,
        StagedAction::Delete,
        StagedAction::Ignore,
        StagedAction::Learn,
    ]
    .map(|action| (action.as_str(), action));
    let action = spec.read(log, "stagedAction", |node| scalar::word(node, &words));
    action.unwrap_or_default()
}
