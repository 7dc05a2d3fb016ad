//! Sets into the kernel: ours, the floor (the same elements as prepared bytes) and `nft -f`.
//!
//! Every load runs in a process and a namespace of its own, so that no earlier one can help or hinder.

use std::{fmt::Write, path::Path, process::Command, time::Duration};

use feedgate::{
    config::{Hook, Nftables},
    feed::{Action, Scope},
    nft::Kernel,
    prefix::Prefix,
    ruleset::Options,
    snapshot::{Delta, Kind, SetName, Sets, Snapshot},
};

use tempfile::TempDir;

use crate::common::{
    data, median, namespace,
    netlink::{Batch, Socket},
    process::{Used, helper, installed, run, transient_mb, values},
    ratio,
    table::Row,
};

const ROUNDS: usize = 5;
/// Rounds with `nft -f` in them, which takes far longer than the rest.
const NFT_ROUNDS: usize = 3;
const RANGES: usize = 900_000;
const TABLE: &str = "floor";
const INET: u8 = 1;

/// Seconds of each step over the rounds.
#[derive(Default)]
struct Steps(std::collections::BTreeMap<String, Vec<f64>>);

impl Steps {
    fn add(&mut self, used: &Used) {
        for (key, value) in values(&used.output) {
            self.0.entry(key).or_default().push(value);
        }
        settle();
    }

    fn of(&self, step: &str) -> &[f64] {
        self.0.get(step).map_or(&[], Vec::as_slice)
    }

    fn text(&self, step: &str, whose: &str) -> String {
        format!("{}{whose}", milliseconds(median(self.of(step))))
    }
}

fn milliseconds(seconds: f64) -> String {
    if seconds < 0.1 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{:.0} ms", seconds * 1e3)
    }
}

/// The kernel frees old elements and namespaces in the background, and waits for that when it gets more.
fn settle() {
    std::thread::sleep(Duration::from_millis(1500));
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let (ours, floor, nft) = rounds("large", NFT_ROUNDS, nft_files());
    let against = |step, name: &str, target| {
        let compared = ratio(ours.of(step), floor.of(step));
        Row::ratio(
            name,
            ours.text(step, ""),
            floor.text(step, " floor"),
            compared,
            target,
        )
    };
    rows.push(against("load", "first load, 900k ranges", Some(1.3)));
    let beside_nft = |step: &str, theirs: &str, name: &str, target: Option<f64>| match &nft {
        None => Row::skipped(name, "nft not installed"),
        Some(nft) => {
            let compared = ratio(ours.of(step), nft.of(theirs));
            Row::ratio(
                name,
                ours.text(step, ""),
                nft.text(theirs, " nft -f"),
                compared,
                target,
            )
        }
    };
    rows.push(beside_nft(
        "load",
        "first",
        "the same beside nft -f",
        Some(1.0 / 3.0),
    ));
    rows.push(against("change", "1% change of 900k ranges", Some(1.5)));
    rows.push(Row::limit(
        "  the diff before it",
        median(ours.of("diff")) * 1e3,
        "ms",
        String::new(),
        None,
    ));
    rows.push(against("replace", "replace all 900k, delta", None));
    rows.push(beside_nft(
        "replace",
        "replace",
        "the same beside nft -f",
        Some(1.0 / 3.0),
    ));
    rows.push(beside_nft(
        "install",
        "replace",
        "take over a table of 900k at a start, without a gap",
        None,
    ));
    let (ours, floor, _) = rounds("hosts", ROUNDS, None);
    for (step, name, target) in [
        ("load", "first load, 120k hosts + 5k networks", None),
        ("change", "1% change of those, coarse included", Some(1.5)),
    ] {
        let compared = ratio(ours.of(step), floor.of(step));
        let (own, other) = (ours.text(step, ""), floor.text(step, " floor"));
        rows.push(Row::ratio(name, own, other, compared, target));
    }
    rows.push(nat64_row());
    let memory = run(&mut helper("memory"));
    let peer = nft.map_or_else(String::new, |nft| {
        format!("{:.0} MB nft -f, 900k", median(nft.of("peak")))
    });
    rows.push(Row::limit(
        "transient memory, load of 1M ranges",
        values(&memory.output)["transient"],
        "MB",
        peer,
        Some(120.0),
    ));
    rows
}

