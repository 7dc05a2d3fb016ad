//! The snapshot as a whole: what the kernel would do from its sets alone is what the index says.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use proptest::prelude::*;

use super::*;
use crate::{
    config::PrivateNetworks,
    feed::{Action, Direction, FeedData, FeedName, Limits, Scope, Severity, parse_plain},
    packet::Protocol,
    prefix::{Address, Family, Range},
};

pub(super) fn input(name: &str, action: Action, scope: Scope, prefixes: &[&str]) -> Input {
    let parsed = parse_plain(
        prefixes.join("\n").as_bytes(),
        &Limits {
            min_prefix4: 1,
            min_prefix6: 1,
            ..Limits::default()
        },
    );
    assert_eq!(parsed.good, prefixes.len(), "{prefixes:?}");
    let data = Arc::new(FeedData {
        parsed,
        pulled: SystemTime::UNIX_EPOCH,
        bytes: 0,
    });
    let (deny_score, severity, origin) = (None, Severity::Medium, name.to_owned());
    Input {
        name: name.parse().unwrap(),
        action,
        deny_score,
        scope,
        severity,
        origin,
        network_set: Some(crate::policy::Labels::new()),
        trial: false,
        data,
    }
}

pub(super) fn except(prefix: &str) -> Exception {
    Exception {
        prefix: prefix.parse().unwrap(),
        why: "test".into(),
        kind: ExceptionKind::Configured,
    }
}

pub(super) fn options(private: PrivateNetworks, deny_at: usize) -> Options {
    Options {
        private,
        deny_at,
        every_set: true,
        ..Options::default()
    }
}

/// What the kernel would do, from its sets alone: with the port at the address, and the receiver's.
pub(crate) fn kernel(
    sets: &Sets,
    addr: IpAddr,
    proto: Protocol,
    (port, receiver): (u16, u16),
    direction: Direction,
) -> Option<Action> {
    fn holds<A: Address>(ranges: &[Range<A>], addr: A) -> bool {
        ranges.iter().any(|r| r.first <= addr && addr <= r.last)
    }
    let inside = |content: &Content| match (content, addr) {
        (Content::V4(ranges), IpAddr::V4(a)) => holds(ranges, a.into()),
        (Content::V6(ranges), IpAddr::V6(a)) => holds(ranges, a.into()),
        (Content::Ports4(list), IpAddr::V4(a)) => list.contains(&PortElement {
            addr: a.into(),
            proto: proto.0,
            port,
        }),
        (Content::Ports6(list), IpAddr::V6(a)) => list.contains(&PortElement {
            addr: a.into(),
            proto: proto.0,
            port,
        }),
        (Content::Flows4(list), IpAddr::V4(a)) => list
            .iter()
            .any(|flow| is_at(flow, a.into(), proto, receiver)),
        (Content::Flows6(list), IpAddr::V6(a)) => list
            .iter()
            .any(|flow| is_at(flow, a.into(), proto, receiver)),
        _ => false,
    };
    let in_block = |content: &Content| match (content, addr) {
        (Content::V4(r), IpAddr::V4(a)) => r.contains(&Range::host(u32::from(a).masked(BLOCK4))),
        (Content::V6(r), IpAddr::V6(a)) => r.contains(&Range::host(u128::from(a).masked(BLOCK6))),
        _ => false,
    };
    let (mut filtered, mut passes, mut action) = (false, false, None);
    let mut resolves = false;
    for (name, content) in sets
        .iter()
        .filter(|(n, _)| (n.family() == Family::V4) == addr.is_ipv4())
    {
        match name {
            SetName::Coarse { kind, .. } => {
                filtered = true;
                passes |= if kind == Kind::Hosts {
                    in_block(content)
                } else {
                    inside(content)
                };
            }
            SetName::Class { class, scope, .. } if scope.covers(direction) && inside(content) => {
                let this = if class == Class::Deny {
                    Action::Deny
                } else {
                    Action::Alert
                };
                action = action.max(Some(this));
            }
            SetName::Class { .. } => {}
            // The port at the far end, which in egress is the receiver's.
            SetName::Resolvers { .. } => {
                resolves |= direction == Direction::Egress && inside(content)
            }
        }
    }
    if resolves {
        return None;
    }
    action.filter(|_| passes || !filtered)
}

