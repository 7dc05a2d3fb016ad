//! `ipset save`: each set of addresses becomes a feed with a list of its own (ipset(8)).

use std::collections::BTreeMap;

use super::{Block, File, Import, ImportError, Place, feed_name, lines, list_url};

/// Types whose elements are addresses, prefixes or ranges, and the one with a port.
const TYPES: [&str; 3] = ["hash:ip", "hash:net", "hash:ip,port"];

#[derive(Default)]
struct Set {
    has_port: bool,
    lines: Vec<String>,
    /// The type is none that a feed can hold.
    is_left_out: bool,
}

pub(super) fn import(text: &str, place: Place<'_>) -> Result<Import, ImportError> {
    let mut import = Import::default();
    let mut tally = lines::Tally::default();
    let mut sets: BTreeMap<&str, Set> = BTreeMap::new();
    let mut order = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let mut words = text.split_whitespace().filter(|word| !is_flag(word));
        match words.next() {
            None => {}
            Some(comment) if comment.starts_with('#') => {}
            Some("create") => {
                let (Some(name), Some(kind)) = (words.next(), words.next()) else {
                    return Err(bad(line, "create needs a name and a type"));
                };
                let is_left_out = !TYPES.contains(&kind);
                if is_left_out {
                    import.remark(
                        line,
                        format!("set {name} of type {kind}"),
                        "a feed holds addresses, prefixes, and addresses with a port",
                    );
                }
                if words.any(|word| word == "timeout") {
                    let why = "a list has no timeouts: make it anew, or push it, when it changes";
                    import.remark(line, format!("the timeout of set {name}"), why);
                }
                let set = Set {
                    has_port: kind == "hash:ip,port",
                    is_left_out,
                    ..Set::default()
                };
                if sets.insert(name, set).is_none() {
                    order.push(name);
                }
            }
            Some("add") => {
                let (Some(name), Some(element)) = (words.next(), words.next()) else {
                    return Err(bad(line, "add needs a set and an element"));
                };
                let Some(set) = sets.get_mut(name) else {
                    let message = format!(
                        "set {name} was not created above; import the whole of `ipset save`"
                    );
                    return Err(bad(line, message));
                };
                if !set.is_left_out {
                    let options: Vec<&str> = words.collect();
                    add(set, name, element, &options, line, &mut tally);
                }
            }
            Some("COMMIT") => {}
            Some(word @ ("flush" | "swap" | "destroy" | "rename")) => {
                tally.add(line, word, "a command of a restore script, not an element");
            }
            Some(word) => {
                let message =
                    format!("`{word}` is no line of `ipset save`: expected create or add");
                return Err(bad(line, message));
            }
        }
    }
    if order.is_empty() {
        return Err(bad(
            1,
            "no set is created in this file; it should be the output of `ipset save`",
        ));
    }
    tally.tell(&mut import);
    for name in order {
        if let Some(set) = sets.remove(name).filter(|set| !set.is_left_out) {
            take(&mut import, name, &set, place);
        }
    }
    Ok(import)
}

fn take(import: &mut Import, name: &str, set: &Set, place: Place<'_>) {
    if set.lines.is_empty() {
        import.remark(
            None,
            format!("set {name}"),
            "it holds nothing that a feed can hold",
        );
        return;
    }
    let mut unique = feed_name(name);
    while import.feeds.iter().any(|feed| feed.name == unique) {
        unique.push('2');
    }
    let file = format!("{unique}.txt");
    let feed = Block::new(&*unique)
        .comment(format!("set {name} of ipset; what its rules did is not in the set: it only alerts until you say deny"))
        .text("url", &list_url(place, &file))
        .text("action", "alert");
    import.feeds.push(feed);
    import.files.push(File {
        name: file,
        text: set.lines.join("\n") + "\n",
        is_secret: false,
    });
}

