//! The table in two files for an admin's own ruleset: [`base`] enforces by itself, [`inspect`] adds the questions.
//!
//! Both come from [`build`], so they cannot drift from what the daemon installs. They define every
//! set that a feed could fill, because rules cannot appear in an admin's ruleset later on.
//!
//! The prefilter is part of them too. An empty one would hide every listed address, so it is *open*
//! as long as nobody fills it: `coarse_nets4` and `coarse_nets6` hold the whole space.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fmt::{self, Write as _},
};

use super::{Chain, Counter, Options, Ruleset, Set, Statement, TABLE_COMMENT, TableFamily, build};
use crate::{
    feed::Scope,
    prefix::{Address, Family, Range},
    snapshot::{Class, Content, Kind, SetName, Sets},
};

/// How a set of addresses is declared in a table that is not the daemon's work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// `flags interval`
    pub interval: bool,
    /// `flags timeout`, without a default timeout.
    pub timeout: bool,
    /// `flags dynamic`
    pub dynamic: bool,
}

impl Shape {
    /// The shape that the daemon gives a set.
    pub fn usual(name: SetName) -> Self {
        Self {
            interval: name.kind().is_interval(),
            ..Self::default()
        }
    }
}

/// The flags in nft syntax; empty without any.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = [
            ("interval", self.interval),
            ("timeout", self.timeout),
            ("dynamic", self.dynamic),
        ];
        let words: Vec<&str> = flags
            .into_iter()
            .filter_map(|(word, on)| on.then_some(word))
            .collect();
        f.write_str(&words.join(","))
    }
}

/// Every set of addresses there can be: both classes, all scopes, both kinds, the prefilter, resolvers.
pub fn full() -> BTreeSet<SetName> {
    let mut names = BTreeSet::new();
    for family in [Family::V4, Family::V6] {
        names.insert(SetName::Coarse {
            kind: Kind::Hosts,
            family,
        });
        names.insert(SetName::Coarse {
            kind: Kind::Nets,
            family,
        });
        names.insert(SetName::Resolvers { family });
        for kind in [Kind::Hosts, Kind::Nets, Kind::Ports, Kind::Flows] {
            // The receiver's ports are of one direction.
            let scopes: &[Scope] = match kind {
                Kind::Flows => &[Scope::Out, Scope::In],
                _ => &[Scope::Both, Scope::Out, Scope::In],
            };
            for class in [Class::Deny, Class::Watch] {
                for scope in scopes.iter().copied() {
                    names.insert(SetName::Class {
                        class,
                        scope,
                        kind,
                        family,
                    });
                }
            }
        }
    }
    names
}

/// What a set of an included table is to hold: the snapshot's content, and an open prefilter where
/// the snapshot has none.
pub fn open_prefilter(sets: &Sets, name: SetName) -> Cow<'_, Content> {
    let SetName::Coarse { kind, family } = name else {
        return given(sets, name);
    };
    let has = |kind| sets.get(SetName::Coarse { kind, family }).is_some();
    if has(Kind::Hosts) || has(Kind::Nets) || kind != Kind::Nets {
        return given(sets, name);
    }
    Cow::Owned(everything(family))
}

fn given(sets: &Sets, name: SetName) -> Cow<'_, Content> {
    match sets.get(name) {
        Some(content) => Cow::Borrowed(content),
        None => Cow::Owned(match name.family() {
            Family::V4 => Content::V4(Vec::new()),
            Family::V6 => Content::V6(Vec::new()),
        }),
    }
}

fn everything(family: Family) -> Content {
    match family {
        Family::V4 => Content::V4(vec![whole()]),
        Family::V6 => Content::V6(vec![whole()]),
    }
}

/// All addresses of a family.
fn whole<A: Address + Default>() -> Range<A> {
    Range {
        first: A::default(),
        last: A::default().filled(0),
    }
}

/// `nft/base.nft`: the table with sets, counters and guard chains. Without a daemon it enforces what
/// the deny sets hold. Works on every kernel with nf_tables.
pub fn base(options: &Options) -> String {
    let all = build(options, &full());
    let ruleset = Ruleset {
        table: all.table,
        sets: all.sets.into_iter().filter(is_of_base).collect(),
        chains: all.chains.into_iter().filter_map(guarding).collect(),
    };
    let mut text = head(BASE_HEAD, options);
    let table = &options.table;
    if options.include.is_none() {
        // Loading it again replaces the table instead of adding every rule once more.
        text.push_str(&format!("table inet {table}\ndelete table inet {table}\n"));
    }
    let _ = write_base(&mut text, &ruleset, options.include.is_none());
    text
}

