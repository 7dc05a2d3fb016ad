//! What a packet pays in the kernel, with 120k hosts and 5k networks loaded and no daemon.
//!
//! UDP packets into a device that swallows them, through namespaces in turns: no rules, rules that only turn
//! connection tracking on, ours, and the least that two base chains with a hash set in each can cost; then
//! ours with a set of ranges with ports, and both without the prefilter, which is what a packet pays that
//! shares a block with a listed address. CPU time of the sender: nothing here waits.

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    process::Command,
};

use feedgate::{
    feed::{Direction, Scope},
    nft::Kernel,
    prefix::{Family, Range},
    ruleset::Counter,
    snapshot::{Class, Content, FlowElement, Kind, PortBox, SetName, Sets},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    common::{
        data, median, namespace,
        netlink::{ACK, Batch, CREATE, Socket, attribute, message, nest},
        process::{helper, run, thread_time, values},
        table::Row,
    },
    kernel::{all_classes, options},
};

/// New flows in one run: well below the table's usual limit of 262,144.
const FLOWS: usize = 100_000;
const ROUNDS: usize = 21;
const PORT: u16 = 9;
/// Networks in the set of ranges with ports, at two ports each.
const PORTED: u32 = 500;

pub fn rows() -> Vec<Row> {
    let all = values(&run(&mut helper("packets")).output);
    let row = |what: &str, key: &str, limit| {
        let ours = all[&format!("{key}-ours")];
        let tracked = all[&format!("{key}-tracked")];
        Row::difference(
            what,
            ours,
            tracked,
            all[&format!("{key}-more")],
            "conntrack only",
            "ns",
            limit,
        )
    };
    let least = |what: &str, key: &str| {
        let (least, tracked) = (all[&format!("{key}-least")], all[&format!("{key}-tracked")]);
        let more = all[&format!("{key}-least-more")];
        Row::difference(what, least, tracked, more, "conntrack only", "ns", None)
    };
    let ported = |what: &str, key: &str, open: &str| {
        let (with, without) = (
            all[&format!("{key}-{open}ported")],
            all[&format!("{key}-{}", if open.is_empty() { "ours" } else { "open" })],
        );
        let more = all[&format!("{key}-{open}ported-more")];
        Row::difference(what, with, without, more, "without it", "ns", None)
    };
    vec![
        row(
            "packet of a new flow to an unlisted address",
            "new",
            Some(120.0),
        ),
        row("packet of an established flow", "established", Some(40.0)),
        least("new flow: two base chains, ten addresses in each", "new"),
        least("established flow: the same", "established"),
        ported("new flow: a set of 1,000 ranges with ports", "new", ""),
        ported("established flow: the same", "established", ""),
        ported(
            "new flow that the prefilter lets on: the same",
            "new",
            "open-",
        ),
        Row::difference(
            "connection tracking itself, new flow",
            all["new-tracked"],
            all["new-bare"],
            all["new-tracked"] - all["new-bare"],
            "no rules",
            "ns",
            None,
        ),
    ]
}

/// A namespace with its sending socket and its connection tracking.
struct Place {
    name: &'static str,
    sender: UdpSocket,
    tracking: Socket,
}

impl Place {
    fn new(name: &'static str) -> Self {
        namespace::enter_new();
        namespace::blackhole();
        Self {
            name,
            sender: UdpSocket::bind("198.18.0.1:4000").unwrap(),
            tracking: Socket::open(),
        }
    }

    /// Nanoseconds for each of the packets.
    fn send(&self, targets: &[Ipv4Addr]) -> f64 {
        let start = thread_time();
        for target in targets {
            self.sender.send_to(&[0; 18], (*target, PORT)).unwrap();
        }
        (thread_time() - start).as_secs_f64() * 1e9 / targets.len() as f64
    }

    /// Forgets all flows (ctnetlink: CT_DELETE without a tuple).
    fn forget_flows(&self) {
        let mut bytes = Vec::new();
        message(&mut bytes, 1 << 8 | 2, ACK, [2, 0, 0, 0], &[]);
        self.tracking.send(&bytes);
    }

