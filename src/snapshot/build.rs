//! From feeds and exceptions to a snapshot.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{
    Class, Content, Exception, FeedReport, Index, Kind, Report, SetName, Sets, Snapshot, coarse,
    index::{Item, Meta, private4, private6},
};
use crate::{
    config::PrivateNetworks,
    feed::{Action, Entry, FeedData, FeedName, Scope, Severity},
    prefix::{Address, Prefix, Range, RangeSet},
};

/// Examples kept in a report.
const EXAMPLES: usize = 5;

/// One feed with its good data.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name.
    pub name: FeedName,
    /// What a match does.
    pub action: Action,
    /// Directions.
    pub scope: Scope,
    /// Severity of its alerts.
    pub severity: Severity,
    /// Its entries.
    pub data: Arc<FeedData>,
}

/// Merges the feeds, subtracts the exceptions, and builds sets, index and report.
pub fn build(inputs: &[Input], exceptions: &[Exception], private: PrivateNetworks) -> Snapshot {
    let except4 = RangeSet::<u32>::of(exceptions.iter().map(|e| &e.prefix));
    let except6 = RangeSet::<u128>::of(exceptions.iter().map(|e| &e.prefix));
    let mut sets = Sets::default();
    class_sets(
        &mut sets,
        inputs,
        &except4,
        private4(),
        private,
        Content::V4,
    );
    class_sets(
        &mut sets,
        inputs,
        &except6,
        private6(),
        private,
        Content::V6,
    );
    coarse::add(&mut sets);
    let metas = inputs
        .iter()
        .map(|i| Meta {
            name: i.name.clone(),
            action: i.action,
            scope: i.scope,
            severity: i.severity,
        })
        .collect();
    let report = Report {
        feeds: inputs
            .iter()
            .map(|input| {
                (
                    input.name.clone(),
                    feed_report(input, exceptions, &except4, &except6, private),
                )
            })
            .collect(),
    };
    let index = Index::new(
        metas,
        items(inputs),
        items(inputs),
        (except4, except6),
        private,
    );
    Snapshot {
        sets,
        index,
        report,
    }
}

/// Single addresses and networks of one class and scope, before merging.
struct Pool<A> {
    hosts: Vec<Range<A>>,
    nets: Vec<Range<A>>,
}

impl<A> Default for Pool<A> {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            nets: Vec::new(),
        }
    }
}

fn class_sets<A: Address>(
    sets: &mut Sets,
    inputs: &[Input],
    except: &RangeSet<A>,
    reserved: &RangeSet<A>,
    private: PrivateNetworks,
    wrap: fn(Vec<Range<A>>) -> Content,
) {
    let mut pools = pools::<A>(inputs);
    if private == PrivateNetworks::AlertOnly {
        move_private_to_watch(&mut pools, reserved);
    }
    for ((class, scope), pool) in pools {
        let mut nets = RangeSet::new(pool.nets);
        if private == PrivateNetworks::Refuse {
            nets = nets.subtract(reserved);
        }
        let nets = nets.subtract(except);
        let mut hosts = pool.hosts;
        hosts.sort_unstable();
        hosts.dedup();
        hosts.retain(|host| !nets.contains(host.first) && !except.contains(host.first));
        let name = |kind| SetName::Class {
            class,
            scope,
            kind,
            family: A::FAMILY,
        };
        sets.put(name(Kind::Hosts), wrap(hosts));
        sets.put(name(Kind::Nets), wrap(nets.ranges().to_vec()));
    }
}

fn pools<A: Address>(inputs: &[Input]) -> BTreeMap<(Class, Scope), Pool<A>> {
    let mut pools: BTreeMap<(Class, Scope), Pool<A>> = BTreeMap::new();
    for input in inputs {
        let class = match input.action {
            Action::Deny => Class::Deny,
            Action::Alert => Class::Watch,
        };
        let pool = pools.entry((class, input.scope)).or_default();
        for entry in &input.data.parsed.entries {
            if let Some(range) = A::bounds(&entry.prefix) {
                if entry.prefix.is_host() {
                    pool.hosts.push(range)
                } else {
                    pool.nets.push(range)
                }
            }
        }
    }
    pools
}

fn move_private_to_watch<A: Address>(
    pools: &mut BTreeMap<(Class, Scope), Pool<A>>,
    reserved: &RangeSet<A>,
) {
    for scope in [Scope::Both, Scope::Out, Scope::In] {
        let Some(deny) = pools.get_mut(&(Class::Deny, scope)) else {
            continue;
        };
        let nets = RangeSet::new(std::mem::take(&mut deny.nets));
        let public = nets.subtract(reserved);
        let watched = nets.subtract(&public);
        deny.nets = public.ranges().to_vec();
        if !watched.is_empty() {
            pools
                .entry((Class::Watch, scope))
                .or_default()
                .nets
                .extend_from_slice(watched.ranges());
        }
    }
}

