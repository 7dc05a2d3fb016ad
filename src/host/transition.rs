//! Which IPv6 forms of IPv4 addresses this host's network uses: routes, addresses, and what the resolver
//! says.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use nix::errno::Errno;
use tokio::{net::lookup_host, time::timeout};

use super::addresses;
use crate::{
    prefix::{Form, Prefix},
    route::{Route, attribute},
};

/// A name that has IPv4 addresses only, unless a NAT64's resolver answers (RFC 7050).
const IPV4ONLY: &str = "ipv4only.arpa";
/// Forms that are taken from one answer.
const MOST: usize = 4;

// linux/rtnetlink.h
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTN_UNICAST: u8 = 1;
/// Length of `struct rtmsg`.
const RTMSG: usize = 12;
const AF_INET6: u8 = 10;
/// A shorter route around a prefix is about more than that.
const SHORTEST_ROUTE: u8 = 32;
/// A list that changed while it was read is asked for again so often.
const TRIES: usize = 3;

/// What shows that a form is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sign {
    /// The configuration names it.
    Configured,
    /// An interface has an address of it.
    Address,
    /// A route leads there.
    Route,
    /// The resolver answered with it.
    Resolver,
}

impl Sign {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Address => "address",
            Self::Route => "route",
            Self::Resolver => "resolver",
        }
    }
}

/// Those of `forms` that routes and addresses of this network namespace show to be in use: of 6to4 only
/// addresses count.
///
/// # Errors
/// The kernel does not list the addresses or the routes.
pub fn look(forms: &[Form]) -> Result<BTreeMap<Form, Sign>, Errno> {
    let own = addresses::try_local()?;
    let mut found = BTreeMap::new();
    for form in forms.iter().filter(|form| has_address(form, &own)) {
        found.insert(*form, Sign::Address);
    }
    let wanted: Vec<Form> = forms
        .iter()
        .filter(|form| !form.is_six_to_four())
        .copied()
        .collect();
    if wanted.iter().all(|form| found.contains_key(form)) {
        return Ok(found);
    }
    for tries in (0..TRIES).rev() {
        match routed(&wanted) {
            Err(Errno::EINTR) if tries > 0 => {}
            Err(errno) => return Err(errno),
            Ok(routed) => {
                for form in routed {
                    found.entry(form).or_insert(Sign::Route);
                }
                break;
            }
        }
    }
    Ok(found)
}

/// True when this host has an address with which it may reach a NAT64.
pub fn has_ipv6() -> bool {
    addresses::local().iter().any(|addr| match addr {
        IpAddr::V6(addr) => !addr.is_loopback() && !addr.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    })
}

fn has_address(form: &Form, own: &HashSet<IpAddr>) -> bool {
    own.iter().any(|addr| form.prefix().contains(*addr))
}

/// The forms that routes lead to.
fn routed(forms: &[Form]) -> Result<HashSet<Form>, Errno> {
    let mut found = HashSet::new();
    let mut body = [0; RTMSG];
    if let Some(family) = body.first_mut() {
        *family = AF_INET6;
    }
    Route::open()?.list(RTM_GETROUTE, &body, |answer| {
        if let Some(to) = destination(answer) {
            found.extend(forms.iter().filter(|form| leads_to(to, form.prefix())));
        }
        found.len() < forms.len()
    })?;
    Ok(found)
}

/// Where a route leads; `None`: no packet leaves by it, or it is a default route.
fn destination(answer: &[u8]) -> Option<Prefix> {
    let (header, attributes) = answer.split_at_checked(RTMSG)?;
    let (len, kind) = (*header.get(1)?, *header.get(7)?);
    let to: [u8; 16] = attribute(attributes, RTA_DST)?.try_into().ok()?;
    let to = Prefix::new(Ipv6Addr::from(to).into(), len).ok()?;
    (kind == RTN_UNICAST).then_some(to)
}

fn leads_to(route: Prefix, form: Prefix) -> bool {
    let around = route.len() >= SHORTEST_ROUTE && route.contains(form.addr());
    form.contains(route.addr()) && route.len() >= form.len() || around
}

/// The NAT64 prefixes of the resolver's answer; `None`: there was none within `limit`.
pub async fn ask_resolver(limit: Duration) -> Option<Vec<Form>> {
    let answers = timeout(limit, lookup_host((IPV4ONLY, 0)))
        .await
        .ok()?
        .ok()?;
    let v6 = answers.filter_map(|answer| match answer.ip() {
        IpAddr::V6(addr) => Some(addr),
        IpAddr::V4(_) => None,
    });
    Some(of_answers(v6))
}

fn of_answers(answers: impl Iterator<Item = Ipv6Addr>) -> Vec<Form> {
    let mut forms: Vec<Form> = answers
        .filter_map(Form::of_ipv4only)
        .filter(is_unicast)
        .collect();
    forms.sort_unstable();
    forms.dedup();
    forms.truncate(MOST);
    forms
}

/// No network translates what is only of a link or a group, and 6to4 is a form of its own.
fn is_unicast(form: &Form) -> bool {
    let IpAddr::V6(addr) = form.prefix().addr() else {
        return false;
    };
    let [first, ..] = addr.segments();
    (0x2000..0x4000).contains(&first) && first != 0x2002
        || first & 0xfe00 == 0xfc00
        || first == 0x64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn routes_that_lead_to_a_prefix() {
        let nat64 = prefix("64:ff9b::/96");
        for (route, leads) in [
            ("64:ff9b::/96", true),
            ("64:ff9b::c000:0/104", true),
            ("64:ff9b::1", true),
            ("64:ff9b::/64", true),
            ("64:ff9b::/32", true),
            ("::/0", false),
            ("64::/16", false),
            ("64:ff9b:1::/48", false),
            ("2001:db8::/96", false),
        ] {
            assert_eq!(leads_to(prefix(route), nat64), leads, "{route}");
        }
    }

    #[test]
    fn a_route_as_the_kernel_tells_it() {
        let mut answer = vec![AF_INET6, 96, 0, 0, 254, 3, 0, RTN_UNICAST, 0, 0, 0, 0];
        assert_eq!(destination(&answer), None);
        answer.extend(20u16.to_ne_bytes());
        answer.extend(RTA_DST.to_ne_bytes());
        answer.extend("64:ff9b::".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(destination(&answer), Some(prefix("64:ff9b::/96")));
        answer[7] = 7; // RTN_UNREACHABLE
        assert_eq!(destination(&answer), None);
        assert_eq!(destination(&answer[..9]), None);
    }

    #[test]
    fn what_a_resolver_answers() {
        let forms = |answers: &[&str]| {
            let addrs = answers.iter().map(|text| text.parse().unwrap());
            let forms = of_answers(addrs);
            forms
                .iter()
                .map(|form| form.prefix().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            forms(&["64:ff9b::192.0.0.170", "64:ff9b::192.0.0.171"]),
            ["64:ff9b::/96"]
        );
        assert_eq!(forms(&["2001:db8:64::c000:aa"]), ["2001:db8:64::/96"]);
        for wrong in [
            "2001:db8::1",
            "2002:c000:aa::",
            "ff02::c000:aa",
            "fe80::c000:aa",
            "::c000:aa",
        ] {
            assert!(forms(&[wrong]).is_empty(), "{wrong}");
        }
    }
}
