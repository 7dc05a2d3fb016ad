//! Where a redirect may lead: never from https to http, and never nearer to this host than the feed's own
//! server is. A feed's operator could else have the daemon ask the metrics of this host, or the metadata
//! of its cloud.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::{StatusCode, header::HeaderValue};
use url::{Host, Url};

use super::{FetchError, Place, error};
use crate::prefix::{Form, WELL_KNOWN};

/// How near an address is, the farthest first (IANA's special-purpose registries).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// Anywhere.
    Global,
    /// A private network, also of a provider (100.64.0.0/10) or unique local (fc00::/7).
    Private,
    /// This host.
    Loopback,
    /// This link: what has no address elsewhere, such as the metadata service of a cloud.
    Link,
}

impl Reach {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let [first, second, ..] = address.octets();
        if address.is_loopback() || first == 0 {
            Self::Loopback
        } else if address.is_link_local() || address.is_multicast() || address.is_broadcast() {
            Self::Link
        } else if address.is_private() || (first == 100 && second & 0xc0 == 64) {
            Self::Private
        } else {
            Self::Global
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        if address.is_loopback() || address.is_unspecified() {
            return Self::Loopback;
        }
        if address.is_unicast_link_local() || address.is_multicast() {
            return Self::Link;
        }
        if address.is_unique_local() {
            return Self::Private;
        }
        // NAT64 and 6to4 lead to the IPv4 address inside.
        let forms = [
            WELL_KNOWN.parse().ok().and_then(Form::nat64),
            Form::six_to_four(),
        ];
        let inner = forms.iter().flatten().find_map(|form| form.ipv4(address));
        inner.map_or(Self::Global, Self::of_v4)
    }
}

/// True for the status codes that name another place.
pub(super) fn is_one(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect leads, if it may be followed: to the same scheme, or from http to https.
pub(super) fn follow(
    from: &Url,
    location: Option<&HeaderValue>,
    at: &Place,
) -> Result<Url, FetchError> {
    let refused = |to: String, why| FetchError::Redirect {
        at: at.clone(),
        to,
        why,
    };
    let Some(Ok(location)) = location.map(HeaderValue::to_str) else {
        return Err(refused("nowhere".to_owned(), "it has no readable Location"));
    };
    let to = from
        .join(location)
        .map_err(|_| refused("nowhere".to_owned(), "its Location is not a URL"))?;
    match (from.scheme(), to.scheme()) {
        ("http", "http" | "https") | ("https", "https") => Ok(to),
        ("https", "http") => Err(refused(error::shown(&to), "it leaves https for http")),
        _ => Err(refused(error::shown(&to), "it leaves http and https")),
    }
}

/// The address that stands in a URL instead of a name.
pub(super) fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// The nearest address of the server in `url`; `None` where its name does not resolve: asking it fails
/// with the cause.
pub(super) async fn nearest(url: &Url) -> Option<Reach> {
    if let Some(address) = literal(url) {
        return Some(Reach::of(address));
    }
    let place = (url.host_str()?, url.port_or_known_default()?);
    let found = tokio::net::lookup_host(place).await.ok()?;
    found.map(|end| Reach::of(end.ip())).max()
}

/// The redirect to `to` leads nearer than the feed's own server.
pub(super) fn too_near(to: &Url, at: &Place) -> FetchError {
    FetchError::Redirect {
        at: at.clone(),
        to: error::shown(to),
        why: "it leads to an address of this host, its link or a private network, where the feed's own server is not",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_near_addresses_are() {
        let reach = |text: &str| Reach::of(text.parse().unwrap());
        for (expect, addresses) in [
            (
                Reach::Global,
                &[
                    "203.0.113.1",
                    "2606:4700::1",
                    "100.128.0.1",
                    "64:ff9b::cb00:7101",
                ][..],
            ),
            (
                Reach::Private,
                &[
                    "10.0.0.1",
                    "172.31.0.1",
                    "192.168.1.1",
                    "100.64.0.1",
                    "fd00::1",
                    "2002:a00:1::1",
                ],
            ),
            (
                Reach::Loopback,
                &[
                    "127.0.0.9",
                    "0.0.0.0",
                    "::1",
                    "::",
                    "::ffff:127.0.0.1",
                    "64:ff9b::7f00:1",
                ],
            ),
            (
                Reach::Link,
                &[
                    "169.254.169.254",
                    "fe80::1",
                    "ff02::1",
                    "255.255.255.255",
                    "::ffff:169.254.169.254",
                ],
            ),
        ] {
            for address in addresses {
                assert_eq!(reach(address), expect, "{address}");
            }
        }
    }

    /// A downgrade needs no TLS server to be decided.
    #[test]
    fn a_downgrade_is_refused_and_an_upgrade_is_not() {
        let to = |from: &str, to: &str| {
            let from: Url = from.parse().unwrap();
            let location = HeaderValue::from_str(to).unwrap();
            let at = Place::new(&"test".parse().unwrap(), &from);
            follow(&from, Some(&location), &at)
        };
        let https = "https://example.net/a";
        let error = to(https, "http://example.net/a?key=k").unwrap_err();
        assert!(
            error.to_string().contains("it leaves https for http"),
            "{error}"
        );
        assert!(!error.to_string().contains("key"), "{error}");
        assert!(to(https, "//example.org/b").is_ok());
        assert!(to("http://example.net/a", https).is_ok());
    }
}
