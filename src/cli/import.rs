//! `feedgate import`: what other tools block by, printed as feeds for feedgate.toml.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{Failure, ask, table::visible};
use crate::import::{self, File, Import, Place, Tool};

/// Where the lists are to be unless `--lists` says so.
const FOLDER: &str = "/etc/feedgate/lists";
/// Larger files are refused.
const LARGEST: u64 = 256 << 20;

pub(super) fn import(
    tool: Tool,
    file: &Path,
    lists: Option<PathBuf>,
    as_json: bool,
) -> Result<(), Failure> {
    let origin = file.display().to_string();
    let text = read(file)?;
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    let stem = stem.filter(|stem| *stem != "-").unwrap_or("imported");
    let folder = match &lists {
        Some(folder) => std::path::absolute(folder)
            .map_err(|e| Failure::usage(format!("--lists {}: {e}", folder.display())))?,
        None => FOLDER.into(),
    };
    let place = Place {
        stem,
        folder: &folder.to_string_lossy(),
    };
    let import = import::import(tool, &text, place)
        .map_err(|e| Failure::failed(format!("{origin}: {e}; nothing was imported")))?;
    if lists.is_some() {
        write_all(&folder, &import.files)?;
    }
    if as_json {
        ask::print_json(&report(&import));
        return Ok(());
    }
    std::print!("{}", import.to_toml());
    for remark in &import.remarks {
        let line = remark
            .line
            .map(|line| format!(":{line}"))
            .unwrap_or_default();
        let text = format!(
            "{origin}{line}: not taken over as it was: {}: {}",
            remark.what, remark.why
        );
        eprintln!("{}", visible(&text));
    }
    eprintln!("{}", closing(&import, &folder, lists.is_some()));
    Ok(())
}

fn closing(import: &Import, folder: &Path, written: bool) -> String {
    let (feeds, files) = (import.feeds.len(), import.files.len());
    let files = match (files, written) {
        (0, _) => String::new(),
        (n, true) => format!("; {n} files written to {}", folder.display()),
        (n, false) => format!(
            "; {n} files belong to {}: --lists DIR writes them",
            folder.display()
        ),
    };
    format!(
        "{feeds} feeds, {} remarks{files}. Append what is printed to feedgate.toml and run `feedgate check`",
        import.remarks.len()
    )
}

fn report(import: &Import) -> serde_json::Value {
    let feeds: Vec<_> = import
        .feeds
        .iter()
        .map(|feed| json!({ "name": feed.name, "toml": feed.to_string() }))
        .collect();
    let files: Vec<&str> = import.files.iter().map(|file| file.name.as_str()).collect();
    let remarks: Vec<_> = import
        .remarks
        .iter()
        .map(|remark| json!({ "line": remark.line, "what": remark.what, "why": remark.why }))
        .collect();
    json!({ "feeds": feeds, "files": files, "remarks": remarks, "toml": import.to_toml() })
}

fn read(file: &Path) -> Result<String, Failure> {
    let named =
        |e: &dyn std::fmt::Display| Failure::failed(format!("cannot read {}: {e}", file.display()));
    let mut bytes = Vec::new();
    let input: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(fs::File::open(file).map_err(|e| named(&e))?)
    };
    input
        .take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| named(&e))?;
    if bytes.len() as u64 > LARGEST {
        return Err(named(&"larger than 256 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| named(&"not UTF-8"))
}

/// Writes all files, or says which one is in the way before any is written.
fn write_all(folder: &Path, files: &[File]) -> Result<(), Failure> {
    let failed = |path: &Path, e: &dyn std::fmt::Display| {
        Failure::failed(format!("cannot write {}: {e}", path.display()))
    };
    let mut dir = fs::DirBuilder::new();
    dir.recursive(true).mode(0o750);
    dir.create(folder).map_err(|e| failed(folder, &e))?;
    for file in files {
        let path = folder.join(&file.name);
        if path.exists() {
            let why = "it is there already; remove it, or name another folder with --lists";
            return Err(failed(&path, &why));
        }
    }
    for file in files {
        let path = folder.join(&file.name);
        let mode = if file.is_secret { 0o600 } else { 0o640 };
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(mode).open(&path);
        opened
            .and_then(|mut out| out.write_all(file.text.as_bytes()))
            .map_err(|e| failed(&path, &e))?;
    }
    Ok(())
}