    /// Makes the flow to `target` look answered (ctnetlink: CT_NEW with status SEEN_REPLY, ASSURED, CONFIRMED).
    fn establish(&self, target: Ipv4Addr) {
        let own = Ipv4Addr::new(198, 18, 0, 1);
        let tuple = |kind, src: Ipv4Addr, dst: Ipv4Addr, sport: u16, dport: u16| {
            let ip = nest(
                1,
                &[attribute(1, &src.octets()), attribute(2, &dst.octets())],
            );
            let proto = nest(
                2,
                &[
                    attribute(1, &[17]),
                    attribute(2, &sport.to_be_bytes()),
                    attribute(3, &dport.to_be_bytes()),
                ],
            );
            nest(kind, &[ip, proto])
        };
        let attributes = [
            tuple(1, own, target, 4000, PORT),
            tuple(2, target, own, PORT, 4000),
            attribute(3, &14u32.to_be_bytes()),
            attribute(7, &600u32.to_be_bytes()),
        ]
        .concat();
        let mut bytes = Vec::new();
        message(&mut bytes, 1 << 8, ACK | CREATE, [2, 0, 0, 0], &attributes);
        self.tracking.send(&bytes);
    }
}

/// Helper: nanoseconds a packet in each namespace, in turns.
pub fn packets() {
    pin();
    let hosts = data::ipsum_hosts(120_000);
    let snapshot = all_classes(&hosts, &data::disjoint(5_000, 4));
    let unlisted = unlisted(&snapshot.index);

    let bare = Place::new("bare");
    let tracked = Place::new("tracked");
    tracking_only(&tracked.tracking);
    let ours = Place::new("ours");
    let kernel = Kernel::open(options()).unwrap();
    kernel.install(&snapshot.sets).unwrap();

    let least = Place::new("least");
    two_small_chains();

    let with_ports = snapshot.sets.with(&ports());
    let more = [
        ("ported", with_ports.clone()),
        ("open", snapshot.sets.without_prefilter()),
        ("open-ported", with_ports.without_prefilter()),
    ]
    .map(|(name, sets)| {
        let place = Place::new(name);
        Kernel::open(options()).unwrap().install(&sets).unwrap();
        place
    });
    let mut places: Vec<Place> = [bare, tracked, ours, least]
        .into_iter()
        .chain(more)
        .collect();
    let new = rounds(&mut places, |place| {
        let time = place.send(&unlisted);
        // One hash table serves the flows of all namespaces.
        place.forget_flows();
        time
    });
    report("new", &new);
    let target = unlisted[0];
    for place in &places {
        place.forget_flows();
        place.establish(target);
    }
    let same = vec![target; FLOWS];
    let established = rounds(&mut places, |place| place.send(&same));
    report("established", &established);
    prove(&kernel, &places[2], &snapshot.index, &hosts);
}

/// Times of each place over the rounds, the first round thrown away, the order turned each time.
fn rounds(places: &mut [Place], mut once: impl FnMut(&Place) -> f64) -> Vec<Vec<f64>> {
    let mut times = vec![Vec::new(); places.len()];
    for round in 0..=ROUNDS {
        for turn in 0..places.len() {
            let i = (round + turn) % places.len();
            let time = once(&places[i]);
            if round > 0 {
                times[i].push(time);
            }
        }
    }
    for (place, times) in places.iter().zip(&times) {
        eprintln!(
            "  {}: {:.0} ns, {:.0} to {:.0}",
            place.name,
            median(times),
            times.iter().copied().fold(f64::INFINITY, f64::min),
            times.iter().copied().fold(0.0, f64::max)
        );
    }
    times
}

fn report(key: &str, times: &[Vec<f64>]) {
    let [bare, tracked, ours, least, ported, open, open_ported] = times else {
        panic!("{} places", times.len());
    };
    let beyond = |times: &[f64], than: &[f64]| -> f64 {
        let more: Vec<f64> = times.iter().zip(than).map(|(a, b)| a - b).collect();
        median(&more)
    };
    let more = |times: &[f64]| beyond(times, tracked);
    println!("{key}-bare {}", median(bare));
    println!("{key}-tracked {}", median(tracked));
    println!("{key}-ours {}", median(ours));
    println!("{key}-least {}", median(least));
    println!("{key}-more {}", more(ours));
    println!("{key}-least-more {}", more(least));
    println!("{key}-ported {}", median(ported));
    println!("{key}-ported-more {}", beyond(ported, ours));
    println!("{key}-open {}", median(open));
    println!("{key}-open-ported {}", median(open_ported));
    println!("{key}-open-ported-more {}", beyond(open_ported, open));
}

