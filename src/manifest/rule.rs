//! Rules of policies.

use super::{
    cursor::Table,
    envelope::label_key,
    log::{Log, Problem},
    policy::selector,
    scalar::{self, expected},
    tree::{Node, Value, short},
};
use crate::{
    packet::Protocol,
    policy::{Entity, Rule, RuleAction},
    prefix::{Family, Prefix},
};

pub(super) const FIELDS: [&str; 10] = [
    "action",
    "protocol",
    "notProtocol",
    "ipVersion",
    "source",
    "destination",
    "metadata",
    "icmp",
    "notICMP",
    "http",
];
pub(super) const ENTITY: [&str; 10] = [
    "selector",
    "notSelector",
    "nets",
    "notNets",
    "ports",
    "notPorts",
    "namespaceSelector",
    "serviceAccounts",
    "services",
    "domains",
];
/// Protocols by the names of Calico.
pub(super) const PROTOCOLS: [(&str, Protocol); 6] = [
    ("TCP", Protocol::TCP),
    ("UDP", Protocol::UDP),
    ("ICMP", Protocol::ICMP),
    ("ICMPv6", Protocol::ICMPV6),
    ("SCTP", Protocol::SCTP),
    ("UDPLite", Protocol::UDPLITE),
];
const ACTIONS: [(&str, RuleAction); 4] = [
    ("Allow", RuleAction::Allow),
    ("Deny", RuleAction::Deny),
    ("Log", RuleAction::Log),
    ("Pass", RuleAction::Pass),
];

/// The rules of the list `key`; those without a good action are left out, which was reported.
pub(super) fn rules(log: &mut Log, spec: &Table<'_, '_>, key: &str) -> Vec<Rule> {
    let tables = spec.tables(log, key, &FIELDS);
    tables.iter().filter_map(|table| rule(log, table)).collect()
}

fn rule(log: &mut Log, table: &Table<'_, '_>) -> Option<Rule> {
    let action = table.require(
        log,
        "action",
        "add action: Allow, Deny, Log or Pass",
        |node| scalar::word(node, &ACTIONS),
    );
    let rule = Rule {
        action: action.unwrap_or(RuleAction::Deny),
        protocol: table.read(log, "protocol", protocol),
        not_protocol: table.read(log, "notProtocol", protocol),
        ip_version: table.read(log, "ipVersion", ip_version),
        source: entity(log, table, "source"),
        destination: entity(log, table, "destination"),
    };
    refused(log, table);
    metadata(log, table);
    ports_fit(log, table, &rule);
    version_fits(log, table, &rule);
    action.map(|_| rule)
}

/// Only annotations, which change nothing.
fn metadata(log: &mut Log, rule: &Table<'_, '_>) {
    let Some(metadata) = rule.table(log, "metadata", &["annotations"]) else {
        return;
    };
    let _ = metadata.texts(log, "annotations", label_key, |_| Ok(()));
    let problem = Problem::new("annotations of rules are not kept");
    rule.warning(log, "metadata", problem.help("annotate the policy instead"));
}

/// By name or number.
fn protocol(node: &Node<'_>) -> Result<Protocol, Problem> {
    const HELP: &str = "write TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or a number from 1 to 255";
    if let Ok(number) = scalar::integer(node) {
        return match u8::try_from(number) {
            Ok(number @ 1..) => Ok(Protocol(number)),
            _ => Err(Problem::new(format!("{number} is not a protocol")).help(HELP)),
        };
    }
    let text = scalar::written(node).ok_or_else(|| expected("a protocol", node).help(HELP))?;
    if let Ok(number @ 1..) = text.parse::<u8>() {
        return Ok(Protocol(number));
    }
    // Calico takes any case.
    let mut names = PROTOCOLS.iter();
    names
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
        .map(|(_, found)| *found)
        .ok_or_else(|| Problem::new(format!("{} is not a protocol", short(text))).help(HELP))
}

fn ip_version(node: &Node<'_>) -> Result<u8, Problem> {
    match scalar::integer(node)? {
        4 => Ok(4),
        6 => Ok(6),
        _ => Err(Problem::new("must be 4 or 6")),
    }
}

