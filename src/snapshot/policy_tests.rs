//! Classes under policies: what the kernel does from its sets alone is what the policies say of all endpoints.

use std::{net::IpAddr, sync::Arc};

use proptest::prelude::*;

use super::{
    tests::{exception, feeds, input, kernel, prefix},
    *,
};
use crate::{
    config::{OnDaemonDown, PrivateNetworks},
    feed::{Action, Direction, PortMatch},
    packet::{Flow, Protocol, Transport},
    policy::{
        DEFAULT_TIER, Endpoint, Entity, Fact, Labels, NetworkSet, Order, Policies, Policy,
        Question, Rule, RuleAction, Tier, decide_toward,
    },
    prefix::Prefix,
};

const KINDS: [&str; 3] = ["a", "b", "c"];
const UNITS: [&str; 3] = ["x", "y", "z"];

fn labels(key: &str, value: &str) -> Labels {
    [(key.to_owned(), value.to_owned())].into()
}

/// Past the kinds there are: no labels.
fn of_kind(at: usize) -> Labels {
    let kind = KINDS.get(at).copied();
    kind.map_or_else(Labels::new, |kind| labels("kind", kind))
}

fn far_selector() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("all()".to_owned()),
        (0usize..3).prop_map(|i| format!("kind == '{}'", KINDS[i])),
        (0usize..3).prop_map(|i| format!("kind != '{}'", KINDS[i])),
        Just("!has(kind)".to_owned()),
    ]
}

fn near_selector() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("all()".to_owned()),
        2 => (0usize..3).prop_map(|i| format!("unit == '{}'", UNITS[i])),
        1 => (0usize..3).prop_map(|i| format!("unit != '{}'", UNITS[i])),
        1 => Just("role == 'gateway'".to_owned()),
    ]
}

fn far() -> impl Strategy<Value = Entity> {
    let nets = || proptest::collection::vec(prefix(), 0..2);
    let maybe = |weight| proptest::option::weighted(weight, far_selector());
    (maybe(0.6), maybe(0.2), nets(), nets(), 0u8..4).prop_map(|(yes, no, nets, not, with_nets)| {
        let parse = |list: Vec<String>| list.iter().map(|net| net.parse().unwrap()).collect();
        Entity {
            selector: yes.map(|text| text.parse().unwrap()),
            not_selector: no.map(|text| text.parse().unwrap()),
            nets: if with_nets == 0 { parse(nets) } else { vec![] },
            not_nets: if with_nets == 1 { parse(not) } else { vec![] },
            ..Entity::default()
        }
    })
}

fn ports() -> impl Strategy<Value = Vec<(u16, u16)>> {
    let range = (79u16..82, 0u16..2).prop_map(|(first, more)| (first, first + more));
    proptest::collection::vec(range, 1..3)
}

#[derive(Clone, Debug)]
enum Asks {
    Nothing,
    Protocol(Protocol),
    NotProtocol(Protocol),
    Ports(Vec<(u16, u16)>),
    NotPorts(Vec<(u16, u16)>),
    SourcePorts(Vec<(u16, u16)>),
}

fn asks() -> impl Strategy<Value = Asks> {
    let proto = || {
        prop_oneof![
            Just(Protocol::TCP),
            Just(Protocol::UDP),
            Just(Protocol::ICMP)
        ]
    };
    prop_oneof![
        5 => Just(Asks::Nothing),
        1 => proto().prop_map(Asks::Protocol),
        1 => proto().prop_map(Asks::NotProtocol),
        3 => ports().prop_map(Asks::Ports),
        1 => ports().prop_map(Asks::NotPorts),
        1 => ports().prop_map(Asks::SourcePorts),
    ]
}

/// A rule by its ends: which of them is the sender follows from the direction.
type RuleParts = (RuleAction, Entity, Option<String>, Asks);

fn rule() -> impl Strategy<Value = RuleParts> {
    let action = prop_oneof![
        3 => Just(RuleAction::Deny),
        2 => Just(RuleAction::Allow),
        1 => Just(RuleAction::Log),
        1 => Just(RuleAction::Pass),
    ];
    let near = proptest::option::weighted(0.2, near_selector());
    (action, far(), near, asks())
}

