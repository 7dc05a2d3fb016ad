//! Any text is read, every line is in one class, and what is printed is read back.
#![no_main]

use feedgate::feed::{Limits, parse_plain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    for min_score in [None, Some(3)] {
        let limits = Limits {
            max_entries: 10_000,
            min_score,
            ..Limits::default()
        };
        let parsed = parse_plain(text, &limits);
        assert!(parsed.count() <= limits.max_entries + 1);
        assert!(parsed.lines() <= text.len());
        let printed: String = parsed
            .items()
            .map(|item| match item.port {
                None => format!("{} {}\n", item.prefix, item.score().unwrap_or(0)),
                Some(_) => format!("{} {}\n", item.indicator(), item.score().unwrap_or(0)),
            })
            .collect();
        let again = parse_plain(printed.as_bytes(), &limits);
        assert_eq!(again.bad.count, 0, "{:?}", again.bad);
        assert_eq!(again.entries, parsed.entries);
    }
});
