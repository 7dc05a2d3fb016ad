//! What the kernel makes of classes under policies: by port without the daemon, and what depends on the
//! endpoint while the daemon answers and when it is gone.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::SystemTime,
};

use feedgate::{
    config::{self, Hook, OnDaemonDown},
    demo::Netns,
    feed::{Action, FeedData, Limits, parse_plain},
    nft::Kernel,
    packet::{Protocol, decode},
    policy::{
        DEFAULT_TIER, Endpoint, Entity, Labels, Order, Policies, Policy, Rule, RuleAction, decide,
    },
    queue::{Answer, MarkBits, Queue},
    ruleset::Options,
    snapshot::{self, Index, Input, Regime, Snapshot},
};

use crate::{
    packets::chained,
    support::{
        Lab, RawSender, connect, counter, curl, curl_times_out, dropped, echo, exchange, load,
        ping, web,
    },
};

/// Networks, so that the ports need sets of ranges; the last address of both is in no feed.
const LISTED: [&str; 2] = ["203.0.113.0/29", "2001:db8:bad::/125"];
const INSIDE: [&str; 2] = ["203.0.113.1", "2001:db8:bad::1"];
const UNLISTED: [&str; 2] = ["203.0.113.200", "2001:db8:bad::200"];

fn rule(action: RuleAction, ports: Option<(u16, u16)>) -> Rule {
    Rule {
        action,
        protocol: ports.map(|_| Protocol::TCP),
        not_protocol: None,
        ip_version: None,
        source: Entity::default(),
        destination: Entity {
            ports: ports.into_iter().collect(),
            ..Entity::default()
        },
    }
}

/// Denies the feed at the receiver's ports `ports`, in one direction, to endpoints of `selector`.
fn policy(selector: &str, is_egress: bool, ports: Option<(u16, u16)>) -> Policy {
    let mut deny = rule(RuleAction::Deny, ports);
    let far = match is_egress {
        true => &mut deny.destination,
        false => &mut deny.source,
    };
    far.selector = Some("feed == 'block'".parse().unwrap());
    let rules = vec![deny, rule(RuleAction::Pass, None)];
    Policy {
        name: "default.block".into(),
        tier: DEFAULT_TIER.into(),
        order: Order(None),
        selector: selector.parse().unwrap(),
        namespace_selector: None,
        has_ingress: !is_egress,
        has_egress: is_egress,
        ingress: if is_egress { vec![] } else { rules.clone() },
        egress: if is_egress { rules } else { vec![] },
        is_staged: false,
    }
}

fn labels(key: &str, value: &str) -> Labels {
    [(key.to_owned(), value.to_owned())].into()
}

fn snapshot(policy: Policy, on_daemon_down: OnDaemonDown) -> Snapshot {
    let mut feed = config::Feed::new("block".parse().unwrap());
    (feed.action, feed.labels) = (Action::Alert, labels("feed", "block"));
    let data = FeedData {
        parsed: parse_plain(LISTED.join("\n").as_bytes(), &Limits::default()),
        pulled: SystemTime::UNIX_EPOCH,
        bytes: 0,
    };
    let inputs = [Input::new(&feed, Arc::new(data))];
    let policies = Arc::new(Policies::new(vec![], vec![policy]));
    let regime = Regime::new(policies, &Labels::new(), on_daemon_down);
    let options = snapshot::Options {
        regime,
        ..snapshot::Options::default()
    };
    snapshot::build(&inputs, &[], options)
}

fn install(netns: &Netns, snapshot: &Snapshot) -> Kernel {
    let open = || {
        let kernel = Kernel::open(Options::new(&config::Nftables::default())).unwrap();
        kernel.install(&snapshot.sets).unwrap();
        assert!(kernel.is_whole(&snapshot.sets).unwrap());
        kernel
    };
    netns.enter(open).unwrap()
}

fn at(address: &str, port: u16) -> String {
    SocketAddr::new(address.parse().unwrap(), port).to_string()
}

/// True when a connection is refused: its packets arrive where nobody listens.
fn refused(netns: &Netns, address: &str) -> bool {
    match connect(netns, address) {
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        Ok(_) => false,
    }
}

#[test]
fn a_policy_by_port_is_in_force_without_the_daemon() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let snapshot = snapshot(policy("all()", true, Some((79, 81))), OnDaemonDown::Allow);
    let names: Vec<String> = snapshot.sets.names().map(|name| name.to_string()).collect();
    assert!(names.contains(&"deny_out_flows4".to_owned()), "{names:?}");
    assert!(names.contains(&"deny_out_flows6".to_owned()), "{names:?}");
    let _kernel = install(&lab.host, &snapshot);
    for (address, other) in INSIDE.into_iter().zip(UNLISTED) {
        let _echo = echo(&lab.server, &at(address, 80));
        let before = counter(&lab.host, "denied_unattributed");
        for port in [79, 80, 81] {
            assert!(dropped(&lab.host, &at(address, port)), "{address} {port}");
        }
        assert!(counter(&lab.host, "denied_unattributed") >= before + 3);
        for port in [78, 82] {
            assert!(refused(&lab.host, &at(address, port)), "{address} {port}");
        }
        exchange(&lab.host, &at(address, 80)).expect("UDP passes");
        assert!(ping(&lab.host, address));
        connect(&lab.host, &at(other, 80)).expect("it is in no feed");
    }
}

/// A TCP SYN to [`INSIDE`]'s IPv6 address behind these extension headers.
fn extended(chain: &[u8], port: u16) -> Vec<u8> {
    let mut segment = 4000u16.to_be_bytes().to_vec();
    segment.extend(port.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    let behind = chained(chain, 6, &segment);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(behind.len()).unwrap().to_be_bytes());
    packet.extend([chain.first().copied().unwrap_or(6), 64]);
    for address in ["2001:db8:1::2", INSIDE[1]] {
        let address: std::net::Ipv6Addr = address.parse().unwrap();
        packet.extend(address.octets());
    }
    packet.extend(behind);
    packet
}

