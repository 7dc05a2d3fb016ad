//! Why a pull failed, and what to do about it.

use std::{error::Error, fmt, io, path::PathBuf, time::Duration};

use url::Url;

use crate::feed::{FeedName, printable};

/// Characters of a foreign text (a redirect's target, a cause) that are shown.
const SHOWN: usize = 200;

/// A feed and its URL without what may be secret: credentials, query and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The feed.
    pub feed: FeedName,
    /// `scheme://host[:port]/path`
    pub url: String,
}

impl Place {
    /// The place `url` of a feed.
    pub fn new(feed: &FeedName, url: &Url) -> Self {
        Self {
            feed: feed.clone(),
            url: shown(url),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "feed {} ({})", self.feed, self.url)
    }
}

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The client could not be built.
    #[error("cannot set up the HTTP client: {cause}; check the proxy settings in the environment")]
    Setup {
        /// What went wrong.
        cause: String,
    },
    /// A file of CA certificates is of no use.
    #[error("cannot use {} of pull.ca-files: {cause}; give it certificates in PEM form", file.display())]
    CaFile {
        /// The file.
        file: PathBuf,
        /// What went wrong.
        cause: String,
    },
    /// The feed is pushed, not pulled.
    #[error("feed {feed} has no url, so it cannot be pulled; push its text, or give it a url")]
    NoUrl {
        /// The feed.
        feed: FeedName,
    },
    /// Neither http, https nor file.
    #[error("{at}: only http, https and file URLs can be pulled; correct the url")]
    Scheme {
        /// The pull.
        at: Place,
    },
    /// The value of a header is in a file that cannot be read.
    #[error("{at}: cannot read {} for the header {header}: {cause}; create it, readable for feedgate", file.display())]
    HeaderFile {
        /// The pull.
        at: Place,
        /// Name of the header.
        header: String,
        /// The file.
        file: PathBuf,
        /// What went wrong.
        cause: io::Error,
    },
    /// The value of a header is in a file that others can change.
    #[error("{at}: {} for the header {header} can be written by others (mode {mode:04o}); run chmod go-w on it", file.display())]
    HeaderWritable {
        /// The pull.
        at: Place,
        /// Name of the header.
        header: String,
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A header's name or value is not allowed by HTTP.
    #[error(
        "{at}: the header {header} has a name or value that HTTP does not allow; it must be one line of visible characters"
    )]
    HeaderValue {
        /// The pull.
        at: Place,
        /// Name of the header.
        header: String,
    },
    /// The name has no address.
    #[error("{at}: cannot resolve the host name: {cause}; check the url and the resolver")]
    Dns {
        /// The pull.
        at: Place,
        /// What went wrong.
        cause: String,
    },
    /// Nobody listens.
    #[error("{at}: connection refused; check host and port of the url, or whether the server runs")]
    Refused {
        /// The pull.
        at: Place,
    },
    /// No connection for another reason.
    #[error("{at}: cannot connect: {cause}; check the route to the server and the proxy settings")]
    Connect {
        /// The pull.
        at: Place,
        /// What went wrong.
        cause: String,
    },
    /// The server is not who it should be, or speaks no TLS.
    #[error("{at}: TLS failed: {cause}; check the url, the clock and the system's CA certificates")]
    Tls {
        /// The pull.
        at: Place,
        /// What went wrong.
        cause: String,
    },
    /// It took too long.
    #[error(
        "{at}: not done after {limit:?}; the server or the way to it is slow, it is tried again later"
    )]
    Timeout {
        /// The pull.
        at: Place,
        /// The limit that was reached.
        limit: Duration,
    },
    /// An answer other than the text.
    #[error("{at}: the server answered {status}; {}", advice(*.status))]
    Status {
        /// The pull.
        at: Place,
        /// Status code, RFC 9110 section 15.
        status: u16,
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// More than [`MAX_REDIRECTS`](super::MAX_REDIRECTS).
    #[error("{at}: more than {limit} redirects; use the final address as url")]
    RedirectLoop {
        /// The pull.
        at: Place,
        /// The limit.
        limit: usize,
    },
    /// A redirect that would lower the protection, or leads nowhere.
    #[error("{at}: redirect to {to} refused: {why}; use the feed's final address as url")]
    Redirect {
        /// The pull.
        at: Place,
        /// Where to.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// The text is larger than `max-bytes`.
    #[error(
        "{at}: larger than max-bytes ({limit}); raise max-bytes if the feed really is that large"
    )]
    TooLarge {
        /// The pull.
        at: Place,
        /// The limit in bytes.
        limit: u64,
    },
    /// The answer broke off or is no HTTP.
    #[error("{at}: the answer broke off or is not HTTP: {cause}; it is tried again later")]
    Broken {
        /// The pull.
        at: Place,
        /// What went wrong.
        cause: String,
    },
    /// The file of a file URL is not there.
    #[error("{at}: no such file; create it or correct the url")]
    FileMissing {
        /// The pull.
        at: Place,
    },
    /// The file of a file URL may not be read.
    #[error("{at}: permission denied; make the file and its folders readable for feedgate")]
    FilePermission {
        /// The pull.
        at: Place,
    },
    /// A folder, device or pipe.
    #[error("{at}: not a regular file; the url must name one")]
    NotAFile {
        /// The pull.
        at: Place,
    },
    /// Reading the file failed.
    #[error("{at}: cannot read the file: {cause}; check the file system")]
    File {
        /// The pull.
        at: Place,
        /// What went wrong.
        cause: io::Error,
    },
}

