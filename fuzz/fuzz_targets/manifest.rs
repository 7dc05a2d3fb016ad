//! Any text is read or refused with a place in it, and what is read prints as what reads the same.
#![no_main]

use feedgate::manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let parsed = manifest::parse(text);
    let lines = text.lines().count().max(1) + 1;
    for mistake in &parsed.mistakes {
        assert!((1..=lines).contains(&mistake.line) && mistake.column >= 1);
    }
    for found in parsed.resources {
        let printed = found.resource.to_yaml();
        let again = manifest::parse(&printed);
        assert!(!again.has_errors());
        assert_eq!(again.resources[0].resource, found.resource);
    }
});
