//! Addresses that everybody uses: public resolvers, large content networks, the root of the DNS. A
//! feed that lists one of them would cut off far more than what it is about.
//!
//! Facts, from what the operators publish (the page is beside each), as of 2026. Small on purpose:
//! MISP's warninglists, given as files, know much more.

use std::net::IpAddr;

use super::formats::Warninglist;
use crate::{
    feed::Span,
    prefix::{Address, Prefix, RangeSet},
};

/// An operator, and its addresses separated by spaces.
type Row = (&'static str, &'static str);

const RESOLVERS: &[Row] = &[
    // https://developers.cloudflare.com/1.1.1.1/ip-addresses/
    (
        "Cloudflare DNS",
        "1.1.1.1 1.0.0.1 1.1.1.2 1.0.0.2 1.1.1.3 1.0.0.3 2606:4700:4700::1111 2606:4700:4700::1001",
    ),
    // https://developers.google.com/speed/public-dns/docs/using
    (
        "Google DNS",
        "8.8.8.8 8.8.4.4 2001:4860:4860::8888 2001:4860:4860::8844",
    ),
    // https://quad9.net/service/service-addresses-and-features/
    (
        "Quad9 DNS",
        "9.9.9.9 9.9.9.10 9.9.9.11 149.112.112.112 149.112.112.10 149.112.112.11 2620:fe::fe 2620:fe::9",
    ),
    // https://www.opendns.com/setupguide/
    (
        "OpenDNS",
        "208.67.222.222 208.67.220.220 208.67.222.123 208.67.220.123 2620:119:35::35 2620:119:53::53",
    ),
    // https://adguard-dns.io/en/public-dns.html
    (
        "AdGuard DNS",
        "94.140.14.14 94.140.15.15 94.140.14.140 94.140.14.141 2a10:50c0::ad1:ff 2a10:50c0::ad2:ff",
    ),
    // https://cleanbrowsing.org/filters/
    (
        "CleanBrowsing DNS",
        "185.228.168.9 185.228.169.9 185.228.168.168 185.228.169.168",
    ),
    // https://dns.yandex.com/
    ("Yandex DNS", "77.88.8.8 77.88.8.1"),
    // https://www.alidns.com/
    ("AliDNS", "223.5.5.5 223.6.6.6"),
    // https://www.dnspod.cn/products/publicdns
    ("DNSPod DNS", "119.29.29.29"),
    // https://www.114dns.com/
    ("114DNS", "114.114.114.114 114.114.115.115"),
    // Lumen's resolvers, in use by name everywhere
    (
        "Level 3 DNS",
        "4.2.2.1 4.2.2.2 4.2.2.3 4.2.2.4 4.2.2.5 4.2.2.6",
    ),
    // https://controld.com/free-dns
    (
        "Control D DNS",
        "76.76.2.0 76.76.10.0 76.76.2.1 76.76.10.1 76.76.2.2 76.76.10.2",
    ),
    // https://www.comodo.com/secure-dns/
    ("Comodo DNS", "8.26.56.26 8.20.247.20"),
    // https://vercara.com/ultradns-public
    (
        "UltraDNS Public",
        "64.6.64.6 64.6.65.6 156.154.70.1 156.154.71.1",
    ),
    // https://101.101.101.101/
    ("Quad101 DNS", "101.101.101.101 101.102.103.104"),
    // https://dudns.baidu.com/
    ("Baidu DNS", "180.76.76.76"),
    // https://dns.watch/
    ("DNS.WATCH", "84.200.69.80 84.200.70.40"),
    // https://dns.he.net/
    ("Hurricane Electric DNS", "74.82.42.42"),
    // https://alternate-dns.com/, its addresses of today and those of before
    (
        "Alternate DNS",
        "76.76.19.19 76.223.122.150 198.101.242.72 23.253.163.53",
    ),
    // https://servers.opennic.org/, those that many configurations name. Malware asks them for names that
    // exist nowhere else, and so threat feeds list them.
    (
        "OpenNIC",
        "51.254.25.115 63.231.92.27 87.98.175.85 91.217.137.37 94.16.114.254 94.247.43.254 \
         138.197.140.189 161.97.219.84 162.243.19.47 169.239.202.202 172.104.136.243 185.121.177.177 \
         185.121.177.53 188.165.200.156 193.183.98.66 193.183.98.154 194.36.144.87 195.10.195.195",
    ),
    // https://blog.uncensoreddns.org/dns-servers/
    ("UncensoredDNS", "91.239.100.100 89.233.43.71"),
    // https://www.safedns.com/
    ("SafeDNS", "195.46.39.39 195.46.39.40"),
    // https://dns.sb/
    ("DNS.SB", "185.222.222.222 45.11.45.11"),
    // https://nextdns.io/, without a profile
    ("NextDNS", "45.90.28.0 45.90.30.0"),
    // https://www.iana.org/domains/root/servers
    (
        "DNS root servers",
        "198.41.0.4 170.247.170.2 192.33.4.12 199.7.91.13 192.203.230.10 192.5.5.241 192.112.36.4 \
         198.97.190.53 192.36.148.17 192.58.128.30 193.0.14.129 199.7.83.42 202.12.27.33 \
         2001:503:ba3e::2:30 2801:1b8:10::b 2001:500:2::c 2001:500:2d::d 2001:500:a8::e \
         2001:500:2f::f 2001:500:12::d0d 2001:500:1::53 2001:7fe::53 2001:503:c27::2:30 \
         2001:7fd::1 2001:500:9f::42 2001:dc3::35",
    ),
];

