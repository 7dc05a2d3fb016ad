//! nft include: the shipped files, `sets.nft`, mode include, protection from boot on, worked examples.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use feedgate::{
    config::{self, Config},
    demo::Netns,
    feed::{Action, FeedData, Limits, Scope, parse_plain},
    nft::Kernel,
    ruleset::{self, Options, Shape, TableFamily},
    snapshot::{self, Input, Snapshot, build},
};
use serde_json::Value;

use crate::support::{
    Alerts, Conf, Daemon, Lab, Pace, Stream, connect, dropped, eventually, feedgate, nft, ping,
    reached, web,
};

const DENIED: &str = "203.0.113.1:80";
const WATCHED: &str = "203.0.113.2:80";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("nft").join(name)
}

/// `nft ARGUMENTS -f -` in a namespace; what it complained about.
fn load(netns: &Netns, arguments: &[&str], text: &str) -> Result<(), String> {
    let mut child = netns
        .command("nft")
        .args(arguments)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        Ok(())
    } else {
        Err(said)
    }
}

/// The shipped table, and after it the elements that match.
fn boot(elements: &Path) -> String {
    format!(
        "include \"{}\"\ninclude \"{}\"\n",
        shipped("base.nft").display(),
        elements.display()
    )
}

fn without_queue(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.contains("queue num"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// True when this kernel's nft can load queue rules.
fn native_queue(netns: &Netns) -> bool {
    load(
        netns,
        &["-c"],
        "table inet probe { chain c { queue num 4470 bypass; }; }",
    )
    .is_ok()
}

fn snapshot(feeds: &[(Action, Scope, Vec<String>)]) -> Snapshot {
    let inputs: Vec<Input> = feeds
        .iter()
        .enumerate()
        .map(|(i, (action, scope, list))| {
            let mut feed = config::Feed::new(format!("f{i}").parse().unwrap());
            (feed.action, feed.scope) = (*action, *scope);
            let parsed = parse_plain(list.join("\n").as_bytes(), &Limits::default());
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
fn everything() -> Snapshot {
    let list = [
        "203.0.113.9",
        "198.51.100.0/24",
        "20.0.0.0/12",
        "2001:db8::9",
        "2001:db8:1::/48",
        "2a00::/24",
        "203.0.113.8:443",
        "[2001:db8::8]:53/udp",
    ];
    let mut feeds = Vec::new();
    for action in [Action::Deny, Action::Alert] {
        for scope in [Scope::Both, Scope::Out, Scope::In] {
            feeds.push((action, scope, list.map(str::to_owned).to_vec()));
        }
    }
    snapshot(&feeds)
}

/// Without an owner: nft could not replace a table that was owned.
fn options() -> Options {
    Options {
        owner: false,
        ..Options::new(&Config::default().nftables)
    }
}

/// A listing as blocks: `chain ask4` to its lines, without elements and queue rules.
fn blocks(listing: &str) -> BTreeMap<String, Vec<String>> {
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
fn same_notation(line: &str) -> String {
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
        ];
        let words = key.split(" . ").map(|word| {
            let known = types.iter().find(|(text, _)| *text == word);
            known.map_or(word, |(_, name)| *name)
        });
        line = format!("type {}", words.collect::<Vec<_>>().join(" . "));
    }
    line
}

#[test]
fn the_files_by_hand_are_what_the_daemon_renders() {
    let Some(lab) = Lab::new() else { return };
    let list = || blocks(&nft(&lab.host, &["list", "table", "inet", "feedgate"]));
    let sets = everything().sets;
    lab.host
        .enter(|| Kernel::open(options()).unwrap().install(&sets).unwrap())
        .unwrap();
    let daemon = list();

    let base = fs::read_to_string(shipped("base.nft")).unwrap();
    let inspect = fs::read_to_string(shipped("inspect.nft")).unwrap();
    // Replaces the daemon's table: that is how the files are loaded twice.
    load(&lab.host, &[], &base).unwrap();
    for (name, lines) in list() {
        let mut rendered = daemon[&name].clone();
        if name.starts_with("chain verdict") {
            rendered.clear();
        } else if name.starts_with("chain inspect_") {
            rendered.truncate(2);
        }
        assert_eq!(lines, rendered, "{name}");
    }
    load(&lab.host, &[], &(base.clone() + &without_queue(&inspect))).unwrap();
    let both = list();
    assert_eq!(
        both.keys().collect::<Vec<_>>(),
        daemon.keys().collect::<Vec<_>>()
    );
    assert!(both.len() > 60);
    for (name, lines) in both {
        assert_eq!(lines, daemon[&name], "{name}");
    }

    // Where the kernel refuses inspect.nft, it is for its queue rules alone.
    if let Err(said) = load(&lab.host, &["-c"], &(base + &inspect)) {
        assert!(!native_queue(&lab.host), "{said}");
        let errors: Vec<_> = said.split("Error:").skip(1).collect();
        assert_eq!(errors.len(), 2, "{said}");
        assert!(
            errors
                .iter()
                .all(|e| e.lines().nth(1).unwrap().trim().starts_with("queue num")),
            "{said}"
        );
    }
}

#[test]
fn elements_of_120k_hosts_load_on_top_of_themselves_and_alone() {
    let Some(lab) = Lab::new() else { return };
    // Spread like real feeds: about 55k blocks.
    let hosts = (0u32..60_000).flat_map(|i| {
        let a = 0x0b00_0000 + i * 0xc80 * 0x11 % 0xd000_0000;
        [a + 3, a + 7].map(|a| std::net::Ipv4Addr::from(a).to_string())
    });
    let nets =
        (0u32..5_000).map(|i| format!("{}/24", std::net::Ipv4Addr::from(0x1800_0000 + (i << 12))));
    let sets = snapshot(&[(Action::Deny, Scope::Both, hosts.chain(nets).collect())]).sets;
    let there = ruleset::full()
        .into_iter()
        .map(|name| (name, Shape::usual(name)))
        .collect();
    let text = ruleset::elements(
        (TableFamily::Inet, "feedgate"),
        &sets,
        &there,
        true,
        ruleset::MAX_ELEMENTS,
    );
    let file = lab.path("sets.nft");
    fs::write(&file, &text).unwrap();
    let all = boot(&lab.path("sets*.nft"));
    load(&lab.host, &["-c"], &all).unwrap();

    // Processor time: other tests share this machine's processors.
    let used = || {
        // cutime and cstime of proc_pid_stat(5), in ticks of 10 ms.
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
        Duration::from_millis(10 * (ticks(13) + ticks(14)))
    };
    let (before, start) = (used(), Instant::now());
    load(&lab.host, &[], &all).unwrap();
    let used = used() - before;
    eprintln!(
        "{} elements, {} bytes: {used:?} of processor time, {:?} passed",
        sets.elements(),
        text.len(),
        start.elapsed()
    );
    assert!(sets.elements() > 120_000);
    // Again on top of itself, and alone into a ruleset without the table.
    load(&lab.host, &[], &text).unwrap();
    nft(&lab.host, &["flush", "ruleset"]);
    load(&lab.host, &[], &text).unwrap();
}

#[test]
fn a_missing_state_file_stops_no_ruleset() {
    let Some(lab) = Lab::new() else { return };
    load(&lab.host, &[], &boot(&lab.path("nothing/sets*.nft"))).unwrap();
    let listed = nft(
        &lab.host,
        &["list", "set", "inet", "feedgate", "coarse_nets4"],
    );
    assert!(
        listed.contains("0.0.0.0/0"),
        "the prefilter is open: {listed}"
    );
}

fn include(lab: &Lab, keys: &[&str]) -> Conf {
    let conf = Conf::new(lab).nftables("mode = \"include\"");
    keys.iter().fold(conf, |conf, key| conf.nftables(key))
}

/// Denied and watched addresses, and one denied at port 80 only.
fn feeds(conf: Conf) -> Conf {
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
fn rules(lab: &Lab) -> BTreeMap<String, Vec<String>> {
    blocks(&nft(&lab.host, &["list", "ruleset"]))
}

fn status(daemon: &Daemon<'_>) -> Value {
    serde_json::from_str(&daemon.ok(&["status", "--json"])).unwrap()
}

#[test]
fn include_fills_the_shipped_table_and_empties_it_again() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    load(&lab.host, &[], &boot(&lab.path("none*.nft"))).unwrap();
    let (before, whole) = (rules(&lab), nft(&lab.host, &["list", "ruleset"]));
    let conf = feeds(include(&lab, &[]));
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    let enforced = || {
        assert!(dropped(&lab.host, DENIED));
        assert!(dropped(&lab.host, "[2001:db8:bad::1]:80"));
        assert!(dropped(&lab.host, "203.0.113.8:80"));
        assert!(ping(&lab.host, "203.0.113.8"), "listed with a port");
        connect(&lab.host, WATCHED).unwrap();
        connect(&lab.host, "203.0.113.200:80").unwrap();
    };
    enforced();
    assert_eq!(rules(&lab), before, "only elements changed");
    let now = status(&daemon);
    assert_eq!(
        now["table"]["filled"].as_array().unwrap().len(),
        ruleset::full().len()
    );
    let problems = now["problems"].to_string();
    assert!(
        problems.contains("enforces only") && !problems.contains("no set"),
        "{problems}"
    );
    let text = daemon.ok(&["status"]);
    assert!(text.contains("table inet feedgate present"), "{text}");
    let printed = daemon.ok(&["nft", "print", "--elements"]);
    assert!(
        printed.contains("203.0.113.1") && printed.contains("198.18.0.0/15"),
        "{printed}"
    );

    // A delta, then the table made again by a reload of the admin's ruleset.
    let more = conf.clone().feed("more", "deny", &["203.0.113.3"]);
    daemon.reload(&more.text());
    eventually("the new feed is enforced", || {
        dropped(&lab.host, "203.0.113.3:80").then_some(())
    });
    enforced();
    load(&lab.host, &[], &boot(&lab.path("none*.nft"))).unwrap();
    eventually("the new table is filled", || {
        dropped(&lab.host, DENIED).then_some(())
    });
    enforced();
    assert_eq!(rules(&lab), before);

    // The kernel tells the number of elements (6.18): a flush by somebody else is seen by it.
    nft(
        &lab.host,
        &["flush", "set", "inet", "feedgate", "deny_hosts4"],
    );
    eventually("the set is filled again", || {
        dropped(&lab.host, DENIED).then_some(())
    });
    let heals = status(&daemon)["table"]["heals"].as_u64();
    assert_eq!(
        heals,
        Some(2),
        "nothing else was taken for a change by somebody else"
    );

    daemon.ok(&["down"]);
    assert_eq!(nft(&lab.host, &["list", "ruleset"]), whole, "byte for byte");
    connect(&lab.host, DENIED).unwrap();
}

#[test]
fn include_with_queue_rules_names_who_it_was() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    // What base.nft and inspect.nft give where nft can load both: put there over netlink, since
    // nft has no text for the xt target.
    let sets = everything().sets;
    lab.host
        .enter(|| Kernel::open(options()).unwrap().install(&sets).unwrap())
        .unwrap();
    let alerts = Alerts::listen(&lab);
    let conf = feeds(include(&lab, &[])).alerts(&alerts);
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    assert!(dropped(&lab.host, DENIED));
    connect(&lab.host, WATCHED).unwrap();
    let pid = std::process::id().to_string();
    alerts.wait(&[("dst", "203.0.113.1"), ("action", "deny"), ("pid", &pid)]);
    alerts.wait(&[("dst", "203.0.113.2"), ("action", "alert"), ("pid", &pid)]);
    connect(&lab.host, "203.0.113.9:80").expect("what the sets held before is gone");
    let now = status(&daemon);
    assert_eq!(
        (&now["protected"], &now["problems"]),
        (&true.into(), &serde_json::json!([]))
    );
}

#[test]
fn include_says_which_sets_are_missing_and_wrong() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let own = "table ip filter {\n\
        set deny_hosts4 { type ipv4_addr; flags interval; }\n\
        set deny_nets4 { type ipv4_addr; }\n\
        set mine { type ipv4_addr; elements = { 192.0.2.77 }; }\n\
        chain out { type filter hook output priority 0; ip daddr @deny_hosts4 counter drop; }\n}\n";
    load(&lab.host, &[], own).unwrap();
    let before = rules(&lab);
    let conf = feeds(include(&lab, &["family = \"ip\"", "table = \"filter\""]));
    let file = lab.path("before.toml");
    fs::write(&file, conf.text()).unwrap();
    let mut print = Command::new(feedgate());
    let output = print.args(["nft", "print", "--config"]).arg(file).output();
    let wanted = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(
        wanted.contains("table ip filter {") && wanted.contains("set deny_nets4"),
        "{wanted}"
    );
    assert!(!wanted.contains("nets6"), "{wanted}");
    load(&lab.host, &["-c"], &wanted.replace("ip filter", "ip other")).unwrap();

    let more = conf
        .clone()
        .feed("pair", "deny", &["203.0.113.6", "203.0.113.7"]);
    let daemon = Daemon::start(&lab, &lab.host, &more);
    assert!(
        dropped(&lab.host, DENIED),
        "filled although it has flags interval"
    );
    assert!(dropped(&lab.host, "203.0.113.6:80"));
    assert!(dropped(&lab.host, "203.0.113.7:80"));
    daemon.reload(&conf.text());
    eventually("they pass again", || reached(&lab.host, "203.0.113.7:80"));
    assert!(dropped(&lab.host, DENIED));
    let now = status(&daemon);
    let problems = now["problems"].to_string();
    for part in [
        "set deny_nets4 of ip filter cannot be filled: it needs `flags interval`",
        "ip filter has no set watch_hosts4 that can be filled: its 1 elements are not enforced",
        "ip filter sees one IP version only: ",
        "enforces only: no rule of table ip filter queues to 4470",
    ] {
        assert!(problems.contains(part), "{part} in {problems}");
    }
    assert_eq!(now["protected"], false);
    assert_eq!(now["table"]["filled"], serde_json::json!(["deny_hosts4"]));
    assert_eq!(rules(&lab), before);
    assert!(nft(&lab.host, &["list", "set", "ip", "filter", "mine"]).contains("192.0.2.77"));
    let file = stop_and_read(&lab, daemon);
    assert!(
        file.contains("add set ip filter deny_hosts4 { type ipv4_addr; flags interval; }"),
        "{file}"
    );
    assert!(
        !file.contains("watch_hosts4"),
        "a set that is not there is not named: {file}"
    );
    load(&lab.host, &["-c"], &file).unwrap();

    // Without the daemon too: down empties the sets, and nothing else.
    let config = lab.path("feedgate.toml");
    let output = lab
        .host
        .command(feedgate().to_str().unwrap())
        .arg("--config")
        .arg(config)
        .arg("down")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("ip filter are emptied"),
        "{output:?}"
    );
    assert_eq!(rules(&lab), before);
    connect(&lab.host, DENIED).unwrap();
}

#[test]
fn include_waits_for_a_table_that_is_not_there() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let daemon = Daemon::start(&lab, &lab.host, &feeds(include(&lab, &[])));
    let problems = status(&daemon)["problems"].to_string();
    assert!(
        problems.contains("table inet feedgate does not exist"),
        "{problems}"
    );
    assert_eq!(nft(&lab.host, &["list", "ruleset"]), "", "it makes none");
    load(&lab.host, &[], &boot(&lab.path("none*.nft"))).unwrap();
    eventually("it is filled", || dropped(&lab.host, DENIED).then_some(()));
}

