//! Exception files: one prefix a line, `#` comments.
//!
//! Unlike a feed, which is somebody else's, a file with a mistake is refused: an exception that is
//! silently missing would block what the admin meant to spare.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{Exception, MAX_FILE};
use crate::{
    feed::printable,
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

/// The prefixes of all `paths`, or every mistake in them (the first ten of each file).
pub fn files(paths: &[PathBuf]) -> Result<Vec<Exception>, Vec<FileError>> {
    let mut exceptions = Vec::new();
    let mut errors = Vec::new();
    for path in paths {
        match read(path) {
            Ok(text) => {
                let lines = parse(path, &text);
                let (good, bad): (Vec<_>, Vec<_>) = lines.partition(Result::is_ok);
                exceptions.extend(good.into_iter().filter_map(Result::ok));
                errors.extend(bad.into_iter().filter_map(Result::err).take(MAX_ERRORS));
            }
            Err(cause) => errors.push(FileError::Read {
                file: path.clone(),
                cause,
            }),
        }
    }
    if errors.is_empty() {
        Ok(exceptions)
    } else {
        Err(errors)
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut limited = File::open(path)?.take(MAX_FILE + 1);
    limited.read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(io::Error::other("larger than 16 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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
        let found = files(std::slice::from_ref(&path)).unwrap();
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
        let errors = files(&[good, bad.clone(), none.clone()]).unwrap_err();
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
        assert_eq!(files(&[path]).unwrap_err().len(), MAX_ERRORS);
    }
}
