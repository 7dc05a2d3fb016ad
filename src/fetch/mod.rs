//! Pulls a feed's text over http, https or from a file, within limits of size and time.
//!
//! Does not read the text ([`crate::feed`]) and does not decide when to pull ([`crate::daemon`]).

mod error;
mod file;
mod headers;
mod http;
mod redirect;
#[cfg(test)]
mod testing;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use error::{FetchError, Place};
pub use headers::loose_headers;

use crate::config::{self, Feed};

/// Redirects that are followed.
pub const MAX_REDIRECTS: usize = 5;

/// Largest file of CA certificates, in bytes: the bundle of all public ones has 0.2 MiB.
const MAX_CA_FILE: u64 = 4 << 20;

/// How a [`Client`] pulls: `[pull]` of the configuration.
pub type Options = config::Pull;

/// What a server said about the version it sent, for the next conditional request
/// (RFC 9110 section 8.8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`
    pub etag: Option<String>,
    /// `Last-Modified`
    pub last_modified: Option<String>,
}

/// The outcome of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// The server still has the version of the validators that were given.
    Unchanged,
    /// A text, at most `max_bytes` long.
    Body {
        /// The text as served.
        bytes: Vec<u8>,
        /// For the next pull.
        validators: Validators,
        /// How long the pull took.
        elapsed: Duration,
    },
}

/// Pulls feeds; one for the whole daemon.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    options: Options,
    /// Why https cannot work on this host.
    no_roots: Option<String>,
}

impl Client {
    /// Reads the system's CA certificates. Without any, only https is refused.
    pub fn new(options: Options) -> Result<Self, FetchError> {
        // An error means that a provider is installed already, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let extra = authorities(&options.ca_files);
        let builder = http::builder(&options)?;
        let (http, no_roots) = match builder.tls_certs_merge(extra.clone()).build() {
            Ok(http) => (http, None),
            Err(cause) => {
                let none = extra.is_empty();
                let plain = http::builder(&options)?.tls_certs_only(extra).build();
                let http = plain.map_err(|cause| FetchError::Setup {
                    cause: error::innermost(&cause),
                })?;
                (http, none.then(|| error::innermost(&cause)))
            }
        };
        Ok(Self {
            http,
            options,
            no_roots,
        })
    }

    /// Pulls `feed`. With `previous`, the server is asked only for a newer version.
    pub async fn pull(
        &self,
        feed: &Feed,
        previous: Option<&Validators>,
    ) -> Result<Pulled, FetchError> {
        let Some(url) = &feed.url else {
            let feed = feed.name.clone();
            return Err(FetchError::NoUrl { feed });
        };
        let at = Place::new(&feed.name, url);
        let start = Instant::now();
        let work = async {
            match url.scheme() {
                "http" | "https" => self.get(feed, url, &at, previous).await,
                "file" => file::read(url, &at, feed.max_bytes)
                    .await
                    .map(|bytes| Some((bytes, Validators::default()))),
                _ => Err(FetchError::Scheme { at: at.clone() }),
            }
        };
        let limit = self.options.total_timeout;
        match tokio::time::timeout(limit, work).await {
            Ok(Ok(Some((bytes, validators)))) => Ok(Pulled::Body {
                bytes,
                validators,
                elapsed: start.elapsed(),
            }),
            Ok(Ok(None)) => Ok(Pulled::Unchanged),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(FetchError::Timeout { at, limit }),
        }
    }
}

/// The certificates of all files. A file that cannot be read is told and left out: the other feeds
/// can be pulled without it.
fn authorities(files: &[PathBuf]) -> Vec<reqwest::Certificate> {
    let mut found = Vec::new();
    for file in files {
        match authority(file) {
            Ok(certificates) => found.extend(certificates),
            Err(cause) => tracing::error!("{cause}"),
        }
    }
    found
}

/// The certificates in a PEM file, at least one; or what is wrong with it.
pub fn authority(file: &Path) -> Result<Vec<reqwest::Certificate>, FetchError> {
    let failed = |cause: String| FetchError::CaFile {
        file: file.to_owned(),
        cause,
    };
    let meta = std::fs::metadata(file).map_err(|e| failed(e.to_string()))?;
    if !meta.is_file() || meta.len() > MAX_CA_FILE {
        return Err(failed("not a regular file of at most 4 MiB".into()));
    }
    let text = std::fs::read(file).map_err(|e| failed(e.to_string()))?;
    let found =
        reqwest::Certificate::from_pem_bundle(&text).map_err(|e| failed(error::innermost(&e)))?;
    if found.is_empty() {
        return Err(failed("no certificate in it".into()));
    }
    Ok(found)
}
