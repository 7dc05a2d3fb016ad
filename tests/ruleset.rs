//! The ruleset in the kernel: what netlink installs is what the printed text says, and deltas arrive whole.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)] // tests may stop

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::Arc,
    time::SystemTime,
};

use feedgate::{
    config::{self, Config},
    feed::{Action, FeedData, Limits, Scope, parse_plain},
    nft::{Kernel, QueueKind, TableState},
    prefix::{Family, Range},
    ruleset::{self, Options, Shape, TableFamily},
    snapshot::{
        self, Class, Content, Delta, FlowElement, Input, Kind, PortBox, PortElement, SetName, Sets,
        Snapshot, build,
    },
};

/// Runs `test` on a thread in a network namespace of its own.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("network namespaces need root");
        test();
    })
    .join()
    .unwrap();
}

fn nft(args: &[&str], input: &str) -> (bool, String) {
    use std::io::Write;
    let mut child = Command::new("nft")
        .args(args)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let out = child.wait_with_output().unwrap();
    // Without iptables installed, nft warns on standard error that it cannot name an xt target.
    let text = if out.status.success() {
        out.stdout
    } else {
        out.stderr
    };
    (
        out.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn snapshot(feeds: &[(&str, Action, Scope, &[&str])]) -> Snapshot {
    let inputs: Vec<Input> = feeds
        .iter()
        .map(|(name, action, scope, list)| {
            let mut feed = config::Feed::new(name.parse().unwrap());
            (feed.action, feed.scope) = (*action, *scope);
            let limits = Limits {
                min_prefix4: 1,
                min_prefix6: 1,
                ..Limits::default()
            };
            let parsed = parse_plain(list.join("\n").as_bytes(), &limits);
            assert_eq!(parsed.good, list.len());
            Input::new(
                &feed,
                Arc::new(FeedData {
                    parsed,
                    pulled: SystemTime::UNIX_EPOCH,
                    bytes: 0,
                }),
            )
        })
        .collect();
    build(&inputs, &[], snapshot::Options::default())
}

fn mixed() -> Snapshot {
    snapshot(&[
        (
            "d",
            Action::Deny,
            Scope::Both,
            &[
                "203.0.113.7",
                "198.51.100.0/24",
                "255.255.255.254",
                "2001:db8::1",
                "2001:db8:1::/48",
                "203.0.113.11:443",
                "[2001:db8::2]:53/udp",
            ],
        ),
        (
            "w",
            Action::Alert,
            Scope::Out,
            &["203.0.113.9", "192.0.0.0/9", "2001:db8:2::/64"],
        ),
        ("i", Action::Deny, Scope::In, &["203.0.113.10"]),
    ])
}

fn flows(class: Class, scope: Scope, family: Family) -> SetName {
    SetName::Class {
        class,
        scope,
        kind: Kind::Flows,
        family,
    }
}

/// Addresses `first..=last` at these protocols and ports.
fn flow<A>(addr: (A, A), protos: (u8, u8), ports: (u16, u16)) -> FlowElement<A> {
    FlowElement {
        addr: Range {
            first: addr.0,
            last: addr.1,
        },
        at: PortBox { protos, ports },
    }
}

const NET4: (u32, u32) = (0xc633_6400, 0xc633_6409);
const NET6: (u128, u128) = (0x2001_0db8 << 96, (0x2001_0db8 << 96) + 0xffff);

/// Sets of address ranges with protocols and ports, also all of them and the last ones.
fn with_flows(sets: &Sets) -> Sets {
    let host = (0xc633_6509, 0xc633_6509);
    let list4 = vec![
        flow(NET4, (6, 6), (0, 79)),
        flow(NET4, (6, 6), (81, u16::MAX)),
        flow(NET4, (7, u8::MAX), (0, u16::MAX)),
        flow(host, (17, 17), (53, 53)),
    ];
    let list6 = vec![flow(NET6, (6, 6), (443, 443))];
    sets.with(&Sets::from_iter([
        (
            flows(Class::Deny, Scope::Out, Family::V4),
            Content::Flows4(list4.clone()),
        ),
        (
            flows(Class::Watch, Scope::In, Family::V4),
            Content::Flows4(list4),
        ),
        (
            flows(Class::Deny, Scope::In, Family::V6),
            Content::Flows6(list6),
        ),
    ]))
    .with(&resolvers())
}

fn resolvers() -> Sets {
    Sets::from_iter([
        resolver(Family::V4, Content::Ports4(vec![at_53(0xc000_0235)])),
        resolver(Family::V6, Content::Ports6(vec![at_53(0x53)])),
    ])
}

fn resolver(family: Family, content: Content) -> (SetName, Content) {
    (SetName::Resolvers { family }, content)
}

fn at_53<A>(addr: A) -> PortElement<A> {
    let (proto, port) = (17, 53);
    PortElement { addr, proto, port }
}

fn kernel() -> Kernel {
    Kernel::open(Options::new(&Config::default().nftables)).unwrap()
}

/// One whose table anybody may change.
fn shared_kernel() -> Kernel {
    let mut options = Options::new(&Config::default().nftables);
    options.owner = false;
    Kernel::open(options).unwrap()
}

/// The listing without what legitimately differs: queue rules, elements, counters, userdata-only notation.
fn normal(listing: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut skip = false;
    for line in listing.lines().map(str::trim) {
        skip |= line.starts_with("elements = {");
        let queue =
            line.starts_with("queue") || line.contains("xt target") || line.starts_with("# xt_");
        let owner =
            line == "flags owner" || line == "flags persist" || line == "flags owner,persist";
        let line = line.split(" # progname").next().unwrap();
        if !skip && !queue && !owner && !line.is_empty() {
            lines.push(line.to_owned());
        }
        skip &= !line.ends_with('}');
    }
    lines
}

/// `icmp id` in text brings a check of the type along, `typeof` needs user data: the same rule and set in another notation.
fn same_notation(line: &str) -> String {
    let line = line
        .replace("icmp type { echo-reply, echo-request } ", "")
        .replace("icmpv6 type { echo-request, echo-reply } ", "")
        .replace(
            "typeof ip saddr . ip daddr . icmp type . icmp id",
            "type ipv4_addr . ipv4_addr . icmp_type . inet_service",
        )
        .replace(
            "typeof ip6 saddr . ip6 daddr . icmpv6 type . icmpv6 id",
            "type ipv6_addr . ipv6_addr . icmpv6_type . inet_service",
        )
        .replace(
            "typeof ip saddr . ip daddr . meta l4proto . th sport . th dport",
            "type ipv4_addr . ipv4_addr . inet_proto . inet_service . inet_service",
        )
        .replace(
            "typeof ip6 saddr . ip6 daddr . meta l4proto . th sport . th dport",
            "type ipv6_addr . ipv6_addr . inet_proto . inet_service . inet_service",
        )
        .replace(
            "typeof ip saddr . ip daddr . meta l4proto",
            "type ipv4_addr . ipv4_addr . inet_proto",
        )
        .replace(
            "typeof ip6 saddr . ip6 daddr . meta l4proto",
            "type ipv6_addr . ipv6_addr . inet_proto",
        );
    let line = line.replace("icmp type . @th,32,16", "icmp type . icmp id");
    let line = line.replace("icmpv6 type . @th,32,16", "icmpv6 type . icmpv6 id");
    // Over netlink a plain integer has no number of its own.
    line.replace(". mark", ". integer")
}

#[test]
fn netlink_and_text_say_the_same() {
    in_namespace(|| {
        let sets = with_flows(&mixed().sets);
        let kernel = kernel();
        kernel.install(&sets).unwrap();
        let (ok, by_netlink) = nft(&["list", "table", "inet", "feedgate"], "");
        assert!(ok, "{by_netlink}");
        assert!(kernel.remove().unwrap());

        let text = kernel.ruleset(&sets).to_string();
        let text: String = text
            .lines()
            .filter(|l| !l.trim().starts_with("queue num"))
            .map(|l| format!("{l}\n"))
            .collect();
        let (ok, out) = nft(&["-f", "-"], &text);
        assert!(ok, "{out}\n{text}");
        let (_, by_text) = nft(&["list", "table", "inet", "feedgate"], "");
        let lines = |listing: &str| {
            normal(listing)
                .iter()
                .map(|l| same_notation(l))
                .collect::<Vec<_>>()
        };
        let (netlink, text) = (lines(&by_netlink), lines(&by_text));
        assert_eq!(netlink.join("\n"), text.join("\n"));
    });
}

/// An IPv6 packet with extension headers is found by protocol and port all the same, and only by the right
/// ones; its `next header` is not its protocol.
#[test]
fn extension_headers_do_not_hide_a_port() {
    let key =
        |next: &str| format!("ip6 daddr . {next} . th dport @deny_out_flows6 goto judge_deny6");
    let sets = Sets::from_iter([(
        flows(Class::Deny, Scope::Out, Family::V6),
        Content::Flows6(vec![flow(NET6, (6, 6), (443, 443))]),
    )]);
    let options = Options::new(&Config::default().nftables);
    let text = ruleset::build(&options, &sets.names().collect()).to_string();
    let rules = |chain: &str| -> Vec<String> {
        let begin = format!("chain {chain} {{");
        let body = text
            .split(&begin)
            .nth(1)
            .unwrap()
            .split('}')
            .next()
            .unwrap();
        body.trim()
            .lines()
            .map(|line| line.trim().to_owned())
            .collect()
    };
    let first = "ip6 nexthdr @extensions6 goto guard_egress_extended6".to_owned();
    assert_eq!(rules("guard_egress6"), [first, key("ip6 nexthdr")]);
    let extended = rules("guard_egress_extended6");
    assert_eq!(extended[0], key("ct original protocol"));
    let tcp = format!("meta l4proto tcp {}", key("ip6 nexthdr & 0x0 | 0x6"));
    assert_eq!(extended[1], tcp);
    assert_eq!(extended.len(), 7);
    assert!(!text.contains("meta l4proto . th dport @deny_out_flows"));
}

#[test]
fn elements_arrive_whole_and_deltas_change_them() {
    in_namespace(|| {
        let old = mixed();
        let kernel = kernel();
        kernel.install(&old.sets).unwrap();
        let set = |name: &str| nft(&["list", "set", "inet", "feedgate", name], "").1;
        assert!(set("deny_hosts4").contains("203.0.113.7"));
        assert!(set("deny_hosts4").contains("255.255.255.254"));
        assert!(set("deny_nets4").contains("198.51.100.0/24"));
        assert!(set("deny_nets6").contains("2001:db8:1::/48"));
        assert!(set("watch_out_nets4").contains("192.0.0.0/9"));
        assert!(set("deny_ports4").contains("203.0.113.11 . tcp . 443"));
        assert!(set("deny_ports6").contains("2001:db8::2 . udp . 53"));

        let new = snapshot(&[
            (
                "d",
                Action::Deny,
                Scope::Both,
                &["203.0.113.7", "198.51.0.0/16"],
            ),
            ("w", Action::Alert, Scope::Both, &["203.0.113.11"]),
        ]);
        let delta = Delta::between(&old.sets, &new.sets).unwrap();
        kernel.apply(&delta, &new.sets).unwrap();
        assert!(set("deny_nets4").contains("198.51.0.0/16"));
        assert!(!set("deny_hosts4").contains("255.255.255.254"));
        assert!(set("watch_hosts4").contains("203.0.113.11"));
        assert!(set("deny_nets6").contains("No such file"));

        // Unchanged sets after all that: the kernel has exactly what a fresh installation would have.
        let names = |listing: &str| -> BTreeSet<String> {
            listing
                .lines()
                .filter(|l| l.trim_start().starts_with("set "))
                .map(str::to_owned)
                .collect()
        };
        let (_, by_delta) = nft(&["list", "table", "inet", "feedgate"], "");
        kernel.install(&new.sets).unwrap();
        let (_, fresh) = nft(&["list", "table", "inet", "feedgate"], "");
        assert_eq!(names(&by_delta), names(&fresh));
        assert_eq!(normal(&by_delta).len(), normal(&fresh).len());
    });
}

/// Ranges of addresses, protocols and ports: loaded, read back, changed, and printed.
#[test]
fn flows_are_loaded_read_back_and_changed() {
    in_namespace(|| {
        let old = with_flows(&mixed().sets);
        let kernel = kernel();
        kernel.install(&old).unwrap();
        assert!(kernel.is_whole(&old).unwrap());
        let holds = |set: &str, element: &str| {
            let element = format!("{{ {element} }}");
            nft(&["get", "element", "inet", "feedgate", set, &element], "").0
        };
        for (element, expect) in [
            ("198.51.100.0 . 6 . 79", true),
            ("198.51.100.9 . 6 . 81", true),
            ("198.51.100.9 . 6 . 80", false),
            ("198.51.100.10 . 6 . 81", false),
            ("198.51.100.5 . 5 . 81", false),
            ("198.51.100.5 . 255 . 65535", true),
            ("198.51.101.9 . 17 . 53", true),
        ] {
            assert_eq!(holds("deny_out_flows4", element), expect, "{element}");
        }
        assert!(holds("deny_in_flows6", "2001:db8::ffff . 6 . 443"));
        assert!(!holds("deny_in_flows6", "2001:db8::1:0 . 6 . 443"));

        // The same addresses at other ports: what is removed and what is added overlap.
        let list = vec![
            flow(NET4, (6, 6), (0, 442)),
            flow(NET4, (6, 6), (444, u16::MAX)),
            flow(NET4, (7, u8::MAX), (0, u16::MAX)),
        ];
        let name = flows(Class::Deny, Scope::Out, Family::V4);
        let new = mixed()
            .sets
            .with(&Sets::from_iter([(name, Content::Flows4(list))]));
        let delta = Delta::between(&old, &new).unwrap();
        assert_eq!(delta.changed.len(), 1);
        kernel.apply(&delta, &new).unwrap();
        assert!(kernel.is_whole(&new).unwrap());
        assert!(holds("deny_out_flows4", "198.51.100.9 . 6 . 80"));
        assert!(!holds("deny_out_flows4", "198.51.100.9 . 6 . 443"));
        assert!(!holds("deny_out_flows4", "198.51.101.9 . 17 . 53"));
        assert!(kernel.remove().unwrap());

        let shapes = old
            .names()
            .map(|name| (name, Shape::usual(name)))
            .collect::<BTreeMap<_, _>>();
        let table = (TableFamily::Inet, "feedgate");
        let text = ruleset::elements(table, &old, &shapes, true, usize::MAX);
        let (ok, out) = nft(&["-f", "-"], &text);
        assert!(ok, "{out}\n{text}");
        assert!(holds("deny_out_flows4", "198.51.100.9 . 6 . 81"));
        assert!(holds("watch_in_flows4", "198.51.101.9 . 17 . 53"));
        assert!(!holds("deny_out_flows4", "198.51.100.9 . 6 . 80"));
    });
}

/// Emptied at once, and filled: what hardly anything stays of.
#[test]
fn a_large_set_whose_elements_are_all_others_is_replaced() {
    in_namespace(|| {
        let nets = |from: u32, count: u32| -> Vec<String> {
            let net = |i| format!("{}/30", std::net::Ipv4Addr::from(from + 8 * i));
            (0..count).map(net).collect()
        };
        // Of 12,000 networks ten stay.
        let lists = [
            nets(0x2000_0000, 12_000),
            nets(0x2000_0000 + 8 * 11_990, 12_000),
        ];
        let [old, new] = lists.each_ref().map(|list| {
            let lines: Vec<&str> = list.iter().map(String::as_str).collect();
            snapshot(&[("d", Action::Deny, Scope::Both, &lines)])
        });
        let kernel = kernel();
        kernel.install(&old.sets).unwrap();
        let delta = Delta::between(&old.sets, &new.sets).unwrap();
        let changes: Vec<_> = delta.changed.values().collect();
        assert!(changes.iter().any(|change| Delta::replaces(change, 12_000)));
        kernel.apply(&delta, &new.sets).unwrap();
        assert!(kernel.is_whole(&new.sets).unwrap());
        let holds = |net: &str| {
            let element = format!("{{ {net} }}");
            let set = ["get", "element", "inet", "feedgate", "deny_nets4", &element];
            nft(&set, "").0
        };
        let last = |list: &[String]| list.last().unwrap().clone();
        assert!(!holds(&lists[0][0]) && holds(&last(&lists[0])));
        assert!(holds(&lists[1][0]) && holds(&last(&lists[1])));
    });
}

#[test]
fn a_foreign_table_is_left_untouched() {
    in_namespace(|| {
        let (ok, _) = nft(&["-f", "-"], "table inet feedgate {\n chain mine {\n }\n}");
        assert!(ok);
        let kernel = kernel();
        assert!(matches!(
            kernel.table_state().unwrap(),
            TableState::Foreign(_)
        ));
        assert!(
            kernel
                .install(&mixed().sets)
                .unwrap_err()
                .to_string()
                .contains("left untouched")
        );
        assert!(kernel.remove().is_err());
        assert!(nft(&["list", "ruleset"], "").1.contains("chain mine"));
    });
}

#[test]
fn a_refused_transaction_names_the_elements_and_changes_nothing() {
    in_namespace(|| {
        let old = snapshot(&[("d", Action::Deny, Scope::Both, &["198.51.100.0/24"])]);
        let kernel = shared_kernel();
        kernel.install(&old.sets).unwrap();
        // Somebody took an element away that the daemon believes to be there.
        let element = "{ 198.51.100.0/24 }";
        assert!(
            nft(
                &[
                    "delete",
                    "element",
                    "inet",
                    "feedgate",
                    "deny_nets4",
                    element
                ],
                ""
            )
            .0
        );
        let new = snapshot(&[("d", Action::Deny, Scope::Both, &["203.0.113.0/24"])]);
        let delta = Delta::between(&old.sets, &new.sets).unwrap();
        let error = kernel.apply(&delta, &new.sets).unwrap_err().to_string();
        assert!(error.contains("elements 0 to 0 of deny_nets4"), "{error}");
        let set = || nft(&["list", "set", "inet", "feedgate", "deny_nets4"], "").1;
        assert!(
            !set().contains("203.0.113.0/24"),
            "a refused transaction took effect: {}",
            set()
        );
        kernel.install(&new.sets).unwrap();
        assert!(set().contains("203.0.113.0/24"));
    });
}

#[test]
fn counters_are_read_back() {
    in_namespace(|| {
        let kernel = kernel();
        kernel.install(&mixed().sets).unwrap();
        let counters = kernel.counters().unwrap();
        assert_eq!(counters.len(), feedgate::ruleset::Counter::ALL.len());
        assert!(counters.values().all(|count| count.packets == 0));
    });
}

#[test]
fn refusals_name_what_they_are_about() {
    in_namespace(|| {
        let old = mixed();
        let new = snapshot(&[("d", Action::Deny, Scope::Both, &["203.0.113.8"])]);
        let delta = Delta::between(&old.sets, &new.sets).unwrap();
        let kernel = shared_kernel();
        let refusal = || kernel.apply(&delta, &new.sets).unwrap_err().to_string();

        // ENOENT: the table is gone.
        let error = refusal();
        assert!(
            error.contains("deny_hosts4") && error.contains("is gone"),
            "{error}"
        );

        // EBUSY: somebody's rule asks a set that is to go.
        kernel.install(&old.sets).unwrap();
        let theirs = "add chain inet feedgate theirs\n\
                      add rule inet feedgate theirs ip daddr @watch_out_hosts4 accept\n";
        let (ok, out) = nft(&["-f", "-"], theirs);
        assert!(ok, "{out}");
        let error = refusal();
        assert!(
            error.contains("set watch_out_hosts4") && error.contains("still refers to it"),
            "{error}"
        );
        // Loading the whole table instead gets rid of it.
        kernel.install(&new.sets).unwrap();
    });
}

#[test]
fn a_table_with_a_living_owner_is_refused_to_a_second_one() {
    in_namespace(|| {
        let old = mixed();
        let first = kernel();
        if !first.owns() {
            eprintln!("skipped: owned tables need kernel 6.9");
            return;
        }
        first.install(&old.sets).unwrap();
        assert_eq!(first.table_state().unwrap(), TableState::Ours);
        let second = kernel();
        let error = second.install(&old.sets).unwrap_err().to_string();
        assert!(error.contains("a running program owns it"), "{error}");
        let new = snapshot(&[("d", Action::Deny, Scope::Both, &["203.0.113.8"])]);
        let delta = Delta::between(&old.sets, &new.sets).unwrap();
        let error = second.apply(&delta, &new.sets).unwrap_err().to_string();
        assert!(
            error.contains("Operation not permitted") && error.contains("nobody else may own"),
            "{error}"
        );
        // Without its owner it is an orphan that anybody may take over.
        drop(first);
        assert_eq!(second.table_state().unwrap(), TableState::Ours);
        second.install(&new.sets).unwrap();
        assert_eq!(second.table_state().unwrap(), TableState::Ours);
    });
}

/// A listing as blocks, `chain ask4 {` to its lines: sets and chains stand in the order in which they
/// were made. What the documents name is left out: elements, and the mark of the owner.
fn blocks(listing: &str, native: bool) -> BTreeMap<String, Vec<String>> {
    let mut blocks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut head, mut in_elements) = (String::new(), false);
    for line in listing.lines() {
        let word = line.trim();
        in_elements |= word.starts_with("elements = {");
        // What nft calls a queue rule that it cannot load.
        let compat = !native
            && (word.starts_with("queue")
                || word.contains("xt target")
                || word.starts_with("# xt_"));
        let owner = word.starts_with("flags owner") || word == "flags persist";
        if word.ends_with('{') && !in_elements {
            head = word.to_owned();
            blocks.insert(head.clone(), Vec::new());
        } else if !in_elements && !compat && !owner && !word.is_empty() && line != "}" {
            let line = line.split(" # progname").next().unwrap();
            blocks.get_mut(&head).unwrap().push(same_notation(line));
        }
        in_elements &= !word.ends_with('}');
    }
    blocks
}

/// `nft -f base.nft inspect.nft` by hand is byte for byte what the daemon installs, up to the order of
/// sets and chains, elements, and what text writes in another way. Without the native `queue` expression
/// nft cannot load the queue rules of inspect.nft: then they are left out on both sides.
#[test]
fn the_shipped_files_are_what_the_daemon_installs() {
    in_namespace(|| {
        let probe = "table inet probe { chain c { queue num 4470 bypass; }; }";
        let native = nft(&["-c", "-f", "-"], probe).0;
        if std::env::var_os("FEEDGATE_TEST_NATIVE_QUEUE").is_some() {
            assert!(
                native,
                "this kernel is said to have the native queue expression"
            );
        }
        if !native {
            eprintln!(
                "this kernel has no native `queue` expression: base.nft is compared, and inspect.nft without \
                 its queue rules. `make test-kernels` compares all of both"
            );
        }
        let list = || {
            let (ok, listing) = nft(&["-s", "list", "table", "inet", "feedgate"], "");
            assert!(ok, "{listing}");
            blocks(&listing, native)
        };
        // Every set that there can be.
        let list_of = [
            "203.0.113.9",
            "198.51.100.0/24",
            "32.0.0.0/5",
            "2001:db8::9",
            "2001:db8:1::/48",
            "2c00::/12",
            "203.0.113.8:443",
            "[2001:db8::8]:53/udp",
        ];
        let scopes = [Scope::Both, Scope::Out, Scope::In];
        let feeds: Vec<_> = [Action::Deny, Action::Alert]
            .into_iter()
            .flat_map(|action| scopes.map(|scope| ("f", action, scope, &list_of[..])))
            .collect();
        let names: Vec<String> = (0..feeds.len()).map(|i| format!("f{i}")).collect();
        let feeds: Vec<_> = feeds
            .iter()
            .zip(&names)
            .map(|((_, action, scope, list), name)| (name.as_str(), *action, *scope, *list))
            .collect();
        let kernel = shared_kernel();
        assert_eq!(kernel.queue_kind() == QueueKind::Native, native);
        let few4 = || Content::Flows4(vec![flow(NET4, (6, 6), (25, 25))]);
        let few6 = || Content::Flows6(vec![flow(NET6, (6, 6), (25, 25))]);
        let ports = [Class::Deny, Class::Watch].into_iter().flat_map(|class| {
            [Scope::Out, Scope::In].into_iter().flat_map(move |scope| {
                [
                    (flows(class, scope, Family::V4), few4()),
                    (flows(class, scope, Family::V6), few6()),
                ]
            })
        });
        let sets = snapshot(&feeds).sets.with(&ports.collect());
        let sets = sets.with(&resolvers());
        kernel.install(&sets).unwrap();
        let daemon = list();
        assert!(kernel.remove().unwrap());

        let read = |name: &str| {
            let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("nft")
                .join(name);
            std::fs::read_to_string(file).unwrap()
        };
        let both = read("base.nft") + &read("inspect.nft");
        let loadable = |line: &&str| native || !line.contains("queue num");
        let text: Vec<&str> = both.lines().filter(loadable).collect();
        let (ok, out) = nft(&["-f", "-"], &(text.join("\n") + "\n"));
        assert!(ok, "{out}");
        let by_hand = list();
        assert_eq!(
            by_hand.keys().collect::<Vec<_>>(),
            daemon.keys().collect::<Vec<_>>()
        );
        for (name, lines) in &by_hand {
            assert_eq!(lines, &daemon[name], "{name}");
        }
        assert!(by_hand.len() > 60);
        let queues = by_hand
            .values()
            .flatten()
            .filter(|line| line.trim().starts_with("queue"));
        println!(
            "{} blocks are the same, {} queue rules among them",
            by_hand.len(),
            queues.count()
        );
    });
}

/// What the kernel can do is found out, not assumed; the machines of `make test-kernels` say what to expect.
#[test]
fn queue_and_owner_are_what_this_kernel_has() {
    in_namespace(|| {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release
            .split(['.', '-'])
            .map_while(|word| word.parse::<u32>().ok());
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        let kernel = kernel();
        println!(
            "kernel {}: {}, owned tables: {}",
            release.trim(),
            kernel.queue_kind().as_str(),
            kernel.owns()
        );
        assert_eq!(
            kernel.owns(),
            version >= (6, 9),
            "OWNER with PERSIST came with 6.9"
        );
        if std::env::var_os("FEEDGATE_TEST_NATIVE_QUEUE").is_some() {
            assert_eq!(kernel.queue_kind(), QueueKind::Native);
        }
        kernel.install(&mixed().sets).unwrap();
        let listed = |word: &str| {
            nft(&["list", "table", "inet", "feedgate"], "")
                .1
                .contains(word)
        };
        assert_eq!(
            listed("flags owner,persist") || listed("flags owner"),
            kernel.owns()
        );
        let owned = kernel.owns();
        // Its socket closes: the table stays, with an owner and without.
        drop(kernel);
        let deny = nft(
            &[
                "get",
                "element",
                "inet",
                "feedgate",
                "deny_hosts4",
                "{ 203.0.113.7 }",
            ],
            "",
        );
        assert!(deny.0, "{}", deny.1);
        assert!(
            nft(&["delete", "table", "inet", "feedgate"], "").0,
            "owned: {owned}"
        );
    });
}

#[test]
#[ignore = "a measurement: needs a quiet machine"]
fn a_listener_does_not_slow_own_loads() {
    in_namespace(|| {
        let list: Vec<String> = (0..300_000u32)
            .map(|i| std::net::Ipv4Addr::from(0x2000_0000 + 2 * i).to_string())
            .collect();
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        let sets = snapshot(&[("d", Action::Deny, Scope::Both, &list)]).sets;
        let mut kernel = kernel();
        let fastest = |kernel: &Kernel| {
            let load = |_| kernel.install(&sets).unwrap().elapsed;
            (0..3).map(load).min().unwrap()
        };
        let alone = fastest(&kernel);
        let watch = kernel.watch().unwrap();
        let watched = fastest(&kernel);
        println!("300,000 hosts: {alone:?} without a listener, {watched:?} with ours");
        assert!(watched < alone.mul_f64(1.3));
        drop(watch);
    });
}

/// The numbers of docs/ruleset.md.
#[test]
#[ignore = "a measurement: needs a quiet machine"]
fn what_loading_flows_costs() {
    in_namespace(|| {
        let kernel = kernel();
        let name = flows(Class::Deny, Scope::Out, Family::V4);
        for count in [1_000, 10_000, 30_000, 100_000, 300_000u32] {
            for spread in [false, true] {
                let host = |i: u32| {
                    let addr = match spread {
                        true => 0x0b00_0000 + i.wrapping_mul(2_654_435_769) % 0xc000_0000,
                        false => 0x2000_0000 + 2 * i,
                    };
                    flow((addr, addr), (6, 6), (1_024, u16::MAX))
                };
                let mut list: Vec<FlowElement<u32>> = (0..count).map(host).collect();
                list.sort_unstable();
                list.dedup_by_key(|flow| flow.addr);
                let elements = list.len();
                let sets = Sets::from_iter([(name, Content::Flows4(list))]);
                let elapsed = kernel.install(&sets).unwrap().elapsed;
                println!("{elements} flows, spread {spread}: {elapsed:?}");
                assert!(kernel.remove().unwrap());
            }
        }
    });
}
