//! Request headers with values from the configuration or from files.

use std::{io, os::unix::fs::PermissionsExt, path::Path};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::AsyncReadExt;

use super::{FetchError, Place, file};
use crate::config::{self, Feed};

/// Longest header value in bytes; servers take no longer ones.
const LONGEST: u64 = 8 << 10;

/// Write permission of group and others.
const OTHERS_WRITE: u32 = 0o022;

/// Read permission of everybody.
const EVERYBODY_READS: u32 = 0o004;

/// The headers of `feed`. Files are read each time, so that a renewed token is used at once.
pub(super) async fn of(feed: &Feed, at: &Place) -> Result<HeaderMap, FetchError> {
    let mut map = HeaderMap::new();
    for (header, value) in &feed.headers {
        let text = match value {
            config::HeaderValue::Text(text) => text.clone().into_bytes(),
            config::HeaderValue::File(path) => read(header, path, at).await?,
            config::HeaderValue::OptionalFile(path) => match read(header, path, at).await {
                Ok(text) => text,
                Err(FetchError::HeaderFile { cause, .. })
                    if cause.kind() == io::ErrorKind::NotFound =>
                {
                    continue;
                }
                Err(e) => return Err(e),
            },
        };
        let name = HeaderName::from_bytes(header.as_bytes());
        let value = HeaderValue::from_bytes(text.trim_ascii());
        let (Ok(name), Ok(mut value)) = (name, value) else {
            let (at, header) = (at.clone(), header.clone());
            return Err(FetchError::HeaderValue { at, header });
        };
        value.set_sensitive(true);
        map.append(name, value);
    }
    Ok(map)
}

/// A line for each header file that everybody on this host can read: it most likely holds a key. It is
/// used all the same, since some systems hand secrets over like that.
pub fn loose_headers(feeds: &[Feed]) -> Vec<String> {
    let files = feeds.iter().filter(|feed| feed.enabled).flat_map(|feed| {
        let headers = feed.headers.iter();
        headers.filter_map(move |(header, value)| match value {
            config::HeaderValue::File(path) | config::HeaderValue::OptionalFile(path) => {
                Some((feed, header, path))
            }
            config::HeaderValue::Text(_) => None,
        })
    });
    let loose = files.filter_map(|(feed, header, path)| {
        let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o7777;
        (mode & EVERYBODY_READS != 0).then(|| {
            format!(
                "feed {}: {} for the header {header} can be read by everybody (mode {mode:04o}); \
                 run chmod o-r on it",
                feed.name,
                path.display()
            )
        })
    });
    loose.collect()
}

async fn read(header: &str, path: &Path, at: &Place) -> Result<Vec<u8>, FetchError> {
    let failed = |cause| FetchError::HeaderFile {
        at: at.clone(),
        header: header.to_owned(),
        file: path.to_owned(),
        cause,
    };
    let file = file::open(path).await.map_err(failed)?;
    let meta = file.metadata().await.map_err(failed)?;
    if !meta.is_file() {
        return Err(failed(io::Error::other("not a regular file")));
    }
    let mode = meta.permissions().mode() & 0o7777;
    if mode & OTHERS_WRITE != 0 {
        return Err(FetchError::HeaderWritable {
            at: at.clone(),
            header: header.to_owned(),
            file: path.to_owned(),
            mode,
        });
    }
    let mut text = Vec::new();
    let mut limited = file.take(LONGEST + 1);
    limited.read_to_end(&mut text).await.map_err(failed)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > LONGEST) {
        return Err(failed(io::Error::other("longer than 8 KiB")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::fetch::testing::feed;

    async fn read(value: config::HeaderValue) -> Result<HeaderMap, FetchError> {
        let mut feed = feed("http://203.0.113.1/list");
        feed.headers.insert("X-Key".to_owned(), value);
        let at = Place::new(&feed.name, feed.url.as_ref().unwrap());
        of(&feed, &at).await
    }

    #[tokio::test]
    async fn a_value_from_a_file_is_trimmed_and_its_mode_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let value = config::HeaderValue::File(path.clone());
        let error = read(value.clone()).await.unwrap_err();
        assert!(matches!(error, FetchError::HeaderFile { .. }), "{error}");

        fs::write(&path, " s3cret \n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let map = read(value.clone()).await.unwrap();
        assert_eq!(map.get("x-key").unwrap(), "s3cret");
        assert!(!format!("{map:?}").contains("s3cret"));

        for mode in [0o646, 0o664] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read(value.clone()).await.unwrap_err();
            assert!(
                matches!(error, FetchError::HeaderWritable { .. }),
                "{error}"
            );
            assert!(error.to_string().contains("key"), "{error}");
        }
    }

    #[tokio::test]
    async fn values_that_http_does_not_allow() {
        for text in ["a\nX-Other: b", "a\0"] {
            let error = read(config::HeaderValue::Text(text.to_owned())).await;
            assert!(
                matches!(error, Err(FetchError::HeaderValue { .. })),
                "{text:?}"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "x".repeat(8193)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = read(config::HeaderValue::File(path.clone()))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("longer than 8 KiB"), "{error}");
    }
}