fn is_at<A: Address>(flow: &FlowElement<A>, addr: A, proto: Protocol, port: u16) -> bool {
    let PortBox { protos, ports } = flow.at;
    (flow.addr.first..=flow.addr.last).contains(&addr)
        && (protos.0..=protos.1).contains(&proto.0)
        && (ports.0..=ports.1).contains(&port)
}

pub(super) fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![Just(Scope::Both), Just(Scope::Out), Just(Scope::In)]
}

pub(super) fn entry() -> impl Strategy<Value = String> {
    prop_oneof![
        (0u8..4, 0u8..4, 14u8..=32).prop_map(|(a, b, len)| format!("10.{a}.0.{b}/{len}")),
        (0u8..4, 0u8..4, 14u8..=32).prop_map(|(a, b, len)| format!("203.{a}.0.{b}/{len}")),
        (0u8..4, 28u8..=128).prop_map(|(a, len)| format!("2001:db8::{a}/{len}")),
        (0u8..4, 0u8..4, 0u8..4).prop_map(|(a, b, n)| format!("203.{a}.0.{b}-203.{a}.1.{n}")),
        (0u8..4, 0u8..4, 79u16..82).prop_map(|(a, b, port)| format!("203.{a}.0.{b}:{port}")),
        (0u8..4, 0u8..4, 22u8..=32).prop_map(|(a, b, len)| format!("10.{a}.0.{b}/{len}:80/tcp")),
        (0u8..4).prop_map(|a| format!("[2001:db8::{a}]:80")),
    ]
}

pub(super) fn feeds() -> impl Strategy<Value = Vec<(bool, Scope, Vec<String>)>> {
    proptest::collection::vec(
        (
            any::<bool>(),
            scope(),
            proptest::collection::vec(entry(), 0..6),
        ),
        1..5,
    )
}

pub(super) fn prefix() -> impl Strategy<Value = String> {
    entry().prop_filter("a prefix", |text| {
        text.parse::<crate::prefix::Prefix>().is_ok()
    })
}

