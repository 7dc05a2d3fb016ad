//! Suricata: rules that name addresses in their headers, and lists of IP reputation.
//!
//! A rule that looks into packets says nothing that a set can hold; it is counted and left out.

use std::collections::BTreeMap;

use super::{Block, File, Import, ImportError, Place, feed_name, lines, list_url};

pub(super) fn import(text: &str, place: Place<'_>) -> Result<Import, ImportError> {
    let content = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let first = text.lines().find(content).unwrap_or_default().trim();
    if first.starts_with("%YAML") || text.lines().any(|line| line.starts_with("vars:")) {
        return Ok(settings(text));
    }
    if reputation(first).is_some() {
        return reputations(text, place);
    }
    if header(first).is_some() {
        return Ok(rules(text, place));
    }
    Err(ImportError {
        line: text
            .lines()
            .position(|line| content(&line))
            .map_or(1, |at| at + 1),
        message:
            "neither a rule (`drop ip [192.0.2.1] any -> $HOME_NET any (...)`), nor a line of a \
                  reputation list (`192.0.2.1,1,100`), nor suricata.yaml"
                .into(),
    })
}

/// suricata.yaml holds no addresses, only names of files.
fn settings(text: &str) -> Import {
    let mut import = Import::default();
    let (mut list, mut indent) = (None, 0);
    for (line, text) in (1..).zip(text.lines()) {
        let trimmed = text.trim();
        let depth = text.len() - text.trim_start().len();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        if let Some(file) = trimmed
            .strip_prefix("- ")
            .filter(|_| list.is_some() && depth >= indent)
        {
            let (kind, file) = (
                list.unwrap_or_default(),
                file.trim_matches(['"', '\'', ' ']),
            );
            import.remark(
                line,
                file,
                format!("a file of {kind}: `feedgate import suricata` it by itself"),
            );
            continue;
        }
        list = match trimmed {
            "reputation-files:" => Some("reputations"),
            "rule-files:" => Some("rules"),
            _ => None,
        };
        indent = depth;
    }
    import.remark(
        None,
        "suricata.yaml",
        "it names files and holds no addresses of its own",
    );
    import
}

/// `address,category,score`
fn reputation(line: &str) -> Option<(&str, u8, u8)> {
    let mut columns = line.split(',').map(str::trim);
    let (addr, category, score) = (columns.next()?, columns.next()?, columns.next()?);
    if columns.next().is_some() || lines::refused(addr).is_some() {
        return None;
    }
    let (category, score) = (category.parse().ok()?, score.parse().ok()?);
    ((1..=60).contains(&category) && score <= 127).then_some((addr, category, score))
}

/// One feed for each category: some mean good hosts.
fn reputations(text: &str, place: Place<'_>) -> Result<Import, ImportError> {
    let mut import = Import::default();
    let mut categories: BTreeMap<u8, String> = BTreeMap::new();
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let Some((addr, category, score)) = reputation(text) else {
            return Err(ImportError {
                line,
                message: "expected `ADDRESS,CATEGORY,SCORE` with a category of 1 to 60 and a score of 0 to 127".into(),
            });
        };
        let list = categories.entry(category).or_default();
        list.push_str(&format!("{addr},{score}\n"));
    }
    for (category, text) in categories {
        let name = feed_name(&format!("{}-{category}", place.stem));
        let file = format!("{name}.csv");
        let mut feed = Block::new(name)
            .comment(format!("category {category}: your file of categories says what it means; remove the feed if these are good hosts"))
            .comment("Scores are 1 to 127: min-score leaves entries out, deny-score denies from there on.")
            .text("url", &list_url(place, &file))
            .text("action", "alert")
            .text("format", "csv");
        feed.csv = vec![("field-num", "0".into()), ("score-column", "1".into())];
        import.feeds.push(feed);
        import.files.push(File {
            name: file,
            text,
            is_secret: false,
        });
    }
    import.remark(
        None,
        "iprep rules",
        "which category and score is denied is said by rules: set action or deny-score",
    );
    Ok(import)
}

/// The parts of a rule before its options.
struct Header<'a> {
    action: &'a str,
    proto: &'a str,
    from: (&'a str, &'a str),
    arrow: &'a str,
    to: (&'a str, &'a str),
    options: &'a str,
}