fn build_rule((action, far, near, asks): RuleParts, direction: Direction) -> Rule {
    let near = Entity {
        selector: near.map(|text| text.parse().unwrap()),
        ..Entity::default()
    };
    let (mut source, mut destination) = match direction {
        Direction::Egress => (near, far),
        Direction::Ingress => (far, near),
    };
    let (mut protocol, mut not_protocol) = (None, None);
    match asks {
        Asks::Nothing => {}
        Asks::Protocol(proto) => protocol = Some(proto),
        Asks::NotProtocol(proto) => not_protocol = Some(proto),
        Asks::Ports(ports) => (protocol, destination.ports) = (Some(Protocol::TCP), ports),
        Asks::NotPorts(ports) => (protocol, destination.not_ports) = (Some(Protocol::TCP), ports),
        Asks::SourcePorts(ports) => (protocol, source.ports) = (Some(Protocol::UDP), ports),
    }
    Rule {
        action,
        protocol,
        not_protocol,
        ip_version: None,
        source,
        destination,
    }
}

type PolicyParts = (u8, String, Vec<RuleParts>, Vec<RuleParts>, bool, bool, bool);

fn policy() -> impl Strategy<Value = PolicyParts> {
    let rules = || proptest::collection::vec(rule(), 0..3);
    let has = || proptest::bool::weighted(0.7);
    let staged = proptest::bool::weighted(0.2);
    (
        0u8..3,
        near_selector(),
        rules(),
        rules(),
        has(),
        has(),
        staged,
    )
}

fn policies() -> impl Strategy<Value = Policies> {
    proptest::collection::vec(policy(), 1..4).prop_map(|list| {
        let tier = |name: &str, order| Tier {
            name: name.into(),
            order: Order(Some(order)),
        };
        let tiers = vec![tier("first", 1.0), tier("last", 2_000_000.0)];
        let names = ["first", DEFAULT_TIER, "last"];
        let policies = list.into_iter().enumerate();
        let policies = policies.map(
            |(i, (tier, selector, out, back, egress, ingress, staged))| {
                let tier = names[usize::from(tier)];
                let rules = |list: Vec<RuleParts>, direction| {
                    list.into_iter()
                        .map(|parts| build_rule(parts, direction))
                        .collect()
                };
                Policy {
                    name: format!("{tier}.p{i}").into(),
                    tier: tier.into(),
                    order: Order(None),
                    selector: selector.parse().unwrap(),
                    namespace_selector: None,
                    has_ingress: ingress,
                    has_egress: egress,
                    ingress: rules(back, Direction::Ingress),
                    egress: rules(out, Direction::Egress),
                    is_staged: staged,
                }
            },
        );
        Policies::new(tiers, policies.collect())
    })
}

/// Network sets written by hand, with the place of their label.
fn network_sets() -> impl Strategy<Value = Vec<Arc<NetworkSet>>> {
    let set = (0usize..4, proptest::collection::vec(prefix(), 0..3));
    proptest::collection::vec(set, 0..3).prop_map(|sets| {
        let sets = sets.into_iter().enumerate();
        sets.map(|(i, (kind, nets))| {
            Arc::new(NetworkSet {
                name: format!("s{i}").parse().unwrap(),
                labels: of_kind(kind),
                nets: nets
                    .iter()
                    .map(|net| net.parse::<Prefix>().unwrap())
                    .collect(),
            })
        })
        .collect()
    })
}

#[derive(Clone, Debug)]
struct Case {
    inputs: Vec<Input>,
    exceptions: Vec<Exception>,
    options: Options,
}

