//! The name of a feed.

use std::{fmt, str::FromStr, sync::Arc};

/// A feed's name: 1 to 128 characters of `A-Z a-z 0-9 . _ -`, first one alphanumeric.
///
/// Cheap to clone. Calico's names (dots and dashes) fit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedName(Arc<str>);

/// The text is no feed name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a feed name has 1 to 128 characters of A-Z a-z 0-9 . _ - and starts with a letter or digit"
)]
pub struct NameError;

impl FeedName {
    /// The feed that alerts of a self-test name; no real one has this name.
    pub const SELFTEST: &str = "feedgate-selftest";

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FeedName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let good = (1..=128).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if good {
            Ok(Self(text.into()))
        } else {
            Err(NameError)
        }
    }
}

impl fmt::Display for FeedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for FeedName {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["ipsum", "training.ip.threatfeed", "a_b-c", "1"] {
            assert_eq!(good.parse::<FeedName>().unwrap().as_str(), good);
        }
        for bad in ["", ".a", "a b", "a,b", "ä", &"x".repeat(129)] {
            assert!(bad.parse::<FeedName>().is_err(), "{bad}");
        }
    }
}