fn header(line: &str) -> Option<Header<'_>> {
    let (head, options) = line.split_once('(')?;
    let words: Vec<&str> = words(head);
    let [action, proto, from, from_port, arrow, to, to_port] = words[..] else {
        return None;
    };
    let known = [
        "alert",
        "drop",
        "reject",
        "rejectsrc",
        "rejectdst",
        "rejectboth",
        "pass",
    ]
    .contains(&action);
    (known && ["->", "<>"].contains(&arrow)).then_some(Header {
        action,
        proto,
        from: (from, from_port),
        arrow,
        to: (to, to_port),
        options,
    })
}

/// Words; a list in brackets is one, with spaces in it.
fn words(text: &str) -> Vec<&str> {
    let (mut words, mut depth, mut start) = (Vec::new(), 0_usize, None);
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if c.is_whitespace() && depth == 0 {
            words.extend(start.take().and_then(|from| text.get(from..at)));
        } else {
            start = start.or(Some(at));
        }
    }
    words.extend(start.and_then(|from| text.get(from..)));
    words
}

/// What a rule's options may hold without looking into packets.
const PLAIN: [&str; 16] = [
    "msg",
    "sid",
    "rev",
    "gid",
    "classtype",
    "priority",
    "reference",
    "metadata",
    "threshold",
    "flowbits",
    "target",
    "flow",
    "noalert",
    "xbits",
    "hostbits",
    "requires",
];

fn rules(text: &str, place: Place<'_>) -> Import {
    let mut import = Import::default();
    let mut tally = lines::Tally::default();
    let mut lists: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let Some(rule) = header(text) else {
            tally.add(line, "a line", "not a rule");
            continue;
        };
        match entries(&rule) {
            Ok((direction, entries)) => {
                let action = if rule.action == "alert" {
                    "alert"
                } else {
                    "deny"
                };
                let list = lists.entry((action, direction)).or_default();
                for entry in entries {
                    match lines::refused(&entry) {
                        Some(why) => tally.add(line, &entry, &why),
                        None => list.push(entry),
                    }
                }
            }
            Err(why) => tally.add(line, &format!("a rule of action {}", rule.action), why),
        }
    }
    tally.tell(&mut import);
    for ((action, direction), mut list) in lists {
        list.sort();
        list.dedup();
        if list.is_empty() {
            continue;
        }
        let name = feed_name(&format!("{}-{action}-{direction}", place.stem));
        let file = format!("{name}.txt");
        let directions = match direction {
            "both" => "[\"egress\", \"ingress\"]".to_owned(),
            one => format!("[\"{one}\"]"),
        };
        let mut feed = Block::new(name);
        if direction == "ingress" {
            feed = feed.comment("Suricata saw each packet, answers too; this is about flows that they begin. directions = [\"egress\", \"ingress\"] is about those of this host as well.");
        }
        let feed = feed
            .text("url", &list_url(place, &file))
            .text("action", action)
            .raw("directions", directions);
        import.feeds.push(feed);
        import.files.push(File {
            name: file,
            text: list.join("\n") + "\n",
            is_secret: false,
        });
    }
    if import.feeds.is_empty() {
        import.remark(None, "this file", "no rule in it is about addresses alone");
    }
    import
}

/// The words of option `name`; `None`: this is another one.
fn words_of<'a>(option: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let (key, value) = option.split_once(':')?;
    let words = value.split([',', ' ']).map(str::trim);
    (key.trim() == name).then(|| words.filter(|word| !word.is_empty()).collect())
}

/// Why an option makes a rule wait for more than one packet from or to its addresses.
fn waits(option: &str) -> Option<&'static str> {
    const NEVER: &str = "it only marks flows for other rules";
    if option.trim() == "noalert" {
        return Some(NEVER);
    }
    for name in ["flowbits", "xbits", "hostbits"] {
        match words_of(option, name).unwrap_or_default().first() {
            Some(&("isset" | "isnotset")) => return Some("it waits for what another rule saw"),
            Some(&"noalert") => return Some(NEVER),
            _ => {}
        }
    }
    let words = words_of(option, "threshold")?;
    let of = |name: &str| {
        let mut pairs = words.windows(2);
        pairs.find_map(|pair| match pair {
            [key, value] if *key == name => Some(*value),
            _ => None,
        })
    };
    let counts = matches!(of("type"), Some("threshold" | "both")) && of("count") != Some("1");
    counts.then_some("it waits for a number of packets, which a set of addresses cannot")
}

