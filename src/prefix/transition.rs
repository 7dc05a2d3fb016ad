//! IPv4 addresses inside IPv6 ones: NAT64 (RFC 6052, RFC 8215) and 6to4 (RFC 3056).
//!
//! ```text
//!      bits 0..L   L..64        64..72   from 72       then
//! /32  prefix      v4 (32)      u                      suffix (56)
//! /40  prefix      v4 (24)      u        v4 (8)        suffix (48)
//! /48  prefix      v4 (16)      u        v4 (16)       suffix (40)
//! /56  prefix      v4 (8)       u        v4 (24)       suffix (32)
//! /64  prefix                   u        v4 (32)       suffix (24)
//! /96  prefix (96), v4 (32)
//! 6to4 2002, v4 (32), the rest of the /48 is the site's own
//! ```
//! A translator reads the IPv4 address without a look at `u`, which should be zero, and the suffix
//! (RFC 6052 section 2.3), so neither is looked at here.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Address, Prefix, Range, RangeSet, subnets6};

/// The prefix of NAT64 without a configuration (RFC 6052 section 2.1).
pub const WELL_KNOWN: &str = "64:ff9b::/96";

/// What a NAT64's resolver answers for `ipv4only.arpa`, in its prefix (RFC 7050 section 8).
const IPV4ONLY: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];

/// A way to write IPv4 addresses as IPv6 ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Form {
    prefix: Prefix,
    layout: Layout,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Layout {
    /// The last 32 bits: one address for one address.
    Exact,
    /// A block of addresses for each address; so many bits of the IPv4 address are behind the octet `u`.
    Split(u8),
    /// A /48 for each address.
    SixToFour,
}

impl Form {
    /// NAT64 with this prefix; `None` when it has no length of RFC 6052.
    pub fn nat64(prefix: Prefix) -> Option<Self> {
        let IpAddr::V6(_) = prefix.addr() else {
            return None;
        };
        let layout = match prefix.len() {
            96 => Layout::Exact,
            len @ (32 | 40 | 48 | 56 | 64) => Layout::Split(len - 32),
            _ => return None,
        };
        Some(Self { prefix, layout })
    }

    /// 6to4.
    pub fn six_to_four() -> Option<Self> {
        let prefix = Prefix::new(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0).into(), 16).ok()?;
        let layout = Layout::SixToFour;
        Some(Self { prefix, layout })
    }

    /// The NAT64 prefix that an answer for `ipv4only.arpa` shows, if it shows one.
    pub fn of_ipv4only(answer: Ipv6Addr) -> Option<Self> {
        [96, 64, 56, 48, 40, 32].into_iter().find_map(|len| {
            let form = Self::nat64(Prefix::new(answer.into(), len).ok()?)?;
            let v4 = form.ipv4(answer)?;
            // The octet and the suffix of an answer are zero.
            let is_whole = form.address(v4) == u128::from(answer);
            (is_whole && IPV4ONLY.contains(&v4)).then_some(form)
        })
    }

    /// The addresses that are read in this way.
    pub fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// True for 6to4.
    pub fn is_six_to_four(&self) -> bool {
        self.layout == Layout::SixToFour
    }

    /// The IPv4 address inside `addr`; `None` when that is not of this form.
    pub fn ipv4(&self, addr: Ipv6Addr) -> Option<Ipv4Addr> {
        if !self.prefix.contains(addr.into()) {
            return None;
        }
        let bits = u128::from(addr);
        let bits = match self.layout {
            Layout::Exact => bits,
            Layout::SixToFour => bits >> 80,
            Layout::Split(low) => {
                let high = bits >> 64 << low;
                let low_bits = bits >> (56 - u32::from(low)) & mask(low);
                high | low_bits
            }
        };
        u32::try_from(bits & u128::from(u32::MAX))
            .ok()
            .map(Ipv4Addr::from)
    }

    /// The one address for `v4`, with the octet and the suffix zero; `None`: there are many alike.
    pub fn host(&self, v4: u32) -> Option<u128> {
        (self.layout != Layout::SixToFour).then(|| self.address(v4.into()))
    }

    /// True when an IPv4 address is a single IPv6 address.
    pub fn is_exact(&self) -> bool {
        self.layout == Layout::Exact
    }

    /// All addresses for those of `range`, as at most three ranges. Addresses whose octet `u` is not zero
    /// are among them where whole blocks are.
    pub fn ranges(&self, range: Range<u32>) -> impl Iterator<Item = Range<u128>> {
        let (first, last) = (range.first, range.last);
        let parts = match self.layout {
            Layout::Exact | Layout::SixToFour => [Some((first, last)), None, None],
            Layout::Split(low) => blocks(first, last, low),
        };
        let form = *self;
        parts
            .into_iter()
            .flatten()
            .map(move |(first, last)| form.whole(first, last))
    }

    /// The prefixes for `v4`.
    pub fn prefixes(&self, v4: &Prefix) -> Vec<Prefix> {
        let ranges = u32::bounds(v4)
            .into_iter()
            .flat_map(|range| self.ranges(range));
        ranges.flat_map(subnets6).collect()
    }

    /// From the first address of the first to the last address of the last, which are in one block or
    /// make up whole ones.
    fn whole(&self, first: u32, last: u32) -> Range<u128> {
        let is_whole = |low: u8| {
            let mask = mask32(low);
            first & mask == 0 && last & mask == mask
        };
        let free = match self.layout {
            Layout::Exact => 0,
            Layout::SixToFour => 80,
            Layout::Split(low) if is_whole(low) => 64,
            Layout::Split(low) => 56 - low,
        };
        Range {
            first: self.address(first.into()),
            last: self.address(last.into()).filled(128 - free),
        }
    }

    fn address(&self, v4: Ipv4Addr) -> u128 {
        let IpAddr::V6(base) = self.prefix.addr() else {
            return 0;
        };
        let bits = u128::from(u32::from(v4));
        let bits = match self.layout {
            Layout::Exact => bits,
            Layout::SixToFour => bits << 80,
            Layout::Split(low) => bits >> low << 64 | (bits & mask(low)) << (56 - u32::from(low)),
        };
        u128::from(base) | bits
    }
}