/// Stops the daemon; the file that it leaves.
fn stop_and_read(lab: &Lab, daemon: Daemon<'_>) -> String {
    assert_eq!(daemon.stop().code(), Some(0));
    fs::read_to_string(lab.path("state/sets.nft")).unwrap()
}

#[test]
fn sets_nft_holds_what_the_kernel_held_less_exceptions() {
    let Some(lab) = Lab::new() else { return };
    let conf = Conf::new(&lab).feed(
        "block",
        "deny",
        &["203.0.113.1", "198.51.100.0/24", "192.0.2.2", "192.0.2.1"],
    );
    let file = stop_and_read(&lab, Daemon::start(&lab, &lab.host, &conf));
    assert!(
        file.contains("203.0.113.1") && file.contains("198.51.100.0/24"),
        "{file}"
    );
    assert!(
        !file.contains("192.0.2."),
        "own address and gateway: {file}"
    );
    nft(&lab.host, &["flush", "ruleset"]);
    load(&lab.host, &["-c"], &boot(&lab.path("state/sets*.nft"))).unwrap();
    load(&lab.host, &[], &boot(&lab.path("state/sets*.nft"))).unwrap();
    let _web = web(&lab.server);
    assert!(dropped(&lab.host, DENIED), "at boot, without a daemon");
    connect(&lab.host, WATCHED).unwrap();
    // A daemon that finds no data leaves the file alone.
    let empty = Conf::new(&lab).feed_from("none", "deny", "file:///nonexistent/x");
    let second = Daemon::start(&lab, &lab.host, &empty);
    assert!(
        dropped(&lab.host, DENIED),
        "the table from boot stays in force"
    );
    assert_eq!(stop_and_read(&lab, second), file);
}

