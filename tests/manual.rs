//! The manual and the completions: complete, without warnings of man, and read by the shells.
#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy.toml allows them in test functions only

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const FEEDGATE: &str = env!("CARGO_BIN_EXE_feedgate");

/// All pages in a folder that goes with the value.
fn manual() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new(FEEDGATE)
        .arg("man")
        .arg(folder.path())
        .status();
    assert!(status.unwrap().success());
    folder
}

fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for section in ["man5", "man8"] {
        let entries = fs::read_dir(folder.join(section)).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files
}

/// The subcommands that `feedgate ... --help` lists, all levels: `["alerts", "list"]`.
fn subcommands(above: &[String]) -> Vec<Vec<String>> {
    let output = Command::new(FEEDGATE).args(above).arg("--help").output();
    let help = String::from_utf8(output.unwrap().stdout).unwrap();
    let Some((_, list)) = help.split_once("\nCommands:\n") else {
        return Vec::new();
    };
    let list = list.split("\n\n").next().unwrap();
    let names = list
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help");
    let mut found = Vec::new();
    for name in names {
        let path: Vec<String> = above.iter().cloned().chain([name.to_owned()]).collect();
        found.extend(subcommands(&path));
        found.push(path);
    }
    found
}

/// A page as a terminal of 200 columns shows it, and what man complains about.
fn shown(page: &Path) -> Option<(String, String)> {
    let output = Command::new("man")
        .args(["--warnings", "-l"])
        .arg(page)
        .env("LC_ALL", "C.UTF-8")
        .env("MANWIDTH", "200")
        .output()
        .ok()?;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Some((text(output.stdout), text(output.stderr)))
}

#[test]
fn every_command_has_a_page_and_no_other() {
    let folder = manual();
    let mut expect: BTreeSet<String> = subcommands(&[])
        .iter()
        .map(|path| format!("feedgate-{}.8", path.join("-")))
        .collect();
    assert!(expect.len() > 15, "{expect:?}");
    expect.extend(["feedgate.8".to_owned(), "feedgate.toml.5".to_owned()]);
    let written = pages(folder.path()).into_iter().map(|page| {
        let name = page.file_name().unwrap();
        name.to_string_lossy().into_owned()
    });
    assert_eq!(written.collect::<BTreeSet<_>>(), expect);
}

#[test]
fn man_reads_the_pages_without_a_warning() {
    let folder = manual();
    for page in pages(folder.path()) {
        let Some((text, warnings)) = shown(&page) else {
            eprintln!("skipped: there is no man");
            return;
        };
        assert!(warnings.is_empty(), "{}: {warnings}", page.display());
        for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO"] {
            let there = text.lines().any(|line| line == heading);
            assert!(there, "{}: no {heading}\n{text}", page.display());
        }
    }
}

#[test]
fn pages_name_only_pages_that_are_there() {
    let folder = manual();
    let names: BTreeSet<String> = pages(folder.path())
        .iter()
        .map(|page| page.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    let mut seen = 0;
    for page in pages(folder.path()) {
        let text = fs::read_to_string(&page).unwrap();
        let text = text
            .replace("\\-", "-")
            .replace("\\fR", "")
            .replace("\\fB", "");
        for word in text.split([' ', ',', '\n']) {
            if let Some((name, section)) = word.trim_end_matches(')').split_once('(')
                && name.starts_with("feedgate")
            {
                seen += 1;
                let file = format!("{name}.{section}");
                assert!(names.contains(&file), "{}: {word}", page.display());
            }
        }
    }
    assert!(seen > 40, "{seen} references");
}

#[test]
fn feedgate_toml_tells_every_key_in_its_table() {
    let folder = manual();
    let page = fs::read_to_string(folder.path().join("man5/feedgate.toml.5")).unwrap();
    let page = page
        .replace("\\-", "-")
        .replace("\\fR", "")
        .replace("\\fB", "");
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let mut part = "";
    let mut keys = 0;
    for line in fs::read_to_string(document).unwrap().lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let start = [format!(".SH {heading}\n"), format!(".SH \"{heading}\"\n")];
            let after = start
                .iter()
                .find_map(|start| page.split_once(start.as_str()));
            assert!(after.is_some() || !heading.starts_with('['), "{heading}");
            part = after.map_or("", |(_, rest)| rest.split("\n.SH ").next().unwrap());
        } else if let Some(key) = line.strip_prefix("| `").and_then(|l| l.split('`').next())
            && !part.is_empty()
        {
            let there = part
                .lines()
                .any(|line| line.starts_with(&format!("{key} = ")));
            assert!(there, "{key}\n{part}");
            keys += 1;
        }
    }
    assert!(keys > 70, "{keys} keys");
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = Command::new(FEEDGATE).args(["completions", shell]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{shell}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains("lookup") && text.contains("dry-run"),
            "{shell}"
        );
    }
}

#[test]
fn bash_completes_a_verb_and_its_second_word() {
    let completes = |words: &str, at: usize| {
        let script = format!(
            "source /dev/stdin; COMP_WORDS=({words}); COMP_CWORD={at}; \
             _feedgate feedgate \"${{COMP_WORDS[{at}]}}\" \"${{COMP_WORDS[$(({at} - 1))]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let mut given = Command::new(FEEDGATE)
            .args(["completions", "bash"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = Command::new("bash")
            .args(["--norc", "-c", &script])
            .stdin(given.stdout.take().unwrap())
            .output()
            .unwrap();
        assert!(given.wait().unwrap().success());
        let said = String::from_utf8(output.stdout).unwrap();
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(completes("feedgate looku", 1), ["lookup"]);
    assert_eq!(completes("feedgate alerts dis", 2), ["dismiss"]);
}
