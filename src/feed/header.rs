//! What comment lines say about the whole: how many lines there are, and when it was made.

use super::{collect::Collector, date};

/// Longest comment that is looked at, in bytes.
const LONGEST: usize = 256;

/// Reads a comment without its mark: `Entries : 12 subnets` (FireHOL), `END 12 entries` and
/// `END (12) entries` (abuse.ch), `Last-Modified: ...` (Spamhaus), `Source File Date: ...` (FireHOL),
/// `updated: ...` (DShield), `Last update: ...` (IPsum).
pub(super) fn read(comment: &[u8], out: &mut Collector<'_>) {
    let comment = comment.trim_ascii();
    if comment.len() > LONGEST {
        return;
    }
    let Ok(text) = std::str::from_utf8(comment) else {
        return;
    };
    if let Some(rest) = text.strip_prefix("END ") {
        let words: Vec<&str> = rest.split_ascii_whitespace().take(3).collect();
        if let [count, "entries", ..] = words.as_slice() {
            let count = count.trim_start_matches('(').trim_end_matches(')');
            count
                .parse()
                .into_iter()
                .for_each(|count| out.declare(count));
        }
        return;
    }
    let Some((key, value)) = text.split_once(':') else {
        return;
    };
    match key.trim().to_ascii_lowercase().as_str() {
        "entries" => {
            let digits = value.trim().split(|c: char| !c.is_ascii_digit()).next();
            if let Some(count) = digits.and_then(|digits| digits.parse().ok()) {
                out.declare(count);
            }
        }
        "last-modified" | "source file date" | "updated" | "last update" | "last updated" => {
            date::parse(value.trim())
                .into_iter()
                .for_each(|time| out.made_at(time));
        }
        _ => {}
    }
}