impl FetchError {
    /// How long the server asks to wait (`Retry-After`, RFC 9110 section 10.2.3).
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// What reqwest reports, in terms of the step that failed.
    /// One word for what kind of failure it is, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dns { .. } => "dns",
            Self::Refused { .. } | Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Timeout { .. } => "timeout",
            Self::Status { .. } => "status",
            Self::RedirectLoop { .. } | Self::Redirect { .. } => "redirect",
            Self::TooLarge { .. } => "too-large",
            Self::Broken { .. } => "broken",
            Self::FileMissing { .. }
            | Self::FilePermission { .. }
            | Self::NotAFile { .. }
            | Self::File { .. } => "file",
            Self::Setup { .. }
            | Self::CaFile { .. }
            | Self::NoUrl { .. }
            | Self::Scheme { .. }
            | Self::HeaderFile { .. }
            | Self::HeaderWritable { .. }
            | Self::HeaderValue { .. } => "configuration",
        }
    }

    pub(super) fn http(at: &Place, error: &reqwest::Error, connect_limit: Duration) -> Self {
        let at = at.clone();
        let cause = innermost(error);
        // The kernel's own time limits end a body too, but they are not the connection's.
        if error.is_timeout() && error.is_connect() {
            let limit = connect_limit;
            return Self::Timeout { at, limit };
        }
        if error.is_dns() {
            return Self::Dns { at, cause };
        }
        if let Some(tls) = find::<rustls::Error>(error) {
            let cause = printable(tls.to_string().as_bytes(), SHOWN);
            return Self::Tls { at, cause };
        }
        if !error.is_connect() {
            return Self::Broken { at, cause };
        }
        match find::<io::Error>(error).map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => Self::Refused { at },
            _ => Self::Connect { at, cause },
        }
    }
}

/// `url` as `scheme://host[:port]/path`.
pub(super) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}"));
    let text = format!(
        "{}://{host}{}{}",
        url.scheme(),
        port.unwrap_or_default(),
        url.path()
    );
    printable(text.as_bytes(), SHOWN)
}

/// The text of the deepest cause. The outer ones say little, and reqwest's holds the whole URL.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let text = causes(error).last().map(ToString::to_string);
    printable(text.unwrap_or_default().as_bytes(), SHOWN)
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// `error` and its causes, outermost first. An io::Error hides the error it was made from behind
/// that error's own source.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error = *error;
        let hidden = error
            .downcast_ref::<io::Error>()
            .and_then(|io| io.get_ref())
            .map(|inner| inner as &(dyn Error + 'static));
        hidden.or_else(|| error.source())
    })
}

fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 | 407 => "check the feed's headers (token, user agent) and the proxy",
        404 | 410 => "the list is not there any more: check the url",
        429 => "it asks for fewer requests: raise the feed's period",
        500..=599 => "the trouble is the server's, it is tried again later",
        _ => "check the url",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let url = "https://user:pass@example.net:8443/a/b?token=x#y";
        assert_eq!(shown(&url.parse().unwrap()), "https://example.net:8443/a/b");
    }
}