fn case() -> impl Strategy<Value = Case> {
    let kinds = proptest::collection::vec(proptest::option::of(0usize..4), 5);
    let exceptions = proptest::collection::vec(exception(), 0..2);
    let parts = (feeds(), kinds, exceptions, network_sets(), policies());
    (parts, 0usize..3, 1usize..3, any::<bool>()).prop_map(
        |((feeds, kinds, exceptions, network_sets, policies), mode, deny_at, down)| {
            let inputs = feeds.iter().zip(kinds).enumerate();
            let inputs = inputs.map(|(i, ((deny, scope, list), kind))| {
                let list: Vec<&str> = list.iter().map(String::as_str).collect();
                let action = if *deny { Action::Deny } else { Action::Alert };
                let mut input = input(&format!("f{i}"), action, *scope, &list);
                input.network_set = kind.map(of_kind);
                input
            });
            let private = [
                PrivateNetworks::Refuse,
                PrivateNetworks::AlertOnly,
                PrivateNetworks::Keep,
            ][mode];
            let on_down = if down {
                OnDaemonDown::Deny
            } else {
                OnDaemonDown::Allow
            };
            let host = labels("role", "gateway");
            Case {
                inputs: inputs.collect(),
                exceptions,
                options: Options {
                    private,
                    deny_at,
                    every_set: true,
                    alert_found: true,
                    by_port: true,
                    network_sets,
                    regime: Regime::new(Arc::new(policies), &host, on_down),
                    transition: Transition::default(),
                },
            }
        },
    )
}

/// The class of one packet, naively: every answer over all endpoints and sender's ports.
fn naive(index: &Index, flow: &Flow, direction: Direction) -> Option<Action> {
    let (far, port) = match direction {
        Direction::Egress => (flow.dst, flow.dst_port()),
        Direction::Ingress => (flow.src, flow.src_port()),
    };
    let port = port.map(|port| (flow.proto, port));
    let members = index.members(far, port);
    let built_in = index.lookup(far, port, direction).map(|hit| hit.action);
    if members.is_empty() && built_in.is_none() {
        return None;
    }
    if index.exemption(far, port, direction).is_some() {
        return built_in;
    }
    let far_sets: Vec<&Labels> = members.iter().map(|member| member.labels).collect();
    let regime = index.regime();
    let question = Question {
        direction,
        endpoint: &regime.anybody,
        near: Fact::Unknown,
        far,
        far_sets: &far_sets,
        proto: Fact::Known(flow.proto),
        src_port: match flow.src_port() {
            Some(_) => Fact::Unknown,
            None => Fact::Known(None),
        },
        dst_port: Fact::Known(flow.dst_port()),
    };
    let reach = regime.policies.explore(&question);
    let denied = built_in == Some(Action::Deny);
    let denies = reach.deny || reach.fall && denied;
    let passes = reach.allow || reach.fall && !denied;
    let staged = || {
        let mut staged = regime.policies.each_staged().into_iter();
        staged.any(|policies| policies.explore(&question).deny)
    };
    match (denies, passes) {
        (true, true) => Some(regime.when_unknown()),
        (true, false) => Some(Action::Deny),
        (false, _) => (built_in.is_some() || reach.log || staged()).then_some(Action::Alert),
    }
}

fn packets(a: u8, b: u8, port: u16, other: u16) -> Vec<(Direction, Flow, (u16, u16))> {
    let far = [
        format!("10.{a}.0.{b}"),
        format!("203.{a}.0.{b}"),
        format!("203.{a}.1.{b}"),
        format!("2001:db8::{a}"),
        format!("2001:db9::{b}"),
    ];
    let mut out = Vec::new();
    for far in far {
        let far: IpAddr = far.parse().unwrap();
        let near: IpAddr = if far.is_ipv4() {
            "192.0.2.1"
        } else {
            "2001:db8:9::1"
        }
        .parse()
        .unwrap();
        for proto in [
            Protocol::TCP,
            Protocol::UDP,
            Protocol::ICMP,
            Protocol::SCTP,
            Protocol(47),
        ] {
            for direction in [Direction::Egress, Direction::Ingress] {
                let (src, dst) = match direction {
                    Direction::Egress => (near, far),
                    Direction::Ingress => (far, near),
                };
                let (sport, dport) = match direction {
                    Direction::Egress => (other, port),
                    Direction::Ingress => (port, other),
                };
                let transport = match proto.has_ports() {
                    true => Transport::Ports {
                        src: sport,
                        dst: dport,
                    },
                    false => Transport::None,
                };
                let fragment = false;
                let flow = Flow {
                    src,
                    dst,
                    proto,
                    transport,
                    fragment,
                };
                out.push((direction, flow, (port, dport)));
            }
        }
    }
    out
}