/// An exception of any kind.
pub(super) fn exception() -> impl Strategy<Value = Exception> {
    let kind = prop_oneof![
        Just(ExceptionKind::Configured),
        Just(ExceptionKind::Own),
        Just(ExceptionKind::Found),
        Just(ExceptionKind::Special),
    ];
    (prefix(), kind).prop_map(|(prefix, kind)| Exception {
        kind,
        ..except(&prefix)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn kernel_and_index_agree(
        feeds in feeds(),
        exceptions in proptest::collection::vec(exception(), 0..3),
        mode in 0usize..3,
        deny_at in 1usize..4,
        a in 0u8..5, b in 0u8..5, port in 79u16..82, trials in 0u8..32,
    ) {
        let mode = [PrivateNetworks::Refuse, PrivateNetworks::AlertOnly, PrivateNetworks::Keep][mode];
        let inputs: Vec<Input> = feeds.iter().enumerate().map(|(i, (deny, scope, list))| {
            let list: Vec<&str> = list.iter().map(String::as_str).collect();
            let trial = trials & 16 != 0 && trials & (1 << i) != 0;
            Input { trial, ..input(&format!("f{i}"), if *deny { Action::Deny } else { Action::Alert }, *scope, &list) }
        }).collect();
        let armed: Vec<Input> = inputs.iter().cloned().map(|input| Input { trial: false, ..input }).collect();
        let snapshot = build(&inputs, &exceptions, options(mode, deny_at));
        let armed = build(&armed, &exceptions, options(mode, deny_at));
        for addr in [format!("10.{a}.0.{b}"), format!("203.{a}.0.{b}"), format!("203.{a}.1.{b}"), format!("2001:db8::{a}"), format!("2001:db9::{b}")] {
            let addr: IpAddr = addr.parse().unwrap();
            for direction in [Direction::Egress, Direction::Ingress] {
                for proto in [Protocol::TCP, Protocol::UDP, Protocol::ICMP] {
                    let hit = snapshot.index.lookup(addr, Some((proto, port)), direction);
                    let index = hit.as_ref().map(|hit| hit.action);
                    let sets = kernel(&snapshot.sets, addr, proto, (port, port), direction);
                    prop_assert_eq!(sets, index, "{} {} {}:{}", addr, direction, proto, port);
                    let later = armed.index.lookup(addr, Some((proto, port)), direction).map(|hit| hit.action);
                    let only_trial = index == Some(Action::Alert) && later == Some(Action::Deny);
                    let said = hit.is_some_and(|hit| !hit.would_deny.is_empty());
                    prop_assert_eq!(said, only_trial, "{} {} {}:{}", addr, direction, proto, port);
                }
            }
        }
    }
}

/// Found by the law above: whether enough origins agree was asked at the first address of a piece only,
/// and nothing counts where an exception or private space is.
#[test]
fn what_is_spared_at_the_start_of_a_network_leaves_the_rest_denied() {
    for (wide, narrow, spared, addr) in [
        ("203.0.0.0/14", "203.2.0.0/15", "203.2.0.0/24", "203.2.1.0"),
        ("9.0.0.0/8", "10.0.0.0/7", "192.0.2.0/24", "11.0.0.1"),
    ] {
        let inputs = [
            input("watch", Action::Alert, Scope::Both, &[wide, "8.0.0.0/5"]),
            input("deny", Action::Deny, Scope::Both, &[narrow]),
        ];
        let options = options(PrivateNetworks::Refuse, 2);
        let snapshot = build(&inputs, &[except(spared)], options);
        let addr = addr.parse().unwrap();
        let sets = kernel(
            &snapshot.sets,
            addr,
            Protocol::TCP,
            (443, 443),
            Direction::Egress,
        );
        assert_eq!(sets, Some(Action::Deny), "{addr}");
    }
}

fn seen(snapshot: &Snapshot, addr: &str, direction: Direction) -> Option<(Action, String)> {
    let hit = snapshot
        .index
        .lookup(addr.parse().unwrap(), None, direction)?;
    Some((hit.action, hit.indicator.to_string()))
}

#[test]
fn deny_wins_and_both_feeds_are_named() {
    let inputs = [
        input("watch", Action::Alert, Scope::Both, &["203.0.113.7"]),
        input("deny", Action::Deny, Scope::Out, &["203.0.113.0/24"]),
    ];
    let snapshot = build(&inputs, &[], Options::default());
    let hit = snapshot
        .index
        .lookup("203.0.113.7".parse().unwrap(), None, Direction::Egress)
        .unwrap();
    assert_eq!(hit.action, Action::Deny);
    assert_eq!(hit.indicator.to_string(), "203.0.113.0/24");
    assert_eq!(
        hit.feeds.iter().map(FeedName::as_str).collect::<Vec<_>>(),
        ["deny", "watch"]
    );
    assert_eq!(
        seen(&snapshot, "203.0.113.7", Direction::Ingress),
        Some((Action::Alert, "203.0.113.7".into()))
    );
}

#[test]
fn private_networks_are_refused_and_the_single_host_kept() {
    let inputs = [input(
        "lab",
        Action::Deny,
        Scope::Both,
        &["10.0.0.0/8", "172.0.0.0/8", "10.48.255.194"],
    )];
    let snapshot = build(&inputs, &[], Options::default());
    let act = |addr: &str| seen(&snapshot, addr, Direction::Egress).map(|(action, _)| action);
    assert_eq!(act("10.48.255.194"), Some(Action::Deny));
    assert_eq!(act("10.1.1.1"), None);
    assert_eq!(act("172.16.1.1"), None);
    assert_eq!(act("172.1.1.1"), Some(Action::Deny));
    let report = &snapshot.report.feeds[&"lab".parse().unwrap()];
    assert_eq!((report.private, report.merged), (2, 2));
}

#[test]
fn special_addresses_count_nowhere_whatever_lists_them() {
    let listed = [
        "0.0.0.0/1",
        "128.0.0.0/1",
        "8000::/1",
        "::/1",
        "0.0.0.0",
        "127.0.0.1:80",
        "224.0.0.1",
        "169.254.169.254",
        "255.255.255.255",
        "::",
        "ff02::1",
        "fe80::1",
        "203.0.113.255",
        "10.48.255.194",
    ];
    let broadcast = Exception {
        kind: ExceptionKind::Special,
        why: "broadcast address on eth0".into(),
        ..except("203.0.113.255")
    };
    let modes = [
        PrivateNetworks::Refuse,
        PrivateNetworks::AlertOnly,
        PrivateNetworks::Keep,
    ];
    for (mode, deny_at) in modes.into_iter().flat_map(|mode| [(mode, 1), (mode, 2)]) {
        let inputs = ["a", "b"].map(|name| input(name, Action::Deny, Scope::Both, &listed));
        let snapshot = build(
            &inputs,
            std::slice::from_ref(&broadcast),
            options(mode, deny_at),
        );
        let act = |addr: &str, direction| {
            let addr: IpAddr = addr.parse().unwrap();
            let port = (80, 80);
            let sets = kernel(&snapshot.sets, addr, Protocol::TCP, port, direction);
            let port = Some((Protocol::TCP, 80));
            let hit = snapshot.index.lookup(addr, port, direction);
            assert_eq!(sets, hit.map(|hit| hit.action), "{addr} {direction}");
            sets
        };
        for direction in [Direction::Egress, Direction::Ingress] {
            for addr in [
                "0.0.0.0",
                "127.0.0.1",
                "169.254.169.254",
                "224.0.0.1",
                "239.255.255.255",
                "255.255.255.255",
                "::",
                "::1",
                "fe80::1",
                "ff02::1:ff00:2",
                "203.0.113.255",
            ] {
                assert_eq!(act(addr, direction), None, "{addr}");
            }
            for addr in ["10.48.255.194", "203.0.113.254", "2001:db8::1"] {
                assert_eq!(act(addr, direction), Some(Action::Deny), "{addr}");
            }
        }
        let report = &snapshot.report.feeds[&"a".parse().unwrap()];
        assert_eq!(report.special, 13);
        assert_eq!(report.special_examples[4], "0.0.0.0: unspecified");
        assert_eq!(report.excepted, 0);
    }
}

fn with_kind(prefix: &str, kind: ExceptionKind, why: &str) -> Exception {
    Exception {
        kind,
        why: why.into(),
        ..except(prefix)
    }
}

#[test]
fn a_resolver_is_let_pass_at_its_ports_only() {
    let listed = ["203.0.113.0/24", "2001:db8::/32"];
    let inputs = [input("f", Action::Deny, Scope::Both, &listed)];
    let exceptions = ["203.0.113.53", "2001:db8::53", "fe80::53"]
        .map(|addr| with_kind(addr, ExceptionKind::Resolver, RESOLVER));
    let by_port = build(&inputs, &exceptions, Options::default());
    let family = Family::V4;
    let set = by_port.sets.get(SetName::Resolvers { family });
    assert_eq!(set.map(Content::len), Some(4));
    let family = Family::V6;
    let set = by_port.sets.get(SetName::Resolvers { family });
    assert_eq!(
        set.map(Content::len),
        Some(4),
        "a link-local one needs no rule"
    );
    for addr in ["203.0.113.53", "2001:db8::53"] {
        let addr: IpAddr = addr.parse().unwrap();
        let seen = |proto, port, direction| {
            let sets = kernel(&by_port.sets, addr, proto, (port, port), direction);
            let hit = by_port.index.lookup(addr, Some((proto, port)), direction);
            (
                sets,
                hit.map(|hit| (hit.action, hit.exception.as_deref().map(str::to_owned))),
            )
        };
        for (proto, port) in [(Protocol::UDP, 53), (Protocol::TCP, 853)] {
            let (sets, hit) = seen(proto, port, Direction::Egress);
            assert_eq!(sets, None);
            assert_eq!(hit, Some((Action::Alert, Some(RESOLVER.to_owned()))));
        }
        let denied = (Some(Action::Deny), Some((Action::Deny, None)));
        for (proto, port, direction) in [
            (Protocol::TCP, 443, Direction::Egress),
            (Protocol::SCTP, 53, Direction::Egress),
            (Protocol::UDP, 53, Direction::Ingress),
        ] {
            assert_eq!(
                seen(proto, port, direction),
                denied,
                "{proto} {port} {direction}"
            );
        }
    }
    // Rules that know no resolvers: never denied, as anything else that was found.
    let options = Options {
        by_port: false,
        ..Options::default()
    };
    let at_all = build(&inputs, &exceptions, options);
    let hit = seen(&at_all, "203.0.113.53", Direction::Egress);
    assert_eq!(hit.map(|(action, _)| action), Some(Action::Alert));
    assert!(
        at_all
            .sets
            .names()
            .all(|name| !matches!(name, SetName::Resolvers { .. }))
    );
}

#[test]
fn what_was_found_alerts_and_says_why_or_is_silent() {
    let inputs = [input("f", Action::Deny, Scope::Both, &["203.0.113.0/24"])];
    let exceptions = [
        with_kind("203.0.113.1", ExceptionKind::Found, "SSH peer"),
        with_kind("203.0.113.1", ExceptionKind::Found, "syslog server"),
        with_kind("203.0.113.2", ExceptionKind::Own, "own address on eth0"),
    ];
    let lookup = |options, addr: &str| {
        let index = build(&inputs, &exceptions, options).index;
        index.lookup(addr.parse().unwrap(), None, Direction::Ingress)
    };
    let hit = lookup(Options::default(), "203.0.113.1").unwrap();
    assert_eq!(hit.action, Action::Alert);
    assert_eq!(hit.exception.as_deref(), Some("SSH peer, syslog server"));
    assert_eq!(lookup(Options::default(), "203.0.113.2"), None);
    let silent = Options {
        alert_found: false,
        ..Options::default()
    };
    assert_eq!(lookup(silent, "203.0.113.1"), None);
}

#[test]
fn exceptions_are_reported_with_their_reason() {
    let inputs = [input(
        "a",
        Action::Deny,
        Scope::Both,
        &["203.0.113.0/24", "198.51.100.9"],
    )];
    let snapshot = build(&inputs, &[except("203.0.113.1")], Options::default());
    assert!(seen(&snapshot, "203.0.113.1", Direction::Egress).is_none());
    assert!(seen(&snapshot, "203.0.113.2", Direction::Egress).is_some());
    let report = &snapshot.report.feeds[&"a".parse().unwrap()];
    assert_eq!(
        report.excepted_examples,
        ["203.0.113.0/24: test (203.0.113.1)"]
    );
}

#[test]
fn a_range_is_named_as_it_was_written() {
    let inputs = [input(
        "r",
        Action::Deny,
        Scope::Both,
        &["203.0.113.1-203.0.113.9"],
    )];
    let snapshot = build(&inputs, &[], Options::default());
    assert_eq!(
        seen(&snapshot, "203.0.113.5", Direction::Egress),
        Some((Action::Deny, "203.0.113.1-203.0.113.9".into()))
    );
    assert!(seen(&snapshot, "203.0.113.10", Direction::Egress).is_none());
}

#[test]
fn origins_that_agree_deny_and_a_copy_does_not_count() {
    let one = input("one", Action::Deny, Scope::Both, &["203.0.113.0/24"]);
    let mut copy = input("copy", Action::Deny, Scope::Both, &["203.0.113.0/24"]);
    copy.origin = "one".into();
    let two = input("two", Action::Deny, Scope::Out, &["203.0.113.128/25"]);
    let snapshot = build(&[one, copy, two], &[], options(PrivateNetworks::Refuse, 2));
    let act = |addr: &str, direction| seen(&snapshot, addr, direction).map(|(action, _)| action);
    assert_eq!(act("203.0.113.1", Direction::Egress), Some(Action::Alert));
    assert_eq!(act("203.0.113.200", Direction::Egress), Some(Action::Deny));
    assert_eq!(
        act("203.0.113.200", Direction::Ingress),
        Some(Action::Alert)
    );
}

#[test]
fn a_score_splits_one_feed() {
    let parsed = crate::feed::parse_plain(
        b"203.0.113.1\t9\n203.0.113.2\t3\n",
        &Limits {
            deny_score: Some(8),
            ..Limits::default()
        },
    );
    let mut scored = input("s", Action::Alert, Scope::Both, &[]);
    scored.deny_score = Some(8);
    scored.data = Arc::new(FeedData {
        parsed,
        pulled: SystemTime::UNIX_EPOCH,
        bytes: 0,
    });
    let snapshot = build(&[scored], &[], Options::default());
    let act = |addr: &str| seen(&snapshot, addr, Direction::Egress).map(|(action, _)| action);
    assert_eq!(act("203.0.113.1"), Some(Action::Deny));
    assert_eq!(act("203.0.113.2"), Some(Action::Alert));
}
