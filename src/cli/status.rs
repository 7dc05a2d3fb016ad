//! `feedgate status` and `feedgate feeds`: what an operator needs at 3 a.m., in few lines.
#![allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null

use std::{fmt, path::Path};

use serde_json::{Value, json};

use super::{Failure, ask, check};
use crate::{
    arm::Book,
    config::Config,
    control::{self, ClientError, Request, Unanswered},
    nft::{Kernel, TableState},
    ruleset::Options,
    snapshot::{Class, SetName},
    store,
};

pub(super) fn status(config: &Path, json: bool) -> Result<(), Failure> {
    let config = check::read(config)?;
    let value = match control::call(&config.daemon.control_socket, &Request::Status) {
        Err(e @ ClientError::NotRunning { .. }) => {
            let left = left_behind(&config);
            if json {
                ask::print_json(&not_running(&config, &e, &left));
            }
            let lines = [vec![e.to_string()], left.lines].concat();
            return Err(Failure::failed(lines.join("\n")));
        }
        Err(ClientError::Unanswered(e)) => {
            let table = held(&config);
            if json {
                ask::print_json(&not_answering(&config, &e, table.as_ref()));
            }
            let lines = [Some(e.to_string()), table.map(|(_, line)| line)];
            let lines: Vec<String> = lines.into_iter().flatten().collect();
            return Err(Failure::failed(lines.join("\n")));
        }
        other => other.map_err(ask::failure)?,
    };
    if json {
        ask::print_json(&value);
    } else {
        print!("{}", render_status(&value));
    }
    Ok(())
}

/// What holds while no daemon answers.
#[derive(Debug, Default)]
struct LeftBehind {
    /// Of the table, in a word; `None` where this user may not see it.
    state: Option<&'static str>,
    lines: Vec<String>,
}

/// What holds while no daemon answers, as far as this user may see it.
fn left_behind(config: &Config) -> LeftBehind {
    let kernel = Kernel::open(Options::new(&config.nftables));
    let Ok((state, included)) = kernel.and_then(|kernel| {
        let state = kernel.table_state()?;
        Ok((state, kernel.included()))
    }) else {
        return LeftBehind::default();
    };
    let (family, name) = (&config.nftables.family, &config.nftables.table);
    let table = format!("table {family} {name}");
    let is_deny = |name: &SetName| {
        matches!(
            name,
            SetName::Class {
                class: Class::Deny,
                ..
            }
        )
    };
    let (word, line) = match &state {
        TableState::Ours if included.is_some_and(|table| !table.sets.keys().any(is_deny)) => (
            "present",
            format!(
                "NOT PROTECTED  {table} has no set of feedgate's that denies: nothing is denied"
            ),
        ),
        TableState::Ours => (
            "present",
            format!(
                "WITHOUT A DAEMON  {table} is in the kernel: what it denies stays denied; what is only watched \
                 passes, and nobody is named"
            ),
        ),
        TableState::Absent => (
            "absent",
            format!("NOT PROTECTED  there is no {table}: nothing is denied"),
        ),
        TableState::Owned(port) => (
            "owned",
            format!(
                "NOT KNOWN  {table} is held by a running program (netlink port {port}, mostly that is its pid): is \
                 that a feedgate with another --config, or one whose socket was removed?"
            ),
        ),
        TableState::Foreign(why) => (
            "foreign",
            format!("NOT PROTECTED  {table} is not feedgate's: {why}"),
        ),
    };
    let mut lines = vec![line];
    let book = std::fs::read(store::arming_file(&config.daemon.state_dir)).ok();
    let book = book.and_then(|text| Book::from_json(&text).ok());
    if state == TableState::Ours && book.is_some_and(|book| book.was_pending()) {
        lines.push(format!(
            "  ! a feed denies by `feedgate deny` and nobody confirmed it: the next start takes it back. \
             To be rid of it without one: nft delete table {family} {name}"
        ));
    }
    LeftBehind {
        state: Some(word),
        lines,
    }
}

