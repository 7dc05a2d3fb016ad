//! The shipped files and worked examples as nft and the kernel see them.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use feedgate::{
    feed::{Action, Scope},
    nft::Kernel,
    ruleset::{self, Shape, TableFamily},
};

use super::{
    blocks, everything, native_queue, options, shipped, shipped_with, snapshot, without_queue,
};
use crate::support::{Conf, Lab, feedgate, load, load_with, nft};

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
    load(&lab.host, &base);
    for (name, lines) in list() {
        let mut rendered = daemon[&name].clone();
        if name.starts_with("chain verdict") {
            rendered.clear();
        } else if name.starts_with("chain inspect_") {
            rendered.truncate(2);
        }
        assert_eq!(lines, rendered, "{name}");
    }
    load(&lab.host, &(base.clone() + &without_queue(&inspect)));
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
    if let Err(said) = load_with(&lab.host, &["-c"], &(base + &inspect)) {
        assert!(!native_queue(&lab.host), "{said}");
        let errors: Vec<_> = said.split("Error:").skip(1).collect();
        assert_eq!(errors.len(), 4, "{said}");
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
    let all = shipped_with(&lab.path("sets*.nft"));
    load_with(&lab.host, &["-c"], &all).unwrap();

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
    load(&lab.host, &all);
    let used = used() - before;
    eprintln!(
        "{} elements, {} bytes: {used:?} of processor time, {:?} passed",
        sets.elements(),
        text.len(),
        start.elapsed()
    );
    assert!(sets.elements() > 120_000);
    // Again on top of itself, and alone into a ruleset without the table.
    load(&lab.host, &text);
    nft(&lab.host, &["flush", "ruleset"]);
    load(&lab.host, &text);
}

#[test]
fn a_missing_state_file_stops_no_ruleset() {
    let Some(lab) = Lab::new() else { return };
    load(&lab.host, &shipped_with(&lab.path("nothing/sets*.nft")));
    let listed = nft(
        &lab.host,
        &["list", "set", "inet", "feedgate", "coarse_nets4"],
    );
    assert!(
        listed.contains("0.0.0.0/0"),
        "the prefilter is open: {listed}"
    );
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
        load(&lab.host, OTHERS);
        let before = blocks(&nft(&lab.host, &["list", "ruleset"]));
        load_with(&lab.host, &["-c"], &kept).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        for _ in 0..2 {
            load_with(&lab.host, &[], &kept).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
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
