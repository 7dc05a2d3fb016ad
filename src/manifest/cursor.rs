//! A cursor over a tree that collects every mistake instead of stopping at the first.
//!
//! Opening a [`Table`] reports its unknown fields; reading a field reports its value and gives `None`.
//! A field that is `null` counts as not written, as in Kubernetes.

use std::collections::BTreeMap;

use super::{
    log::{Log, Place, Problem},
    scalar::{self, expected, place_inside},
    tree::{Key, Node, Value, short},
};
use crate::{config::nearest, prefix::Prefix};

/// A map with its place in the document.
#[derive(Clone, Debug)]
pub(super) struct Table<'a, 't> {
    text: &'t str,
    pairs: &'a [(Key<'t>, Node<'t>)],
    path: String,
    place: Place,
}

/// The first of them, which are those that matter most.
fn known(fields: &[&str]) -> String {
    const SHOWN: usize = 8;
    match fields.get(..SHOWN) {
        Some(first) if fields.len() > SHOWN => {
            format!("known here are {} and others", first.join(", "))
        }
        _ => format!("known here are {}", fields.join(", ")),
    }
}

impl<'a, 't> Table<'a, 't> {
    /// The map `node`, which may have `fields`; `None`, reported, when it is no map.
    pub(super) fn open(
        log: &mut Log,
        text: &'t str,
        node: &'a Node<'t>,
        path: &str,
        fields: &[&str],
    ) -> Option<Self> {
        let table = Self::any(log, text, node, path)?;
        for (key, _) in table.pairs {
            if !fields.contains(&key.text.as_ref()) {
                let help = match nearest(&key.text, fields.iter().copied()) {
                    Some(near) => format!("did you mean {near}?"),
                    None if fields.is_empty() => "nothing may stand here".to_owned(),
                    None => known(fields),
                };
                let problem = Problem::new("unknown field").help(help);
                log.error(&table.path(&key.text), key.place.start, problem);
            }
        }
        Some(table)
    }

    /// The same with any fields.
    pub(super) fn any(
        log: &mut Log,
        text: &'t str,
        node: &'a Node<'t>,
        path: &str,
    ) -> Option<Self> {
        let Value::Map(pairs) = &node.value else {
            log.error(path, node.place.start, expected("fields below it", node));
            return None;
        };
        Some(Self {
            text,
            pairs,
            path: path.to_owned(),
            place: node.place,
        })
    }

    /// The map in field `key`; `None` when it is not written.
    pub(super) fn table(&self, log: &mut Log, key: &str, fields: &[&str]) -> Option<Self> {
        let node = self.get(key)?;
        Self::open(log, self.text, node, &self.path(key), fields)
    }

    /// The maps of the list in field `key`.
    pub(super) fn tables(&self, log: &mut Log, key: &str, fields: &[&str]) -> Vec<Self> {
        let items = self.items(log, key).unwrap_or_default();
        let tables = items
            .iter()
            .enumerate()
            .map(|(i, item)| (self.element(key, i), item));
        tables
            .filter_map(|(path, item)| Self::open(log, self.text, item, &path, fields))
            .collect()
    }

    /// The value of field `key`, read by `read`; `None` when it is not written or wrong.
    pub(super) fn read<T>(
        &self,
        log: &mut Log,
        key: &str,
        read: impl FnOnce(&'a Node<'t>) -> Result<T, Problem>,
    ) -> Option<T> {
        let node = self.get(key)?;
        self.take(log, &self.path(key), node, read)
    }

    /// The same; a field that is not written is an error.
    pub(super) fn require<T>(
        &self,
        log: &mut Log,
        key: &str,
        help: &str,
        read: impl FnOnce(&'a Node<'t>) -> Result<T, Problem>,
    ) -> Option<T> {
        if !self.has(key) {
            self.missing(log, key, help);
        }
        self.read(log, key, read)
    }

    /// Reports that `key` is not written, where its map begins.
    pub(super) fn missing(&self, log: &mut Log, key: &str, help: &str) {
        let problem = Problem::new("missing").help(help);
        log.error(&self.path(key), self.place.start, problem);
    }

