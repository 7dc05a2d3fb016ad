//! The law of forms: what the kernel does with one from its sets alone is the stronger of what its IPv4
//! address and its own entries get, and exceptions of either spare it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::{
    config::PrivateNetworks,
    feed::{Action, Direction},
    packet::{Flow, Protocol, Transport},
    policy::{Endpoint, Labels, decide_toward},
    prefix::Prefix,
    snapshot::{
        Input, Options, Snapshot, build,
        tests::{except, feeds, input, kernel, options, prefix},
    },
};

fn nat64(prefix: &str) -> Form {
    Form::nat64(prefix.parse().unwrap()).unwrap()
}

fn all_in_use(forms: &[Form]) -> Transition {
    let forms = || Forms::new(forms.to_vec());
    Transition {
        read: forms(),
        spared: forms(),
        in_use: forms(),
    }
}

/// A flow to or from `far`, with `port` there.
fn flow(far: IpAddr, port: u16, proto: Protocol, direction: Direction) -> Flow {
    let near = "2001:db8:9::1".parse().unwrap();
    let ((src, dst), (from, to)) = match direction {
        Direction::Egress => ((near, far), (40_000, port)),
        Direction::Ingress => ((far, near), (port, 40_000)),
    };
    let transport = match proto.has_ports() {
        true => Transport::Ports { src: from, dst: to },
        false => Transport::None,
    };
    Flow {
        src,
        dst,
        proto,
        transport,
        fragment: false,
    }
}

fn decided(snapshot: &Snapshot, flow: &Flow, direction: Direction) -> Option<Action> {
    let endpoint = Endpoint::any(&Labels::new());
    decide_toward(&snapshot.index, flow, direction, &endpoint).map(|decision| decision.action())
}