/// `NAT64 64:ff9b::/96`, `6to4 2002::/16`.
impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layout {
            Layout::SixToFour => write!(f, "6to4 {}", self.prefix),
            _ => write!(f, "NAT64 {}", self.prefix),
        }
    }
}

impl serde::Serialize for Form {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// What is left of a range at its two ends beside whole blocks of `2^low` addresses.
fn blocks(first: u32, last: u32, low: u8) -> [Option<(u32, u32)>; 3] {
    let mask = mask32(low);
    let head_end = (first | mask).min(last);
    if first & mask == 0 && head_end == first | mask || head_end == last {
        // Begins with a whole block, or is within one.
        if last & mask == mask || head_end == last {
            return [Some((first, last)), None, None];
        }
        let tail = last & !mask;
        return [Some((first, tail - 1)), Some((tail, last)), None];
    }
    let rest = head_end + 1;
    let [a, b, _] = blocks(rest, last, low);
    [Some((first, head_end)), a, b]
}

fn mask(low: u8) -> u128 {
    (1u128 << low) - 1
}

fn mask32(low: u8) -> u32 {
    1u32.checked_shl(low.into()).map_or(u32::MAX, |bit| bit - 1)
}

/// The forms that addresses are read in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forms(Vec<Form>);

impl Forms {
    /// These, each once.
    pub fn new(mut forms: Vec<Form>) -> Self {
        forms.sort_unstable();
        forms.dedup();
        // The longest first: a prefix may be inside another one.
        forms.sort_by_key(|form| std::cmp::Reverse(form.prefix.len()));
        Self(forms)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Form> {
        self.0.iter()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The IPv4 address that `addr` stands for.
    pub fn ipv4(&self, addr: IpAddr) -> Option<Ipv4Addr> {
        let IpAddr::V6(addr) = addr else { return None };
        self.0.iter().find_map(|form| form.ipv4(addr))
    }

    /// The addresses of all forms.
    pub fn space(&self) -> RangeSet<u128> {
        RangeSet::of(self.0.iter().map(|form| &form.prefix))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nat64(prefix: &str) -> Form {
        Form::nat64(prefix.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_examples_of_rfc_6052() {
        let v4 = Ipv4Addr::new(192, 0, 2, 33);
        for (prefix, expect) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
        ] {
            let (form, expect) = (nat64(prefix), expect.parse::<Ipv6Addr>().unwrap());
            assert_eq!(form.host(v4.into()), Some(expect.into()), "{prefix}");
            assert_eq!(form.ipv4(expect), Some(v4), "{prefix}");
        }
        for wrong in [
            "2001:db8::/33",
            "2001:db8::/95",
            "2001:db8::/128",
            "10.0.0.0/8",
        ] {
            assert_eq!(Form::nat64(wrong.parse().unwrap()), None, "{wrong}");
        }
    }

    #[test]
    fn six_to_four() {
        let form = Form::six_to_four().unwrap();
        let addr = "2002:cb00:7142:1::5".parse().unwrap();
        assert_eq!(form.ipv4(addr), Some(Ipv4Addr::new(203, 0, 113, 66)));
        let prefixes = form.prefixes(&"203.0.113.66".parse().unwrap());
        assert_eq!(prefixes, ["2002:cb00:7142::/48".parse().unwrap()]);
        assert_eq!(form.host(0), None);
        assert_eq!(form.to_string(), "6to4 2002::/16");
    }

    #[test]
    fn answers_for_ipv4only_arpa() {
        for prefix in [
            "64:ff9b::/96",
            "2001:db8:1:2::/64",
            "2001:db8:5::/48",
            "2001:db8::/32",
        ] {
            let form = nat64(prefix);
            for v4 in IPV4ONLY {
                let answer = form.host(v4.into()).unwrap().into();
                assert_eq!(Form::of_ipv4only(answer), Some(form), "{prefix}");
            }
            let other = form.host(0xc000_00ac).unwrap().into();
            assert_eq!(Form::of_ipv4only(other), None);
        }
        assert_eq!(Form::of_ipv4only("2001:db8::1".parse().unwrap()), None);
    }

    #[test]
    fn a_longer_prefix_is_read_first() {
        let forms = Forms::new(vec![nat64("2001:db8::/32"), nat64("2001:db8:0:1::/96")]);
        let v4 = |addr: &str| forms.ipv4(addr.parse().unwrap()).map(|v4| v4.to_string());
        assert_eq!(
            v4("2001:db8:0:1::cb00:7142").as_deref(),
            Some("203.0.113.66")
        );
        assert_eq!(v4("2001:db8:cb00:7142::").as_deref(), Some("203.0.113.66"));
        assert_eq!(v4("2001:db9::1"), None);
        assert_eq!(v4("203.0.113.66"), None);
    }

    fn forms() -> impl Strategy<Value = Form> {
        let len = prop::sample::select(vec![16u8, 32, 40, 48, 56, 64, 96]);
        (any::<u128>(), len).prop_map(|(bits, len)| match len {
            16 => Form::six_to_four().unwrap(),
            len => {
                let bits = 0x2001 << 112 | bits >> 16;
                Form::nat64(Prefix::new(Ipv6Addr::from(bits).into(), len).unwrap()).unwrap()
            }
        })
    }

    /// Ranges whose ends are near the ends of blocks.
    fn ranges() -> impl Strategy<Value = Range<u32>> {
        let end = || {
            (any::<u32>(), 0u32..=32, -2i64..=2).prop_map(|(addr, len, by)| {
                let edge = addr & u32::MAX.checked_shl(32 - len).unwrap_or(0);
                u32::try_from((i64::from(edge) + by).rem_euclid(1 << 32)).unwrap()
            })
        };
        (end(), end()).prop_map(|(a, b)| Range {
            first: a.min(b),
            last: a.max(b),
        })
    }

    proptest! {
        /// What is in the ranges is read as an address of the range, and the other way round where the
        /// octet is zero.
        #[test]
        fn ranges_hold_what_is_read_back(form in forms(), range in ranges(), v4: u32, near in -2i64..=2, rest: u64) {
            let set = RangeSet::new(form.ranges(range).collect());
            prop_assert!(form.ranges(range).count() <= 3);
            let edge = if v4 % 2 == 0 { range.first } else { range.last };
            let close = u32::try_from((i64::from(edge) + near).rem_euclid(1 << 32)).unwrap();
            for v4 in [v4, close] {
                let IpAddr::V6(base) = Prefix::new(Ipv6Addr::from(form.address(v4.into())).into(), 128).unwrap().addr() else { unreachable!() };
                prop_assert_eq!(form.ipv4(base), Some(v4.into()));
                let inside = range.first <= v4 && v4 <= range.last;
                // The suffix, or what is a site's own, may be anything.
                let free = match form.layout { Layout::Exact => 0, Layout::SixToFour => 64, Layout::Split(low) => 56 - low };
                let suffix = if free == 0 { 0 } else { u128::from(rest) & ((1u128 << free) - 1) };
                let addr = u128::from(base) | suffix;
                prop_assert_eq!(set.contains(addr), inside);
                // With any octet at all nothing is in it that is not read as an address of the range.
                let odd = addr | u128::from(rest % 256) << 56;
                if set.contains(odd) {
                    let read = u32::from(form.ipv4(odd.into()).unwrap());
                    prop_assert!(range.first <= read && read <= range.last);
                }
            }
        }
    }
}