/// True for an option that says that the sender did not begin the flow.
fn is_of_answers(option: &str) -> bool {
    let words = words_of(option, "flow").unwrap_or_default();
    words
        .iter()
        .any(|word| matches!(*word, "to_client" | "from_server"))
}

/// The direction and the addresses of a rule about nothing else.
fn entries(rule: &Header<'_>) -> Result<(&'static str, Vec<String>), &'static str> {
    if rule.action == "pass" {
        return Err("it lets pass: put its addresses into [exceptions] prefixes");
    }
    let options = rule.options.trim_end().trim_end_matches(')');
    let looks_inside = options
        .split(';')
        .map(str::trim)
        .filter(|option| !option.is_empty())
        .any(|option| {
            let name = option.split(':').next().unwrap_or_default().trim();
            // A quoted text with a semicolon in it is split here; its rest is no option's name.
            !PLAIN.contains(&name)
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'.')
        });
    if looks_inside {
        return Err("it looks into packets, which a set of addresses cannot");
    }
    if let Some(why) = options.split(';').find_map(waits) {
        return Err(why);
    }
    let (from, to) = (literals(rule.from.0)?, literals(rule.to.0)?);
    let is_answer = options.split(';').any(is_of_answers);
    let (is_sender, addresses, port, other) = match (from, to) {
        (Some(list), None) => (true, list, rule.from.1, rule.to.1),
        (None, Some(list)) => (false, list, rule.to.1, rule.from.1),
        _ => return Err("not one side with addresses and one with a variable or any"),
    };
    // Who sends an answer did not begin the flow.
    let direction = match is_sender != is_answer {
        true => "ingress",
        false => "egress",
    };
    if other != "any" {
        return Err("it names ports of this side, which a feed cannot");
    }
    let direction = if rule.arrow == "<>" {
        "both"
    } else {
        direction
    };
    if port == "any" {
        return if matches!(rule.proto, "ip" | "pkthdr") {
            Ok((direction, addresses))
        } else {
            Err("it is about one protocol only, which a feed cannot say without a port")
        };
    }
    if port.parse::<u16>().is_err() || !matches!(rule.proto, "tcp" | "udp") {
        return Err("its ports are no single port of tcp or udp");
    }
    let at_port = |addr: &String| match addr.contains(':') {
        true => format!("[{addr}]:{port}/{}", rule.proto),
        false => format!("{addr}:{port}/{}", rule.proto),
    };
    Ok((direction, addresses.iter().map(at_port).collect()))
}

