//! An address and port that stay denied are let through at no moment, while the sets that hold them change:
//! from all ports to some and back, ports beside them, a larger network, a full takeover.
//!
//! There is no daemon here that could name or deny a packet: only the kernel's sets are asked. The
//! transactions are those that the daemon sends.

use std::{sync::Arc, time::SystemTime};

use feedgate::{
    config,
    feed::{Action, FeedData, Limits, parse_plain},
    nft::Kernel,
    packet::Protocol,
    policy::{DEFAULT_TIER, Entity, Labels, Order, Policies, Policy, Rule, RuleAction},
    ruleset::Options,
    snapshot::{self, Input, Regime, Snapshot, steps},
};

use crate::support::{Lab, Pace, Stream};

/// The port of the receiver that every packet goes to.
const PORT: u16 = 9;
/// In every state below they are denied at [`PORT`]: one in a network, one alone.
const DENIED: [&str; 2] = ["203.0.113.9", "203.0.113.1"];
/// Networks beside them: with more elements a transaction takes longer, and so does a gap.
const BESIDE: u32 = 1_500;

/// What the policy denies: all ports, or these of UDP.
type Ports = &'static [(u16, u16)];

/// Feed lines and the policy's ports; `None`: no policy, the feed denies by itself.
struct State {
    lines: &'static [&'static str],
    ports: Option<Ports>,
}

/// Every step to the next one, and from the last to the first, changes what holds the two addresses.
const STATES: [State; 12] = [
    // All ports, both directions.
    state(&["203.0.113.8/30", "203.0.113.1"], None),
    // All ports on the way out.
    state(&["203.0.113.8/30", "203.0.113.1"], Some(&[])),
    // One port: a range for the network, a hash element for the single address.
    state(&["203.0.113.8/30", "203.0.113.1"], Some(&[(9, 9)])),
    // A port beside it.
    state(&["203.0.113.8/30", "203.0.113.1"], Some(&[(7, 7), (9, 9)])),
    // The element itself grows; too many ports for the hash set.
    state(&["203.0.113.8/30", "203.0.113.1"], Some(&[(7, 400)])),
    // And is cut in two, beside the port.
    state(
        &["203.0.113.8/30", "203.0.113.1"],
        Some(&[(7, 200), (202, 400)]),
    ),
    // The networks grow and shrink.
    state(&["203.0.113.8/29", "203.0.113.0/31"], Some(&[(7, 400)])),
    state(&["203.0.113.9", "203.0.113.1"], Some(&[(9, 9)])),
    state(&["203.0.113.8/31", "203.0.113.0/30"], Some(&[(9, 9)])),
    // All ports on the way out, and back.
    state(&["203.0.113.8/31", "203.0.113.0/30"], Some(&[])),
    state(&["203.0.113.8/30", "203.0.113.1"], Some(&[(1, 9)])),
    // Entries with a port of their own, in both directions.
    state(&["203.0.113.9:9/udp", "203.0.113.1:9/udp"], None),
];

const fn state(lines: &'static [&'static str], ports: Option<Ports>) -> State {
    State { lines, ports }
}

fn rule(action: RuleAction, ports: Ports) -> Rule {
    Rule {
        action,
        protocol: (!ports.is_empty()).then_some(Protocol::UDP),
        not_protocol: None,
        ip_version: None,
        source: Entity::default(),
        destination: Entity {
            ports: ports.to_vec(),
            ..Entity::default()
        },
    }
}

/// Denies the feed at these ports on the way out.
fn policy(ports: Ports) -> Policy {
    let mut deny = rule(RuleAction::Deny, ports);
    deny.destination.selector = Some("feed == 'block'".parse().unwrap());
    Policy {
        name: "default.block".into(),
        tier: DEFAULT_TIER.into(),
        order: Order(None),
        selector: "all()".parse().unwrap(),
        namespace_selector: None,
        has_ingress: false,
        has_egress: true,
        ingress: vec![],
        egress: vec![deny, rule(RuleAction::Pass, &[])],
        is_staged: false,
    }
}

