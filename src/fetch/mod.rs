//! Pulls a feed's text over http, https or from a file, within limits of size and time.
//!
//! Does not read the text ([`crate::feed`]) and does not decide when to pull ([`crate::daemon`]).

mod error;
mod file;
mod headers;
mod http;
#[cfg(test)]
mod testing;

use std::time::{Duration, Instant};

pub use error::{FetchError, Place};

use crate::config::Feed;

/// Redirects that are followed.
pub const MAX_REDIRECTS: usize = 5;

/// How a [`Client`] pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Longest time until a connection stands, name and TLS included.
    pub connect_timeout: Duration,
    /// Longest time for a whole pull, redirects and body included.
    pub total_timeout: Duration,
    /// Use the proxies of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`).
    pub proxy_from_env: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(60),
            proxy_from_env: true,
        }
    }
}

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
        let (http, no_roots) = match http::builder(&options).build() {
            Ok(http) => (http, None),
            Err(cause) => {
                let plain = http::builder(&options).tls_certs_only([]).build();
                let http = plain.map_err(|cause| FetchError::Setup {
                    cause: error::innermost(&cause),
                })?;
                (http, Some(error::innermost(&cause)))
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