/// IPv6 entries around and inside the forms.
fn wide() -> impl Strategy<Value = Vec<String>> {
    let entry = prop_oneof![
        (0u8..4, 96u8..=128).prop_map(|(a, len)| format!("64:ff9b::203.{a}.0.1/{len}")),
        (0u8..4, 20u8..=60).prop_map(|(a, len)| format!("2002:cb0{a}::/{len}")),
        Just("2001:db8:64::/56".to_owned()),
    ];
    prop::collection::vec(entry, 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_form_is_judged_as_its_ipv4_address(
        feeds in feeds(), wide in wide(),
        exceptions in prop::collection::vec(prefix(), 0..3),
        mode in 0usize..3, deny_at in 1usize..3,
        a in 0u8..5, b in 0u8..5, port in 79u16..82, suffix: u16,
    ) {
        let mode = [PrivateNetworks::Refuse, PrivateNetworks::AlertOnly, PrivateNetworks::Keep][mode];
        let mut inputs: Vec<Input> = feeds.iter().enumerate().map(|(i, (deny, scope, list))| {
            let list: Vec<&str> = list.iter().map(String::as_str).collect();
            input(&format!("f{i}"), if *deny { Action::Deny } else { Action::Alert }, *scope, &list)
        }).collect();
        let wide: Vec<&str> = wide.iter().map(String::as_str).collect();
        inputs.push(input("wide", Action::Deny, crate::feed::Scope::Both, &wide));
        let exceptions: Vec<Exception> = exceptions.iter().map(|p| except(p)).collect();
        let (exact, split, six) = (nat64("64:ff9b::/96"), nat64("2001:db8:64::/64"), Form::six_to_four().unwrap());
        let options = Options { transition: all_in_use(&[exact, split, six]), ..options(mode, deny_at) };
        let snapshot = build(&inputs, &exceptions, options);
        for v4 in [Ipv4Addr::new(10, a, 0, b), Ipv4Addr::new(203, a, 0, b), Ipv4Addr::new(203, a, 1, b)] {
            let site = six.prefixes(&Prefix::host(v4.into()))[0].addr();
            let IpAddr::V6(site) = site else { unreachable!() };
            let site = u128::from(site) | u128::from(suffix);
            for (form, addr) in [(exact, exact.host(v4.into())), (split, split.host(v4.into())), (six, Some(site))] {
                let far = IpAddr::from(Ipv6Addr::from(addr.unwrap()));
                prop_assert_eq!(snapshot.index.stands_for(far), Some(v4.into()));
                for direction in [Direction::Egress, Direction::Ingress] {
                    for proto in [Protocol::TCP, Protocol::UDP, Protocol::ICMP] {
                        let sets = kernel(&snapshot.sets, far, proto, (port, port), direction);
                        let flow = flow(far, port, proto, direction);
                        let said = decided(&snapshot, &flow, direction);
                        if form.is_six_to_four() && proto != Protocol::ICMP {
                            // Entries with a port have no elements there.
                            prop_assert!(sets <= said, "{} {} {:?} {:?}", far, proto, sets, said);
                        } else {
                            prop_assert_eq!(sets, said, "{} {} {}", far, direction, proto);
                        }
                        let alone = snapshot.index.lookup(v4.into(), Some((proto, port)), direction);
                        let spared = exceptions.iter().any(|e| e.prefix.contains(far));
                        prop_assert!(spared || said >= alone.map(|hit| hit.action));
                    }
                }
            }
        }
    }
}

fn seen(snapshot: &Snapshot, far: &str) -> Option<Action> {
    let direction = Direction::Egress;
    let flow = flow(far.parse().unwrap(), 443, Protocol::TCP, direction);
    let said = decided(snapshot, &flow, direction);
    let sets = kernel(&snapshot.sets, flow.dst, flow.proto, (443, 443), direction);
    assert_eq!(sets, said, "{far}");
    said
}

#[test]
fn hosts_stay_hosts_and_exceptions_spare_both_forms() {
    let both = crate::feed::Scope::Both;
    let list = [
        "203.0.113.66",
        "203.0.113.67",
        "198.51.100.0/24",
        "203.0.113.68:443",
    ];
    let inputs = [
        input("f", Action::Deny, both, &list),
        input(
            "six",
            Action::Deny,
            both,
            &["64:ff9b::203.0.113.67", "64:ff9b::198.51.100.9"],
        ),
    ];
    let exceptions = ["203.0.113.67", "64:ff9b::198.51.100.9"].map(except);
    let options = Options {
        transition: all_in_use(&[nat64("64:ff9b::/96")]),
        ..Options::default()
    };
    let snapshot = build(&inputs, &exceptions, options);
    let deny = Some(Action::Deny);
    for (last, expect) in [(66, deny), (67, None), (68, deny), (69, None)] {
        assert_eq!(
            seen(&snapshot, &format!("203.0.113.{last}")),
            expect,
            "{last}"
        );
        assert_eq!(
            seen(&snapshot, &format!("64:ff9b::203.0.113.{last}")),
            expect,
            "{last}"
        );
    }
    assert_eq!(seen(&snapshot, "64:ff9b::198.51.100.8"), deny);
    assert_eq!(seen(&snapshot, "198.51.100.9"), deny);
    assert_eq!(
        seen(&snapshot, "64:ff9b::198.51.100.9"),
        None,
        "excepted as it is written"
    );
    let hosts = SetName::Class {
        class: Class::Deny,
        scope: both,
        kind: Kind::Hosts,
        family: Family::V6,
    };
    assert_eq!(snapshot.sets.get(hosts).map(Content::len), Some(1));
    assert_eq!(snapshot.report.feeds.len(), 2);
}

#[test]
fn a_form_that_is_not_in_use_is_read_and_not_copied() {
    let inputs = [input(
        "f",
        Action::Deny,
        crate::feed::Scope::Both,
        &["203.0.113.66"],
    )];
    let six = Form::six_to_four().unwrap();
    let with = |in_use: Forms| {
        let transition = Transition {
            in_use,
            ..all_in_use(&[nat64("64:ff9b::/96"), six])
        };
        build(
            &inputs,
            &[],
            Options {
                transition,
                ..Options::default()
            },
        )
    };
    let idle = with(Forms::default());
    assert!(idle.sets.names().all(|name| name.family() == Family::V4));
    let far: IpAddr = "2002:cb00:7142::1".parse().unwrap();
    assert_eq!(idle.index.ipv4(far), Some("203.0.113.66".parse().unwrap()));
    let used = with(Forms::new(vec![six]));
    assert_eq!(seen(&used, "2002:cb00:7142::1"), Some(Action::Deny));
    // The use begins and ends by a delta.
    let begins = crate::snapshot::Delta::between(&idle.sets, &used.sets).unwrap();
    assert!(
        begins
            .created
            .iter()
            .all(|name| name.family() == Family::V6)
    );
    assert!(!begins.created.is_empty() && begins.dropped.is_empty() && begins.changed.is_empty());
    let ends = crate::snapshot::Delta::between(&used.sets, &idle.sets).unwrap();
    assert_eq!(ends.dropped, begins.created);
    assert!(ends.created.is_empty() && ends.changed.is_empty());
}
