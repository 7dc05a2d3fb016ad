//! Each feed's last good data on disk: kept after a good pull, taken up at the start without any network.

use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::{
    config::{self, Format},
    feed::{FeedData, Limits, Parsed, Refusal, formats::CrowdsecState, read},
    fetch::{Place, Validators},
    store::{LastGood, Store},
};

/// Stores a body that was accepted. A failure is told and costs nothing but the next cold start.
pub(super) fn keep(
    store: &Store,
    feed: &config::Feed,
    bytes: Vec<u8>,
    validators: &Validators,
    pulled: SystemTime,
) {
    let good = LastGood {
        bytes,
        pulled,
        etag: validators.etag.clone(),
        last_modified: validators.last_modified.clone(),
        source: source(feed),
    };
    if let Err(e) = store.save(&feed.name, &good) {
        tracing::warn!("feed {}: the last good data are not stored: {e}", feed.name);
    }
}

/// The server says that what is stored is still its version: good as of `now`.
pub(super) fn confirm(store: &Store, feed: &config::Feed, now: SystemTime) {
    let confirmed = store.load(&feed.name, feed.max_bytes).and_then(|good| {
        let Some(good) = good.filter(|good| good.source == source(feed)) else {
            return Ok(());
        };
        store.save(
            &feed.name,
            &LastGood {
                pulled: now,
                ..good
            },
        )
    });
    if let Err(e) = confirmed {
        tracing::warn!("feed {}: {e}", feed.name);
    }
}

/// What was recalled for a feed.
pub(super) struct Recalled {
    pub(super) data: FeedData,
    pub(super) validators: Option<Validators>,
}

/// The stored data of a feed, if they are sound and from the same source.
pub(super) fn recall(store: &Store, feed: &config::Feed, now: SystemTime) -> Option<Recalled> {
    let good = match store.load(&feed.name, feed.max_bytes) {
        Ok(good) => good?,
        Err(e) => {
            tracing::warn!("feed {}: {e}", feed.name);
            return None;
        }
    };
    if good.source != source(feed) {
        tracing::info!(
            "feed {}: the stored data are from another url and are not used",
            feed.name
        );
        return None;
    }
    let bytes = u64::try_from(good.bytes.len()).unwrap_or(u64::MAX);
    match read_again(&good.bytes, feed, good.pulled, now) {
        Ok(parsed) => {
            tracing::info!(
                "feed {}: {} entries from the last good data",
                feed.name,
                parsed.count()
            );
            let validators = Validators {
                etag: good.etag,
                last_modified: good.last_modified,
            };
            Some(Recalled {
                data: FeedData {
                    parsed,
                    pulled: good.pulled,
                    bytes,
                },
                validators: Some(validators),
            })
        }
        Err(e) => {
            tracing::warn!("feed {}: the stored data are refused: {e}", feed.name);
            None
        }
    }
}

/// A stored stream tells durations from the time it was stored; other texts tell absolute times.
fn read_again(
    bytes: &[u8],
    feed: &config::Feed,
    pulled: SystemTime,
    now: SystemTime,
) -> Result<Parsed, Refusal> {
    if feed.format != Format::Crowdsec {
        return read(bytes, feed, now, None);
    }
    let limits = Limits::from(feed);
    let mut stream = CrowdsecState::default();
    stream.apply(bytes, pulled, &limits)?;
    Ok(stream.parsed(now, &limits))
}

/// Where the data came from: the URL without secrets, and a digest of all of it, so that another
/// query string is another source.
pub(super) fn source(feed: &config::Feed) -> String {
    let Some(url) = &feed.url else {
        return "pushed".into();
    };
    let digest = Sha256::digest(url.as_str());
    let digest: String = digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{} {digest}", Place::new(&feed.name, url).url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(url: &str) -> config::Feed {
        let mut feed = config::Feed::new("f".parse().unwrap());
        feed.url = Some(url.parse().unwrap());
        feed
    }

    #[test]
    fn a_source_shows_no_secret_and_differs_by_query() {
        let a = source(&feed("https://user:pass@example.net/list?token=s3cret"));
        let b = source(&feed("https://user:pass@example.net/list?token=other"));
        assert!(
            a.starts_with("https://example.net/list ")
                && !a.contains("s3cret")
                && !a.contains("pass"),
            "{a}"
        );
        assert_ne!(a, b);
    }

    #[test]
    fn what_is_kept_is_recalled_and_another_url_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let one = feed("https://example.net/a");
        assert!(recall(&store, &one, SystemTime::UNIX_EPOCH).is_none());
        let validators = Validators {
            etag: Some("\"1\"".into()),
            last_modified: None,
        };
        keep(
            &store,
            &one,
            b"192.0.2.1\n192.0.2.2\n".to_vec(),
            &validators,
            SystemTime::UNIX_EPOCH,
        );
        let recalled = recall(&store, &one, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(recalled.data.parsed.count(), 2);
        assert_eq!(recalled.validators, Some(validators));
        assert!(
            recall(
                &store,
                &feed("https://example.net/b"),
                SystemTime::UNIX_EPOCH
            )
            .is_none()
        );
    }
}
