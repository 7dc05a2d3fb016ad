//! `ipset save`: each set of addresses becomes a feed with a list of its own (ipset(8)).

use std::collections::BTreeMap;

use super::{Block, File, Import, ImportError, Place, feed_name, lines, list_url};

/// Types whose elements are addresses, prefixes or ranges, and the one with a port.
const TYPES: [&str; 4] = ["hash:ip", "hash:net", "hash:ip,port", "bitmap:ip"];

#[derive(Default)]
struct Set {
    has_port: bool,
    /// Every element stands for a network of this length.
    netmask: Option<String>,
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
        let (head, tail) = around_comment(text);
        let words = head.split_whitespace().chain(tail.split_whitespace());
        let mut words = words.filter(|word| !is_flag(word));
        match words.next() {
            None => {}
            Some(comment) if comment.starts_with('#') => {}
            Some("create") => {
                let (Some(name), Some(kind)) = (words.next(), words.next()) else {
                    return Err(bad(line, "create needs a name and a type"));
                };
                let options: Vec<&str> = words.collect();
                let set = create(name, kind, &options, line, &mut import);
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

/// A set without elements yet; what a list cannot say of it is told.
fn create(name: &str, kind: &str, options: &[&str], line: usize, import: &mut Import) -> Set {
    let option = |name: &str| {
        let mut pairs = options.windows(2);
        pairs.find_map(|pair| match pair {
            [key, value] if *key == name => Some(*value),
            _ => None,
        })
    };
    let has_port = kind == "hash:ip,port";
    let netmask = option("netmask");
    let left_out = if !TYPES.contains(&kind) {
        let why = "a feed holds addresses, prefixes, and addresses with a port";
        Some((format!("set {name} of type {kind}"), why))
    } else if option("bitmask").is_some() {
        let why = "its elements are addresses under a mask, which are no prefixes";
        Some((format!("set {name} with a bitmask"), why))
    } else if has_port && netmask.is_some() {
        let why = "a feed holds single addresses with a port";
        Some((format!("set {name} of networks with ports"), why))
    } else {
        None
    };
    let is_left_out = left_out.is_some();
    if let Some((what, why)) = left_out {
        import.remark(line, what, why);
    }
    if option("timeout").is_some_and(|time| time != "0") {
        let why = "a list has no timeouts: make it anew, or push it, when it changes";
        import.remark(line, format!("the timeout of set {name}"), why);
    }
    Set {
        has_port,
        netmask: netmask.map(str::to_owned),
        is_left_out,
        ..Set::default()
    }
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
    let entry = match &set.netmask {
        _ if set.has_port => with_port(element),
        Some(length) => Some(format!("{element}/{length}")),
        None => Some(element.to_owned()),
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

/// What stands before and behind the quoted comment of an element: its words are no options.
fn around_comment(text: &str) -> (&str, &str) {
    let Some((head, rest)) = text.split_once(" comment \"") else {
        return (text, "");
    };
    (head, rest.split_once('"').map_or("", |(_, tail)| tail))
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
    use super::super::{
        Tool,
        tests::{files, good, told},
    };

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
        assert_eq!(
            files(&import),
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
        assert_eq!(
            told(&import),
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
    fn elements_are_as_wide_as_their_set_says() {
        let text = "create a hash:ip family inet hashsize 1024 maxelem 65536 netmask 24\n\
                    create b bitmap:ip range 192.0.2.0/24 netmask 28\n\
                    create c bitmap:ip range 198.51.100.0-198.51.100.255\n\
                    create d hash:ip family inet bitmask 255.255.0.255\n\
                    create e hash:ip,port family inet netmask 24\n\
                    create f hash:ip family inet6 netmask 64\n\
                    add a 203.0.113.0\n\
                    add b 192.0.2.16\n\
                    add c 198.51.100.7\n\
                    add d 203.0.0.1\n\
                    add e 203.0.113.0,tcp:80\n\
                    add f 2001:db8::\n";
        let import = good(Tool::Ipset, text);
        assert_eq!(
            files(&import),
            [
                ("a.txt", "203.0.113.0/24\n"),
                ("b.txt", "192.0.2.16/28\n"),
                ("c.txt", "198.51.100.7\n"),
                ("f.txt", "2001:db8::/64\n"),
            ]
        );
        assert_eq!(
            told(&import),
            [
                (Some(4), "set d with a bitmask"),
                (Some(5), "set e of networks with ports"),
            ]
        );
    }

    #[test]
    fn a_comment_is_no_option() {
        let text = "create a hash:net family inet timeout 0 comment\n\
                    add a 192.0.2.0/24 timeout 0 comment \"nomatch timeout 5 -exist\"\n\
                    add a 198.51.100.0/24 comment \"it is -! here\" nomatch\n";
        let import = good(Tool::Ipset, text);
        assert_eq!(import.files[0].text, "192.0.2.0/24\n");
        let told: Vec<&str> = import.remarks.iter().map(|remark| &*remark.what).collect();
        assert_eq!(told, ["198.51.100.0/24 nomatch of set a"]);
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
