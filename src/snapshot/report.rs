//! What became of a feed's entries, for status.

use std::net::IpAddr;

use super::{
    Exception, FeedReport, Input,
    build::is_small,
    index::{Rules, private4, private6},
};
use crate::{
    config::PrivateNetworks,
    prefix::{Prefix, Range, RangeSet},
};

/// Examples kept in a report.
const EXAMPLES: usize = 5;

pub(super) fn feed_report(input: &Input, exceptions: &[Exception], rules: &Rules) -> FeedReport {
    let parsed = &input.data.parsed;
    let v4 = RangeSet::<u32>::of(parsed.prefixes());
    let v6 = RangeSet::<u128>::of(parsed.prefixes());
    let mut report = FeedReport {
        entries: parsed.count(),
        merged: v4.ranges().len() + v6.ranges().len(),
        addresses: v4.span().saturating_add(v6.span()).to_string(),
        wide_bound: parsed
            .bound
            .iter()
            .filter(|bound| !is_small(&bound.prefix))
            .count(),
        ..FeedReport::default()
    };
    for prefix in parsed.prefixes() {
        if touches(prefix, &rules.except.0, &rules.except.1) {
            report.excepted += 1;
            if report.excepted_examples.len() < EXAMPLES {
                report
                    .excepted_examples
                    .push(format!("{prefix}: {}", reason(prefix, exceptions)));
            }
        }
        if rules.private != PrivateNetworks::Keep
            && !prefix.is_host()
            && touches(prefix, private4(), private6())
        {
            report.private += 1;
            if report.private_examples.len() < EXAMPLES {
                report.private_examples.push(prefix.to_string());
            }
        }
    }
    report
}

fn touches(prefix: &Prefix, v4: &RangeSet<u32>, v6: &RangeSet<u128>) -> bool {
    match (prefix.addr(), prefix.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => v4.intersects(Range {
            first: first.into(),
            last: last.into(),
        }),
        (IpAddr::V6(first), IpAddr::V6(last)) => v6.intersects(Range {
            first: first.into(),
            last: last.into(),
        }),
        _ => false,
    }
}

fn reason(prefix: &Prefix, exceptions: &[Exception]) -> String {
    let overlaps =
        |e: &&Exception| e.prefix.contains(prefix.addr()) || prefix.contains(e.prefix.addr());
    exceptions
        .iter()
        .find(overlaps)
        .map_or_else(String::new, |e| format!("{} ({})", e.why, e.prefix))
}
