//! File modes that give secrets away: of the configuration, of private keys, of the state folder.
//! Feeds' header files are looked at where they are read (`fetch`).

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use url::Url;

use crate::config::{Config, HeaderValue, Proxy};

/// Permissions of everybody (stat(2)).
const READ: u32 = 0o004;
const WRITE: u32 = 0o002;
/// In a folder: only owners remove and rename files.
const STICKY: u32 = 0o1000;

/// A line for each of them that everybody on this host can read or replace. All are used all the same: a
/// gateway that stays down for a file mode protects nobody.
pub fn loose(config_file: &Path, config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    if holds_secrets(config) {
        found.extend(readable(
            config_file,
            "it holds a password, a token or a query of a url",
        ));
    }
    let keys = config.alerts.syslog.iter();
    for key in keys.filter_map(|target| target.tls.key.as_deref()) {
        found.extend(readable(key, "it is the private key of a syslog target"));
    }
    found.extend(readable(&config.daemon.state_dir, "it is the state folder"));
    let headers = config.feeds.iter().flat_map(|feed| feed.headers.values());
    let files = headers.filter_map(|value| match value {
        HeaderValue::File(path) => Some(path.as_path()),
        HeaderValue::Text(_) => None,
    });
    let mut folders: Vec<&Path> = files
        .chain([config_file])
        .filter_map(Path::parent)
        .filter(|folder| !folder.as_os_str().is_empty())
        .collect();
    folders.sort_unstable();
    folders.dedup();
    found.extend(folders.into_iter().filter_map(writable));
    found
}

fn readable(path: &Path, what: &str) -> Option<String> {
    let mode = mode(path)?;
    (mode & READ != 0).then(|| {
        format!(
            "{} can be read by everybody (mode {mode:04o}), and {what}: run chmod o-rwx on it",
            path.display()
        )
    })
}

fn writable(folder: &Path) -> Option<String> {
    let mode = mode(folder)?;
    (mode & WRITE != 0 && mode & STICKY == 0).then(|| {
        format!(
            "everybody can replace files in {} (mode {mode:04o}): run chmod o-w on it",
            folder.display()
        )
    })
}

/// `None` when there is no such file: whoever needs it says so.
fn mode(path: &Path) -> Option<u32> {
    Some(fs::metadata(path).ok()?.permissions().mode() & 0o7777)
}

fn holds_secrets(config: &Config) -> bool {
    let proxy = match &config.pull.proxy {
        Proxy::Url(url) => is_secret(url),
        Proxy::Environment | Proxy::Direct => false,
    };
    let feeds = config.feeds.iter().any(|feed| {
        let mut headers = feed.headers.values();
        headers.any(|value| matches!(value, HeaderValue::Text(_)))
            || feed.url.as_ref().is_some_and(is_secret)
    });
    proxy || feeds
}

fn is_secret(url: &Url) -> bool {
    url.password().is_some() || url.query().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn parsed(state: &Path, url: &str) -> Config {
        let text = format!(
            "[daemon]\nstate-dir = \"{}\"\n[[feed]]\nname = \"a\"\nurl = \"{url}\"\n",
            state.display()
        );
        config::parse(&text, "test").config.unwrap()
    }

    #[test]
    fn what_everybody_can_read_or_replace_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (state, file) = (folder.path().join("state"), folder.path().join("c.toml"));
        fs::create_dir(&state).unwrap();
        fs::write(&file, "").unwrap();
        let plain = parsed(&state, "https://example.net/list");
        let secret = parsed(&state, "https://example.net/list?key=s3cret");
        set(folder.path(), 0o755);
        set(&state, 0o700);
        set(&file, 0o640);
        assert!(loose(&file, &secret).is_empty());
        set(&file, 0o644);
        // Without a secret the mode does not matter.
        assert!(loose(&file, &plain).is_empty());
        let told = loose(&file, &secret);
        assert!(
            told.len() == 1 && told[0].contains("c.toml can be read by everybody (mode 0644)"),
            "{told:?}"
        );
        assert!(!told[0].contains("s3cret"));
        set(&state, 0o755);
        assert!(loose(&file, &plain)[0].contains("state can be read by everybody (mode 0755)"));
        set(&state, 0o700);
        set(folder.path(), 0o777);
        assert!(loose(&file, &plain)[0].starts_with("everybody can replace files in "));
        set(folder.path(), 0o1777);
        assert!(loose(&file, &plain).is_empty());
    }

    #[test]
    fn what_is_not_there_is_not_told_of() {
        let nowhere = Path::new("/nonexistent/feedgate");
        assert!(loose(nowhere, &parsed(nowhere, "https://u:p@example.net/")).is_empty());
    }
}