#[test]
fn no_packet_gets_out_from_boot_through_the_takeover() {
    let Some(lab) = Lab::new() else { return };
    for conf in [feeds(Conf::new(&lab)), feeds(include(&lab, &[]))] {
        let _ = Daemon::start(&lab, &lab.host, &feeds(Conf::new(&lab))).stop();
        nft(&lab.host, &["flush", "ruleset"]);
        let mut open = Stream::start(&lab, &["203.0.113.1"], 9999, Pace::Steady);
        open.wait_for_arrivals(10); // without any table
        open.end();

        load(&lab.host, &[], &boot(&lab.path("state/sets*.nft"))).unwrap();
        let denied = Stream::start(&lab, &["203.0.113.1"], 9998, Pace::Steady);
        let mut beside = Stream::start(&lab, &["203.0.113.200"], 9997, Pace::Steady);
        let daemon = Daemon::start(&lab, &lab.host, &conf);
        denied.wait_for_more(300);
        // And through a reload of the boot ruleset while the daemon runs, and its end. A daemon that
        // owns its table does not let others replace it.
        if let Err(refused) = load(&lab.host, &[], &boot(&lab.path("state/sets*.nft"))) {
            assert!(refused.contains("Operation not permitted"), "{refused}");
        }
        denied.wait_for_more(300);
        daemon.stop();
        beside.wait_for_arrivals(100); // an unlisted address goes on
        let (sent, arrived) = denied.end();
        assert_eq!(arrived, 0, "of {sent}");
    }
}

