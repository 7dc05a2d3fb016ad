//! The documents say what the code says: keys, defaults, fields, rulesets, links. (Messages: tests/messages.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // clippy.toml allows them in test functions only

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use feedgate::{
    alert::{Alert, Flood, Scan, ecs, eve, line, ocsf},
    attribution::{Capabilities, Grade, Source},
    config,
    feed::{Action, Direction, Severity},
    flowlog, manifest,
    packet::{Flow, Protocol, Transport},
};

// ---- docs/configuration.md ----

/// A row of a table of keys.
struct Row {
    path: String,
    kind: String,
    default: String,
}

#[test]
fn every_key_of_the_configuration_is_explained_and_no_other() {
    let documented: BTreeSet<String> = rows().into_iter().map(|row| row.path).collect();
    assert_eq!(documented, example_values().into_keys().collect());
}

#[test]
fn the_defaults_are_those_of_the_shipped_file() {
    let shipped = example_values();
    for row in rows() {
        let value = shipped.get(&row.path).unwrap();
        match (value, row.default.as_str()) {
            (Some(value), default) => assert_eq!(default, format!("`{value}`"), "{}", row.path),
            (None, "none" | "required") => {}
            // `""` is none as well: the file has an example in its place.
            (None, default) => panic!("{}: the shipped file has no default {default}", row.path),
        }
    }
}

