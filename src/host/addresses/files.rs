//! Exception files: one prefix a line with `#` comments, or a MISP warninglist (JSON, type `cidr`).
//!
//! Unlike a feed, which is somebody else's, a mistake in such a file is a problem that is told: an
//! exception that is silently missing would block what the admin meant to spare. What can be read
//! counts all the same.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{Exception, ExceptionKind, MAX_FILE, reading};
use crate::{
    feed::{Refusal, formats::parse_warninglist, printable},
    prefix::{Prefix, PrefixError},
};

/// Mistakes that are reported for one file; the rest are likely the same one.
const MAX_ERRORS: usize = 10;

/// Characters of a wrong line that are shown.
const SHOWN: usize = 80;

/// What is wrong with an exception file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the exception file {}: {cause}; create it, or take it out of exceptions.files", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What went wrong.
        cause: io::Error,
    },
    /// It starts like JSON, and is no warninglist.
    #[error("{}: {cause}; give it one address or prefix a line, or a MISP warninglist of type cidr", file.display())]
    Warninglist {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        cause: Refusal,
    },
    /// A warninglist with items that are no prefixes.
    #[error("{}: {count} items of the warninglist are no address or prefix and are left out", file.display())]
    Items {
        /// The file.
        file: PathBuf,
        /// How many.
        count: usize,
    },
    /// A line is no prefix.
    #[error("{}:{line}: {text}: {cause}; write one address or prefix a line", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The line, printable.
        text: String,
        /// What is wrong.
        cause: PrefixError,
    },
    /// A prefix has host bits: the address alone or its whole network may be meant.
    #[error("{}:{line}: {text} has bits set behind its length; write {network} or the address alone", file.display())]
    HostBits {
        /// The file.
        file: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The line, printable.
        text: String,
        /// The network it is in.
        network: Prefix,
    },
}

/// What exception files hold.
#[derive(Debug, Default)]
pub struct Files {
    /// What could be read.
    pub exceptions: Vec<Exception>,
    /// Every mistake (the first ten of each file).
    pub errors: Vec<FileError>,
}

/// The prefixes of all `paths`.
pub fn files(paths: &[PathBuf]) -> Files {
    let mut found = Files::default();
    for path in paths {
        match read(path) {
            Ok(text) if text.trim_ascii_start().starts_with(b"{") => {
                warninglist(path, &text, &mut found)
            }
            Ok(text) => {
                let text = String::from_utf8_lossy(&text);
                let lines = parse(path, &text);
                let (good, bad): (Vec<_>, Vec<_>) = lines.partition(Result::is_ok);
                let bad = bad.into_iter().filter_map(Result::err);
                found
                    .exceptions
                    .extend(good.into_iter().filter_map(Result::ok));
                found.errors.extend(bad.take(MAX_ERRORS));
            }
            Err(cause) => found.errors.push(FileError::Read {
                file: path.clone(),
                cause,
            }),
        }
    }
    found
}

fn warninglist(path: &Path, text: &[u8], found: &mut Files) {
    let file = path.to_owned();
    match parse_warninglist(text) {
        Ok(list) => {
            let why = format!("{} ({})", path.display(), list.name);
            let exception = |prefix| Exception {
                prefix,
                kind: ExceptionKind::Configured,
                why: why.clone(),
            };
            found
                .exceptions
                .extend(list.prefixes.into_iter().map(exception));
            if list.bad > 0 {
                let count = list.bad;
                found.errors.push(FileError::Items { file, count });
            }
        }
        Err(cause) => found.errors.push(FileError::Warninglist { file, cause }),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = reading::read(path, MAX_FILE + 1)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(io::Error::other("larger than 16 MiB"));
    }
    Ok(bytes)
}

fn parse<'a>(
    path: &'a Path,
    text: &'a str,
) -> impl Iterator<Item = Result<Exception, FileError>> + 'a {
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    lines.filter_map(move |(index, line)| {
        let data = line.split('#').next().unwrap_or_default().trim();
        (!data.is_empty()).then(|| exception(path, index + 1, data))
    })
}

fn exception(path: &Path, line: usize, data: &str) -> Result<Exception, FileError> {
    let file = path.to_owned();
    let text = printable(data.as_bytes(), SHOWN);
    match Prefix::parse(data) {
        Ok((prefix, false)) => Ok(Exception {
            prefix,
            kind: ExceptionKind::Configured,
            why: format!("{}:{line}", path.display()),
        }),
        Ok((network, true)) => Err(FileError::HostBits {
            file,
            line,
            text,
            network,
        }),
        Err(cause) => Err(FileError::Line {
            file,
            line,
            text,
            cause,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn prefixes_with_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spare.txt");
        fs::write(
            &path,
            "\u{feff}# ours\r\n\n192.0.2.0/24 # office\r\n2001:db8::1\n",
        )
        .unwrap();
        let found = files(std::slice::from_ref(&path));
        assert!(found.errors.is_empty(), "{:?}", found.errors);
        let found = found.exceptions;
        let shown: Vec<_> = found.iter().map(|e| e.prefix.to_string()).collect();
        assert_eq!(shown, ["192.0.2.0/24", "2001:db8::1"]);
        assert_eq!(found[0].why, format!("{}:3", path.display()));
    }

    #[test]
    fn every_mistake_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let [good, bad, none] = ["good", "bad", "none"].map(|name| folder.path().join(name));
        fs::write(&good, "192.0.2.1\n").unwrap();
        fs::write(
            &bad,
            "192.0.2.1\nexample.com\n10.0.0.1/8\n1.2.3.4 x\n1.2.3.4/33",
        )
        .unwrap();
        let found = files(&[good, bad.clone(), none.clone()]);
        assert_eq!(found.exceptions.len(), 2, "what can be read counts");
        let errors = found.errors;
        let shown: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let bad = bad.display();
        let fix = "write one address or prefix a line";
        assert_eq!(
            shown[..4],
            [
                format!("{bad}:2: example.com: not an IP address; {fix}"),
                format!(
                    "{bad}:3: 10.0.0.1/8 has bits set behind its length; write 10.0.0.0/8 or the \
                     address alone"
                ),
                format!("{bad}:4: 1.2.3.4 x: not an IP address; {fix}"),
                format!("{bad}:5: 1.2.3.4/33: not a prefix length; {fix}"),
            ]
        );
        assert!(shown[4].contains(&none.display().to_string()));
    }

    #[test]
    fn a_file_of_garbage_is_reported_in_short() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad");
        fs::write(&path, "x\n".repeat(1000)).unwrap();
        assert_eq!(files(&[path]).errors.len(), MAX_ERRORS);
    }

    #[test]
    fn a_warninglist_is_an_exception_file_too() {
        let folder = tempfile::tempdir().unwrap();
        let [list, other] = ["list.json", "other.json"].map(|name| folder.path().join(name));
        let text = include_bytes!("../../../tests/fixtures/formats/misp-warninglist.json");
        fs::write(&list, text).unwrap();
        fs::write(
            &other,
            "{\"list\": [\"a.example\"], \"type\": \"hostname\"}",
        )
        .unwrap();
        let found = files(&[list.clone(), other]);
        let shown: Vec<_> = found
            .exceptions
            .iter()
            .map(|e| e.prefix.to_string())
            .collect();
        assert_eq!(shown, ["192.0.2.0/24", "2001:db8::/32", "198.51.100.53"]);
        let why = format!("{} (Ranges of an example network)", list.display());
        assert_eq!(found.exceptions[0].why, why);
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        assert!(errors[0].contains("1 items"), "{errors:?}");
        assert!(errors[1].contains("type hostname"), "{errors:?}");
    }
}
