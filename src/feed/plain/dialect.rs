//! Lines that do not begin with an address and still name some: `ipset save`, Tor's exit-addresses,
//! P2P lists, and header rows.

use super::{Reader, split_column};
use crate::feed::{
    PortMatch, Span,
    collect::{Extra, Line},
    date,
    token::{Class, address, classify},
};
use crate::packet::Protocol;

impl<'a> Reader<'a> {
    /// Reads the line if it is one of a known dialect, and says whether it was. `data` is the line
    /// without its comment.
    pub(super) fn dialect(&mut self, line: Line<'a>, data: &'a [u8]) -> bool {
        let (first, rest) = split_column(data);
        match first {
            // ipset(8): what restore scripts hold beside their elements.
            b"create" | b"flush" | b"swap" | b"destroy" | b"COMMIT" => {}
            b"add" | b"-exist" => return self.ipset(line),
            b"ExitNode" => self.node = Some(split_column(rest).0),
            b"ExitAddress" => self.exit(line, rest),
            // The other lines of Tor's directory lists.
            b"Published" | b"LastStatus" | b"@type" | b"Downloaded" if !rest.is_empty() => {}
            // DShield's header row has no comment mark.
            b"Start" if split_column(rest).0 == b"End" => {}
            // pfBlockerNG's lists have comments of this kind too.
            _ if first.starts_with(b"//") => {}
            _ => return self.peer(line, data),
        }
        true
    }

    /// `add [-exist] SET ELEMENT [timeout N] [nomatch] [comment "..."]`
    fn ipset(&mut self, line: Line<'_>) -> bool {
        // The comment of an element may hold a # or a ;, so it is the whole line that counts.
        let Ok(text) = std::str::from_utf8(line.text) else {
            return false;
        };
        let (text, comment) = match text.split_once(" comment ") {
            Some((text, comment)) => (text, Some(comment.trim().trim_matches('"'))),
            None => (text, None),
        };
        let mut words = text
            .split_ascii_whitespace()
            .take_while(|word| !word.starts_with('#'))
            .filter(|word| !matches!(*word, "add" | "-exist"));
        let (Some(_set), Some(element)) = (words.next(), words.next()) else {
            self.out.bad(line, "an ipset line without an element");
            return true;
        };
        let class = element_of(element);
        if words.any(|word| word == "nomatch") {
            match class {
                Class::Prefix(prefix, _) => self.out.exception(prefix.into()),
                Class::Span(span, None) => self.out.exception(span),
                _ => self.out.bad(line, "an exception that is no address"),
            }
            return true;
        }
        let tag = comment.map(str::as_bytes);
        self.out.class(
            line,
            class,
            Extra {
                tag,
                ..Extra::default()
            },
        );
        true
    }

    /// `ExitAddress ADDRESS DATE TIME`
    fn exit(&mut self, line: Line<'_>, rest: &[u8]) {
        let (token, rest) = split_column(rest);
        if token.is_empty() {
            return self.out.bad(line, "no address");
        }
        let seen = std::str::from_utf8(rest).ok().and_then(date::parse);
        seen.into_iter().for_each(|time| self.out.made_at(time));
        let tag = self.node;
        let extra = Extra {
            tag,
            ..Extra::default()
        };
        self.out.class(line, classify(token), extra);
    }

    /// `NAME:FIRST-LAST`; the name may hold anything but a comment's mark.
    fn peer(&mut self, line: Line<'_>, data: &[u8]) -> bool {
        // Longer names than that are no P2P list.
        const LONGEST: usize = 1024;
        if data.len() > LONGEST {
            return false;
        }
        let Ok(text) = std::str::from_utf8(data) else {
            return false;
        };
        let Some((name, range)) = text.rsplit_once(':') else {
            return false;
        };
        let Some((first, last)) = range.split_once('-') else {
            return false;
        };
        let (Some(first), Some(last)) = (address(first), address(last)) else {
            return false;
        };
        // IPv6 addresses hold colons themselves.
        if first.is_ipv6() || last.is_ipv6() {
            return false;
        }
        match Span::new(first, last) {
            Some(span) => {
                let tag = Some(name.as_bytes());
                self.out.span(
                    line,
                    span,
                    false,
                    Extra {
                        tag,
                        ..Extra::default()
                    },
                );
            }
            None => self.out.bad(line, "a range that ends before it starts"),
        }
        true
    }
}

/// An element of an ipset: addresses, or `ADDRESS,[PROTOCOL:]PORT` (hash:ip,port: TCP unless
/// written). Other types bind an address to what no packet from afar has.
fn element_of(element: &str) -> Class {
    let Some((addresses, port)) = element.split_once(',') else {
        return classify(element.as_bytes());
    };
    let (proto, port) = port.split_once(':').unwrap_or(("tcp", port));
    let proto = match proto {
        "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "sctp" => Protocol::SCTP,
        "udplite" => Protocol::UDPLITE,
        _ => return Class::Bad("an ipset element of this type is not supported"),
    };
    let port = port.parse().ok().filter(|port| *port != 0);
    let span = match classify(addresses.as_bytes()) {
        Class::Prefix(prefix, _) => Some(prefix.into()),
        Class::Span(span, None) => Some(span),
        _ => None,
    };
    match (span, port) {
        (Some(span), Some(port)) => {
            let proto = Some(proto);
            Class::Span(span, Some(PortMatch { proto, port }))
        }
        _ => Class::Bad("an ipset element of this type is not supported"),
    }
}
