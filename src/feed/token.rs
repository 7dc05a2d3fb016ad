//! What one column of a feed's text is: a prefix, a range, something else that is well-formed, or
//! garbage.

use std::net::{IpAddr, Ipv4Addr};

use super::{PortMatch, Span};
use crate::prefix::{Prefix, PrefixError};

/// The class of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// An address or CIDR; true when host bits were masked off.
    Prefix(Prefix, bool),
    /// A range of addresses, or any addresses at one port.
    Span(Span, Option<PortMatch>),
    /// A host name or a URL.
    NotAddress(&'static str),
    /// Anything else.
    Bad(&'static str),
}

/// Longest token that can be an address or CIDR: an IPv6 address with an embedded IPv4 one has 45
/// characters, the slash and length four more.
const LONGEST: usize = 49;

/// Longest token that can name addresses: two of them, brackets, a dash, a port and a protocol.
const LONGEST_SPAN: usize = 120;

/// Classifies `token`, which is trimmed and not empty.
///
/// - An address or CIDR in the strict forms of [`Prefix::parse`] is a prefix.
/// - `first-last` is a range; `:PORT` or `:PORT/PROTOCOL` behind IPv4 addresses, or behind IPv6 ones
///   in brackets, names one port of them.
/// - A text with `://`, and a host name (also with `*.` or a dot in front, with a port, with a path)
///   is no address. A host name has at least one dot, and its last label is at least two characters
///   with a letter first, so that a damaged address is not taken for a name.
/// - The rest is bad: damaged addresses, ranges and ports, and quotes (then the text is CSV).
pub(super) fn classify(token: &[u8]) -> Class {
    if let Some(addr) = ipv4(token) {
        return Class::Prefix(Prefix::host(addr.into()), false);
    }
    let text = match std::str::from_utf8(token) {
        Ok(text) => text,
        Err(_) => return Class::Bad("not UTF-8"),
    };
    let wrong = if token.len() > LONGEST {
        PrefixError::Address
    } else {
        match Prefix::parse(text) {
            Ok((prefix, host_bits)) => return Class::Prefix(prefix, host_bits),
            Err(wrong) => wrong,
        }
    };
    if let Some(class) = span(text) {
        return class;
    }
    if text.starts_with(['"', '\'']) {
        return Class::Bad("a quoted column: not the plain format");
    }
    if text.contains("://") {
        return Class::NotAddress("a URL");
    }
    match (wrong, text.split_once('/')) {
        (PrefixError::Address, Some((host, _))) if is_host(host) => Class::NotAddress("a URL"),
        (PrefixError::Address, None) if is_host(text) => Class::NotAddress("a host name"),
        (PrefixError::Address, _) => Class::Bad("not an IP address"),
        (PrefixError::Length, _) => Class::Bad("not a prefix length"),
    }
}

/// A strict dotted quad: the form of nearly every line, and so the one that must be fast.
pub(super) fn ipv4(token: &[u8]) -> Option<Ipv4Addr> {
    // "255.255.255.255"
    if token.len() > 15 {
        return None;
    }
    let (mut value, mut octet, mut digits, mut dots) = (0u32, 0u32, 0u32, 0u32);
    for &byte in token {
        match byte {
            b'0'..=b'9' => {
                if digits == 3 || (digits == 1 && octet == 0) {
                    return None;
                }
                octet = octet * 10 + u32::from(byte - b'0');
                digits += 1;
            }
            b'.' if digits > 0 && octet <= 255 && dots < 3 => {
                value = (value << 8) | octet;
                (octet, digits, dots) = (0, 0, dots + 1);
            }
            _ => return None,
        }
    }
    let good = dots == 3 && digits > 0 && octet <= 255;
    good.then(|| Ipv4Addr::from((value << 8) | octet))
}

/// A range, or addresses with a port; `None` for what looks like neither.
fn span(text: &str) -> Option<Class> {
    if text.len() > LONGEST_SPAN {
        return None;
    }
    let (addresses, port) = split_port(text)?;
    let range = addresses.split_once('-');
    let span = match range.map(|(first, last)| (address(first), address(last))) {
        Some((Some(first), Some(last))) => Span::new(first, last),
        Some(_) => return None,
        None => Some(Prefix::parse(addresses).ok()?.0.into()),
    };
    let Some(span) = span else {
        return Some(Class::Bad("a range that ends before it starts"));
    };
    Some(match port.map(str::parse::<PortMatch>) {
        None => Class::Span(span, None),
        Some(Ok(port)) => Class::Span(span, Some(port)),
        Some(Err(_)) => Class::Bad("not a port"),
    })
}

/// The addresses of `text`, and what is behind their colon. Without brackets, only IPv4 ones can
/// have a port.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(inner) = text.strip_prefix('[') {
        let (addresses, rest) = inner.split_once(']')?;
        return Some((addresses, Some(rest.strip_prefix(':')?)));
    }
    match text.split_once(':') {
        Some((addresses, port)) if addresses.contains('.') && !port.contains([':', '.', '-']) => {
            Some((addresses, Some(port)))
        }
        _ => Some((text, None)),
    }
}