/// An entry with a port in ingress is about the sender's port, which the sets of receiver's ports do not
/// tell: there the kernel may ask the daemon about more than it has to.
fn may_ask(index: &Index, far: IpAddr, direction: Direction) -> bool {
    let bound = |listing: &Listing| matches!(listing.indicator.port, Some(PortMatch { .. }));
    direction == Direction::Ingress && index.listings(far).iter().any(bound)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn the_class_is_the_answer_over_all_endpoints(
        case in case(),
        a in 0u8..5, b in 0u8..5, port in 78u16..84, other in 78u16..84,
    ) {
        let snapshot = build(&case.inputs, &case.exceptions, case.options.clone());
        let index = &snapshot.index;
        for (direction, flow, ports) in packets(a, b, port, other) {
            let sets = kernel(&snapshot.sets, if direction == Direction::Egress { flow.dst } else { flow.src }, flow.proto, ports, direction);
            let naive = naive(index, &flow, direction);
            let far = if direction == Direction::Egress { flow.dst } else { flow.src };
            if sets != naive && may_ask(index, far, direction) {
                let asks = [Some(index.regime().when_unknown()), naive.max(Some(Action::Alert))];
                prop_assert!(asks.contains(&sets), "{} {:?}: {:?}, not {:?}", direction, flow, sets, naive);
                continue;
            }
            prop_assert_eq!(sets, naive, "{} {:?} {:#?}", direction, flow, snapshot.sets);
        }
    }

    /// What the kernel does alone is never against what the daemon answers for an endpoint that it knows.
    #[test]
    fn no_endpoint_gets_another_answer_than_its_class_allows(
        case in case(), unit in 0usize..4,
        a in 0u8..5, b in 0u8..5, port in 78u16..84, other in 78u16..84,
    ) {
        let mut options = case.options.clone();
        options.regime = Regime::new(Arc::clone(&options.regime.policies), options.regime.host(), OnDaemonDown::Allow);
        let snapshot = build(&case.inputs, &case.exceptions, options);
        let index = &snapshot.index;
        let mut endpoint = Endpoint { is_complete: true, ..Endpoint::any(index.regime().host()) };
        endpoint.labels.extend(UNITS.get(unit).map(|unit| ("unit".to_owned(), (*unit).to_owned())));
        for (direction, flow, ports) in packets(a, b, port, other) {
            let far = if direction == Direction::Egress { flow.dst } else { flow.src };
            let class = kernel(&snapshot.sets, far, flow.proto, ports, direction);
            let decision = decide_toward(index, &flow, direction, &endpoint);
            let asked = decide_toward(index, &flow, direction, &index.regime().anybody);
            prop_assert!(decision.as_ref().is_none_or(|d| !d.depends), "everything is known");
            match class {
                Some(Action::Deny) => {
                    prop_assert_eq!(decision.map(|d| d.action), Some(Action::Deny), "{:?}", flow);
                    prop_assert!(asked.is_some_and(|d| !d.depends && d.action == Action::Deny));
                }
                Some(Action::Alert) => prop_assert!(decision.is_some()),
                None => prop_assert!(decision.is_none_or(|d| d.is_quiet), "{:?}", flow),
            }
        }
    }
}