#[test]
fn every_word_of_a_key_is_accepted() {
    let lists = ["nftables.hooks", "feed.directions"];
    let mut seen = 0;
    for row in rows() {
        for word in words(&row.kind) {
            let value = if lists.contains(&row.path.as_str()) {
                format!("[{word}]")
            } else {
                word.clone()
            };
            let text = with_key(&row.path, &value);
            let found = config::parse(&text, "word").diagnostics;
            assert!(found.is_empty(), "{text}{found:?}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} words were tried");
}

/// The rows of all tables of keys, with the path that their heading gives them.
fn rows() -> Vec<Row> {
    let text = document("docs/configuration.md");
    let mut table = String::new();
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            table = heading.trim_matches(['[', ']']).to_owned();
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [key, kind, default, _] = cells[..]
            && let Some(key) = ticked(key)
        {
            rows.push(Row {
                path: format!("{table}.{key}"),
                kind: kind.to_owned(),
                default: default.to_owned(),
            });
        }
    }
    rows
}

fn ticked(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

/// The words `"like this"` of a cell, with their quotes.
fn words(cell: &str) -> Vec<String> {
    let ticked = cell.split('`').skip(1).step_by(2);
    let quoted = ticked.filter(|word| word.len() > 2 && word.starts_with('"'));
    quoted.map(str::to_owned).collect()
}

/// A configuration with `key = value` at `path`, and what that key needs beside it.
fn with_key(path: &str, value: &str) -> String {
    let (table, key) = path.rsplit_once('.').unwrap();
    let (header, rest) = match table {
        "feed" => ("[[feed]]", "name = \"x\"\n"),
        "alerts.syslog" if key == "address" => ("[[alerts.syslog]]", ""),
        "alerts.syslog" if value == "\"journal\"" => {
            let socket = "address = \"unix:/run/systemd/journal/socket\"\n";
            ("[[alerts.syslog]]", socket)
        }
        "alerts.syslog" => ("[[alerts.syslog]]", "address = \"unix:/dev/log\"\n"),
        // Other families are for mode include.
        "nftables" if key == "family" => ("[nftables]", "mode = \"include\"\n"),
        _ => (&*format!("[{table}]"), ""),
    };
    let below = match path {
        "feed.format" => "[feed.json]\npath = \"$.list\"\n",
        _ => "",
    };
    format!("{header}\n{rest}{key} = {value}\n{below}")
}

/// Keys of the shipped file and their defaults; `None` for a mere example.
fn example_values() -> BTreeMap<String, Option<String>> {
    let mut table = String::new();
    let mut comment = String::new();
    let mut done = false;
    let mut values = BTreeMap::new();
    for line in config::EXAMPLE.lines() {
        let code = line.strip_prefix('#').unwrap_or(line);
        if code.starts_with('[') {
            table = code.trim_matches(['[', ']']).to_owned();
            comment.clear();
        } else if let Some((key, value)) = pair(code) {
            let example =
                comment.contains("(example)") || comment.contains("# Or ") || key == "name";
            values.insert(
                format!("{table}.{key}"),
                (!example).then(|| value.to_owned()),
            );
            done = true;
        } else {
            // One comment may stand above several keys; the next one starts anew.
            if std::mem::take(&mut done) {
                comment.clear();
            }
            comment.push_str(line);
        }
    }
    values
}

fn pair(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(" = ")?;
    let good = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    good.then_some((key, value))
}

// ---- docs/alerts.md ----

#[test]
fn every_key_of_the_alert_line_is_explained_and_no_other() {
    let mut written = BTreeSet::new();
    for alert in all_kinds() {
        let data = line::structured_data(&alert);
        let pairs = data.trim_end_matches(']').split("\" ");
        written.extend(pairs.map(|pair| {
            let key = pair.split('=').next().unwrap();
            key.trim_start_matches("[feedgate@32473 ").to_owned()
        }));
    }
    // `id` stands behind the element's name.
    let written: BTreeSet<String> = written
        .into_iter()
        .map(|key| key.rsplit(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(first_cells("docs/alerts.md", "## Keys"), written);
}

#[test]
fn every_field_of_the_json_event_is_named_and_no_other() {
    every_field("## The JSON file", ecs::ecs);
}

#[test]
fn every_field_of_the_eve_event_is_named_and_no_other() {
    every_field("## EVE", eve::eve);
}

#[test]
fn every_attribute_of_the_ocsf_finding_is_named_and_no_other() {
    every_field("## OCSF", ocsf::ocsf);
}

/// The fields that `render` writes are those of the table below `heading`.
fn every_field(heading: &str, render: fn(&Alert, &ecs::Observer) -> serde_json::Value) {
    let observer = ecs::Observer {
        hostname: "gateway".into(),
        version: "0".into(),
    };
    let mut written = BTreeSet::new();
    for alert in all_kinds() {
        leaves("", &render(&alert, &observer), &mut written);
    }
    assert_eq!(first_cells("docs/alerts.md", heading), written);
}

/// Alerts that have every field between them.
fn all_kinds() -> Vec<Alert> {
    let mut several = single();
    several.feeds.push("other".parse().unwrap());
    several.indicator = "203.0.113.7:443".parse().unwrap();
    let mut network = single();
    network.indicator = "203.0.113.0/24:443".parse().unwrap();
    let mut echo = single();
    echo.direction = Direction::Ingress;
    echo.flow.proto = Protocol::ICMP;
    echo.flow.transport = Transport::Icmp {
        kind: 8,
        code: 0,
        id: Some(1),
    };
    let mut named = single();
    named.source.mac = None;
    named.source.container = Some("web".into());
    named.source.image = Some("busybox:1".into());
    let mut scan = summary();
    scan.scan = Some(Scan {
        further: vec!["203.0.113.8".parse().unwrap()],
        more: false,
    });
    let mut flood = summary();
    flood.flood = Some(Flood {
        sources: 2,
        is_exact: true,
        further: vec!["203.0.113.8".parse().unwrap()],
    });
    vec![
        single(),
        summary(),
        several,
        network,
        echo,
        named,
        scan,
        flood,
    ]
}

/// Paths of all values that are no objects; those in lists of objects end in `[]`.
fn leaves(path: &str, value: &serde_json::Value, out: &mut BTreeSet<String>) {
    let join = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match value {
        serde_json::Value::Object(map) => map.iter().for_each(|(k, v)| leaves(&join(k), v, out)),
        serde_json::Value::Array(list) if list.iter().any(serde_json::Value::is_object) => {
            list.iter()
                .for_each(|v| leaves(&format!("{path}[]"), v, out));
        }
        _ => {
            out.insert(path.to_owned());
        }
    }
}

/// The first cell of each row of the tables below a heading.
fn first_cells(file: &str, heading: &str) -> BTreeSet<String> {
    let text = document(file);
    let part = text.split_once(&format!("{heading}\n")).expect(heading).1;
    cells(part.split("\n## ").next().unwrap())
}

/// The first cell of each row.
fn cells(text: &str) -> BTreeSet<String> {
    let cells = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    cells.map(str::to_owned).collect()
}

/// An alert with everything in it but a window.
fn single() -> Alert {
    let text = |text: &str| Some(text.to_owned());
    Alert {
        id: uuid::Uuid::from_u128(7),
        time: SystemTime::UNIX_EPOCH,
        action: Action::Deny,
        direction: Direction::Egress,
        flow: Flow {
            src: "192.0.2.2".parse().unwrap(),
            dst: "203.0.113.7".parse().unwrap(),
            proto: Protocol::TCP,
            transport: Transport::Ports {
                src: 4711,
                dst: 443,
            },
            fragment: false,
        },
        feeds: vec!["blocklist".parse().unwrap()],
        indicator: "203.0.113.7".parse().unwrap(),
        scan: None,
        flood: None,
        severity: Severity::Medium,
        policy: text("policy").map(Into::into),
        exception: text("SSH peer").map(Into::into),
        iface: text("eth0"),
        source: Source {
            labels: Default::default(),
            is_complete: true,
            grade: Grade::Likely,
            method: Some("local-end"),
            cause: text("cause"),
            uid: Some(0),
            user: text("root"),
            pid: Some(2),
            start: Some(3),
            started: Some(SystemTime::UNIX_EPOCH),
            ppid: Some(1),
            exe: text("/usr/bin/curl"),
            exe_deleted: true,
            command_line: text("curl -s"),
            gid: Some(0),
            capabilities: Some(Capabilities::from_bits(u64::MAX)),
            session_uid: Some(0),
            session_user: text("root"),
            comm: text("curl"),
            unit: text("cron.service"),
            slice: text("system.slice"),
            container: text("0123456789ab"),
            image: text("busybox"),
            pod: text("pod"),
            namespace: text("default"),
            mac: text("00:00:5e:00:53:01"),
            client: text("printer"),
            meant: None,
        },
        nat_dst: Some(("198.51.100.7".parse().unwrap(), Some(8443))),
        count: 1,
        window: None,
        held: Duration::from_micros(312),
    }
}

/// A summary of repeats.
fn summary() -> Alert {
    let window = Some((SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH));
    Alert {
        count: 5,
        window,
        ..single()
    }
}

// ---- docs/flow-log.md ----

#[test]
fn every_field_of_the_flow_log_is_explained_at_its_levels_and_no_other() {
    let mut documented = BTreeMap::new();
    for line in document("docs/flow-log.md").lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [field, _, _, _, levels @ ..] = &cells[..]
            && let (Some(field), 3) = (ticked(field), levels.len())
        {
            let levels: Vec<bool> = levels.iter().map(|cell| *cell == "yes").collect();
            documented.insert(field.to_owned(), levels);
        }
    }
    let mut written: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    for level in 0u8..3 {
        for field in flow_fields(level) {
            let levels = written.entry(field).or_insert_with(|| vec![false; 3]);
            levels[usize::from(level)] = true;
        }
    }
    assert_eq!(documented, written);
}

/// The fields of all kinds of lines of a level.
fn flow_fields(level: u8) -> BTreeSet<String> {
    let mut lines = vec![flowlog::lost(1, "why", SystemTime::UNIX_EPOCH)];
    let mut unknown = single();
    unknown.source = Source::default();
    for max in [0, 9] {
        let mut sums = flowlog::Aggregator::with_capacity(level.into(), max);
        for alert in [single(), unknown.clone()] {
            for traffic in [None, Some(flowlog::Traffic::default())] {
                let ended = flowlog::Ended {
                    alert: Box::new(alert.clone()),
                    end: SystemTime::UNIX_EPOCH,
                    traffic,
                    reason: flowlog::Reason::Ended,
                };
                lines.extend(sums.add(ended));
            }
        }
        // A flood of more indicators than are summed up apart.
        for n in 0..5_000u32 {
            let mut alert = unknown.clone();
            alert.direction = Direction::Ingress;
            alert.flow.src = std::net::Ipv4Addr::from(n).into();
            alert.indicator = alert.flow.src.to_string().parse().unwrap();
            let ended = flowlog::Ended {
                alert: Box::new(alert),
                end: SystemTime::UNIX_EPOCH,
                traffic: None,
                reason: flowlog::Reason::Denied,
            };
            lines.extend(sums.add(ended));
        }
        lines.extend(sums.flush());
    }
    let mut fields = BTreeSet::new();
    for line in lines {
        let line: serde_json::Value = serde_json::from_str(&line.text).unwrap();
        fields.extend(line.as_object().unwrap().keys().cloned());
    }
    fields
}

#[test]
fn every_end_of_a_flow_is_explained_and_no_other() {
    use flowlog::Reason::{Cut, Denied, Ended, Full, Gone, Stopped};
    let text = document("docs/flow-log.md");
    let table = text.split_once("| `end_reason` | means |").unwrap().1;
    let table = table.split("\n\n").next().unwrap();
    let reasons =
        [Denied, Cut, Ended, Gone, Stopped, Full].map(|reason| reason.as_str().to_owned());
    assert_eq!(cells(table), reasons.into_iter().collect());
}

// ---- docs/ruleset.md, and every example ----

#[test]
fn the_ruleset_shown_is_the_one_that_is_printed() {
    let text = document("docs/ruleset.md");
    let configuration = blocks(&text, "toml").remove(0);
    let shown = blocks(&text, "nft").remove(0);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("feedgate.toml");
    let socket = folder.path().join("none.sock");
    let daemon = format!("[daemon]\ncontrol-socket = \"{}\"\n", socket.display());
    fs::write(&file, daemon + &configuration).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_feedgate"))
        .args(["nft", "print", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let mut lines = printed.lines().map(str::trim);
    for line in shown
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
    {
        assert!(
            lines.any(|printed| printed == line),
            "not printed, or not there: {line}"
        );
    }
}

#[test]
fn every_configuration_shown_is_good() {
    let mut seen = 0;
    for file in documents() {
        for example in blocks(&document(&file), "toml") {
            let found = config::parse(&example, &file).diagnostics;
            assert!(
                found.is_empty(),
                "{}",
                config::render(&found, &example, &file, false)
            );
            seen += 1;
        }
    }
    assert!(seen >= 3, "{seen} examples");
}

#[test]
fn every_manifest_shown_is_good() {
    let mut seen = 0;
    for file in documents() {
        for example in blocks(&document(&file), "yaml") {
            if !example.contains("apiVersion: projectcalico.org/v3") {
                continue;
            }
            let parsed = manifest::parse(&example);
            assert!(
                parsed.mistakes.is_empty(),
                "{}",
                manifest::render(&parsed.mistakes, &file)
            );
            seen += parsed.resources.len();
        }
    }
    assert!(seen >= 7, "{seen} resources");
}

/// What the shipped DaemonSet configures, and the capabilities that it adds.
#[test]
fn the_daemonset_has_a_good_configuration_and_the_capabilities_that_are_explained() {
    let text = document("docs/kubernetes/daemonset.yaml");
    let (_, rest) = text.split_once("  feedgate.toml: |\n").unwrap();
    let (toml, _) = rest.split_once("---\n").unwrap();
    let toml: Vec<&str> = toml
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or(line))
        .collect();
    let outcome = config::parse(&toml.join("\n"), "daemonset.yaml");
    assert!(outcome.diagnostics.is_empty(), "{:?}", outcome.diagnostics);
    assert_eq!(outcome.config.unwrap().feeds.len(), 1);

    let (_, rest) = text.split_once("            add:\n").unwrap();
    let added = rest
        .lines()
        .map_while(|line| line.trim().strip_prefix("- "))
        .map(|line| format!("CAP_{}", line.split_whitespace().next().unwrap()));
    let security = document("docs/security.md");
    let added: Vec<String> = added.collect();
    assert_eq!(added.len(), 8);
    for capability in added {
        assert!(security.contains(&capability), "{capability}");
    }
}

// ---- the command line ----

/// What is written as code and begins with `feedgate` is a command, with options that it has.
#[test]
fn every_command_shown_is_one_that_there_is() {
    let help = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_feedgate"));
        let output = command.args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let top = help(&["--help"]);
    let list = top.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = list.take_while(|line| !line.is_empty());
    let names = names.filter_map(|line| line.strip_prefix("  "));
    let mut commands: BTreeMap<String, Option<String>> = names
        .filter(|line| !line.starts_with(' '))
        .map(|line| (line.split(' ').next().unwrap().to_owned(), None))
        .collect();
    assert!(commands.len() > 20, "{top}");
    // For packages only, and so not in the list.
    commands.insert("man".to_owned(), None);
    let mut seen = 0;
    for file in documents() {
        for shown in shown_commands(&document(&file)) {
            let mut words = shown.split_whitespace().skip(1).peekable();
            if shown.contains('…') {
                continue; // a message, such as that it did not answer
            }
            let Some(verb) = words.find(|word| !word.starts_with(['-', '/'])) else {
                continue; // --help, --config FILE
            };
            if !verb.chars().all(|c| c.is_ascii_lowercase()) {
                continue; // ..., [OPTIONS], COMMAND
            }
            let known = commands.get_mut(verb);
            let known =
                known.unwrap_or_else(|| panic!("{file}: there is no `feedgate {verb}`: {shown}"));
            let text = known.get_or_insert_with(|| {
                // With those of its own commands, such as `alerts list`.
                let own = help(&[verb, "--help"]);
                let subs = own.lines().filter_map(|line| line.strip_prefix("  "));
                let subs =
                    subs.filter_map(|line| line.split(' ').next().filter(|word| !word.is_empty()));
                let subs: Vec<String> = subs.map(|sub| help(&[verb, sub, "--help"])).collect();
                own.clone() + &subs.concat()
            });
            let flags =
                words.take_while(|word| !["|", "&&", ";", "<", ">", "#", "||"].contains(word));
            for flag in flags.filter(|word| word.starts_with("--")) {
                let flag = flag.split('=').next().unwrap();
                let flag = flag.trim_end_matches([',', ')', ']', ';']);
                assert!(
                    text.contains(flag),
                    "{file}: `feedgate {verb}` has no {flag}: {shown}"
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen} commands");
}

/// Code spans and lines of code blocks that call feedgate.
fn shown_commands(text: &str) -> Vec<String> {
    let (mut found, mut inside) = (Vec::new(), false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if inside {
            found.push(line.trim().to_owned());
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    let call = |code: String| {
        let code = code.strip_prefix("$ ").unwrap_or(&code);
        let code = code.strip_prefix("# ").unwrap_or(code);
        let code = code.strip_prefix("sudo ").unwrap_or(code);
        code.starts_with("feedgate ").then(|| code.to_owned())
    };
    found.into_iter().filter_map(call).collect()
}

// ---- docs/lab.md ----

#[test]
fn every_command_of_the_lab_is_one_that_is_run() {
    let script = fs::read_to_string(root().join("tests/lab/run")).unwrap();
    // As the script shows them.
    let plain = |line: &str| {
        let line = line.replace("$manifests/", "").replace("$LAB/", "");
        let line = line
            .replace("$BAD", "10.48.255.194")
            .replace("\"$id\"", "ID");
        line.replace(['"', '\''], "")
    };
    let run: BTreeSet<String> = script
        .lines()
        .filter_map(|line| line.strip_prefix("look "))
        .map(plain)
        .collect();
    let text = document("docs/lab.md");
    let shown = text.lines().filter_map(|line| line.strip_prefix("$ "));
    let mut seen = BTreeSet::new();
    for command in shown {
        let command = plain(command);
        let command = match command.strip_prefix("feedgate alerts show ") {
            Some(_) => "feedgate alerts show ID".to_owned(),
            None => command.replace("runc delete --force red", "delete_red"),
        };
        assert!(run.contains(&command), "{command} is not in {run:?}");
        seen.insert(command);
    }
    // Each step has its section, with all that changes something.
    for step in 1..=8 {
        assert!(text.contains(&format!("\n## Step {step}: ")), "step {step}");
    }
    for command in run.iter().filter(|command| {
        ["apply", "delete", "alerts", "graph"].iter().any(|verb| {
            command.starts_with(&format!("feedgate {verb} "))
                || *command == &format!("feedgate {verb}")
        })
    }) {
        assert!(seen.contains(command), "{command} is not shown");
    }
}

// ---- systemd ----

#[test]
fn the_units_are_sound() {
    let folder = units();
    for unit in ["feedgate.service", "feedgate-boot.service"] {
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no"]);
        let Ok(output) = verify.arg(folder.path().join(unit)).output() else {
            return eprintln!("skipped: there is no systemd-analyze");
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{unit}: {said}");
    }
}

/// The numbers of docs/systemd.md; more is a step back.
#[test]
fn the_units_are_no_more_exposed_than_promised() {
    let folder = units();
    let unit = |name: &str| exposure(&folder.path().join(name));
    let Some(host) = unit("feedgate.service") else {
        return eprintln!("skipped: there is no systemd-analyze");
    };
    let boot = unit("feedgate-boot.service").unwrap();
    let drop_in = folder.path().join("feedgate.service.d");
    fs::create_dir(&drop_in).unwrap();
    fs::write(
        drop_in.join("pod.conf"),
        document("systemd/feedgate-pod.conf"),
    )
    .unwrap();
    let pod = unit("feedgate.service").unwrap();
    assert!(host <= 2.5 && boot <= 2.5, "{host}, at boot {boot}");
    assert!(host < pod && pod <= 3.0, "{host} grows to {pod}");
}

/// What `systemd-analyze security` says of a unit file, and of the drop-ins beside it.
fn exposure(unit: &Path) -> Option<f64> {
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(unit)
        .output()
        .ok()?;
    let said = String::from_utf8(output.stdout).unwrap();
    let sum = said
        .split("Overall exposure level for ")
        .nth(1)
        .expect(&said);
    Some(sum.split(' ').nth(1).unwrap().parse().unwrap())
}

/// The shipped units with the built program, in a folder.
fn units() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["feedgate.service", "feedgate-boot.service"] {
        let unit = document(&format!("systemd/{name}"));
        let built = unit.replace("/usr/local/sbin/feedgate", env!("CARGO_BIN_EXE_feedgate"));
        assert_ne!(unit, built);
        fs::write(folder.path().join(name), built).unwrap();
    }
    folder
}

#[test]
fn the_capabilities_of_the_units_are_those_of_the_documents() {
    let host = capabilities("systemd/feedgate.service");
    let pod = capabilities("systemd/feedgate-pod.conf");
    let boot = capabilities("systemd/feedgate-boot.service");
    assert_eq!(
        capability_rows("README.md", "\n## Capabilities\n"),
        host,
        "README.md"
    );
    let all: BTreeSet<String> = host.union(&pod).cloned().collect();
    assert_eq!(
        capability_rows("docs/security.md", "\n## Privileges\n"),
        all
    );
    assert!(boot.is_subset(&host), "{boot:?}");
}

/// What a unit may have; what it gets at the start is the same.
fn capabilities(unit: &str) -> BTreeSet<String> {
    let text = document(unit);
    let of = |key: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(key));
        lines
            .flat_map(|line| line.split(' ').map(str::to_owned))
            .collect()
    };
    let may = of("CapabilityBoundingSet=");
    assert_eq!(of("AmbientCapabilities="), may, "{unit}");
    assert!(!may.is_empty(), "{unit}");
    may
}

/// The capabilities that the table below a heading explains.
fn capability_rows(file: &str, heading: &str) -> BTreeSet<String> {
    let text = document(file);
    let part = text.split_once(heading).expect(heading).1;
    let part = part.split("\n## ").next().unwrap();
    let rows = part.lines().filter_map(|line| line.strip_prefix("| CAP_"));
    rows.filter_map(|row| Some(format!("CAP_{}", row.split(' ').next()?)))
        .collect()
}

// ---- links ----

#[test]
fn links_lead_somewhere() {
    for file in documents() {
        let folder = root().join(&file).parent().unwrap().to_owned();
        let text = document(&file);
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if !link.contains("://") && !link.starts_with('#') {
                let target = link.split('#').next().unwrap();
                assert!(folder.join(target).exists(), "{file}: {link}");
            }
        }
    }
}

fn documents() -> Vec<String> {
    let mut files = vec!["README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        files.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    files
}

/// Fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let fences = text.split(&fence).skip(1);
    fences
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

fn document(file: &str) -> String {
    fs::read_to_string(root().join(file)).expect(file)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