fn items<A: Address>(inputs: &[Input]) -> Vec<Item<A>> {
    let entries = |input: &Input| -> usize { input.data.parsed.entries.len() };
    let mut items = Vec::with_capacity(inputs.iter().map(entries).sum());
    for (feed, input) in (0u32..).zip(inputs) {
        items.extend(input.data.parsed.entries.iter().filter_map(|entry| {
            A::bounds(&entry.prefix).map(|range| Item {
                first: range.first,
                len: entry.prefix.len(),
                feed,
            })
        }));
    }
    items
}

fn feed_report(
    input: &Input,
    exceptions: &[Exception],
    except4: &RangeSet<u32>,
    except6: &RangeSet<u128>,
    private: PrivateNetworks,
) -> FeedReport {
    let entries = &input.data.parsed.entries;
    let v4 = RangeSet::<u32>::of(entries.iter().map(|e| &e.prefix));
    let v6 = RangeSet::<u128>::of(entries.iter().map(|e| &e.prefix));
    let mut report = FeedReport {
        entries: entries.len(),
        merged: v4.ranges().len() + v6.ranges().len(),
        addresses: v4.span().saturating_add(v6.span()).to_string(),
        ..FeedReport::default()
    };
    for Entry { prefix } in entries {
        if touches(prefix, except4, except6) {
            report.excepted += 1;
            if report.excepted_examples.len() < EXAMPLES {
                report
                    .excepted_examples
                    .push(format!("{prefix}: {}", reason(prefix, exceptions)));
            }
        }
        if private != PrivateNetworks::Keep
            && !prefix.is_host()
            && touches(prefix, private4(), private6())
        {
            report.private += 1;
            if report.private_examples.len() < EXAMPLES {
                report.private_examples.push(prefix.to_string());
            }
        }
    }
    report
}

fn touches(prefix: &Prefix, v4: &RangeSet<u32>, v6: &RangeSet<u128>) -> bool {
    match (prefix.addr(), prefix.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => v4.intersects(Range {
            first: first.into(),
            last: last.into(),
        }),
        (IpAddr::V6(first), IpAddr::V6(last)) => v6.intersects(Range {
            first: first.into(),
            last: last.into(),
        }),
        _ => false,
    }
}