/// The same elements with their NAT64 form beside them.
fn nat64_row() -> Row {
    let (mut plain, mut nat64) = (Steps::default(), Steps::default());
    for _ in 0..ROUNDS {
        plain.add(&run(helper("load").args(["once", "hosts"])));
        nat64.add(&run(helper("load").args(["once", "nat64"])));
    }
    Row::ratio(
        "first load, 120k hosts + 5k networks, NAT64 in use",
        nat64.text("load", ""),
        plain.text("load", " without"),
        ratio(nat64.of("load"), plain.of("load")),
        Some(2.0),
    )
}

/// Ours, the floor and, with its files, nft in turns: what the machine does meanwhile hits all of them.
fn rounds(case: &str, count: usize, files: Option<TempDir>) -> (Steps, Steps, Option<Steps>) {
    let (mut ours, mut floor) = (Steps::default(), Steps::default());
    let mut nft = files.is_some().then(Steps::default);
    for _ in 0..count {
        ours.add(&run(helper("load").args(["ours", case])));
        floor.add(&run(helper("load").args(["floor", case])));
        if let (Some(nft), Some(folder)) = (&mut nft, &files) {
            let files = ["first.nft", "replace.nft"].map(|name| folder.path().join(name));
            nft.add(&run(helper("nft").args(files)));
        }
    }
    (ours, floor, nft)
}

