//! `make install` puts every file where it belongs, `make uninstall` takes all but the configuration away.
#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy.toml allows them in test functions only

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

const CONFIG: &str = "etc/feedgate/feedgate.toml";

/// `make TARGET` with the tested program, below `folder`; false when there is no make.
fn make(target: &str, folder: &Path, prefix: &str) -> bool {
    let output = Command::new("make")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([target, "--no-print-directory", "STRIP="])
        .arg(format!("DESTDIR={}", folder.display()))
        .arg(format!("PREFIX={prefix}"))
        .arg(format!("BIN={}", env!("CARGO_BIN_EXE_feedgate")))
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: there is no make");
        return false;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
    true
}

/// Files below a folder, by their paths in it.
fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let path = path.strip_prefix(root).unwrap();
                found.insert(path.to_string_lossy().into_owned());
            }
        }
    }
    found
}

/// Files of the sources with that ending.
fn sources(folder: &str, ending: &str) -> Vec<String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
    let all = files(&root).into_iter();
    all.filter(|file| file.ends_with(ending)).collect()
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file).unwrap().permissions().mode() & 0o7777
}

/// What must be there, below the prefix.
fn expected() -> BTreeSet<String> {
    let mut expect: BTreeSet<String> = [
        "sbin/feedgate",
        "lib/sysusers.d/feedgate.conf",
        "lib/tmpfiles.d/feedgate.conf",
        "share/bash-completion/completions/feedgate",
        "share/doc/feedgate/CHANGELOG.md",
        "share/doc/feedgate/LICENSE-APACHE",
        "share/doc/feedgate/LICENSE-MIT",
        "share/doc/feedgate/README.md",
        "share/feedgate/systemd/feedgate-pod.conf",
        "share/fish/vendor_completions.d/feedgate.fish",
        "share/man/man5/feedgate.toml.5",
        "share/zsh/site-functions/_feedgate",
    ]
    .map(str::to_owned)
    .into();
    expect.extend(
        sources("nft", ".nft")
            .iter()
            .map(|file| format!("share/feedgate/nft/{file}")),
    );
    expect.extend(
        sources("systemd", ".service")
            .iter()
            .map(|file| format!("lib/systemd/system/{file}")),
    );
    let documents = sources("docs", "")
        .into_iter()
        .filter(|file| file != "development.md");
    expect.extend(documents.map(|file| format!("share/doc/feedgate/docs/{file}")));
    expect
}

#[test]
fn everything_lands_and_leaves_again() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    if !make("install", &root, "/opt/x") {
        return;
    }
    let mut found = files(&root.join("opt/x"));
    let pages: Vec<String> = found
        .iter()
        .filter(|f| f.starts_with("share/man/man8/"))
        .cloned()
        .collect();
    assert!(pages.len() > 15, "{pages:?}");
    found.retain(|file| !file.starts_with("share/man/man8/"));
    assert_eq!(found, expected());
    let etc: Vec<_> = files(&root.join("etc")).into_iter().collect();
    assert_eq!(etc, ["feedgate/feedgate.toml", "logrotate.d/feedgate"]);
    assert_eq!(mode(&root.join(CONFIG)), 0o640);
    assert_eq!(mode(&root.join("opt/x/sbin/feedgate")), 0o755);
    let unit = fs::read_to_string(root.join("opt/x/lib/systemd/system/feedgate.service")).unwrap();
    assert!(
        unit.contains("\nExecStart=/opt/x/sbin/feedgate run\n"),
        "{unit}"
    );
    assert!(!unit.contains("/usr/local/"), "{unit}");

    // A configuration that is there is kept, by both.
    fs::write(root.join(CONFIG), "mine").unwrap();
    assert!(make("install", &root, "/opt/x"));
    assert_eq!(fs::read(root.join(CONFIG)).unwrap(), b"mine");
    let stranger = root.join("opt/x/share/man/man8/other.8");
    fs::write(&stranger, "").unwrap();
    assert!(make("uninstall", &root, "/opt/x"));
    let left: Vec<_> = files(&root).into_iter().collect();
    assert_eq!(left, [CONFIG, "opt/x/share/man/man8/other.8"]);
    assert_eq!(fs::read(root.join(CONFIG)).unwrap(), b"mine");
}

#[test]
fn logrotate_reads_the_shipped_file() {
    let scratch = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/feedgate.logrotate");
    // Without the user, who need not be on this machine.
    let text = fs::read_to_string(shipped).unwrap();
    let text = text.replace("    su feedgate feedgate\n", "");
    let config = scratch.path().join("feedgate");
    fs::write(
        &config,
        text.replace("/var/log/feedgate", &scratch.path().to_string_lossy()),
    )
    .unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(scratch.path().join("alerts.json"), "{}\n").unwrap();
    let status = scratch.path().join("status");
    let output = Command::new("logrotate")
        .arg("-f")
        .arg("-s")
        .arg(&status)
        .arg(&config)
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: there is no logrotate");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
    assert!(scratch.path().join("alerts.json.1").exists());
    assert!(
        !scratch.path().join("alerts.json").exists(),
        "the daemon makes the new file"
    );
}