const NETWORKS: &[Row] = &[
    // https://www.cloudflare.com/ips/
    (
        "Cloudflare",
        "103.21.244.0/22 103.22.200.0/22 103.31.4.0/22 104.16.0.0/13 104.24.0.0/14 108.162.192.0/18 \
         131.0.72.0/22 141.101.64.0/18 162.158.0.0/15 172.64.0.0/13 173.245.48.0/20 188.114.96.0/20 \
         190.93.240.0/20 197.234.240.0/22 198.41.128.0/17 2400:cb00::/32 2405:8100::/32 \
         2405:b500::/32 2606:4700::/32 2803:f800::/32 2a06:98c0::/29 2c0f:f248::/32",
    ),
    // https://api.fastly.com/public-ip-list
    (
        "Fastly",
        "23.235.32.0/20 43.249.72.0/22 103.244.50.0/24 103.245.222.0/23 103.245.224.0/24 \
         104.156.80.0/20 140.248.64.0/18 140.248.128.0/17 146.75.0.0/17 151.101.0.0/16 157.52.64.0/18 167.82.0.0/17 167.82.128.0/20 \
         167.82.160.0/20 167.82.224.0/20 172.111.64.0/18 185.31.16.0/22 199.27.72.0/21 \
         199.232.0.0/16 2a04:4e40::/32 2a04:4e42::/32",
    ),
    // https://ip-ranges.amazonaws.com/ip-ranges.json, service CLOUDFRONT, the large ones
    (
        "Amazon CloudFront",
        "13.32.0.0/15 13.35.0.0/16 13.224.0.0/14 13.249.0.0/16 18.64.0.0/14 52.84.0.0/15 \
         52.222.128.0/17 54.182.0.0/16 54.192.0.0/16 54.230.0.0/16 54.239.128.0/18 65.8.0.0/16 \
         65.9.0.0/17 70.132.0.0/18 99.84.0.0/16 99.86.0.0/16 108.156.0.0/14 143.204.0.0/16 \
         204.246.164.0/22 204.246.168.0/22 205.251.192.0/19 216.137.32.0/19 2600:9000::/28",
    ),
    // Akamai's own allocations (ARIN, RIPE), the large ones
    (
        "Akamai",
        "2.16.0.0/13 23.0.0.0/12 23.32.0.0/11 23.64.0.0/14 23.72.0.0/13 23.192.0.0/11 69.192.0.0/16 \
         72.246.0.0/15 88.221.0.0/16 92.122.0.0/15 95.100.0.0/15 96.6.0.0/15 96.16.0.0/15 \
         104.64.0.0/10 118.214.0.0/16 125.56.128.0/17 125.252.192.0/18 173.222.0.0/15 184.24.0.0/13 184.50.0.0/15 184.84.0.0/14 2600:1400::/24 2a02:26f0::/29",
    ),
    // https://my.imperva.com/api/integration/v1/ips
    (
        "Imperva",
        "45.60.0.0/16 45.64.64.0/22 45.223.0.0/16 103.28.248.0/22 107.154.0.0/16 131.125.128.0/17 \
         149.126.72.0/21 185.11.124.0/22 192.230.64.0/18 198.143.32.0/19 199.83.128.0/21 \
         2a02:e980::/29",
    ),
    // https://api.github.com/meta: web, api, git and pages
    (
        "GitHub",
        "140.82.112.0/20 143.55.64.0/20 185.199.108.0/22 192.30.252.0/22 2606:50c0::/32",
    ),
    // https://www.gstatic.com/ipranges/goog.json less cloud.json: services, no customers
    (
        "Google",
        "64.233.160.0/19 66.102.0.0/20 66.249.64.0/19 72.14.192.0/18 74.125.0.0/16 108.177.0.0/17 \
         142.250.0.0/15 172.217.0.0/16 172.253.0.0/16 173.194.0.0/16 209.85.128.0/17 216.58.192.0/19 \
         216.239.32.0/19 2001:4860::/32 2404:6800::/32 2607:f8b0::/32 2a00:1450::/32",
    ),
    // https://learn.microsoft.com/microsoft-365/enterprise/urls-and-ip-address-ranges
    (
        "Microsoft 365",
        "13.107.6.152/31 13.107.18.10/31 13.107.64.0/18 13.107.128.0/22 13.107.136.0/22 \
         20.190.128.0/18 40.92.0.0/15 40.96.0.0/13 40.104.0.0/15 40.107.0.0/16 52.96.0.0/14 \
         52.100.0.0/14 52.112.0.0/14 104.47.0.0/17 131.253.33.215 150.171.32.0/22 204.79.197.215 2603:1006::/40 2620:1ec:4::152",
    ),
    // https://support.apple.com/101555
    ("Apple", "17.0.0.0/8 2620:149::/32 2403:300::/32"),
];