/// The addresses of one side; `None`: a variable or any.
fn literals(side: &str) -> Result<Option<Vec<String>>, &'static str> {
    if side == "any" || side.starts_with('$') {
        return Ok(None);
    }
    if side.contains(['!', '$']) {
        return Err("its addresses are negated or mixed with variables");
    }
    let list = side.replace(['[', ']'], "");
    let list = list
        .split(',')
        .map(str::trim)
        .filter(|addr| !addr.is_empty());
    Ok(Some(list.map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::super::{Import, Tool, tests::good};

    fn files(import: &Import) -> Vec<(&str, &str)> {
        import
            .files
            .iter()
            .map(|file| (&*file.name, &*file.text))
            .collect()
    }

    #[test]
    fn rules_about_addresses_become_lists() {
        let text = "# ET DROP\n\
            drop ip [192.0.2.0/24, 198.51.100.7] any -> $HOME_NET any (msg:\"ET DROP; group 1\"; reference:url,x; classtype:misc-attack; sid:1; rev:2;)\n\
            alert ip $HOME_NET any -> [203.0.113.9] any (msg:\"out\"; sid:2;)\n\
            alert tcp $HOME_NET any -> 203.0.113.10 8080 (msg:\"c2\"; flow:to_server; sid:3;)\n\
            alert http $HOME_NET any -> $EXTERNAL_NET any (msg:\"uri\"; content:\"x\"; http_uri; sid:4;)\n\
            alert ip [!192.0.2.1] any -> any any (sid:5;)\n\
            pass ip [192.0.2.77] any -> any any (sid:6;)\n\
            alert tcp 192.0.2.3 any -> any [80,81] (sid:7;)\n";
        let import = good(Tool::Suricata, text);
        assert_eq!(
            files(&import),
            [
                (
                    "old-alert-egress.txt",
                    "203.0.113.10:8080/tcp\n203.0.113.9\n"
                ),
                ("old-deny-ingress.txt", "192.0.2.0/24\n198.51.100.7\n"),
            ]
        );
        let told: Vec<Option<usize>> = import.remarks.iter().map(|remark| remark.line).collect();
        assert_eq!(told, [Some(5), Some(6), Some(7), Some(8)]);
    }

    #[test]
    fn the_side_that_a_rule_calls_client_begins_the_flow() {
        let text = "alert tcp 203.0.113.10 443 -> $HOME_NET any (msg:\"answer\"; flow:established,to_client; sid:1;)\n\
            alert tcp $HOME_NET 22 -> 203.0.113.11 any (flow:from_server,established; sid:2;)\n\
            alert ip [203.0.113.12] any -> $HOME_NET any (flow: to_server; sid:3;)\n";
        let import = good(Tool::Suricata, text);
        assert_eq!(
            files(&import),
            [
                ("old-alert-egress.txt", "203.0.113.10:443/tcp\n"),
                ("old-alert-ingress.txt", "203.0.113.12\n"),
            ]
        );
        let told: Vec<Option<usize>> = import.remarks.iter().map(|remark| remark.line).collect();
        assert_eq!(told, [Some(2)], "ports of this side");
    }

    #[test]
    fn a_rule_that_waits_for_something_is_not_about_addresses_alone() {
        let rule = |options: &str| {
            let text = format!(
                "drop ip [203.0.113.9] any -> $HOME_NET any (msg:\"m\"; {options} sid:1;)\n"
            );
            !good(Tool::Suricata, &text).feeds.is_empty()
        };
        for taken in [
            "",
            "flowbits:set,ET.Evil;",
            "threshold: type limit, track by_src, seconds 3600, count 1;",
            "threshold: type both, track by_src, count 1, seconds 60;",
        ] {
            assert!(rule(taken), "{taken}");
        }
        for left in [
            "flowbits:isset,ET.Evil;",
            "flowbits: isnotset, a;",
            "xbits:isset,bad,track ip_src;",
            "hostbits:isset,bad,src;",
            "threshold: type threshold, track by_src, count 5, seconds 60;",
            "threshold:type both,track by_src,count 30,seconds 60;",
            "flowbits:set,x; noalert;",
            "flowbits:noalert;",
        ] {
            assert!(!rule(left), "{left}");
        }
    }

    #[test]
    fn reputations_by_category() {
        let import = good(
            Tool::Suricata,
            "192.0.2.4,1,101\n192.0.2.0/24,6,88\n192.0.2.5,1,3\n",
        );
        assert_eq!(
            files(&import),
            [
                ("old-1.csv", "192.0.2.4,101\n192.0.2.5,3\n"),
                ("old-6.csv", "192.0.2.0/24,88\n")
            ]
        );
        let error = super::import(
            "192.0.2.4,1,101\n192.0.2.4,99,1\n",
            super::super::tests::PLACE,
        );
        assert!(
            error
                .unwrap_err()
                .to_string()
                .starts_with("line 2: expected")
        );
    }

    #[test]
    fn suricata_yaml_names_files_only() {
        let text = "%YAML 1.1\n---\nvars:\n  a: b\nreputation-files:\n - bad.list\nrule-files:\n  - suricata.rules\nother:\n  - x\n";
        let import = good(Tool::Suricata, text);
        let told: Vec<&str> = import.remarks.iter().map(|remark| &*remark.what).collect();
        assert_eq!(told, ["suricata.yaml", "bad.list", "suricata.rules"]);
    }

    #[test]
    fn anything_else_is_refused() {
        let error = super::import("\nhello\n", super::super::tests::PLACE).unwrap_err();
        assert_eq!(error.line, 2);
    }
}
