use proptest::{collection::vec, prelude::*, sample::select};

use super::facts::{some_address, some_port};
use crate::prefix::Prefix;

/// Ranges that touch both ends of all ports, and each other.
const RANGES: [(u16, u16); 8] = [
    (0, 0),
    (0, 79),
    (1, 65535),
    (80, 80),
    (80, 443),
    (81, 1000),
    (444, 65534),
    (65535, 65535),
];
/// Networks that touch both ends of IPv4, and each other.
const NETS: [&str; 8] = [
    "0.0.0.0/32",
    "0.0.0.0/31",
    "0.0.0.2/32",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "128.0.0.0/31",
    "255.255.255.254/31",
    "::/0",
];
/// One address for each combination of them.
const ADDRESSES: [&str; 8] = [
    "0.0.0.0",
    "0.0.0.1",
    "0.0.0.2",
    "0.0.0.3",
    "128.0.0.0",
    "128.0.0.2",
    "255.255.255.253",
    "255.255.255.255",
];

proptest! {
    #[test]
    fn a_port_is_found_if_there_is_one(
        asked in vec((vec(select(&RANGES[..]), 1..3), any::<bool>()), 1..5),
    ) {
        let meets = |port: u16| {
            asked.iter().all(|(ranges, is_true)| {
                ranges.iter().any(|(first, last)| *first <= port && port <= *last) == *is_true
            })
        };
        let found = some_port(|| asked.iter().map(|(ranges, is_true)| (&ranges[..], *is_true)));
        prop_assert_eq!(found, (0..=u16::MAX).any(meets));
    }

    #[test]
    fn an_address_is_found_if_there_is_one(
        asked in vec((vec(select(&NETS[..]), 1..3), any::<bool>()), 1..5),
    ) {
        let asked: Vec<(Vec<Prefix>, bool)> = asked
            .into_iter()
            .map(|(nets, is_true)| (nets.iter().map(|net| net.parse().unwrap()).collect(), is_true))
            .collect();
        let far = "192.0.2.1".parse().unwrap();
        let found = some_address(far, || asked.iter().map(|(nets, is_true)| (&nets[..], *is_true)));
        let meets = |addr: &str| {
            let addr = addr.parse().unwrap();
            asked.iter().all(|(nets, is_true)| nets.iter().any(|net| net.contains(addr)) == *is_true)
        };
        prop_assert_eq!(found, ADDRESSES.into_iter().any(meets));
    }
}
