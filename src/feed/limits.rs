//! What a feed's text may be.

use crate::config;

/// The limits one feed is judged by.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// More entries than that refuse the text.
    pub max_entries: usize,
    /// More bytes than that refuse the text.
    pub max_bytes: u64,
    /// A larger share of malformed lines refuses the text, 0.0..=1.0.
    pub max_bad: f64,
    /// A text without entries is fine.
    pub allow_empty: bool,
    /// Shorter IPv4 prefixes are left out; a default route always is.
    pub min_prefix4: u8,
    /// Shorter IPv6 prefixes are left out; a default route always is.
    pub min_prefix6: u8,
    /// Entries with a lower score are left out; an entry without a score is malformed.
    pub min_score: Option<u32>,
    /// Entries with that score or a higher one are denied.
    pub deny_score: Option<u32>,
    /// A loss of more than this share of the last good data refuses the text, 0.0..=1.0.
    pub max_shrink: f64,
    /// More than this many times the addresses of the last good data refuse the text.
    pub max_growth: f64,
}

/// The defaults of the configuration file.
impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: 2_000_000,
            max_bytes: 64 << 20,
            max_bad: 0.05,
            allow_empty: false,
            min_prefix4: 8,
            min_prefix6: 19,
            min_score: None,
            deny_score: None,
            max_shrink: 0.5,
            max_growth: 10.0,
        }
    }
}

impl From<&config::Feed> for Limits {
    fn from(feed: &config::Feed) -> Self {
        Self {
            max_entries: feed.max_entries,
            max_bytes: feed.max_bytes,
            max_bad: feed.max_bad,
            allow_empty: feed.allow_empty,
            min_prefix4: feed.min_prefix4,
            min_prefix6: feed.min_prefix6,
            // No score is below 0: then an entry needs none, as in the levels of IPsum.
            min_score: feed.min_score.filter(|least| *least > 0),
            deny_score: feed.deny_score,
            max_shrink: feed.max_shrink,
            max_growth: feed.max_growth,
        }
    }
}
