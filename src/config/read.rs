//! A cursor over the parsed TOML that collects every mistake instead of stopping at the first.
//!
//! Opening a [`Table`] reports its unknown keys, and those without effect; reading a key reports its value and gives `None`,
//! so that the caller goes on with the default.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
    ops::Range,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    keys,
    log::Log,
    value::{Problem, quoted},
};

/// A table with its place in the document.
#[derive(Clone)]
pub(super) struct Table<'a> {
    table: Option<&'a DeTable<'a>>,
    /// With indexes, `feed[1]`; empty for the root.
    path: String,
    /// Without indexes, `feed`.
    schema: String,
    /// Its header, or the whole of an inline table.
    span: Range<usize>,
}

impl<'a> Table<'a> {
    /// The document.
    pub(super) fn root(log: &mut Log<'_>, table: &'a DeTable<'a>) -> Self {
        Self::open(log, table, String::new(), String::new(), 0..0)
    }

    /// The table `key`; empty when it is missing or no table.
    pub(super) fn table(&self, log: &mut Log<'_>, key: &str) -> Table<'a> {
        let (path, schema) = self.child(key);
        match self.get(key).map(|value| (value.get_ref(), value.span())) {
            Some((DeValue::Table(table), span)) => Self::open(log, table, path, schema, span),
            other => {
                if let Some((value, span)) = other {
                    log.error(&path, span, Problem::expected("a table", value));
                }
                Table {
                    table: None,
                    path,
                    schema,
                    span: 0..0,
                }
            }
        }
    }

    /// The tables of the list `key`; `None` when the key is missing.
    pub(super) fn tables(&self, log: &mut Log<'_>, key: &str) -> Option<Vec<Table<'a>>> {
        let value = self.get(key)?;
        let (path, schema) = self.child(key);
        let twice = format!("write the header as [[{schema}]], with two brackets");
        match value.get_ref() {
            DeValue::Array(items) => Some(
                items
                    .iter()
                    .enumerate()
                    .filter_map(|(i, item)| {
                        let path = format!("{path}[{i}]");
                        if let DeValue::Table(table) = item.get_ref() {
                            Some(Self::open(log, table, path, schema.clone(), item.span()))
                        } else {
                            let problem = Problem::expected("a table", item.get_ref());
                            log.error(&path, item.span(), problem.help(&twice));
                            None
                        }
                    })
                    .collect(),
            ),
            DeValue::Table(table) => {
                let problem = Problem::new("expected a list of tables, found a single one");
                log.error(&path, value.span(), problem.help(&twice));
                Some(vec![Self::open(log, table, path, schema, value.span())])
            }
            other => {
                let problem = Problem::expected("a list of tables", other);
                log.error(&path, value.span(), problem.help(&twice));
                Some(Vec::new())
            }
        }
    }

    /// The value of `key`, read by `read`; `None` when it is missing or wrong.
    pub(super) fn read<T>(
        &self,
        log: &mut Log<'_>,
        key: &str,
        read: impl FnOnce(&'a DeValue<'a>) -> Result<T, Problem>,
    ) -> Option<T> {
        let value = self.get(key)?;
        self.take(log, &self.child(key).0, value, read)
    }

    /// Like [`Self::read`], or `usual`.
    pub(super) fn read_or<T>(
        &self,
        log: &mut Log<'_>,
        key: &str,
        read: impl FnOnce(&'a DeValue<'a>) -> Result<T, Problem>,
        usual: T,
    ) -> T {
        self.read(log, key, read).unwrap_or(usual)
    }

    /// Like [`Self::read`]; a missing key is an error.
    pub(super) fn require<T>(
        &self,
        log: &mut Log<'_>,
        key: &str,
        help: &str,
        read: impl FnOnce(&'a DeValue<'a>) -> Result<T, Problem>,
    ) -> Option<T> {
        if self.get(key).is_none() {
            self.missing(log, key, help);
        }
        self.read(log, key, read)
    }

    /// Reports that `key` is missing, at the table's header.
    pub(super) fn missing(&self, log: &mut Log<'_>, key: &str, help: &str) {
        if log.complete {
            let problem = Problem::new("missing").help(help);
            log.error(&self.child(key).0, self.span.clone(), problem);
        }
    }

    /// The list `key`, each element read by `read`; wrong elements are reported and left out.
    pub(super) fn list<T>(
        &self,
        log: &mut Log<'_>,
        key: &str,
        read: impl Fn(&'a DeValue<'a>) -> Result<T, Problem>,
    ) -> Option<Vec<T>> {
        self.elements(log, key, read)
            .map(|items| items.into_iter().map(|(value, _)| value).collect())
    }

    /// Like [`Self::list`], but neither empty nor with the same element twice.
    pub(super) fn set<T: PartialEq>(
        &self,
        log: &mut Log<'_>,
        key: &str,
        read: impl Fn(&'a DeValue<'a>) -> Result<T, Problem>,
    ) -> Option<Vec<T>> {
        let path = self.child(key).0;
        let items: &[Spanned<DeValue<'_>>] = match self.get(key).map(Spanned::get_ref) {
            Some(DeValue::Array(items)) if items.is_empty() => {
                log.error(&path, self.place(key), Problem::new("must not be empty"));
                return None;
            }
            Some(DeValue::Array(items)) => items,
            _ => &[],
        };
        let mut values = Vec::new();
        for (value, span) in self.elements(log, key, read)? {
            if values.contains(&value) {
                // Its place in the file: elements before it may be wrong and missing here.
                let i = items.iter().position(|item| item.span() == span);
                let i = i.unwrap_or_default();
                log.error(
                    &format!("{path}[{i}]"),
                    span,
                    Problem::new("is there twice"),
                );
            } else {
                values.push(value);
            }
        }
        Some(values)
    }

    /// The table `key` of free names, each pair read by `read`. Two names that `read` makes equal
    /// are an error.
    pub(super) fn map<T>(
        &self,
        log: &mut Log<'_>,
        key: &str,
        name: impl Fn(&str) -> Result<String, Problem>,
        read: impl Fn(&'a DeValue<'a>) -> Result<T, Problem>,
    ) -> BTreeMap<String, T> {
        let mut map = BTreeMap::new();
        let Some(value) = self.get(key) else {
            return map;
        };
        let (path, _) = self.child(key);
        let DeValue::Table(table) = value.get_ref() else {
            let problem = Problem::expected("a table", value.get_ref());
            log.error(&path, value.span(), problem);
            return map;
        };
        let mut pairs: Vec<_> = table.iter().collect();
        pairs.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in pairs {
            let path = format!("{path}.{}", bare_or_quoted(key.get_ref()));
            let name = name(key.get_ref()).map_err(|problem| log.error(&path, key.span(), problem));
            let value = self.take(log, &path, value, &read);
            if let (Ok(name), Some(value)) = (name, value) {
                match map.entry(name) {
                    Entry::Vacant(free) => {
                        free.insert(value);
                    }
                    Entry::Occupied(_) => {
                        log.error(&path, key.span(), Problem::new("is there twice"));
                    }
                }
            }
        }
        map
    }

    /// True when `key` is written.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Where the value of `key` stands; the table's own place when it is missing.
    pub(super) fn place(&self, key: &str) -> Range<usize> {
        self.get(key)
            .map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// Path of `key` with indexes.
    pub(super) fn path(&self, key: &str) -> String {
        self.child(key).0
    }

    fn open(
        log: &mut Log<'_>,
        table: &'a DeTable<'a>,
        path: String,
        schema: String,
        span: Range<usize>,
    ) -> Self {
        let opened = Self {
            table: Some(table),
            path,
            schema,
            span,
        };
        for key in table.keys() {
            opened.look_at(log, key);
        }
        opened
    }

    /// Reports `key` if this version does not know it, or does nothing with it.
    fn look_at(&self, log: &mut Log<'_>, key: &Spanned<Cow<'_, str>>) {
        let name: &str = key.get_ref();
        let (path, schema) = self.child(name);
        // A dot in a quoted key must not look like a path.
        if name.contains(['.', '=']) || !keys::known(&schema) {
            let help = keys::suggest(&self.schema, name);
            log.error(&path, key.span(), Problem::new("unknown key").help(help));
        } else if keys::is_future(&schema) {
            log.warning(
                &path,
                key.span(),
                Problem::new("not in effect in this version"),
            );
        } else if keys::is_future_table(&schema) {
            // Nobody else opens it.
            if keys::is_list(&schema) {
                self.tables(log, name);
            } else {
                self.table(log, name);
            }
        }
    }

    fn elements<T>(
        &self,
        log: &mut Log<'_>,
        key: &str,
        read: impl Fn(&'a DeValue<'a>) -> Result<T, Problem>,
    ) -> Option<Vec<(T, Range<usize>)>> {
        let value = self.get(key)?;
        let path = self.child(key).0;
        let DeValue::Array(items) = value.get_ref() else {
            let problem = Problem::expected("a list", value.get_ref());
            log.error(&path, value.span(), problem);
            return None;
        };
        let mut values = Vec::new();
        for (i, item) in items.iter().enumerate() {
            if let Some(value) = self.take(log, &format!("{path}[{i}]"), item, &read) {
                values.push((value, item.span()));
            }
        }
        Some(values)
    }

    fn take<T>(
        &self,
        log: &mut Log<'_>,
        path: &str,
        value: &'a Spanned<DeValue<'a>>,
        read: impl FnOnce(&'a DeValue<'a>) -> Result<T, Problem>,
    ) -> Option<T> {
        read(value.get_ref())
            .map_err(|problem| log.error(path, value.span(), problem))
            .ok()
    }

    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        debug_assert!(
            keys::known(&self.child(key).1),
            "{key} has no row in keys.rs"
        );
        self.table?.get(key)
    }

    fn child(&self, key: &str) -> (String, String) {
        let key = bare_or_quoted(key);
        if self.path.is_empty() {
            (key.clone(), key)
        } else {
            (
                format!("{}.{key}", self.path),
                format!("{}.{key}", self.schema),
            )
        }
    }
}

/// A key as TOML would write it.
fn bare_or_quoted(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.chars().all(bare) {
        key.to_owned()
    } else {
        quoted(key)
    }
}
