//! The alert: one event about one flow (or a counted repeat of it), and its pure renderings.
//!
//! Does not send anything ([`crate::sink`]).

mod cef;
mod community;
pub mod daily;
pub mod ecs;
mod element;
pub mod eve;
pub mod filter;
mod journal;
pub(crate) mod kept;
pub mod line;
pub mod ocsf;
#[cfg(test)]
mod schema_tests;
mod sentence;
pub mod suppress;
mod text;

pub use community::community_id;
pub(crate) use element::Rfc3339;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    attribution::Source,
    feed::{Action, Direction, FeedName, Indicator, Severity},
    packet::Flow,
};

/// One alert (DESIGN.md section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Unique, sortable by time (UUID version 7, RFC 9562).
    pub id: uuid::Uuid,
    /// When the packet was seen.
    pub time: SystemTime,
    /// The verdict that was given.
    pub action: Action,
    /// Which address matched: destination (egress) or source (ingress).
    pub direction: Direction,
    /// The flow as the feed matched it: destination after, source before translation by NAT.
    pub flow: Flow,
    /// Every feed that lists the address, sorted.
    pub feeds: Vec<FeedName>,
    /// The most specific matching entry, as its feed wrote it; of a scan the first one.
    pub indicator: Indicator,
    /// Set when this is the summary of a scan.
    pub scan: Option<Scan>,
    /// Set when this is the summary of a flood.
    pub flood: Option<Flood>,
    /// Highest severity of the feeds.
    pub severity: Severity,
    /// The policy that decided, if one did.
    pub policy: Option<Arc<str>>,
    /// Why the listed address is not denied: an exception that the daemon found, such as `SSH peer`.
    pub exception: Option<Arc<str>>,
    /// Interface: outgoing for output, incoming for input and forward.
    pub iface: Option<String>,
    /// Who did it.
    pub source: Source,
    /// The destination before NAT changed it to that of `flow`, where it is known: what the sender meant.
    pub nat_dst: Option<(IpAddr, Option<u16>)>,
    /// Flows this alert stands for: 1, or more in a summary of suppressed repeats.
    pub count: u64,
    /// Times of the first and last flow of a summary.
    pub window: Option<(SystemTime, SystemTime)>,
    /// How long the packet was held until the alert was handed on.
    pub held: Duration,
}

/// What one source touched besides the indicator of the alert.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Further indicators, in the order in which they were touched; at most
    /// [`suppress::LISTED`] less one.
    pub further: Vec<Indicator>,
    /// There were more of them.
    pub more: bool,
}

/// Who came by one indicator besides the source of the alert.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flood {
    /// Different source addresses, that of the alert included.
    pub sources: u64,
    /// False when that is an estimate, within a few percent.
    pub is_exact: bool,
    /// Further sources, in the order in which they came; at most [`suppress::LISTED`] less one.
    pub further: Vec<IpAddr>,
}

impl Alert {
    /// The indicators it tells of: one, or those of a scan.
    pub fn indicators(&self) -> impl Iterator<Item = &Indicator> {
        let further = self.scan.iter().flat_map(|scan| &scan.further);
        std::iter::once(&self.indicator).chain(further)
    }
}

#[cfg(test)]
pub(crate) mod example {
    //! Alerts for tests: a plain one, and any.

    use proptest::{option::of, prelude::*};

    use super::*;
    use crate::{
        attribution::{Capabilities, Grade},
        packet::{Protocol, Transport},
    };

    /// A denied TCP flow of curl, with the fields a local flow has.
    pub(crate) fn alert() -> Alert {
        Alert {
            id: uuid::Uuid::from_u128(0x0190_a5c8_7c1e_7000_8000_0000_0000_0001),
            time: SystemTime::UNIX_EPOCH + Duration::from_micros(1_786_000_000_123_456),
            action: Action::Deny,
            direction: Direction::Egress,
            flow: Flow {
                src: "10.0.0.1".parse().unwrap(),
                dst: "10.48.255.194".parse().unwrap(),
                proto: Protocol::TCP,
                transport: Transport::Ports { src: 4711, dst: 80 },
                fragment: false,
            },
            feeds: vec!["ipsum".parse().unwrap()],
            indicator: "10.48.255.194".parse().unwrap(),
            scan: None,
            flood: None,
            severity: Severity::Medium,
            policy: None,
            exception: None,
            iface: Some("eth0".into()),
            source: Source {
                grade: Grade::Exact,
                method: Some("sock-diag"),
                uid: Some(1001),
                user: Some("red".into()),
                pid: Some(1234),
                start: Some(5678),
                ppid: Some(1),
                exe: Some("/usr/bin/curl".into()),
                comm: Some("curl".into()),
                unit: Some("cron.service".into()),
                ..Source::default()
            },
            nat_dst: None,
            count: 1,
            window: None,
            held: Duration::from_micros(312),
        }
    }