/// A strict address without a length, IPv4-mapped IPv6 not yet folded.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

/// True for the name column of a hosts file, where a name may be one label.
pub(super) fn is_hosts_name(token: &[u8]) -> bool {
    token.iter().any(u8::is_ascii_alphabetic)
        && token
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}

/// A host name, with a port or not.
fn is_host(text: &str) -> bool {
    let name = match text.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => text,
    };
    let name = name.strip_prefix('*').unwrap_or(name);
    let name = name.strip_prefix('.').unwrap_or(name);
    let name = name.strip_suffix('.').unwrap_or(name);
    // RFC 1035 section 2.3.4.
    let sized = name.len() <= 253;
    let Some((front, top)) = name.rsplit_once('.') else {
        return false;
    };
    sized
        && front.split('.').all(is_label)
        && is_label(top)
        && top.chars().count() >= 2
        && top.starts_with(char::is_alphabetic)
}

fn is_label(text: &str) -> bool {
    // Underscores and internationalised names occur in real lists.
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_urls_are_not_addresses() {
        for token in [
            "example.com",
            "EXAMPLE.COM.",
            "*.example.com",
            ".example.com",
            "_dmarc.example.com",
            "xn--mnchen-3ya.example",
            "münchen.example",
            "163.com",
            "23-227-203-191.cprapid.com",
            "192.153.57.9.sslip.io",
            "example.com:8080",
            "example.com/a/b",
            "example.com:8080/a",
            "http://203.0.113.9/x.sh",
            "hxxp://example.com",
        ] {
            assert!(
                matches!(classify(token.as_bytes()), Class::NotAddress(_)),
                "{token}"
            );
        }
    }

    #[test]
    fn the_rest_is_bad_and_says_why() {
        for (token, why) in [
            ("hello", "not an IP address"),
            ("localhost", "not an IP address"),
            ("Hello.", "not an IP address"),
            ("1.2.3", "not an IP address"),
            ("1.2.3.4.5", "not an IP address"),
            ("1.2.3.x", "not an IP address"),
            ("012.1.1.1", "not an IP address"),
            ("0x7f000001", "not an IP address"),
            ("2001:db8:::1", "not an IP address"),
            ("fe80::1%eth0", "not an IP address"),
            ("user@example.com", "not an IP address"),
            ("a..example.com", "not an IP address"),
            ("[a-z0-9]{10}\\.xy", "not an IP address"),
            ("{\"ips\":", "not an IP address"),
            ("1.2.3.4/33", "not a prefix length"),
            ("1.2.3.4/255.255.255.0", "not a prefix length"),
            ("1.2.3.4/", "not a prefix length"),
            ("1.2.3.4:x", "not a port"),
            ("1.2.3.4:80/", "not a port"),
            ("1.2.3.4:0", "not a port"),
            ("[2001:db8::1]:70000", "not a port"),
            ("1.2.3.9-1.2.3.4", "a range that ends before it starts"),
            ("1.2.3.9-2001:db8::1", "a range that ends before it starts"),
            ("1.2.3.0/24-1.2.3.9", "not a prefix length"),
            ("1.2.3.4-", "not an IP address"),
            ("\"1.2.3.4\"", "a quoted column: not the plain format"),
        ] {
            assert_eq!(classify(token.as_bytes()), Class::Bad(why), "{token}");
        }
        assert_eq!(classify(b"1.2.3.\xff"), Class::Bad("not UTF-8"));
        assert_eq!(
            classify(&[b'1'; 1 << 16]),
            Class::Bad("not an IP address"),
            "a long token"
        );
    }

    #[test]
    fn ranges_and_ports() {
        let span = |first: &str, last: &str| {
            Span::new(first.parse().unwrap(), last.parse().unwrap()).unwrap()
        };
        for (token, first, last, port) in [
            ("1.2.3.4:80", "1.2.3.4", "1.2.3.4", Some("80")),
            ("[2001:db8::1]:80", "2001:db8::1", "2001:db8::1", Some("80")),
            ("1.2.3.4-1.2.3.9", "1.2.3.4", "1.2.3.9", None),
            ("1.2.3.0/24:53/udp", "1.2.3.0", "1.2.3.255", Some("53/udp")),
        ] {
            let port = port.map(|port| port.parse().unwrap());
            assert_eq!(
                classify(token.as_bytes()),
                Class::Span(span(first, last), port),
                "{token}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_fast_way_agrees_with_the_standard_library(text in "[0-9.]{0,16}|([0-9]{1,3}\\.){3}[0-9]{1,3}|[0-9a-f.:]{0,16}") {
            prop_assert_eq!(ipv4(text.as_bytes()), text.parse().ok());
        }
    }
}