/// A policy that denies a network set of a million hosts to everybody, by all ports or by one.
fn denies_all(rule: &str, ports: Vec<(u16, u16)>) -> Regime {
    let rule = Rule {
        action: RuleAction::Deny,
        protocol: (!ports.is_empty()).then_some(Protocol::TCP),
        not_protocol: None,
        ip_version: None,
        source: Entity::default(),
        destination: Entity {
            selector: Some(rule.parse().unwrap()),
            ports,
            ..Entity::default()
        },
    };
    let pass = Rule {
        action: RuleAction::Pass,
        protocol: None,
        destination: Entity::default(),
        ..rule.clone()
    };
    let policy = Policy {
        name: "default.deny".into(),
        tier: DEFAULT_TIER.into(),
        order: Order(None),
        selector: "all()".parse().unwrap(),
        namespace_selector: None,
        has_ingress: false,
        has_egress: true,
        ingress: vec![],
        egress: vec![rule, pass],
        is_staged: false,
    };
    let policies = Policies::new(vec![], vec![policy]);
    Regime::new(Arc::new(policies), &Labels::new(), OnDaemonDown::Allow)
}

#[test]
fn too_many_ranges_with_ports_are_left_to_the_daemon() {
    let lines: Vec<String> = (0..100_001u32)
        .map(|i| std::net::Ipv4Addr::from(0x2000_0000 + 2 * i).to_string())
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let built = |count: usize, on_daemon_down| {
        let inputs = [input(
            "f",
            Action::Alert,
            crate::feed::Scope::Both,
            &lines[..count],
        )];
        let regime = Regime {
            on_daemon_down,
            ..denies_all("all()", vec![(1_024, 65_535)])
        };
        let options = Options {
            regime,
            ..Options::default()
        };
        build(&inputs, &[], options)
    };
    let class = |snapshot: &Snapshot, port| {
        let addr = "32.0.0.2".parse().unwrap();
        kernel(
            &snapshot.sets,
            addr,
            Protocol::TCP,
            (port, port),
            Direction::Egress,
        )
    };
    let fits = built(100_000, OnDaemonDown::Deny);
    assert_eq!(fits.report.flows.elements, 100_000);
    assert!(fits.report.flows.warning().unwrap().contains("need 100000"));
    assert_eq!(class(&fits, 80), Some(Action::Alert));
    assert_eq!(class(&fits, 8_080), Some(Action::Deny));
    for (on_down, action) in [
        (OnDaemonDown::Deny, Action::Deny),
        (OnDaemonDown::Allow, Action::Alert),
    ] {
        let snapshot = built(100_001, on_down);
        let report = snapshot.report.flows;
        assert_eq!((report.elements, report.too_many), (0, 100_001));
        assert!(report.warning().unwrap().contains("would need 100001"));
        assert_eq!(class(&snapshot, 80), Some(action));
        assert_eq!(class(&snapshot, 8_080), Some(action));
    }
    assert_eq!(built(10, OnDaemonDown::Deny).report.flows.warning(), None);
}

#[test]
#[ignore = "a measurement: needs a quiet machine"]
fn what_policies_cost_a_large_build() {
    let mut lines: Vec<String> = (0..1_000_000u32)
        .map(|i| {
            std::net::Ipv4Addr::from(0x0b00_0000 + i.wrapping_mul(2_654_435_769) % 0xc000_0000)
        })
        .map(|addr| addr.to_string())
        .collect();
    lines.extend(
        (0..20_000u32).map(|i| format!("{}/24", std::net::Ipv4Addr::from(0xd000_0000 + 512 * i))),
    );
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let inputs = [input("f", Action::Alert, crate::feed::Scope::Both, &lines)];
    let cases = [
        ("no policies", Regime::default()),
        ("all ports", denies_all("all()", vec![])),
        ("one port", denies_all("all()", vec![(25, 25)])),
        ("many ports", denies_all("all()", vec![(1_024, 65_535)])),
    ];
    for (name, regime) in cases {
        let options = Options {
            regime,
            ..Options::default()
        };
        let times = (0..3).map(|_| {
            let start = std::time::Instant::now();
            let snapshot = build(&inputs, &[], options.clone());
            (
                start.elapsed(),
                snapshot.sets.elements(),
                snapshot.report.flows,
            )
        });
        println!(
            "{name}: {:?}",
            times.min_by_key(|(time, ..)| *time).unwrap()
        );
    }
}