/// A table with these sets and nothing else, for an admin who writes the rules.
pub fn declarations(options: &Options, names: impl Iterator<Item = SetName>) -> String {
    let family = options.include.unwrap_or(TableFamily::Inet);
    let mut text = format!("table {} {} {{\n", family.as_str(), options.table);
    let ruleset = Ruleset {
        table: options.table.clone(),
        sets: names.map(Set::Addresses).collect(),
        chains: Vec::new(),
    };
    let _ = ruleset.write_content(&mut text);
    text.push_str("}\n");
    text
}

/// `nft/inspect.nft`: the chains that ask the daemon. Comes after [`base`] in the same ruleset, on
/// kernels with the native `queue` expression: text cannot name the xt target.
pub fn inspect(options: &Options) -> String {
    let all = build(options, &full());
    let ruleset = Ruleset {
        table: all.table,
        sets: all.sets.into_iter().filter(|s| !is_of_base(s)).collect(),
        chains: all.chains.into_iter().filter_map(asking).collect(),
    };
    let mut text = head(INSPECT_HEAD, options);
    text.push_str(&format!("table inet {} {{\n", options.table));
    let _ = ruleset.write_content(&mut text);
    text.push_str("}\n");
    text
}

const BASE_HEAD: &str = "\
# feedgate: sets, counters and the chains that enforce them. Made by `feedgate nft print --base`.
#
# Load it with the last good elements in one go, for example from /etc/nftables.conf:
#     include \"/usr/local/share/feedgate/nft/base.nft\"
#     include \"/var/lib/feedgate/sets*.nft\"
# (a pattern that matches nothing is no error, so a first boot without elements works).
# What the deny sets hold is then dropped before the daemon and the network are up.
# mode = \"include\": the daemon fills these sets, also after a reload of your ruleset.
# mode = \"own\": the daemon takes the table over in one transaction. Then load this once, at boot, from a
# unit of its own, and not from a ruleset that is reloaded later: that would put this table in place of
# the daemon's, and where the daemon owns its table (kernel 6.9 and later) nft refuses the whole ruleset.
# The same goes for a table that such a daemon left behind: `nft delete table inet feedgate` comes first.
#
# coarse_nets4 and coarse_nets6 hold everything at first: an empty prefilter would hide what is listed.
# Base chains: filter - 10 (cut flows) and filter - 9 (guard), before the filter chains of others.
";

const INSPECT_HEAD: &str = "\
# feedgate: the chains that ask the daemon. Made by `feedgate nft print --inspect`.
#
# Include it right after base.nft, in the same ruleset. It needs a kernel with the native `queue`
# expression (CONFIG_NFT_QUEUE); elsewhere leave it out: base.nft enforces without it, and nothing is
# attributed. `bypass`: without a daemon packets go on to the guard chains.
";

fn head(text: &str, options: &Options) -> String {
    let mut text = text.to_owned();
    if options.include.is_none() {
        text.push_str("# Rules are for this configuration's hooks, queue and marks: print it again after a change.\n\n");
    } else {
        text.push_str(&format!(
            "# For table inet {}, which is yours: this adds to it.\n\n",
            options.table
        ));
    }
    text
}

fn write_base(out: &mut String, ruleset: &Ruleset, own: bool) -> fmt::Result {
    writeln!(out, "table inet {} {{", ruleset.table)?;
    if own {
        writeln!(out, "\tcomment \"{TABLE_COMMENT}\"")?;
    }
    for counter in Counter::ALL {
        writeln!(out, "\tcounter {} {{ }}", counter.as_str())?;
    }
    let mut content = String::new();
    ruleset.write_content(&mut content)?;
    for (family, all) in [('4', "0.0.0.0/0"), ('6', "::/0")] {
        let declared = format!(
            "\tset coarse_nets{family} {{\n\t\ttype ipv{family}_addr\n\t\tflags interval\n"
        );
        let open = format!("{declared}\t\telements = {{ {all} }}\n");
        content = content.replace(&declared, &open);
    }
    out.push_str(&content);
    writeln!(out, "}}")
}

/// True for the sets that the guard chains ask.
fn is_of_base(set: &Set) -> bool {
    set.is_addresses() || *set == Set::Extensions
}