fn add(
    set: &mut Set,
    name: &str,
    element: &str,
    options: &[&str],
    line: usize,
    tally: &mut lines::Tally,
) {
    if options.contains(&"nomatch") {
        let why = "a feed has no exceptions of its own: put it into [exceptions] prefixes";
        return tally.add(line, &format!("{element} nomatch of set {name}"), why);
    }
    let timed = options
        .windows(2)
        .any(|pair| matches!(pair, ["timeout", time] if *time != "0"));
    if timed {
        tally.add(
            line,
            "timeout of an element",
            "it is taken over without: a list has no timeouts",
        );
    }
    let entry = if set.has_port {
        with_port(element)
    } else {
        Some(element.to_owned())
    };
    let Some(entry) = entry else {
        return tally.add(
            line,
            &format!("{element} of set {name}"),
            "not ADDRESS,PROTOCOL:PORT of tcp or udp",
        );
    };
    match lines::refused(&entry) {
        Some(why) => tally.add(line, &format!("{element} of set {name}"), &why),
        None => set.lines.push(entry),
    }
}

/// `203.0.113.5,tcp:8080` as a plain list writes it; ipset's protocol is tcp when none is written.
fn with_port(element: &str) -> Option<String> {
    let (addr, port) = element.split_once(',')?;
    let (proto, port) = port.split_once(':').unwrap_or(("tcp", port));
    if !matches!(proto, "tcp" | "udp" | "sctp") || port.parse::<u16>().is_err() {
        return None;
    }
    Some(if addr.contains(':') {
        format!("[{addr}]:{port}/{proto}")
    } else {
        format!("{addr}:{port}/{proto}")
    })
}

fn is_flag(word: &str) -> bool {
    matches!(word, "-exist" | "-!" | "--exist")
}

fn bad(line: usize, message: impl Into<String>) -> ImportError {
    ImportError {
        line,
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Tool, tests::good};

    #[test]
    fn sets_become_lists_and_the_rest_is_told() {
        let text = "create a hash:net family inet hashsize 1024 maxelem 65536\n\
                    create b hash:ip,port family inet timeout 300\n\
                    create c list:set size 8\n\
                    flush a\n\
                    add a 192.0.2.0/24\n\
                    add a 192.0.2.64/26 nomatch\n\
                    add -exist a 198.51.100.1-198.51.100.6 timeout 300\n\
                    add a 203.0.113.4 comment \"a # mark; and more\"\n\
                    add b 203.0.113.5,tcp:8080\n\
                    add b 203.0.113.6,icmp:8/0\n\
                    add c a\nCOMMIT\n";
        let import = good(Tool::Ipset, text);
        let files: Vec<(&str, &str)> = import
            .files
            .iter()
            .map(|file| (&*file.name, &*file.text))
            .collect();
        assert_eq!(
            files,
            [
                (
                    "a.txt",
                    "192.0.2.0/24\n198.51.100.1-198.51.100.6\n203.0.113.4\n"
                ),
                ("b.txt", "203.0.113.5:8080/tcp\n"),
            ]
        );
        assert!(
            import
                .to_toml()
                .contains("url = \"file:///etc/feedgate/lists/a.txt\"")
        );
        let told: Vec<(Option<usize>, &str)> = import
            .remarks
            .iter()
            .map(|remark| (remark.line, &*remark.what))
            .collect();
        assert_eq!(
            told,
            [
                (Some(2), "the timeout of set b"),
                (Some(3), "set c of type list:set"),
                (Some(4), "flush"),
                (Some(6), "192.0.2.64/26 nomatch of set a"),
                (Some(7), "timeout of an element"),
                (Some(10), "203.0.113.6,icmp:8/0 of set b"),
            ]
        );
    }

    #[test]
    fn what_is_no_ipset_save_is_refused_with_its_line() {
        let error = |text| {
            super::import(text, super::super::tests::PLACE)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            error("add x 192.0.2.1"),
            "line 1: set x was not created above; import the whole of `ipset save`"
        );
        assert_eq!(
            error("create x hash:ip\n192.0.2.1"),
            "line 2: `192.0.2.1` is no line of `ipset save`: expected create or add"
        );
        assert_eq!(
            error(""),
            "line 1: no set is created in this file; it should be the output of `ipset save`"
        );
    }
}