/// A set of ranges with ports, as a policy makes it that denies networks at two ports.
fn ports() -> Sets {
    let name = SetName::Class {
        class: Class::Deny,
        scope: Scope::Out,
        kind: Kind::Flows,
        family: Family::V4,
    };
    let list = (0..PORTED).flat_map(|i| {
        let first = 0x2d00_0000 + (i << 12);
        [25, 443].map(|port| FlowElement {
            addr: Range {
                first,
                last: first + 1023,
            },
            at: PortBox {
                protos: (6, 6),
                ports: (port, port),
            },
        })
    });
    [(name, Content::Flows4(list.collect()))]
        .into_iter()
        .collect()
}

/// Random addresses that no feed lists.
fn unlisted(index: &feedgate::snapshot::Index) -> Vec<Ipv4Addr> {
    let mut random = data::Random::new(7);
    let mut out = Vec::with_capacity(FLOWS);
    while out.len() < FLOWS {
        let addr = Ipv4Addr::from(random.public());
        if index.lookup(addr.into(), None, Direction::Egress).is_none() {
            out.push(addr);
        }
    }
    out
}

/// The ruleset that only turns connection tracking on: `ct state established` on output.
fn tracking_only(socket: &Socket) {
    let mut batch = Batch::new(1);
    batch.table("tracking");
    let text = |kind, text: &str| attribute(kind, format!("{text}\0").as_bytes());
    let head = [text(1, "tracking"), text(3, "output")].concat();
    let hook = nest(
        4,
        &[
            attribute(1, &3u32.to_be_bytes()),
            attribute(2, &0u32.to_be_bytes()),
        ],
    );
    batch.add(3, CREATE, &[head, hook, text(7, "filter")].concat());
    // ct load state => reg 1; bitwise reg 1 & established; cmp reg 1 != 0; accept.
    let number = |kind, value: u32| attribute(kind, &value.to_be_bytes());
    let value = |kind, bytes: &[u8]| nest(kind, &[attribute(1, bytes)]);
    let expression = |name: &str, data: &[Vec<u8>]| nest(1, &[text(1, name), nest(2, data)]);
    let established = 2u32.to_ne_bytes();
    let expressions = [
        expression("ct", &[number(2, 0), number(1, 1)]),
        expression(
            "bitwise",
            &[
                number(1, 1),
                number(2, 1),
                number(3, 4),
                value(4, &established),
                value(5, &[0; 4]),
            ],
        ),
        expression("cmp", &[number(1, 1), number(2, 1), value(3, &[0; 4])]),
        expression(
            "immediate",
            &[number(1, 0), nest(2, &[nest(2, &[number(1, 1)])])],
        ),
    ];
    let rule = [
        text(1, "tracking"),
        text(2, "output"),
        nest(4, &expressions),
    ]
    .concat();
    batch.add(6, CREATE, &rule);
    socket.send(&batch.finish());
}

/// What no table with two base chains and a hash set can undercut: ten addresses in each chain's set.
fn two_small_chains() {
    let ten: Vec<String> = (1..=10).map(|n| format!("192.0.2.{n}")).collect();
    let chain = |name: &str, kind: &str, priority: i32| {
        format!(
            "chain {name} {{ type {kind} hook output priority {priority}; \
             ct state established accept; ip daddr @ten drop; }}; "
        )
    };
    let text = format!(
        "table inet least {{ set ten {{ type ipv4_addr; elements = {{ {} }}; }}; {}{}}}",
        ten.join(", "),
        chain("first", "filter", -10),
        chain("second", "route", -9)
    );
    run(Command::new("nft").arg(text));
}

/// The figures are worth nothing if the table was not in the way, or if it was too much.
fn prove(
    kernel: &Kernel,
    place: &Place,
    index: &feedgate::snapshot::Index,
    hosts: &[feedgate::prefix::Prefix],
) {
    let dropped = || kernel.counters().unwrap()[&Counter::DeniedUnattributed].packets;
    assert_eq!(dropped(), 0, "an unlisted address was denied");
    let denied = |addr: &IpAddr| {
        let hit = index.lookup(*addr, None, Direction::Egress);
        hit.is_some_and(|hit| hit.action == feedgate::feed::Action::Deny)
    };
    let listed = hosts.iter().map(|host| host.addr()).find(denied).unwrap();
    // The kernel tells a sender about a drop on output.
    let _ = place.sender.send_to(&[0; 18], (listed, PORT));
    assert_eq!(dropped(), 1, "a listed address was not denied");
}

/// Keeps to the last core, away from where interrupts usually go.
fn pin() {
    let last = std::thread::available_parallelism().map_or(0, |cores| cores.get() - 1);
    let mut cpus = CpuSet::new();
    cpus.set(last).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}