    /// The list in field `key`, each element read by `read`; wrong ones are reported and left out.
    pub(super) fn list<T>(
        &self,
        log: &mut Log,
        key: &str,
        read: impl Fn(&'a Node<'t>) -> Result<T, Problem>,
    ) -> Vec<T> {
        let items = self.items(log, key).unwrap_or_default();
        let mut values = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            // The path of a good value is not made: network sets are long.
            match read(item) {
                Ok(value) => values.push(value),
                Err(problem) => self.report(log, &self.element(key, i), item, problem),
            }
        }
        values
    }

    /// The addresses and prefixes of the list in field `key`. As in Calico, one with bits behind its
    /// length stands for the whole prefix; that is a warning.
    pub(super) fn prefixes(&self, log: &mut Log, key: &str) -> Vec<Prefix> {
        let items = self.items(log, key).unwrap_or_default();
        let mut prefixes = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            match scalar::prefix(item) {
                Ok((prefix, was_cut)) => {
                    if was_cut {
                        let problem = Problem::new("has bits set behind its length");
                        let problem = problem.help(format!("it is taken as {prefix}"));
                        log.warning(&self.element(key, i), item.place.start, problem);
                    }
                    prefixes.push(prefix);
                }
                Err(problem) => self.report(log, &self.element(key, i), item, problem),
            }
        }
        prefixes
    }

    /// The map of texts in field `key`; each pair is judged by `check`.
    pub(super) fn texts(
        &self,
        log: &mut Log,
        key: &str,
        name: impl Fn(&str) -> Result<(), Problem>,
        value: impl Fn(&str) -> Result<(), Problem>,
    ) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let Some(node) = self.get(key) else {
            return found;
        };
        let path = self.path(key);
        let Some(table) = Self::any(log, self.text, node, &path) else {
            return found;
        };
        for (key, node) in table.pairs {
            let path = table.path(&key.text);
            if let Err(problem) = name(&key.text) {
                log.error(&path, key.place.start, problem);
            }
            let read = self.take(log, &path, node, |node| {
                let text = scalar::text(node)?;
                value(text)?;
                Ok(text.to_owned())
            });
            if let Some(text) = read {
                found.insert(key.text.clone().into_owned(), text);
            }
        }
        found
    }

    /// Reports `problem` at field `key`, or at the map where it is not written.
    pub(super) fn error(&self, log: &mut Log, key: &str, problem: Problem) {
        log.error(&self.path(key), self.start(key), problem);
    }

    /// The same as a warning.
    pub(super) fn warning(&self, log: &mut Log, key: &str, problem: Problem) {
        log.warning(&self.path(key), self.start(key), problem);
    }

    /// Reports `problem` at field `name` of the map in field `key`, as far as they are written.
    pub(super) fn error_below(&self, log: &mut Log, key: &str, name: &str, problem: Problem) {
        let node = self.get(key);
        let below = node.and_then(|node| Self::any(log, self.text, node, &self.path(key)));
        match below {
            Some(table) => table.error(log, name, problem),
            None => self.error(log, key, problem),
        }
    }

    /// True when field `key` is written and not `null`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The fields that are written and not `null`, in the text's order.
    pub(super) fn fields(&self) -> impl Iterator<Item = &'a str> {
        let written = self.pairs.iter().filter(|(_, node)| !node.is_null());
        written.map(|(key, _)| key.text.as_ref())
    }

    /// Field `key`, when it is written and not `null`.
    pub(super) fn get(&self, key: &str) -> Option<&'a Node<'t>> {
        let mut pairs = self.pairs.iter();
        let (_, node) = pairs.find(|(name, _)| name.text == key)?;
        (!node.is_null()).then_some(node)
    }

    /// Path of field `key`.
    pub(super) fn path(&self, key: &str) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if key.is_empty() || !key.chars().all(plain) {
            format!("{}[{}]", self.path, short(key))
        } else if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn element(&self, key: &str, index: usize) -> String {
        format!("{}[{index}]", self.path(key))
    }

    fn start(&self, key: &str) -> usize {
        self.get(key)
            .map_or(self.place.start, |node| node.place.start)
    }

    fn items(&self, log: &mut Log, key: &str) -> Option<&'a [Node<'t>]> {
        let node = self.get(key)?;
        if let Value::List(items) = &node.value {
            return Some(items);
        }
        self.error(log, key, expected("a list", node));
        None
    }

    fn take<T>(
        &self,
        log: &mut Log,
        path: &str,
        node: &'a Node<'t>,
        read: impl FnOnce(&'a Node<'t>) -> Result<T, Problem>,
    ) -> Option<T> {
        read(node)
            .map_err(|problem| self.report(log, path, node, problem))
            .ok()
    }

    fn report(&self, log: &mut Log, path: &str, node: &Node<'t>, problem: Problem) {
        let start = match problem.at {
            Some(character) => place_inside(self.text, node, character),
            None => node.place.start,
        };
        log.error(path, start, problem);
    }
}
