//! nft include: what its tests share. The shipped files, mode include, protection from boot on.

mod boot;
mod files;
mod mode;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use feedgate::{
    config::{self, Config},
    demo::Netns,
    feed::{Action, FeedData, Limits, Scope, parse_plain},
    prefix::{Family, Range},
    ruleset::Options,
    snapshot::{
        self, Class, Content, FlowElement, Input, Kind, PortBox, PortElement, SetName, Sets,
        Snapshot, build,
    },
};

use crate::support::{Conf, Daemon, Lab, load_with, nft};

pub(super) const DENIED: &str = "203.0.113.1:80";
pub(super) const WATCHED: &str = "203.0.113.2:80";

pub(super) fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("nft").join(name)
}

/// The shipped table, and after it the elements that match.
pub(super) fn shipped_with(elements: &Path) -> String {
    format!(
        "include \"{}\"\ninclude \"{}\"\n",
        shipped("base.nft").display(),
        elements.display()
    )
}

pub(super) fn without_queue(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.contains("queue num"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// True when this kernel's nft can load queue rules.
pub(super) fn native_queue(netns: &Netns) -> bool {
    load_with(
        netns,
        &["-c"],
        "table inet probe { chain c { queue num 4470 bypass; }; }",
    )
    .is_ok()
}

pub(super) fn snapshot(feeds: &[(Action, Scope, Vec<String>)]) -> Snapshot {
    let inputs: Vec<Input> = feeds
        .iter()
        .enumerate()
        .map(|(i, (action, scope, list))| {
            let mut feed = config::Feed::new(format!("f{i}").parse().unwrap());
            (feed.action, feed.scope) = (*action, *scope);
            let limits = Limits {
                min_prefix4: 1,
                min_prefix6: 1,
                ..Limits::default()
            };
            let parsed = parse_plain(list.join("\n").as_bytes(), &limits);
            assert_eq!(parsed.good, list.len());
            let pulled = SystemTime::UNIX_EPOCH;
            let data = FeedData {
                parsed,
                pulled,
                bytes: 0,
            };
            Input::new(&feed, Arc::new(data))
        })
        .collect();
    build(&inputs, &[], snapshot::Options::default())
}

/// A snapshot in which every set has something.
pub(super) fn everything() -> Snapshot {
    let list = [
        "203.0.113.9",
        "198.51.100.0/24",
        "32.0.0.0/5",
        "2001:db8::9",
        "2001:db8:1::/48",
        "2c00::/12",
        "203.0.113.8:443",
        "[2001:db8::8]:53/udp",
    ];
    let mut feeds = Vec::new();
    for action in [Action::Deny, Action::Alert] {
        for scope in [Scope::Both, Scope::Out, Scope::In] {
            feeds.push((action, scope, list.map(str::to_owned).to_vec()));
        }
    }
    let mut all = snapshot(&feeds);
    all.sets = all.sets.with(&flows());
    all
}

/// Resolvers at port 53 of UDP.
fn resolvers() -> Vec<(SetName, Content)> {
    fn at<A>(addr: A) -> Vec<PortElement<A>> {
        let (proto, port) = (17, 53);
        vec![PortElement { addr, proto, port }]
    }
    let name = |family| SetName::Resolvers { family };
    vec![
        (name(Family::V4), Content::Ports4(at(0xc000_0235))),
        (name(Family::V6), Content::Ports6(at(0x53))),
    ]
}

/// Every set of addresses with protocols and ports, as policies fill them, and resolvers.
fn flows() -> Sets {
    let at = PortBox {
        protos: (6, 6),
        ports: (25, 30),
    };
    let mut sets = resolvers();
    for class in [Class::Deny, Class::Watch] {
        for scope in [Scope::Out, Scope::In] {
            let name = |family| SetName::Class {
                class,
                scope,
                kind: Kind::Flows,
                family,
            };
            let four = FlowElement {
                addr: Range::host(0xc633_6401),
                at,
            };
            let six = FlowElement {
                addr: Range::host(1),
                at,
            };
            sets.push((name(Family::V4), Content::Flows4(vec![four])));
            sets.push((name(Family::V6), Content::Flows6(vec![six])));
        }
    }
    sets.into_iter().collect()
}

/// Without an owner: nft could not replace a table that was owned.
pub(super) fn options() -> Options {
    Options {
        owner: false,
        ..Options::new(&Config::default().nftables)
    }
}

/// A listing as blocks: `chain ask4` to its lines, without elements and queue rules.
pub(super) fn blocks(listing: &str) -> BTreeMap<String, Vec<String>> {
    let mut blocks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut name, mut in_elements) = (String::new(), false);
    for line in listing.lines().map(str::trim) {
        in_elements |= line.starts_with("elements = {");
        let queue =
            line.starts_with("queue") || line.contains("xt target") || line.starts_with("# xt_");
        if in_elements || queue || line.is_empty() || line == "}" {
        } else if let Some(head) = line.strip_suffix(" {") {
            name = head.to_owned();
            blocks.insert(name.clone(), Vec::new());
        } else {
            blocks.get_mut(&name).unwrap().push(same_notation(line));
        }
        in_elements &= !line.ends_with('}');
    }
    blocks
}

/// Text and netlink differ in notation only: `icmp id` brings a check of the type along in text, and
/// `typeof` needs user data.
pub(super) fn same_notation(line: &str) -> String {
    let mut line = line
        .replace("icmp type { echo-reply, echo-request } ", "")
        .replace("icmpv6 type { echo-request, echo-reply } ", "")
        .replace("type . @th,32,16", "type . icmp id");
    line = line.replace("icmpv6 type . icmpv6 id", "icmpv6 type . icmp id");
    if let Some(key) = line.strip_prefix("typeof ") {
        let types = [
            ("ip saddr", "ipv4_addr"),
            ("ip daddr", "ipv4_addr"),
            ("ip6 saddr", "ipv6_addr"),
            ("ip6 daddr", "ipv6_addr"),
            ("meta l4proto", "inet_proto"),
            ("th sport", "inet_service"),
            ("th dport", "inet_service"),
            ("icmp type", "icmp_type"),
            ("icmpv6 type", "icmpv6_type"),
            ("icmp id", "inet_service"),
            ("tcp sport", "inet_service"),
            ("tcp dport", "inet_service"),
            ("tcp sequence", "integer"),
        ];
        let words = key.split(" . ").map(|word| {
            let known = types.iter().find(|(text, _)| *text == word);
            known.map_or(word, |(_, name)| *name)
        });
        line = format!("type {}", words.collect::<Vec<_>>().join(" . "));
    }
    // Over netlink a plain integer has no number of its own.
    line.replace(". mark", ". integer")
}

pub(super) fn include(lab: &Lab, keys: &[&str]) -> Conf {
    let conf = Conf::new(lab).nftables("mode = \"include\"");
    keys.iter().fold(conf, |conf, key| conf.nftables(key))
}

/// Denied and watched addresses, and one denied at port 80 only.
pub(super) fn feeds(conf: Conf) -> Conf {
    conf.feed(
        "block",
        "deny",
        &[
            "203.0.113.1",
            "198.18.0.0/15",
            "203.0.113.8:80",
            "2001:db8:bad::1",
        ],
    )
    .feed("watch", "alert", &["203.0.113.2"])
}

/// A listing without elements: what mode include must never change.
pub(super) fn rules(lab: &Lab) -> BTreeMap<String, Vec<String>> {
    blocks(&nft(&lab.host, &["list", "ruleset"]))
}

/// Stops the daemon; the file that it leaves.
pub(super) fn stop_and_read(lab: &Lab, daemon: Daemon<'_>) -> String {
    assert_eq!(daemon.stop().code(), Some(0));
    fs::read_to_string(lab.path("state/sets.nft")).unwrap()
}
