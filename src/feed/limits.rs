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
        }
    }
}
