//! The times that feeds write into their texts.

use std::time::{Duration, SystemTime};

use time::{
    OffsetDateTime, PrimitiveDateTime,
    format_description::{
        BorrowedFormatItem,
        well_known::{Rfc2822, Rfc3339},
    },
    macros::format_description,
};

/// Forms without an offset, all of them UTC.
const FORMS: [&[BorrowedFormatItem<'_>]; 4] = [
    // abuse.ch, Tor
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"),
    // date(1), as FireHOL writes it
    format_description!(
        "[weekday repr:short] [month repr:short] [day padding:none] [hour]:[minute]:[second] UTC [year]"
    ),
    // DShield
    format_description!(
        "[weekday repr:short] [month repr:short] [day padding:none] [hour]:[minute]:[second] [year] UTC"
    ),
    // HTTP (RFC 9110), as Spamhaus writes it
    format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    ),
];

/// Longest text that is tried.
const LONGEST: usize = 64;

/// The time that `text` names, if it is one of the known forms.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    if text.len() > LONGEST {
        return None;
    }
    let text = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    if let Ok(time) = OffsetDateTime::parse(&text, &Rfc3339) {
        return Some(time.into());
    }
    if let Ok(time) = OffsetDateTime::parse(&text, &Rfc2822) {
        return Some(time.into());
    }
    let plain = match text.strip_suffix(" UTC") {
        Some(plain) if plain.starts_with(|c: char| c.is_ascii_digit()) => plain,
        _ => text.as_str(),
    };
    FORMS
        .iter()
        .find_map(|form| PrimitiveDateTime::parse(plain, form).ok())
        .map(|time| time.assume_utc().into())
}

/// Seconds since 1970.
pub(super) fn unix(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms() {
        for (text, seconds) in [
            ("Fri Nov 13 17:17:05 UTC 2015", 1_447_435_025),
            ("Fri Nov  6 17:17:05 UTC 2015", 1_446_830_225),
            ("Wed Jan 17 22:00:15 2018 UTC", 1_516_226_415),
            ("Tue, 22 Mar 2016 18:59:56 GMT", 1_458_673_196),
            ("Sat, 22 Aug 2026 03:00:29 +0200", 1_787_360_429),
            ("2024-01-30 10:21:54", 1_706_610_114),
            ("2024-01-30 10:21:54 UTC", 1_706_610_114),
            ("2024-01-30T10:21:54.123Z", 1_706_610_114),
        ] {
            let time = parse(text).unwrap_or_else(|| panic!("{text}"));
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            assert_eq!(since.as_secs(), seconds, "{text}");
        }
        for text in ["", "today", "2024-13-01 00:00:00", "13.11.2015"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,70}|[0-9 :,A-Za-z-]{0,40}") {
            let _ = parse(&text);
        }
    }
}
