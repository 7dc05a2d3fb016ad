//! `file://` feeds and the limits of reading a file somebody else may change.

use std::{io, path::Path};

use tokio::io::AsyncReadExt;
use url::Url;

use super::{FetchError, Place};

/// Reads the regular file of `url`, at most `max_bytes`.
pub(super) async fn read(url: &Url, at: &Place, max_bytes: u64) -> Result<Vec<u8>, FetchError> {
    let at = at.clone();
    let Ok(path) = url.to_file_path() else {
        return Err(FetchError::Scheme { at });
    };
    match read_regular(&path, max_bytes).await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(FetchError::TooLarge {
            at,
            limit: max_bytes,
        }),
        Err(cause) => Err(match cause.kind() {
            io::ErrorKind::NotFound => FetchError::FileMissing { at },
            io::ErrorKind::PermissionDenied => FetchError::FilePermission { at },
            io::ErrorKind::InvalidInput => FetchError::NotAFile { at },
            _ => FetchError::File { at, cause },
        }),
    }
}

/// The content of `path`; `None` when it is larger than `max_bytes`, `InvalidInput` when it is
/// not a regular file.
async fn read_regular(path: &Path, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let file = open(path).await?;
    let meta = file.metadata().await?;
    if !meta.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if meta.len() > max_bytes {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    // The file may grow while it is read, and /proc's files have no size.
    let mut limited = file.take(max_bytes.saturating_add(1));
    limited.read_to_end(&mut bytes).await?;
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    Ok((length <= max_bytes).then_some(bytes))
}

/// Opens without blocking: a pipe without a writer would hold the pull for ever.
pub(super) async fn open(path: &Path) -> io::Result<tokio::fs::File> {
    tokio::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .await
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::fetch::{
        Pulled,
        testing::{client, feed},
    };

    async fn pull(path: &Path, max_bytes: u64) -> Result<Pulled, FetchError> {
        let mut feed = feed(Url::from_file_path(path).unwrap().as_str());
        feed.max_bytes = max_bytes;
        client().pull(&feed, None).await
    }

    #[tokio::test]
    async fn a_file_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.txt");
        fs::write(&path, "203.0.113.9\n").unwrap();
        let Pulled::Body { bytes, .. } = pull(&path, 12).await.unwrap() else {
            panic!("unchanged");
        };
        assert_eq!(bytes, b"203.0.113.9\n");
        let error = pull(&path, 11).await.unwrap_err();
        assert!(
            matches!(error, FetchError::TooLarge { limit: 11, .. }),
            "{error}"
        );
    }

    #[tokio::test]
    async fn what_is_no_regular_file() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [folder.path(), &pipe, Path::new("/dev/zero")] {
            let error = pull(path, 10).await.unwrap_err();
            assert!(matches!(error, FetchError::NotAFile { .. }), "{error}");
        }
        let error = pull(&folder.path().join("none"), 10).await.unwrap_err();
        assert!(matches!(error, FetchError::FileMissing { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_may_not_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
        // Root reads every file but those that the kernel itself refuses: here, a write-only one of sysfs.
        let path = if fs::read(&path).is_ok() {
            "/sys/bus/platform/drivers_probe".into()
        } else {
            path
        };
        let error = pull(&path, 10).await.unwrap_err();
        assert!(
            matches!(error, FetchError::FilePermission { .. }),
            "{error}"
        );
    }
}