/// The elements as text, if nft is there to read them.
fn nft_files() -> Option<TempDir> {
    if !installed("nft") {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    run(helper("write-nft").arg(folder.path()));
    Some(folder)
}

/// The data of a case: what is loaded, the same with 1% changed, and something else altogether.
fn case(name: &str) -> [Snapshot; 3] {
    match name {
        "large" => {
            let first = data::disjoint(RANGES, 1);
            let changed = data::one_percent_other(&first, 2);
            let other = data::disjoint(RANGES, 3);
            [first, changed, other].map(|prefixes| data::snapshot(&prefixes))
        }
        "hosts" => {
            let hosts = data::ipsum_hosts(120_000);
            let nets = data::disjoint(5_000, 4);
            let other_hosts = data::one_percent_other(&hosts, 5);
            let other_nets = data::one_percent_other(&nets, 6);
            let both = |hosts: &[Prefix], nets: &[Prefix]| data::snapshot(&[hosts, nets].concat());
            [
                both(&hosts, &nets),
                both(&other_hosts, &other_nets),
                both(&other_hosts, &nets),
            ]
        }
        "nat64" => {
            let both = [data::ipsum_hosts(120_000), data::disjoint(5_000, 4)].concat();
            [(); 3].map(|()| data::nat64_snapshot(&both))
        }
        _ => panic!("no case {name}"),
    }
}

/// What is loaded first in a case.
pub fn first(name: &str) -> Sets {
    let [first, _, _] = case(name);
    first.sets
}

/// The options of the daemon, on one hook.
pub fn options() -> Options {
    Options {
        hooks: vec![Hook::Output],
        ..Options::new(&Nftables::default())
    }
}

/// Helper: loads, changes, replaces; prints the seconds of each.
pub fn load(which: &str, name: &str) {
    namespace::enter_new();
    let [first, changed, other] = case(name).map(|snapshot| snapshot.sets);
    match which {
        "ours" => load_ours(&first, &changed, &other),
        "once" => {
            let applied = Kernel::open(options()).unwrap().install(&first).unwrap();
            println!("load {}", applied.elapsed.as_secs_f64());
        }
        "floor" => load_floor(&first, &changed, &other),
        _ => panic!("load what: {which}"),
    }
}

fn load_ours(first: &Sets, changed: &Sets, other: &Sets) {
    let kernel = Kernel::open(options()).unwrap();
    let applied = kernel.install(first).unwrap();
    println!("load {}", applied.elapsed.as_secs_f64());
    settle();
    let start = std::time::Instant::now();
    let delta = Delta::between(first, changed).unwrap();
    println!("diff {}", start.elapsed().as_secs_f64());
    let applied = kernel.apply(&delta, changed).unwrap();
    println!("change {}", applied.elapsed.as_secs_f64());
    settle();
    let delta = Delta::between(changed, other).unwrap();
    let applied = kernel.apply(&delta, other).unwrap();
    println!("replace {}", applied.elapsed.as_secs_f64());
    settle();
    let applied = kernel.install(first).unwrap();
    println!("install {}", applied.elapsed.as_secs_f64());
}

/// The same elements in the same sets, and nothing else.
fn load_floor(first: &Sets, changed: &Sets, other: &Sets) {
    let socket = Socket::open();
    let mut batch = Batch::new(INET);
    batch.table(TABLE);
    for (id, (name, _)) in (1..).zip(first.iter()) {
        batch.set(TABLE, &name.to_string(), interval(name), id);
    }
    socket.send(&batch.finish());

    let mut batch = Batch::new(INET);
    for (name, content) in first.iter() {
        batch.elements(TABLE, &name.to_string(), interval(name), true, content);
    }
    println!("load {}", socket.send(&batch.finish()).as_secs_f64());

    let delta = Delta::between(first, changed).unwrap();
    assert!(!delta.reshapes());
    let mut batch = Batch::new(INET);
    for (name, change) in &delta.changed {
        let set = name.to_string();
        batch.elements(TABLE, &set, interval(*name), false, &change.removed);
        batch.elements(TABLE, &set, interval(*name), true, &change.added);
    }
    settle();
    println!("change {}", socket.send(&batch.finish()).as_secs_f64());

    let mut batch = Batch::new(INET);
    for (name, content) in other.iter() {
        let set = name.to_string();
        batch.flush(TABLE, &set);
        batch.elements(TABLE, &set, interval(name), true, content);
    }
    settle();
    println!("replace {}", socket.send(&batch.finish()).as_secs_f64());
}

fn interval(name: SetName) -> bool {
    name.kind() == Kind::Nets
}

/// Helper: how far memory rises while a million ranges are loaded.
pub fn memory() {
    namespace::enter_new();
    let sets = data::snapshot(&data::disjoint(1_000_000, 1)).sets;
    let kernel = Kernel::open(options()).unwrap();
    let rise = transient_mb(|| {
        kernel.install(&sets).unwrap();
    });
    println!("transient {rise}");
}

/// Helper: the same elements as text for nft.
pub fn write_nft(folder: &str) {
    let write = |name: &str, head: &str, seed| {
        let mut text = head.to_owned();
        text.push_str("add element inet peer nets {\n");
        for prefix in data::disjoint(RANGES, seed) {
            writeln!(text, "{prefix},").unwrap();
        }
        text.push_str("}\n");
        std::fs::write(Path::new(folder).join(name), text).unwrap();
    };
    let create =
        "add table inet peer\nadd set inet peer nets { type ipv4_addr; flags interval; }\n";
    write("first.nft", create, 1);
    write("replace.nft", "flush set inet peer nets\n", 3);
}

/// Helper: `nft -f` of both files.
pub fn nft(first: &str, replace: &str) {
    namespace::enter_new();
    let mut peak: f64 = 0.0;
    for (step, file) in [("first", first), ("replace", replace)] {
        let used = run(Command::new("nft").arg("-f").arg(file));
        println!("{step} {}", used.wall.as_secs_f64());
        peak = peak.max(used.peak_mb);
    }
    println!("peak {peak}");
}

/// The sets of a feed for every class and scope, as a full configuration has them.
pub fn all_classes(hosts: &[Prefix], nets: &[Prefix]) -> Snapshot {
    let mut inputs = Vec::new();
    let kinds = [Action::Deny, Action::Alert]
        .into_iter()
        .flat_map(|action| [Scope::Both, Scope::Out, Scope::In].map(|scope| (action, scope)));
    for (i, (action, scope)) in kinds.enumerate() {
        let part =
            |all: &[Prefix]| -> Vec<Prefix> { all.iter().skip(i).step_by(6).copied().collect() };
        let prefixes = [part(hosts), part(nets)].concat();
        inputs.push(data::input(&format!("bench{i}"), action, scope, &prefixes));
    }
    feedgate::snapshot::build(&inputs, &[], data::keep())
}