/// The part of a chain that belongs to [`base`].
fn guarding(mut chain: Chain) -> Option<Chain> {
    match part(&chain) {
        Part::Guard => {}
        Part::Inspect => chain.rules.retain(|rule| is_known(rule)),
        // Jumped to by the guard, empty until the daemon is asked.
        Part::Verdict => chain.rules.clear(),
        Part::Ask => return None,
    }
    Some(chain)
}

/// The part of a chain that belongs to [`inspect`].
fn asking(mut chain: Chain) -> Option<Chain> {
    match part(&chain) {
        Part::Guard => return None,
        Part::Inspect => {
            chain.base = None;
            chain.rules.retain(|rule| !is_known(rule));
        }
        Part::Verdict | Part::Ask => {}
    }
    Some(chain)
}

enum Part {
    Guard,
    /// A base chain of inspect: its first rule, which leads to the cut, enforces; the rest asks.
    Inspect,
    Verdict,
    Ask,
}

fn part(chain: &Chain) -> Part {
    let begins = |words: &[&str]| words.iter().any(|word| chain.name.starts_with(word));
    match chain.base {
        Some(_) if begins(&["inspect_"]) => Part::Inspect,
        None if begins(&["verdict"]) => Part::Verdict,
        None if begins(&["inspect_", "ask", "allowed", "denied", "end_denied_repeat"]) => Part::Ask,
        _ => Part::Guard,
    }
}

fn is_known(rule: &[Statement]) -> bool {
    matches!(rule.first(), Some(Statement::Established))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn options() -> Options {
        Options::new(&Config::default().nftables)
    }

    #[test]
    fn the_shipped_files_are_what_is_printed() {
        let shipped = [
            (
                include_str!("../../nft/base.nft"),
                base(&options()),
                "--base",
            ),
            (
                include_str!("../../nft/inspect.nft"),
                inspect(&options()),
                "--inspect",
            ),
        ];
        for (file, printed, option) in shipped {
            assert_eq!(file, printed, "make it again: feedgate nft print {option}");
        }
    }

    #[test]
    fn both_parts_together_are_the_whole() {
        let all = build(&options(), &full());
        let mut rules = 0;
        for chain in all.chains {
            let whole = chain.rules.clone();
            let base = guarding(chain.clone()).map_or(vec![], |c| c.rules);
            let inspect = asking(chain).map_or(vec![], |c| c.rules);
            rules += whole.len();
            assert_eq!([base, inspect].concat(), whole);
        }
        assert!(rules > 100);
        assert!(all.sets.len() > full().len());
    }

    #[test]
    fn neither_file_names_what_is_not_defined_by_then() {
        let (base, inspect) = (base(&options()), inspect(&options()));
        let defined = |text: &str, word: &str| -> BTreeSet<String> {
            let lines = text.lines().map(str::trim);
            lines
                .filter_map(|l| l.strip_prefix(word)?.strip_suffix(" {"))
                .map(|name| name.trim().to_owned())
                .collect()
        };
        let named = |text: &str| -> BTreeSet<String> {
            text.split(|c: char| c.is_whitespace())
                .filter_map(|word| word.strip_prefix('@'))
                .map(str::to_owned)
                .collect()
        };
        let mut sets = defined(&base, "set ");
        assert!(named(&base).is_subset(&sets));
        assert_eq!(sets.len(), full().len() + 1);
        sets.extend(defined(&inspect, "set "));
        assert!(named(&inspect).is_subset(&sets));
        assert!(!base.contains("queue num") && inspect.contains("queue num 4470 bypass"));
        assert!(
            !base.contains("meta mark"),
            "no mark is a verdict without the inspect chains"
        );
    }

    #[test]
    fn a_prefilter_without_content_is_open() {
        let sets = Sets::default();
        let nets = SetName::Coarse {
            kind: Kind::Nets,
            family: Family::V6,
        };
        let hosts = SetName::Coarse {
            kind: Kind::Hosts,
            family: Family::V6,
        };
        assert_eq!(
            *open_prefilter(&sets, nets),
            Content::V6(vec![Range {
                first: 0,
                last: u128::MAX
            }])
        );
        assert!(open_prefilter(&sets, hosts).is_empty());
        assert_eq!(
            base(&options()).matches("elements = { 0.0.0.0/0 }").count(),
            1
        );
        assert_eq!(base(&options()).matches("elements = { ::/0 }").count(), 1);
    }
}