/// What the kernel holds beside a daemon that does not answer, in a word and in a line; `None` where this
/// user may not see it.
fn held(config: &Config) -> Option<(&'static str, String)> {
    let kernel = Kernel::open(Options::new(&config.nftables)).ok()?;
    let (family, name) = (&config.nftables.family, &config.nftables.table);
    let table = format!("table {family} {name}");
    Some(match kernel.table_state().ok()? {
        // Its own, most likely: a daemon that lives owns its table.
        TableState::Ours | TableState::Owned(_) => (
            "present",
            format!(
                "WITHOUT AN ANSWER  {table} is in the kernel: what it denies stays denied; what is only watched \
                 waits for the daemon, or passes, and nobody is named"
            ),
        ),
        TableState::Absent => (
            "absent",
            format!("NOT PROTECTED  there is no {table}: nothing is denied"),
        ),
        TableState::Foreign(why) => (
            "foreign",
            format!("NOT PROTECTED  {table} is not feedgate's: {why}"),
        ),
    })
}

/// What `--json` prints then.
fn not_answering(
    config: &Config,
    error: &Unanswered,
    table: Option<&(&'static str, String)>,
) -> Value {
    json!({
        "running": true,
        "answers": false,
        "pid": error.pid,
        "state": error.state,
        "error": error.to_string(),
        "table": {
            "family": config.nftables.family.to_string(),
            "name": config.nftables.table,
            "state": table.map(|(word, _)| word),
        },
        "says": table.iter().map(|(_, line)| line.trim_start()).collect::<Vec<_>>(),
    })
}

/// What `--json` prints without a daemon.
fn not_running(config: &Config, error: &ClientError, left: &LeftBehind) -> Value {
    let lines: Vec<&str> = left.lines.iter().map(|line| line.trim_start()).collect();
    json!({
        "running": false,
        "error": error.to_string(),
        "table": {
            "family": config.nftables.family.to_string(),
            "name": config.nftables.table,
            "state": left.state,
        },
        "says": lines,
    })
}

pub(super) fn feeds(config: &Path, json: bool) -> Result<(), Failure> {
    let value = ask::daemon(config, &Request::Feeds)?;
    if json {
        ask::print_json(&value);
    } else {
        print!("{}", render_feeds(&value));
    }
    Ok(())
}

/// Protected or not, and what is wrong with the daemon itself.
fn word(status: &Value) -> String {
    let protected = status["protected"] == true;
    let mut unwell = items(&status["unwell"]).map(text);
    let word = match (protected, unwell.next()) {
        (true, None) => return "PROTECTED".into(),
        (false, None) => return "NOT PROTECTED".into(),
        (true, Some(first)) => format!("UNWELL  {first}"),
        (false, Some(first)) => format!("NOT PROTECTED  {first}"),
    };
    match unwell.count() {
        0 => format!("{word};"),
        more => format!("{word}, and {more} more;"),
    }
}

/// About ten lines: protected or not and why, feeds, the last hour, alerts.
fn render_status(status: &Value) -> String {
    let mut out = Lines::default();
    out.add(format!(
        "{}  table {} {} {}, {} elements{}",
        word(status),
        text(&status["table"]["family"]),
        text(&status["table"]["name"]),
        text(&status["table"]["state"]),
        status["table"]["elements"],
        match (
            &status["table"]["prefilter4"],
            &status["table"]["prefilter6"]
        ) {
            (Value::Bool(true), Value::Bool(true)) => " behind prefilters",
            (Value::Bool(true), _) => " behind a prefilter (IPv4)",
            (_, Value::Bool(true)) => " behind a prefilter (IPv6)",
            _ => " without a prefilter",
        },
    ));
    let said = items(&status["unwell"]).next();
    for problem in items(&status["problems"]).filter(|problem| Some(*problem) != said) {
        out.add(format!("  ! {}", text(problem)));
    }
    if let Some(ms) = status["loading_ms"].as_u64() {
        out.add(format!(
            "loading    a change, since {} s; what is shown is as of before it",
            ms / 1000
        ));
    }
    let forms = items(&status["table"]["ipv4_forms"]);
    let forms: Vec<String> = forms
        .map(|row| format!("{} ({})", text(&row["form"]), text(&row["sign"])))
        .collect();
    if !forms.is_empty() {
        out.add(format!(
            "transition IPv4 entries also hold in {}",
            forms.join(", ")
        ));
    }
    if status["table"]["heals"].as_u64().unwrap_or(0) > 0 {
        out.add(format!(
            "healed     {} times, last {}: {}",
            status["table"]["heals"],
            text(&status["table"]["last_heal_at"]),
            text(&status["table"]["last_heal"]),
        ));
    }
    let feeds: Vec<&Value> = items(&status["feeds"]).collect();
    let bad = feeds
        .iter()
        .filter(|feed| feed["enabled"] == true)
        .filter(|feed| feed["stale"] == true || feed["last_error"].is_string())
        .count();
    out.add(format!(
        "feeds      {} configured, {bad} with a problem{}{}",
        feeds.len(),
        if feeds.is_empty() { "" } else { ": " },
        feeds_in_short(&feeds)
    ));
    for feed in &feeds {
        for finding in items(&feed["findings"]).filter(|finding| is_serious(finding)) {
            out.add(format!(
                "  lint {}: {}",
                text(&feed["name"]),
                text(&finding["text"])
            ));
        }
    }
    for feed in &feeds {
        if let Some(words) = feed["arming"]["text"].as_str() {
            out.add(format!("arming     {} {words}", text(&feed["name"])));
        }
    }
    out.0.push_str(&spared(&feeds));
    out.0.push_str(&policies(&status["policies"]));
    out.0.push_str(&guarded(&status["exceptions"]));
    for notice in items(&status["notices"]) {
        out.add(format!("new        {}", text(notice)));
    }
    for listed in items(&status["listed_exceptions"]).take(LISTED) {
        out.add(format!(
            "  listed   {} {} by {}: not denied",
            text(&listed["why"]),
            text(&listed["prefix"]),
            ask::list(&listed["feeds"])
        ));
    }
    let hour = &status["last_hour"];
    out.add(format!(
        "last hour  {} flows denied, {} alerted and passed",
        hour["denied"], hour["alerted"]
    ));
    for row in items(&hour["top"]).take(5) {
        out.add(format!(
            "  {} x {} {} {} ({}{}) by {}",
            row["count"],
            if row["action"] == "deny" {
                "denied"
            } else {
                "alerted"
            },
            text(&row["direction"]),
            text(&row["indicator"]),
            ask::list(&row["feeds"]),
            row["policy"]
                .as_str()
                .map(|policy| format!("; {policy}"))
                .unwrap_or_default(),
            text(&row["who"]),
        ));
    }
    for (policy, count) in hour["denied_by"].as_object().into_iter().flatten() {
        out.add(format!("  {count} denied by policy {policy}"));
    }
    let counters = &status["counters"];
    let packets = |name: &str| counters[name]["packets"].as_u64().unwrap_or(0);
    out.add(format!(
        "unattributed  {} packets dropped, {} passed; queue: {} waiting, {} lost",
        packets("denied_unattributed"),
        packets("passed_unattributed"),
        status["queue"]["waiting"],
        status["queue"]["dropped"].as_u64().unwrap_or(0)
            + status["queue"]["user_dropped"].as_u64().unwrap_or(0),
    ));
    let packet = |name: &str| status["packets"][name].as_u64().unwrap_or(0);
    let (folded, timeouts) = (packet("folded"), packet("attribution_timeouts"));
    if folded + timeouts > 0 {
        out.add(format!(
            "attribution   {folded} flows folded while the queue filled up, {timeouts} attribution timeouts"
        ));
    }
    let suppressed = |name: &str| status["suppressed"][name].as_u64().unwrap_or(0);
    let (repeats, scans) = (suppressed("repeats"), suppressed("scans"));
    let (floods, held_back) = (suppressed("floods"), suppressed("held_back"));
    let of_ingress = suppressed("held_back_ingress");
    if repeats + scans + floods + held_back + of_ingress > 0 {
        out.add(format!(
            "in summaries  {repeats} repeats, {scans} flows of scans, {floods} of floods, \
             {held_back} over rate-limit, {of_ingress} over rate-limit-ingress"
        ));
    }
    let sinks: Vec<String> = items(&status["sinks"]).map(sink).collect();
    out.add(format!(
        "alerts     {}",
        if sinks.is_empty() {
            "no sink is configured".into()
        } else {
            sinks.join("; ")
        }
    ));
    let log = &status["flow_log"];
    if log.is_object() {
        out.add(format!(
            "flow log   {} {} flows written, {} open, {} waiting",
            text(&log["file"]),
            log["written"],
            log["open"],
            log["waiting"],
        ));
    }
    if status["store"].is_object() {
        out.add(store(&status["store"]));
    }
    out.add(selftest(&status["selftest"]));
    if let (Some(count), Some(max)) = (
        status["conntrack"]["count"].as_u64(),
        status["conntrack"]["max"].as_u64(),
    ) {
        out.add(format!("conntrack  {count} of {max} entries"));
    }
    out.0
}

/// Tiers, policies and network sets; nothing where there are no policies.
fn policies(state: &Value) -> String {
    let number = |key: &str| state[key].as_u64().unwrap_or(0);
    let (enforced, staged, by_source) = (number("enforced"), number("staged"), number("by_source"));
    if enforced + staged + number("network_sets") == 0 {
        return String::new();
    }
    let mut out = Lines::default();
    out.add(format!(
        "policies   {enforced} enforced, {staged} staged, in {}; {} of feeds, {} by hand",
        match items(&state["tiers"]).count() {
            0 => "no tier".to_owned(),
            _ => format!("tiers {}", ask::list(&state["tiers"])),
        },
        plural(&number("feed_sets"), "network set", "network sets"),
        number("network_sets"),
    ));
    if by_source > 0 {
        out.add(format!(
            "  {} for the source, which takes the daemon; without it, or with an unknown source: {} (on-daemon-down)",
            plural(&by_source, "policy asks", "policies ask"),
            text(&state["on_daemon_down"]),
        ));
    }
    out.0
}

/// What of the feeds is not enforced; empty where all of it is.
fn spared(feeds: &[&Value]) -> String {
    let sum = |key: &str| -> u64 { feeds.iter().filter_map(|feed| feed[key].as_u64()).sum() };
    let (excepted, private, wide) = (sum("excepted"), sum("private"), sum("wide_bound"));
    let special = sum("special");
    let words = [
        (excepted > 0).then(|| {
            let entries = plural(&excepted, "entry is", "entries are");
            format!("{entries} touched by exceptions")
        }),
        (special > 0).then(|| {
            let entries = plural(&special, "entry is", "entries are");
            format!("{entries} special addresses")
        }),
        (private > 0).then(|| {
            let networks = plural(&private, "network", "networks");
            format!("{networks} of private space not denied")
        }),
        (wide > 0).then(|| {
            let networks = plural(&wide, "network", "networks");
            format!("{networks} with a port too wide to be enforced")
        }),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    if words.is_empty() {
        return String::new();
    }
    format!("spared     {} (feedgate feeds)\n", words.join(", "))
}

fn selftest(last: &Value) -> String {
    let Some(age) = last["age_s"].as_u64() else {
        return "selftest   not run since the start (feedgate selftest)".to_owned();
    };
    let age = humantime::format_duration(std::time::Duration::from_secs(age));
    let result = match (last["passed"] == true, last["why"].as_str()) {
        (true, _) => "passed".to_owned(),
        (false, Some(why)) => format!("not testable: {why};"),
        (false, None) => "FAILED".to_owned(),
    };
    format!("selftest   {result} {age} ago")
}

/// Listed exceptions that are shown.
const LISTED: usize = 10;

/// Who is never denied because of what this host is and does; the host's own addresses go without saying.
fn guarded(exceptions: &Value) -> String {
    const SHOWN: usize = 6;
    let is_own = |exception: &&Value| {
        let why = text(&exception["why"]);
        why.starts_with("own address") || why.starts_with("exceptions.") || why.contains('/')
    };
    let guarded = items(exceptions).filter(|exception| !is_own(exception));
    let mut words: Vec<String> = guarded
        .map(|exception| format!("{} {}", text(&exception["why"]), text(&exception["prefix"])))
        .collect();
    // Who may be locked out comes first.
    words.sort_by_key(|word| !word.starts_with("SSH peer"));
    if words.is_empty() {
        return String::new();
    }
    let more = words.len().saturating_sub(SHOWN);
    words.truncate(SHOWN);
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more (feedgate status --json)"),
    };
    format!("guarded    {}{more}\n", words.join(", "))
}

fn feeds_in_short(feeds: &[&Value]) -> String {
    let word = |feed: &&Value| {
        let state = match (&feed["enabled"], &feed["stale"]) {
            (Value::Bool(false), _) => " (off)",
            (_, Value::Bool(true)) => " (stale)",
            _ => "",
        };
        let action = match text(&feed["arming"]["state"]) {
            "trial" => "deny (on trial)",
            "pending" | "kept" => "deny (by command)",
            _ => text(&feed["action"]),
        };
        format!(
            "{} {action} {}{state}",
            text(&feed["name"]),
            feed["entries"]
        )
    };
    let mut words: Vec<String> = feeds.iter().take(6).map(word).collect();
    if feeds.len() > 6 {
        words.push(format!("and {} more (feedgate feeds)", feeds.len() - 6));
    }
    words.join(", ")
}

fn sink(sink: &Value) -> String {
    let mut text = format!("{} {} sent", text(&sink["name"]), sink["sent"]);
    let counts = [
        ("queued", "waiting"),
        ("spooled", "waiting on disk"),
        ("dropped", "lost"),
    ];
    for (key, word) in counts {
        if sink[key].as_u64().unwrap_or(0) > 0 {
            text.push_str(&format!(", {} {word}", sink[key]));
        }
    }
    if let Some(error) = sink["last_error"].as_str() {
        text.push_str(&format!(" ({error})"));
    }
    text
}

fn store(store: &Value) -> String {
    let mut text = format!(
        "store      {}, {}, {} bytes",
        text(&store["file"]),
        plural(&store["records"], "record", "records"),
        store["bytes"]
    );
    for (key, word) in [("queued", "waiting"), ("dropped", "lost")] {
        if store[key].as_u64().unwrap_or(0) > 0 {
            text.push_str(&format!(", {} {word}", store[key]));
        }
    }
    if let Some(head) = store["head"].as_str() {
        text.push_str(&format!(", head {head}"));
    }
    text
}

fn render_feeds(feeds: &Value) -> String {
    let mut out = Lines::default();
    for feed in items(feeds) {
        head(&mut out, feed);
        times(&mut out, feed);
        if let Some(words) = feed["arming"]["text"].as_str() {
            out.add(format!("  {words}"));
        }
        let held = &feed["quarantined"];
        if held.is_object() {
            let (since, why) = (text(&held["since"]), text(&held["why"]));
            out.add(format!("  an update is held back since {since}: {why}"));
        }
        match feed["last_error"].as_str() {
            Some(error) if held["why"] != *error => out.add(format!("  error: {error}")),
            _ => {}
        }
        for (key, what) in [
            ("bad", "malformed"),
            ("not_address", "not an address"),
            ("too_wide", "refused as too wide"),
        ] {
            refused(&mut out, &feed[key], what);
        }
        left_out(&mut out, &feed["left_out"]);
        examples(&mut out, feed, "excepted", "touched by an exception");
        examples(&mut out, feed, "special", "special addresses, never denied");
        examples(
            &mut out,
            feed,
            "private",
            "networks of private space, not denied (private-networks)",
        );
        if feed["wide_bound"].as_u64().unwrap_or(0) > 0 {
            let networks = plural(&feed["wide_bound"], "network", "networks");
            out.add(format!(
                "  not enforced: {networks} with a port, too wide for its set"
            ));
        }
        for finding in items(&feed["findings"]).filter(|finding| is_news(finding)) {
            out.add(format!("  lint: {}", text(&finding["text"])));
        }
        for overlap in items(&feed["overlaps"]) {
            let addresses = plural(&text(&overlap["addresses"]), "address", "addresses");
            let other = text(&overlap["feed"]);
            out.add(format!("  overlap: {addresses} also in {other}"));
        }
    }
    if out.0.is_empty() {
        out.add("no feed is configured; add a [[feed]] to the configuration".to_owned());
    }
    out.0
}

fn head(out: &mut Lines, feed: &Value) {
    let action = match feed["deny_score"].as_u64() {
        Some(score) => format!("deny from score {score}, alert below"),
        None => text(&feed["action"]).to_owned(),
    };
    let from = feed["url"].as_str().unwrap_or("pushed");
    let off = if feed["enabled"] == false {
        ", not enabled"
    } else {
        ""
    };
    out.add(format!("{}  {action}{off}  {from}", text(&feed["name"])));
    match (feed["bytes"].as_u64(), feed["addresses"].as_str()) {
        (Some(bytes), Some(addresses)) => out.add(format!(
            "  {}, {} after merging, {}; {bytes} bytes",
            plural(&feed["entries"], "entry", "entries"),
            plural(&feed["merged"], "prefix", "prefixes"),
            plural(&addresses, "address", "addresses"),
        )),
        _ => out.add("  no data yet".to_owned()),
    }
}

fn times(out: &mut Lines, feed: &Value) {
    let never = |key: &str| feed[key].as_str().unwrap_or("never").to_owned();
    let mut line = format!("  last success {}", never("last_success"));
    if feed["last_attempt"] != feed["last_success"] {
        line.push_str(&format!(", last try {}", never("last_attempt")));
    }
    if let Some(took) = feed["elapsed_ms"].as_u64() {
        line.push_str(&format!(", took {took} ms"));
    }
    if feed["pulling"] == true {
        line.push_str(", being pulled now");
    } else if let Some(next) = feed["next_pull"].as_str() {
        line.push_str(&format!(", next {next}"));
    }
    if let Some(updated) = feed["updated"].as_str() {
        line.push_str(&format!(", made by its publisher {updated}"));
    }
    if feed["stale"] == true && feed["enabled"] == true {
        line.push_str("; STALE");
    }
    out.add(line);
}

fn left_out(out: &mut Lines, lines: &Value) {
    let words: Vec<String> = lines
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, count)| count.as_u64().unwrap_or(0) > 0)
        .map(|(why, count)| format!("{count} {}", why.replace('_', " ")))
        .collect();
    if !words.is_empty() {
        out.add(format!("  left out on purpose: {}", words.join(", ")));
    }
}

