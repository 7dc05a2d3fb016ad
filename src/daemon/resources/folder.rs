//! The manifests folder: read at the start, when it changes, and at a reload.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::{
    Shared,
    catalog::{Catalog, FileState, Item},
    enforce,
};
use crate::{
    daemon::{glance::blocking, watchdog::Terms},
    manifest::{self, Level, Parsed},
    pulse::Pulse,
    resources::{self, LastGoodTexts, ManifestFile, Watch},
};

/// How long the thread waits before it looks whether it is to end.
const TURN: Duration = Duration::from_millis(200);
/// Mistakes of one file that log and status show.
const SHOWN: usize = 10;

/// Watches the folder until `stop`.
pub(in crate::daemon) fn run(shared: &Arc<Shared>, runtime: &Handle, stop: &AtomicBool) {
    let mut watch = Watch::default();
    let pulse = shared
        .pulses
        .begin("the watch of manifests", Terms::MANIFESTS);
    while !stop.load(Ordering::Relaxed) {
        pulse.beat(Instant::now());
        let Some(dir) = shared.resources.dir() else {
            thread::sleep(TURN);
            continue;
        };
        if !watch.wait(&dir, TURN) || stop.load(Ordering::Relaxed) {
            continue;
        }
        let seen = super::lock(&shared.resources.catalog).seen.clone();
        if resources::seen(&dir) != seen {
            pulse.rest();
            runtime.block_on(look(shared, &pulse));
        }
    }
}

/// Reads the folder, and brings what changed into force.
async fn look(shared: &Arc<Shared>, pulse: &Pulse) {
    let _turn = shared.resources.turn.lock().await;
    let dir = shared.resources.dir();
    let read = || {
        let _work = pulse.work();
        shared.resources.read_folder(dir.as_deref())
    };
    if !blocking(read) {
        return;
    }
    match enforce(shared).await {
        Ok(()) => tracing::info!("the manifests folder changed: in force"),
        Err(e) => tracing::error!("the manifests folder changed: {e}"),
    }
}

/// The catalog with the folder as it is now. A file with a mistake keeps its last good version.
pub(super) fn read(before: &Catalog, texts: &LastGoodTexts, dir: Option<&Path>) -> Catalog {
    let mut after = before.clone();
    let same = before.dir.as_deref() == dir;
    after.dir = dir.map(Path::to_owned);
    if let Some(dir) = dir
        && let Err(e) = texts.claim(dir)
    {
        tracing::warn!("{e}");
    }
    // Before the files are read: what changes meanwhile is seen at the next look.
    after.seen = dir.map(resources::seen).unwrap_or_default();
    let files = match dir.map_or_else(|| Ok(Vec::new()), resources::read) {
        Ok(files) => files,
        Err(e) => {
            after.folder_problem = Some(e.to_string());
            if !same || before.files.is_empty() {
                after.files = remembered(texts);
            }
            return after;
        }
    };
    after.folder_problem = None;
    let mut old = std::mem::take(&mut after.files);
    if !same {
        old.clear();
    }
    for file in files {
        let path = after.path(&file.name).display().to_string();
        let state = old.remove(&file.name);
        let name = file.name.clone();
        after.files.insert(name, one(file, &path, state, texts));
    }
    forget(texts, &after.files);
    after
}

/// True when the difference matters to anybody.
pub(super) fn differs(a: &Catalog, b: &Catalog) -> bool {
    let shape = |catalog: &Catalog| {
        let file = |(name, state): (&String, &FileState)| {
            (
                name.clone(),
                state.digest,
                state.problems.clone(),
                state.items.len(),
            )
        };
        let files: Vec<_> = catalog.files.iter().map(file).collect();
        (catalog.dir.clone(), catalog.folder_problem.clone(), files)
    };
    shape(a) != shape(b)
}

fn one(file: ManifestFile, path: &str, old: Option<FileState>, texts: &LastGoodTexts) -> FileState {
    let digest = file
        .text
        .as_ref()
        .ok()
        .map(|text| <[u8; 32]>::from(Sha256::digest(text)));
    if digest.is_some()
        && let Some(old) = old.as_ref().filter(|old| old.digest == digest)
    {
        return old.clone();
    }
    let (text, parsed) = match file.text {
        Ok(text) => {
            let parsed = manifest::parse_kept(&text);
            (text, parsed)
        }
        Err(why) => {
            return keep_last(
                &file.name,
                path,
                old,
                texts,
                None,
                vec![format!("{path}: {why}")],
            );
        }
    };
    for warning in parsed.mistakes.iter().filter(|m| m.level == Level::Warning) {
        tracing::warn!("{path}:{warning}");
    }
    let errors: Vec<String> = parsed
        .mistakes
        .iter()
        .filter(|mistake| mistake.level == Level::Error)
        .map(|mistake| format!("{path}:{mistake}"))
        .collect();
    if !errors.is_empty() {
        return keep_last(&file.name, path, old, texts, digest, errors);
    }
    if let Err(e) = texts.save(&file.name, &text) {
        tracing::warn!("{path}: no last good copy is kept: {e}");
    }
    FileState {
        digest,
        items: items(parsed),
        problems: Vec::new(),
    }
}

fn items(parsed: Parsed) -> Vec<(Item, usize)> {
    let found = parsed.resources.into_iter();
    found
        .map(|found| (Item::new(found.resource), found.line))
        .collect()
}

/// What is in force of a file with mistakes: what was before, or its last good copy.
fn keep_last(
    name: &str,
    path: &str,
    old: Option<FileState>,
    texts: &LastGoodTexts,
    digest: Option<[u8; 32]>,
    errors: Vec<String>,
) -> FileState {
    let items = match old {
        Some(old) => old.items,
        None => last_good(name, texts),
    };
    let outcome = if items.is_empty() {
        "nothing of it is in force"
    } else {
        "its last good version stays in force"
    };
    let more = errors.len().saturating_sub(SHOWN);
    let mut problems: Vec<String> = errors.into_iter().take(SHOWN).collect();
    if more > 0 {
        problems.push(format!(
            "{path}: and {more} more mistakes; `feedgate check` shows all"
        ));
    }
    problems.push(format!("{path}: {outcome}"));
    FileState {
        digest,
        items,
        problems,
    }
}

fn last_good(name: &str, texts: &LastGoodTexts) -> Vec<(Item, usize)> {
    match texts.load(name) {
        Ok(Some(text)) => items(manifest::parse_kept(&text)),
        Ok(None) => Vec::new(),
        Err(why) => {
            tracing::error!("{why}");
            Vec::new()
        }
    }
}

/// The last good texts of a folder that cannot be listed.
fn remembered(texts: &LastGoodTexts) -> BTreeMap<String, FileState> {
    let names = texts.names().unwrap_or_default();
    let state = |name: String| {
        let items = last_good(&name, texts);
        let state = FileState {
            items,
            ..FileState::default()
        };
        (name, state)
    };
    names.into_iter().map(state).collect()
}

/// Removes last good texts of files that are no more.
fn forget(texts: &LastGoodTexts, files: &BTreeMap<String, FileState>) {
    for name in texts.names().unwrap_or_default() {
        if !files.contains_key(&name)
            && let Err(e) = texts.remove(&name)
        {
            tracing::warn!("{e}");
        }
    }
}
