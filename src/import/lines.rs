//! Lines of a feed of format plain.

use std::collections::BTreeMap;

use crate::feed::{Limits, parse_plain};

/// Why `entry` cannot stand in a plain list; `None` when it can, and means what it says.
pub(super) fn refused(entry: &str) -> Option<String> {
    if entry.contains(char::is_whitespace) {
        return Some("not an address, a prefix or a range".into());
    }
    let parsed = parse_plain(entry.as_bytes(), &Limits::default());
    (parsed.count() == 0).then(|| "not an address, a prefix or a range that a feed may hold".into())
}

/// Many remarks of one kind become one with a count: the first line and how often.
#[derive(Default)]
pub(super) struct Tally(BTreeMap<(String, String), (usize, usize)>);

impl Tally {
    pub(super) fn add(&mut self, line: usize, what: &str, why: &str) {
        let key = (what.to_owned(), why.to_owned());
        let (_, count) = self.0.entry(key).or_insert((line, 0));
        *count += 1;
    }

    pub(super) fn tell(self, import: &mut super::Import) {
        for ((what, why), (line, count)) in self.0 {
            let what = match count {
                1 => what,
                more => format!("{what} ({more} times, first here)"),
            };
            import.remark(line, what, why);
        }
    }
}