fn reason(prefix: &Prefix, exceptions: &[Exception]) -> String {
    let overlaps =
        |e: &&Exception| e.prefix.contains(prefix.addr()) || prefix.contains(e.prefix.addr());
    exceptions
        .iter()
        .find(overlaps)
        .map_or_else(String::new, |e| format!("{} ({})", e.why, e.prefix))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::feed::{Direction, Parsed};

    fn input(name: &str, action: Action, scope: Scope, prefixes: &[&str]) -> Input {
        let entries = prefixes
            .iter()
            .map(|p| Entry {
                prefix: p.parse().unwrap(),
            })
            .collect();
        let data = FeedData {
            parsed: Parsed {
                entries,
                ..Parsed::default()
            },
            pulled: SystemTime::UNIX_EPOCH,
            bytes: 0,
        };
        Input {
            name: name.parse().unwrap(),
            action,
            scope,
            severity: Severity::Medium,
            data: Arc::new(data),
        }
    }

    fn except(prefix: &str) -> Exception {
        Exception {
            prefix: prefix.parse().unwrap(),
            why: "test".into(),
        }
    }

    /// What the kernel would do, from its sets alone.
    fn kernel(sets: &Sets, addr: IpAddr, direction: Direction) -> Option<Action> {
        let inside = |content: &Content| match (content, addr) {
            (Content::V4(ranges), IpAddr::V4(a)) => ranges
                .iter()
                .any(|r| r.first <= a.into() && u32::from(a) <= r.last),
            (Content::V6(ranges), IpAddr::V6(a)) => ranges
                .iter()
                .any(|r| r.first <= a.into() && u128::from(a) <= r.last),
            _ => false,
        };
        let block = |len| match addr {
            IpAddr::V4(a) => u32::from(a).masked(len).ip(),
            IpAddr::V6(a) => u128::from(a).masked(len).ip(),
        };
        let mut filtered = false;
        let mut passes = false;
        let mut action = None;
        for (name, content) in sets.iter() {
            match name {
                SetName::Coarse { kind, family }
                    if (family == crate::prefix::Family::V4) == addr.is_ipv4() =>
                {
                    filtered = true;
                    let len = if addr.is_ipv4() {
                        coarse::BLOCK4
                    } else {
                        coarse::BLOCK6
                    };
                    let addr = block(len);
                    passes |= match kind {
                        Kind::Hosts => match (content, addr) {
                            (Content::V4(r), IpAddr::V4(a)) => r.contains(&Range::host(a.into())),
                            (Content::V6(r), IpAddr::V6(a)) => r.contains(&Range::host(a.into())),
                            _ => false,
                        },
                        Kind::Nets | Kind::Ports => inside(content),
                    };
                }
                SetName::Class { class, scope, .. }
                    if scope.covers(direction) && inside(content) =>
                {
                    action = action.max(Some(match class {
                        Class::Deny => Action::Deny,
                        Class::Watch => Action::Alert,
                    }));
                }
                _ => {}
            }
        }
        action.filter(|_| passes || !filtered)
    }

    fn scope() -> impl Strategy<Value = Scope> {
        prop_oneof![Just(Scope::Both), Just(Scope::Out), Just(Scope::In)]
    }

    fn prefix() -> impl Strategy<Value = String> {
        prop_oneof![
            (0u8..4, 0u8..4, 14u8..=32).prop_map(|(a, b, len)| format!("10.{a}.0.{b}/{len}")),
            (0u8..4, 0u8..4, 14u8..=32).prop_map(|(a, b, len)| format!("203.{a}.0.{b}/{len}")),
            (0u8..4, 28u8..=128).prop_map(|(a, len)| format!("2001:db8::{a}/{len}")),
        ]
    }

    fn feeds() -> impl Strategy<Value = Vec<(bool, Scope, Vec<String>)>> {
        proptest::collection::vec(
            (
                any::<bool>(),
                scope(),
                proptest::collection::vec(prefix(), 0..6),
            ),
            1..4,
        )
    }

    proptest! {
        #[test]
        fn kernel_and_index_agree(
            feeds in feeds(),
            exceptions in proptest::collection::vec(prefix(), 0..3),
            mode in 0usize..3,
            a in 0u8..5, b in 0u8..5,
        ) {
            let mode = [PrivateNetworks::Refuse, PrivateNetworks::AlertOnly, PrivateNetworks::Keep][mode];
            let inputs: Vec<Input> = feeds.iter().enumerate().map(|(i, (deny, scope, list))| {
                let list: Vec<&str> = list.iter().map(String::as_str).collect();
                input(&format!("f{i}"), if *deny { Action::Deny } else { Action::Alert }, *scope, &list)
            }).collect();
            let exceptions: Vec<Exception> = exceptions.iter().map(|p| except(p)).collect();
            let snapshot = build(&inputs, &exceptions, mode);
            for addr in [format!("10.{a}.0.{b}"), format!("203.{a}.0.{b}"), format!("2001:db8::{a}"), format!("2001:db9::{b}")] {
                let addr: IpAddr = addr.parse().unwrap();
                for direction in [Direction::Egress, Direction::Ingress] {
                    let index = snapshot.index.lookup(addr, direction).map(|hit| hit.action);
                    prop_assert_eq!(kernel(&snapshot.sets, addr, direction), index, "{} {}", addr, direction);
                }
            }
        }
    }

    #[test]
    fn deny_wins_and_both_feeds_are_named() {
        let inputs = [
            input("watch", Action::Alert, Scope::Both, &["203.0.113.7"]),
            input("deny", Action::Deny, Scope::Out, &["203.0.113.0/24"]),
        ];
        let snapshot = build(&inputs, &[], PrivateNetworks::Refuse);
        let hit = snapshot
            .index
            .lookup("203.0.113.7".parse().unwrap(), Direction::Egress)
            .unwrap();
        assert_eq!(hit.action, Action::Deny);
        assert_eq!(hit.indicator.to_string(), "203.0.113.0/24");
        assert_eq!(
            hit.feeds.iter().map(FeedName::as_str).collect::<Vec<_>>(),
            ["deny", "watch"]
        );
        let hit = snapshot
            .index
            .lookup("203.0.113.7".parse().unwrap(), Direction::Ingress)
            .unwrap();
        assert_eq!(
            (hit.action, hit.indicator.to_string()),
            (Action::Alert, "203.0.113.7".into())
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
        let snapshot = build(&inputs, &[], PrivateNetworks::Refuse);
        let act = |addr: &str| {
            snapshot
                .index
                .lookup(addr.parse().unwrap(), Direction::Egress)
                .map(|hit| hit.action)
        };
        assert_eq!(act("10.48.255.194"), Some(Action::Deny));
        assert_eq!(act("10.1.1.1"), None);
        assert_eq!(act("172.16.1.1"), None);
        assert_eq!(act("172.1.1.1"), Some(Action::Deny));
        let report = &snapshot.report.feeds[&"lab".parse().unwrap()];
        assert_eq!((report.private, report.merged), (2, 2));
    }

    #[test]
    fn exceptions_are_reported_with_their_reason() {
        let inputs = [input(
            "a",
            Action::Deny,
            Scope::Both,
            &["203.0.113.0/24", "198.51.100.9"],
        )];
        let snapshot = build(&inputs, &[except("203.0.113.1")], PrivateNetworks::Refuse);
        assert!(
            snapshot
                .index
                .lookup("203.0.113.1".parse().unwrap(), Direction::Egress)
                .is_none()
        );
        assert!(
            snapshot
                .index
                .lookup("203.0.113.2".parse().unwrap(), Direction::Egress)
                .is_some()
        );
        let report = &snapshot.report.feeds[&"a".parse().unwrap()];
        assert_eq!(
            report.excepted_examples,
            ["203.0.113.0/24: test (203.0.113.1)"]
        );
    }
}