/// What should not be blocked.
fn is_serious(finding: &Value) -> bool {
    ["known-good", "private"].contains(&text(&finding["kind"]))
}

/// What the lines above have not said already.
fn is_news(finding: &Value) -> bool {
    !["malformed", "not-address", "too-wide", "left-out"].contains(&text(&finding["kind"]))
}

fn refused(out: &mut Lines, bad: &Value, what: &str) {
    if bad["count"].as_u64().unwrap_or(0) > 0 {
        out.add(format!(
            "  {what}: {}",
            plural(&bad["count"], "line", "lines")
        ));
        for line in items(&bad["examples"]) {
            out.add(format!(
                "    line {}: {} ({})",
                line["line"],
                text(&line["text"]),
                text(&line["why"])
            ));
        }
    }
}

fn examples(out: &mut Lines, feed: &Value, key: &str, what: &str) {
    if feed[key].as_u64().unwrap_or(0) > 0 {
        let examples = ask::list(&feed[format!("{key}_examples")]);
        out.add(format!(
            "  {what}: {}, such as {examples}",
            plural(&feed[key], "entry", "entries")
        ));
    }
}

fn plural(count: &impl fmt::Display, one: &str, many: &str) -> String {
    let count = count.to_string();
    let word = if count == "1" { one } else { many };
    format!("{count} {word}")
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, line: String) {
        self.0.push_str(&line);
        self.0.push('\n');
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    ask::text(value)
}