    prop_compose! {
        /// Any protocol, with the transport part it has.
        fn flow()(v6: bool, a: u128, b: u128, proto in prop_oneof![Just(1u8), Just(6), Just(17), Just(58), any::<u8>()],
                  src: u16, dst: u16, kind: u8, code: u8, none: bool) -> Flow {
            let addr = |bits: u128| -> IpAddr {
                if v6 {
                    std::net::Ipv6Addr::from(bits).into()
                } else {
                    std::net::Ipv4Addr::from(bits.to_le_bytes()[..4].try_into().map(u32::from_le_bytes).unwrap()).into()
                }
            };
            let proto = Protocol(proto);
            let transport = match proto {
                _ if none => Transport::None,
                Protocol::ICMP | Protocol::ICMPV6 => Transport::Icmp { kind, code, id: Some(src) },
                proto if proto.has_ports() => Transport::Ports { src, dst },
                _ => Transport::None,
            };
            Flow { src: addr(a), dst: addr(b), proto, transport, fragment: none }
        }
    }

    /// Texts with the characters that hurt, up to some hundred bytes.
    pub(crate) fn nasty() -> BoxedStrategy<String> {
        prop_oneof![
            any::<String>(),
            "[\\x00-\\x7f]{0,300}",
            "[\"\\\\\\] =\\n\\r\\x1b\u{85}\u{2028}\u{202e}\u{feff}\u{e9}\u{1f600}]{0,300}",
            "[a-z/]{1,600}",
        ]
        .boxed() // many of them by value would overflow a test thread's stack
    }

    prop_compose! {
        fn program()(exe in of(nasty()), exe_deleted: bool, comm in of(nasty()), command_line in of(nasty()),
                     slice in of(nasty()), session_user in of(nasty()), session_uid: Option<u32>, gid: Option<u32>,
                     bits: Option<u64>) -> Source {
            Source { exe, exe_deleted, comm, command_line, slice, session_user, session_uid, gid,
                     capabilities: bits.map(Capabilities::from_bits), ..Source::default() }
        }
    }

    prop_compose! {
        fn process()(program in program().boxed(), unit in of(nasty()), container in of(nasty()),
                     image in of(nasty()), pid: Option<u32>, ppid: Option<u32>, start: Option<u64>) -> Source {
            Source { unit, container, image, pid, ppid, start, ..program }
        }
    }

    prop_compose! {
        fn source()(process in process().boxed(), cause in of(nasty()), user in of(nasty()), pod in of(nasty()),
                    namespace in of(nasty()), mac in of(nasty()), client in of(nasty()),
                    uid: Option<u32>, grade in prop_oneof![Just(Grade::Exact), Just(Grade::Likely), Just(Grade::Unknown)],
                    method in of(Just("sock-diag"))) -> Source {
            Source { cause, user, pod, namespace, mac, client, uid, grade, method, ..process }
        }
    }

    prop_compose! {
        /// Any alert.
        pub(crate) fn any_alert()(id: u128, secs in -1_000_000_000_000i64..1_000_000_000_000, flow in flow().boxed(), source in source().boxed(),
                       feeds in prop::collection::btree_set("[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}", 1..5),
                       policy in of(nasty()), exception in of(nasty()), iface in of(nasty()), deny: bool, ingress: bool,
                       nat in of(any::<(IpAddr, Option<u16>)>()), count: u64, held: u64,
                       severity in prop_oneof![Just(Severity::Low), Just(Severity::Medium), Just(Severity::High), Just(Severity::Critical)],
                       window: bool, scan in of((prop::collection::vec(any::<(IpAddr, Option<u16>)>(), 0..64), any::<bool>())),
                       flood in of((any::<u64>(), any::<bool>(), prop::collection::vec(any::<IpAddr>(), 0..64)))) -> Alert {
            let gap = Duration::from_secs(secs.unsigned_abs());
            let time = if secs < 0 { SystemTime::UNIX_EPOCH - gap } else { SystemTime::UNIX_EPOCH + gap };
            Alert {
                id: uuid::Uuid::from_u128(id),
                time,
                action: if deny { Action::Deny } else { Action::Alert },
                direction: if ingress { Direction::Ingress } else { Direction::Egress },
                indicator: crate::prefix::Prefix::host(if ingress { flow.src } else { flow.dst }).into(),
                scan: scan.map(|(further, more)| Scan {
                    further: further.into_iter().map(|(addr, port)| Indicator {
                        port: port.and_then(crate::feed::PortMatch::any),
                        ..crate::prefix::Prefix::host(addr).into()
                    }).collect(),
                    more,
                }),
                flood: flood.map(|(sources, is_exact, further)| Flood { sources, is_exact, further }),
                flow,
                feeds: feeds.iter().map(|feed| feed.parse().unwrap()).collect(),
                severity,
                policy: policy.map(Into::into),
                exception: exception.map(Into::into),
                iface,
                source,
                nat_dst: nat,
                count,
                window: window.then_some((time, time)),
                held: Duration::from_micros(held),
            }
        }
    }
}