/// Docker's, kube-proxy's and a firewall's tables, as far as names, hooks and marks go.
const OTHERS: &str = "\
table ip nat {
 chain DOCKER { iifname != \"docker0\" tcp dport 8080 dnat to 172.17.0.2:80; }
 chain PREROUTING { type nat hook prerouting priority dstnat; fib daddr type local jump DOCKER; }
 chain OUTPUT { type nat hook output priority -100; ip daddr != 127.0.0.0/8 fib daddr type local jump DOCKER; }
 chain POSTROUTING { type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 oifname != \"docker0\" masquerade; }
}
table ip filter {
 chain DOCKER-USER { return; }
 chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; ct state related,established accept; iifname \"docker0\" accept; }
}
table ip kube-proxy {
 chain masquerading { meta mark & 0x00004000 != 0x00004000 return; meta mark set meta mark ^ 0x00004000; masquerade; }
 chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
}
table ip calico {
 set cali40masq { type ipv4_addr; flags interval; elements = { 10.244.0.0/16 }; }
 chain filter-FORWARD { type filter hook forward priority filter; meta mark & 0x00010000 == 0x00010000 accept; }
}
";

#[test]
fn examples_load_beside_others() {
    let Some(lab) = Lab::new() else { return };
    let native = native_queue(&lab.host);
    fs::create_dir(lab.path("etc")).unwrap();
    let marks = Conf::new(&lab)
        .nftables("mark-mask = \"0x00003000\"")
        .nftables("cut-mask = \"0x00001000\"");
    let config = lab.path("marks.toml");
    fs::write(&config, marks.text()).unwrap();
    for part in ["base", "inspect"] {
        let output = Command::new(feedgate())
            .args(["nft", "print", &format!("--{part}"), "--config"])
            .arg(&config)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::write(lab.path(&format!("etc/{part}.nft")), output.stdout).unwrap();
    }
    let own = fs::read_to_string(lab.path("etc/base.nft")).unwrap();
    assert!(own.contains("ct mark & 0x00001000"), "{own}");

    let mut seen = 0;
    for entry in fs::read_dir(shipped("examples")).unwrap() {
        let file = entry.unwrap().path();
        let text = fs::read_to_string(&file).unwrap();
        let here = text
            .replace(
                "/usr/local/share/feedgate/nft/",
                &format!("{}/", shipped("").display()),
            )
            .replace("/etc/feedgate/", &format!("{}/", lab.path("etc").display()))
            .replace(
                "/var/lib/feedgate/",
                &format!("{}/", lab.path("state").display()),
            );
        let kept: String = here
            .lines()
            .filter(|line| native || !(line.contains("queue num") || line.contains("inspect.nft")))
            .map(|line| format!("{line}\n"))
            .collect();
        nft(&lab.host, &["flush", "ruleset"]);
        load(&lab.host, &[], OTHERS).unwrap();
        let before = blocks(&nft(&lab.host, &["list", "ruleset"]));
        load(&lab.host, &["-c"], &kept).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        for _ in 0..2 {
            load(&lab.host, &[], &kept).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        }
        let after = nft(&lab.host, &["list", "ruleset"]);
        let twice = after.matches("chain guard_output {").count();
        assert!(
            twice <= 1 && after.matches("\n\t\tjump verdict4").count() <= 2,
            "{after}"
        );
        assert!(after.contains("@deny_hosts4"), "{after}");
        if !text.contains("\nflush ruleset") {
            let after = blocks(&after);
            for (name, lines) in &before {
                assert_eq!(after.get(name), Some(lines), "{name} is not ours");
            }
        }
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[test]
fn the_server_example_enforces() {
    let Some(lab) = Lab::new() else { return };
    let _web = web(&lab.server);
    let text = fs::read_to_string(shipped("examples/server.nft")).unwrap();
    let text = text.replace(
        "/var/lib/feedgate/",
        &format!("{}/", lab.path("state").display()),
    );
    let text = if native_queue(&lab.host) {
        text
    } else {
        without_queue(&text)
    };
    load(&lab.host, &[], &text).unwrap();
    let conf = include(&lab, &["table = \"filter\""]).feed(
        "block",
        "deny",
        &["203.0.113.1", "203.0.113.4/31", "2001:db8:bad::1"],
    );
    let daemon = Daemon::start(&lab, &lab.host, &conf);
    for address in [DENIED, "203.0.113.5:80", "[2001:db8:bad::1]:80"] {
        assert!(reached(&lab.host, address).is_none(), "{address}");
    }
    connect(&lab.host, WATCHED).unwrap();
    let problems = status(&daemon)["problems"].to_string();
    assert!(!problems.contains("no set"), "{problems}");
}