fn snapshot(state: &State) -> Snapshot {
    let mut feed = config::Feed::new("block".parse().unwrap());
    feed.labels = [("feed".to_owned(), "block".to_owned())].into();
    feed.action = match state.ports {
        None => Action::Deny,
        Some(_) => Action::Alert,
    };
    let beside =
        (0..BESIDE).map(|i| format!("{}/30", std::net::Ipv4Addr::from(0x2000_0000 + 64 * i)));
    let lines: Vec<String> = state
        .lines
        .iter()
        .map(|line| (*line).to_owned())
        .chain(beside)
        .collect();
    let data = FeedData {
        parsed: parse_plain(lines.join("\n").as_bytes(), &Limits::default()),
        pulled: SystemTime::UNIX_EPOCH,
        bytes: 0,
    };
    let inputs = [Input::new(&feed, Arc::new(data))];
    let policies = Policies::new(vec![], state.ports.map(policy).into_iter().collect());
    let regime = match state.ports {
        None => snapshot::Options::default().regime,
        Some(_) => Regime::new(
            Arc::new(policies),
            &Labels::new(),
            config::OnDaemonDown::Allow,
        ),
    };
    let options = snapshot::Options {
        regime,
        ..snapshot::Options::default()
    };
    snapshot::build(&inputs, &[], options)
}

fn open() -> Kernel {
    Kernel::open(Options::new(&config::Nftables::default())).unwrap()
}

#[test]
fn nothing_gets_out_while_an_address_moves_between_all_ports_and_some() {
    let Some(lab) = Lab::new() else { return };
    let snapshots: Vec<Snapshot> = STATES.iter().map(snapshot).collect();
    let names: std::collections::BTreeSet<String> = snapshots
        .iter()
        .flat_map(|snapshot| snapshot.sets.names())
        .map(|name| name.to_string())
        .collect();
    for kind in [
        "deny_nets4",
        "deny_out_nets4",
        "deny_out_flows4",
        "deny_out_ports4",
        "deny_ports4",
    ] {
        assert!(names.contains(kind), "{names:?}");
    }
    let kernel = lab
        .host
        .enter(|| {
            let kernel = open();
            kernel.install(&snapshots[0].sets).unwrap();
            kernel
        })
        .unwrap();
    let mut stream = Stream::start(&lab, &DENIED, PORT, Pace::Full);
    let mut gaps = Gaps::default();
    for round in 0..rounds() {
        for from in 0..STATES.len() {
            let to = (from + 1) % STATES.len();
            let [old, new] = [from, to].map(|at| &snapshots[at].sets);
            for (delta, after) in steps(old, new) {
                kernel.apply(&delta, &after).unwrap();
            }
            gaps.look(&mut stream, (round, from, to));
        }
    }
    gaps.end(stream);
}

#[test]
fn nothing_gets_out_while_a_table_with_ports_is_taken_over() {
    let Some(lab) = Lab::new() else { return };
    let snapshots: Vec<Snapshot> = STATES.iter().map(snapshot).collect();
    let install = |at: usize| {
        let install = || open().install(&snapshots[at].sets).unwrap();
        lab.host.enter(install).unwrap();
    };
    install(0);
    let mut stream = Stream::start(&lab, &DENIED, PORT, Pace::Full);
    let mut gaps = Gaps::default();
    for round in 0..rounds() {
        for at in 0..STATES.len() {
            // A daemon that starts again with the same, and one with what it has pulled meanwhile.
            for next in [at, (at + 1) % STATES.len()] {
                install(next);
                gaps.look(&mut stream, (round, at, next));
            }
        }
    }
    gaps.end(stream);
}

/// Where something got out.
#[derive(Debug, Default)]
struct Gaps {
    /// Datagrams that had arrived at the last look.
    arrived: u64,
    found: Vec<String>,
}

impl Gaps {
    /// Looks after a change: its round, from which state and to which.
    fn look(&mut self, stream: &mut Stream, (round, from, to): (usize, usize, usize)) {
        stream.wait_for_more(30);
        let arrived = stream.arrived();
        if arrived > self.arrived {
            let more = arrived - self.arrived;
            self.found
                .push(format!("round {round}, {from} to {to}: {more}"));
        }
        self.arrived = arrived;
    }

    /// Nothing may have got out.
    fn end(self, stream: Stream) {
        let (sent, arrived) = stream.end();
        println!("{sent} sent");
        assert_eq!(arrived, 0, "of {sent} datagrams: {:#?}", self.found);
    }
}

/// Rounds through all states; more of them find rarer gaps.
fn rounds() -> usize {
    let rounds = std::env::var("FEEDGATE_TEST_ROUNDS").ok();
    rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(2)
}