/// What the rule asks of one end.
fn entity(log: &mut Log, rule: &Table<'_, '_>, key: &str) -> Entity {
    let Some(table) = rule.table(log, key, &ENTITY) else {
        return Entity::default();
    };
    let namespaces = table.read(log, "namespaceSelector", |node| {
        Ok(scalar::text(node)?.trim().is_empty())
    });
    if namespaces == Some(false) {
        let problem = Problem::new("namespaces of a rule's end are not known on a host");
        table.error(log, "namespaceSelector", problem.help(
            "use the policy's namespaceSelector, or selector: projectcalico.org/namespace == \"NAME\"",
        ));
    }
    for (name, why, help) in [
        (
            "serviceAccounts",
            "service accounts are not known on a host",
            "select by labels of the pod, or by unit, user, exe or container",
        ),
        (
            "services",
            "services are not known on a host",
            "write their addresses in nets, or in a GlobalNetworkSet and its labels in selector",
        ),
        (
            "domains",
            "feedgate matches addresses only",
            "write their addresses in nets, or in a GlobalNetworkSet and its labels in selector",
        ),
    ] {
        unless_empty(log, &table, name, why, help);
    }
    Entity {
        selector: table.read(log, "selector", selector).flatten(),
        not_selector: table.read(log, "notSelector", selector).flatten(),
        nets: table.prefixes(log, "nets"),
        not_nets: table.prefixes(log, "notNets"),
        ports: table.list(log, "ports", ports),
        not_ports: table.list(log, "notPorts", ports),
    }
}

/// A port, or the first and last of a range.
fn ports(node: &Node<'_>) -> Result<(u16, u16), Problem> {
    const HELP: &str = "write a number from 1 to 65535, or a range such as \"80:90\"";
    let problem = |text: &str| Problem::new(format!("{} is not a port", short(text))).help(HELP);
    if let Ok(number) = scalar::integer(node) {
        return match u16::try_from(number) {
            Ok(port @ 1..) => Ok((port, port)),
            _ => Err(problem(&number.to_string())),
        };
    }
    let text = scalar::written(node).ok_or_else(|| expected("a port", node).help(HELP))?;
    if text.contains(|c: char| c.is_ascii_alphabetic()) {
        let problem = Problem::new(format!("the named port {} is not taken", short(text)));
        return Err(problem.help("no workload says here which port that is: write its number"));
    }
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        (Some(_), Some(_)) => Err(Problem::new(format!(
            "{} ends before it begins",
            short(text)
        ))),
        _ => Err(problem(text)),
    }
}

fn port(text: &str) -> Option<u16> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let port = if digits { text.parse().ok() } else { None };
    port.filter(|port| *port > 0)
}

/// Matches that need more than the head of a packet.
fn refused(log: &mut Log, table: &Table<'_, '_>) {
    for key in ["icmp", "notICMP"] {
        let help = "use protocol: ICMP or ICMPv6 for all types of it";
        unless_empty(log, table, key, "feedgate's flows have no ICMP type", help);
    }
    let why = "feedgate decides on the first packet: no request is there yet";
    unless_empty(
        log,
        table,
        "http",
        why,
        "remove it, and use protocol and ports",
    );
}

fn unless_empty(log: &mut Log, table: &Table<'_, '_>, key: &str, why: &str, help: &str) {
    let is_empty = match table.get(key).map(|node| &node.value) {
        None => true,
        Some(Value::Map(pairs)) => pairs.is_empty(),
        Some(Value::List(items)) => items.is_empty(),
        Some(Value::Scalar(..)) => false,
    };
    if !is_empty {
        table.error(log, key, Problem::new(why).help(help));
    }
}

/// Ports are those of a protocol that has some.
fn ports_fit(log: &mut Log, table: &Table<'_, '_>, rule: &Rule) {
    // A wrong protocol was reported.
    if rule.protocol.is_none() && table.has("protocol") {
        return;
    }
    if rule.protocol.is_some_and(Protocol::has_ports) {
        return;
    }
    for (key, entity) in [("source", &rule.source), ("destination", &rule.destination)] {
        for (name, ports) in [("ports", &entity.ports), ("notPorts", &entity.not_ports)] {
            if !ports.is_empty() {
                let problem = Problem::new("ports need a protocol that has them");
                let problem = problem.help("add protocol: TCP, UDP, SCTP or UDPLite to the rule");
                table.error_below(log, key, name, problem);
            }
        }
    }
}

/// A rule for one IP version that names the other matches nothing: a mistake.
fn version_fits(log: &mut Log, table: &Table<'_, '_>, rule: &Rule) {
    let (version, other) = match rule.ip_version {
        Some(4) => (4, Family::V6),
        Some(_) => (6, Family::V4),
        None => return,
    };
    let no_ip = if version == 4 {
        Protocol::ICMPV6
    } else {
        Protocol::ICMP
    };
    if rule.protocol == Some(no_ip) {
        let problem = Problem::new(format!("does not occur in IPv{version}"));
        table.error(
            log,
            "protocol",
            problem.help("change protocol or ipVersion"),
        );
    }
    for (key, entity) in [("source", &rule.source), ("destination", &rule.destination)] {
        for (name, nets) in [("nets", &entity.nets), ("notNets", &entity.not_nets)] {
            let wrong = |prefix: &Prefix| prefix.family() == other;
            if let Some(prefix) = nets.iter().find(|prefix| wrong(prefix)) {
                let problem = Problem::new(format!("{prefix} is not IPv{version}"));
                let problem = problem.help("remove ipVersion, or the nets of the other one");
                table.error_below(log, key, name, problem);
            }
        }
    }
}
