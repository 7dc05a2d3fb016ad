//! Reproducible data: random prefixes, an IPsum or a look-alike, disjoint ranges for the kernel.

use std::{
    collections::BTreeSet,
    fmt::Write,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use feedgate::{
    config::{self, PrivateNetworks},
    feed::{Action, Entry, FeedData, Limits, Parsed, Scope, parse_plain},
    prefix::{Form, Forms, Prefix, WELL_KNOWN},
    snapshot::{Input, Options, Snapshot, Transition, build},
};

/// xorshift64*: the same numbers everywhere, from one seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        u32::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32).expect("32 bits")
    }

    pub fn below(&mut self, bound: u32) -> u32 {
        u32::try_from((u64::from(self.next()) * u64::from(bound)) >> 32).expect("32 bits")
    }

    /// An address outside private, loopback and reserved space.
    pub fn public(&mut self) -> u32 {
        loop {
            let addr = self.next();
            let ip = Ipv4Addr::from(addr);
            let outside = matches!(ip.octets()[0], 0 | 10 | 127 | 224..)
                || ip.is_private()
                || ip.is_link_local()
                || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64)
                || (ip.octets()[0] == 198 && ip.octets()[1] & 0xfe == 18);
            if !outside {
                return addr;
            }
        }
    }
}

/// `count` random prefixes, lengths spread evenly over `lengths`.
pub fn prefixes(count: usize, seed: u64, lengths: std::ops::RangeInclusive<u8>) -> Vec<Prefix> {
    let mut random = Random::new(seed);
    let spread = u32::from(lengths.end() - lengths.start()) + 1;
    (0..count)
        .map(|_| {
            let addr = IpAddr::V4(random.public().into());
            let more = u8::try_from(random.below(spread)).expect("small");
            Prefix::new(addr, lengths.start() + more).expect("a length")
        })
        .collect()
}

/// `count` networks that neither overlap nor touch, so that each is one range in the kernel.
pub fn disjoint(count: usize, seed: u64) -> Vec<Prefix> {
    let mut all = prefixes(count + count / 10, seed, 24..=31);
    all.sort_unstable();
    let mut free = 0u32;
    all.retain(|prefix| {
        let (IpAddr::V4(first), IpAddr::V4(last)) = (prefix.addr(), prefix.last()) else {
            return false;
        };
        let apart = u32::from(first) > free;
        if apart {
            free = u32::from(last) + 1;
        }
        apart
    });
    // Thin out evenly, or the top of the space would stay empty.
    let surplus = all.len().checked_sub(count).expect("enough ranges");
    let mut random = Random::new(seed + 1);
    for _ in 0..surplus {
        let at = random.below(u32::try_from(all.len()).expect("small"));
        all.swap_remove(usize::try_from(at).expect("small"));
    }
    all
}

/// `prefixes` with one percent of them replaced by others.
pub fn one_percent_other(prefixes: &[Prefix], seed: u64) -> Vec<Prefix> {
    let mut out: BTreeSet<Prefix> = prefixes.iter().copied().collect();
    let change = prefixes.len() / 100;
    for prefix in prefixes.iter().step_by(100) {
        out.remove(prefix);
    }
    let hosts = prefixes.iter().all(Prefix::is_host);
    let mut random = Random::new(seed);
    let mut added = 0;
    while added < change {
        let len = if hosts { 32 } else { 30 };
        let prefix = Prefix::new(IpAddr::V4(random.public().into()), len).expect("a length");
        let apart = hosts || clear_of(&out, prefix);
        if apart && out.insert(prefix) {
            added += 1;
        }
    }
    out.into_iter().collect()
}

/// True when the neighbours of `prefix` in sorted order neither overlap nor touch it.
fn clear_of(sorted: &BTreeSet<Prefix>, prefix: Prefix) -> bool {
    let bound = |ip| match ip {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(_) => 0,
    };
    let before = sorted.range(..prefix).next_back();
    let after = sorted.range(prefix..).next();
    before.is_none_or(|p| bound(p.last()) + 1 < bound(prefix.addr()))
        && after.is_none_or(|p| bound(prefix.last()) + 1 < bound(p.addr()))
}

/// One prefix a line.
pub fn text(prefixes: &[Prefix]) -> String {
    let mut out = String::new();
    for prefix in prefixes {
        writeln!(out, "{prefix}").expect("memory");
    }
    out
}

/// IPsum's text if it is beside the project, else 120,000 hosts with scores, and what it is.
pub fn ipsum() -> (Vec<u8>, &'static str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for place in ["../shared/data/ipsum.txt", "../../shared/data/ipsum.txt"] {
        if let Ok(text) = std::fs::read(root.join(place)) {
            return (text, "IPsum");
        }
    }
    let mut random = Random::new(120);
    let mut out = String::from("# hosts and scores, as IPsum writes them\n");
    // Bad hosts cluster: thirty or so share a /16 in the real list.
    let blocks: Vec<u32> = (0..4000).map(|_| random.public() & 0xffff_0000).collect();
    let mut seen = BTreeSet::new();
    while seen.len() < 120_000 {
        let at = usize::try_from(random.below(4000)).expect("small");
        let addr = blocks[at] | random.below(1 << 16);
        if seen.insert(addr) {
            let score = 1 + random.below(10) * random.below(10) / 10;
            writeln!(out, "{}\t{score}", Ipv4Addr::from(addr)).expect("memory");
        }
    }
    (out.into_bytes(), "IPsum look-alike")
}

/// IPsum's hosts, at most `count` of them.
pub fn ipsum_hosts(count: usize) -> Vec<Prefix> {
    let parsed = parse_plain(&ipsum().0, &Limits::default());
    let hosts = parsed.entries.iter().map(|entry| entry.prefix);
    let mut hosts: Vec<Prefix> = hosts.filter(Prefix::is_host).collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts.truncate(count);
    hosts
}

/// Networks of private space count as well.
pub fn keep() -> Options {
    Options {
        private: PrivateNetworks::Keep,
        ..Options::default()
    }
}

/// One feed.
pub fn input(name: &str, action: Action, scope: Scope, prefixes: &[Prefix]) -> Input {
    let entries = prefixes.iter().map(|prefix| Entry { prefix: *prefix });
    let parsed = Parsed {
        entries: entries.collect(),
        ..Parsed::default()
    };
    let mut feed = config::Feed::new(name.parse().expect("a feed name"));
    (feed.action, feed.scope) = (action, scope);
    Input::new(
        &feed,
        Arc::new(FeedData {
            parsed,
            pulled: SystemTime::UNIX_EPOCH,
            bytes: 0,
        }),
    )
}

/// The snapshot of one deny feed on a network with NAT64.
pub fn nat64_snapshot(prefixes: &[Prefix]) -> Snapshot {
    let input = input("bench", Action::Deny, Scope::Both, prefixes);
    let form = Form::nat64(WELL_KNOWN.parse().unwrap());
    let forms = Forms::new(form.into_iter().collect());
    let transition = Transition {
        read: forms.clone(),
        spared: forms.clone(),
        in_use: forms,
    };
    build(
        &[input],
        &[],
        Options {
            transition,
            ..keep()
        },
    )
}

/// The snapshot of one deny feed.
pub fn snapshot(prefixes: &[Prefix]) -> Snapshot {
    let input = input("bench", Action::Deny, Scope::Both, prefixes);
    build(&[input], &[], keep())
}
