//! What became of a feed's entries, for status.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    Exception, ExceptionKind, FeedReport, Input, Overlap,
    exception::special_of,
    index::{Rules, private4, private6},
};
use crate::{
    config::PrivateNetworks,
    feed::{FeedName, bound_size},
    prefix::{Prefix, Range, RangeSet},
};

/// Examples kept in a report.
const EXAMPLES: usize = 5;

/// A report of each feed, for all of which the overlaps are known only together.
pub(super) fn feed_reports(
    inputs: &[Input],
    exceptions: &[Exception],
    rules: &Rules,
) -> BTreeMap<FeedName, FeedReport> {
    let merged: Vec<Merged> = inputs.iter().map(Merged::of).collect();
    let overlaps = |of: &Merged, at: usize| -> Vec<Overlap> {
        let others = inputs.iter().zip(&merged).enumerate();
        others
            .filter(|(other, _)| *other != at)
            .filter_map(|(_, (input, other))| {
                let addresses = of.shared(other);
                (addresses > 0).then(|| Overlap {
                    feed: input.name.clone(),
                    addresses: addresses.to_string(),
                })
            })
            .collect()
    };
    let rows = inputs.iter().zip(&merged).enumerate();
    rows.map(|(at, (input, merged))| {
        let mut report = feed_report(input, merged, exceptions, rules);
        report.overlaps = overlaps(merged, at);
        (input.name.clone(), report)
    })
    .collect()
}

/// A feed's addresses.
struct Merged(RangeSet<u32>, RangeSet<u128>);

impl Merged {
    fn of(input: &Input) -> Self {
        let parsed = &input.data.parsed;
        Self(
            RangeSet::of(parsed.prefixes()),
            RangeSet::of(parsed.prefixes()),
        )
    }

    /// Number of addresses that are in `other` too.
    fn shared(&self, other: &Self) -> u128 {
        let v4 = self.0.intersect(&other.0).span();
        v4.saturating_add(self.1.intersect(&other.1).span())
    }
}

fn feed_report(
    input: &Input,
    Merged(v4, v6): &Merged,
    exceptions: &[Exception],
    rules: &Rules,
) -> FeedReport {
    let parsed = &input.data.parsed;
    let mut report = FeedReport {
        entries: parsed.count(),
        merged: v4.ranges().len() + v6.ranges().len(),
        addresses: v4.span().saturating_add(v6.span()).to_string(),
        wide_bound: parsed
            .bound
            .iter()
            .filter(|bound| bound_size(&bound.prefix).is_none())
            .count(),
        ..FeedReport::default()
    };
    for prefix in parsed.prefixes() {
        if rules.spared.special.meets(prefix) {
            report.special += 1;
            if report.special_examples.len() < EXAMPLES {
                let what = special_of(prefix, exceptions).unwrap_or_default();
                report.special_examples.push(format!("{prefix}: {what}"));
            }
        }
        if rules.spared.except.meets(prefix) || rules.spared.found.meets(prefix) {
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
    let mut exceptions = exceptions
        .iter()
        .filter(|e| e.kind != ExceptionKind::Special);
    exceptions
        .find(overlaps)
        .map_or_else(String::new, |e| format!("{} ({})", e.why, e.prefix))
}
