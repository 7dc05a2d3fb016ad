//! What one column of a feed's text is: a prefix, something else that is well-formed, or garbage.

use std::net::IpAddr;

use crate::prefix::{Prefix, PrefixError};

/// The class of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// An address or CIDR; true when host bits were masked off.
    Prefix(Prefix, bool),
    /// A host name or a URL.
    NotAddress(&'static str),
    /// Anything else.
    Bad(&'static str),
}

/// Longest token that can be an address or CIDR: an IPv6 address with an embedded IPv4 one has 45
/// characters, the slash and length four more.
const LONGEST: usize = 49;

/// Classifies `token`, which is trimmed and not empty.
///
/// - An address or CIDR in the strict forms of [`Prefix::parse`] is a prefix.
/// - A text with `://`, and a host name (also with `*.` or a dot in front, with a port, with a path)
///   is no address. A host name has at least one dot, and its last label is at least two characters
///   with a letter first, so that a damaged address is not taken for a name.
/// - The rest is bad: damaged addresses, quotes (then the text is CSV), an address with a port and a
///   range (nothing may be taken from them in part: dropping the port blocks too much, dropping the
///   end too little).
pub(super) fn classify(token: &[u8]) -> Class {
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
    if text.starts_with(['"', '\'']) {
        return Class::Bad("a quoted column: not the plain format");
    }
    if text.contains("://") {
        return Class::NotAddress("a URL");
    }
    if with_port(text) {
        return Class::Bad("an address with a port");
    }
    if range(text) {
        return Class::Bad("a range of addresses");
    }
    match (wrong, text.split_once('/')) {
        (PrefixError::Address, Some((host, _))) if is_host(host) => Class::NotAddress("a URL"),
        (PrefixError::Address, None) if is_host(text) => Class::NotAddress("a host name"),
        (PrefixError::Address, _) => Class::Bad("not an IP address"),
        (PrefixError::Length, _) => Class::Bad("not a prefix length"),
    }
}

/// True for the name column of a hosts file, where a name may be one label.
pub(super) fn is_hosts_name(token: &[u8]) -> bool {
    token.iter().any(u8::is_ascii_alphabetic)
        && token
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}

/// `1.2.3.4:80` or `[2001:db8::1]:80`.
fn with_port(text: &str) -> bool {
    text.parse::<std::net::SocketAddr>().is_ok()
}

/// `1.2.3.4-1.2.3.9`.
fn range(text: &str) -> bool {
    text.split_once('-')
        .is_some_and(|(first, last)| is_addr(first) && is_addr(last))
}

fn is_addr(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
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
            ("1.2.3.4:80", "an address with a port"),
            ("[2001:db8::1]:80", "an address with a port"),
            ("1.2.3.4-1.2.3.9", "a range of addresses"),
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
}