/// What is known to be good, by owner.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Sorted by first address; they may overlap.
    spans: Vec<(Span, usize)>,
    owners: Vec<String>,
    /// All of them, to be asked first: nearly every entry is none of it.
    all: (RangeSet<u32>, RangeSet<u128>),
}

impl Known {
    /// Nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// The list that comes with feedgate.
    pub fn embedded() -> Self {
        let mut known = Self::default();
        for (owner, addresses) in RESOLVERS.iter().chain(NETWORKS) {
            // A test holds that each of them parses.
            let prefixes = addresses.split_ascii_whitespace();
            known.add(owner, prefixes.filter_map(|text| text.parse().ok()));
        }
        known
    }

    /// Adds a MISP warninglist.
    pub fn warninglist(&mut self, list: &Warninglist) {
        self.add(&list.name, list.prefixes.iter().copied());
    }

    /// Adds `prefixes` as those of `owner`.
    pub fn add(&mut self, owner: &str, prefixes: impl IntoIterator<Item = Prefix>) {
        let at = self.owners.len();
        self.owners.push(owner.to_owned());
        let spans = prefixes.into_iter().map(|prefix| (Span::from(prefix), at));
        self.spans.extend(spans);
        self.spans.sort_unstable();
        let prefixes: Vec<Prefix> = self
            .spans
            .iter()
            .flat_map(|(span, _)| span.prefixes())
            .collect();
        self.all = (RangeSet::of(&prefixes), RangeSet::of(&prefixes));
    }

    /// Everybody who is known at any address of `prefix`, without duplicates, in the order added.
    pub(super) fn owners(&self, prefix: &Prefix) -> Vec<&str> {
        let v4 = u32::bounds(prefix).is_some_and(|range| self.all.0.intersects(range));
        let v6 = u128::bounds(prefix).is_some_and(|range| self.all.1.intersects(range));
        if !(v4 || v6) {
            return Vec::new();
        }
        let span = Span::from(*prefix);
        // A wide range may start far below, so all that start at or before the end are looked at.
        let end = self
            .spans
            .partition_point(|(known, _)| known.first() <= span.last());
        let mut found: Vec<usize> = self
            .spans
            .get(..end)
            .unwrap_or_default()
            .iter()
            .filter(|(known, _)| {
                same_family(known.first(), span.first()) && known.last() >= span.first()
            })
            .map(|(_, owner)| *owner)
            .collect();
        found.sort_unstable();
        found.dedup();
        let owner = |at: &usize| self.owners.get(*at).map(String::as_str);
        found.iter().filter_map(owner).collect()
    }
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_the_list_parses_and_is_canonical() {
        for (owner, addresses) in RESOLVERS.iter().chain(NETWORKS) {
            for text in addresses.split_ascii_whitespace() {
                let (_, host_bits) =
                    Prefix::parse(text).unwrap_or_else(|_| panic!("{owner}: {text}"));
                assert!(!host_bits, "{owner}: {text}");
            }
        }
    }

    #[test]
    fn owners_of_addresses_and_of_what_holds_them() {
        let known = Known::embedded();
        let owners = |text: &str| known.owners(&text.parse::<Prefix>().unwrap());
        assert_eq!(owners("1.1.1.1"), ["Cloudflare DNS"]);
        assert_eq!(owners("1.1.1.0/24"), ["Cloudflare DNS"]);
        assert_eq!(owners("104.21.11.4"), ["Cloudflare"]);
        assert_eq!(owners("8.8.0.0/16"), ["Google DNS"]);
        assert_eq!(owners("2606:4700:30::6812:3594"), ["Cloudflare"]);
        assert_eq!(owners("2606:4700::/32"), ["Cloudflare DNS", "Cloudflare"]);
        assert_eq!(owners("203.0.113.1"), Vec::<&str>::new());
        assert_eq!(owners("255.255.255.255"), Vec::<&str>::new());
    }
}