#[test]
fn a_policy_by_port_sees_past_extension_headers() {
    let Some(lab) = Lab::new() else { return };
    let snapshot = snapshot(policy("all()", true, Some((79, 81))), OnDaemonDown::Allow);
    let _kernel = install(&lab.host, &snapshot);
    let raw = RawSender::v6(&lab.host);
    let to = INSIDE[1].parse().unwrap();
    // Without connection tracking nobody but the header tells the protocol.
    let not_tracked = "add chain inet theirs out { type filter hook output priority raw; }\n\
                       add rule inet theirs out notrack\n";
    for rules in ["add table inet theirs\n", not_tracked] {
        load(&lab.host, rules);
        for chain in [&[][..], &[0], &[60], &[0, 43, 60]] {
            for (port, expect) in [(78, 0), (79, 1), (80, 1), (81, 1), (82, 0)] {
                let before = counter(&lab.host, "denied_unattributed");
                // A drop on output is an error for the sender.
                let _ = raw.send(to, &extended(chain, port));
                let dropped = counter(&lab.host, "denied_unattributed") - before;
                assert_eq!(dropped, expect, "port {port} behind {chain:?}, {rules}");
            }
        }
    }
}

#[test]
fn a_policy_about_what_comes_in_asks_for_this_hosts_ports() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.host);
    let policy = |port| policy("all()", false, Some((port, port)));
    let from = INSIDE.into_iter().zip(UNLISTED);
    let to = ["http://192.0.2.2/", "http://[2001:db8:1::2]/"];
    let other_port = snapshot(policy(8080), OnDaemonDown::Allow);
    let kernel = install(&lab.host, &other_port);
    for ((address, _), to) in from.clone().zip(to) {
        assert!(
            curl(&lab.server, &["--interface", address, to])
                .status
                .success()
        );
    }
    let this_port = snapshot(policy(80), OnDaemonDown::Allow);
    let delta = snapshot::Delta::between(&other_port.sets, &this_port.sets).unwrap();
    // Its socket stays in the namespace in which it was opened.
    kernel.apply(&delta, &this_port.sets).unwrap();
    for ((address, other), to) in from.zip(to) {
        assert!(curl_times_out(&lab.server, &["--interface", address, to]));
        assert!(
            curl(&lab.server, &["--interface", other, to])
                .status
                .success()
        );
    }
    assert!(counter(&lab.host, "denied_unattributed") > 0);
}

/// Answers as the daemon does for an endpoint that it has attributed; gone when dropped.
struct Responder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    fn start(netns: &Netns, index: Index, unit: &str) -> Self {
        let options = Options::new(&config::Nftables::default());
        let marks = MarkBits {
            mask: options.mark_mask,
            allow: options.allow_bit(),
            deny: options.deny_bit(),
        };
        let open = || Queue::open(options.queue_first, 1024, config::OnQueueFull::Pass).unwrap();
        let queue = netns.enter(open).unwrap();
        let endpoint = Endpoint {
            labels: labels("unit", unit),
            is_complete: true,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let answer = |held: &feedgate::queue::Held<'_>| {
                let flow = decode(held.bytes).unwrap();
                let decision =
                    decide(&index, &flow, Hook::Output, &endpoint).expect("it is listed");
                assert!(!decision.depends);
                match decision.action() {
                    Action::Deny => Answer::Deny,
                    Action::Alert => Answer::Allow,
                }
            };
            queue.run(marks, &stopped, answer).unwrap();
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// One namespace for each answer: verdicts are remembered by flow, and none is carried over.
#[test]
fn what_depends_on_the_endpoint_follows_the_daemon_and_then_its_configuration() {
    for (on_down, class) in [
        (OnDaemonDown::Deny, "deny_out"),
        (OnDaemonDown::Allow, "watch"),
    ] {
        let Some(lab) = Lab::new() else { return };
        let _web = web(&lab.server);
        let build = || snapshot(policy("unit == 'bad'", true, None), on_down);
        let has = |snapshot: &Snapshot| {
            let mut names = snapshot.sets.names();
            names.any(|name| name.to_string() == format!("{class}_nets4"))
        };
        assert!(has(&build()), "{class}");
        let _kernel = install(&lab.host, &build());
        let count = |name| counter(&lab.host, name);

        let responder = Responder::start(&lab.host, build().index, "good");
        for address in INSIDE {
            connect(&lab.host, &at(address, 80)).expect("let pass for this endpoint");
        }
        assert!(count("allowed") >= 2);
        drop(responder);
        let responder = Responder::start(&lab.host, build().index, "bad");
        for address in INSIDE {
            assert!(dropped(&lab.host, &at(address, 80)), "{address} of {class}");
        }
        assert!(count("denied") >= 2);
        assert_eq!(
            count("denied_unattributed") + count("passed_unattributed"),
            0
        );
        drop(responder);

        for address in INSIDE {
            match on_down {
                OnDaemonDown::Deny => assert!(dropped(&lab.host, &at(address, 80))),
                OnDaemonDown::Allow => drop(connect(&lab.host, &at(address, 80)).unwrap()),
            }
        }
        let (counted, other) = match on_down {
            OnDaemonDown::Deny => ("denied_unattributed", "passed_unattributed"),
            OnDaemonDown::Allow => ("passed_unattributed", "denied_unattributed"),
        };
        assert!(count(counted) >= 2, "{counted}");
        assert_eq!(count(other), 0, "{other}");
    }
}
