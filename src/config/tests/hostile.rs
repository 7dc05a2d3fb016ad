//! Any text at all.

use super::*;

/// Pieces that make text that is nearly a configuration.
fn pieces() -> impl Strategy<Value = String> {
    let lines: Vec<&str> = FULL.lines().collect();
    let line = prop_oneof![
        4 => prop::sample::select(lines),
        1 => prop::sample::select(vec![
            "[[daemon]]", "[feed]", "[feed.labels.x]", "name = [[[[", "a.b.c = {x = {}}", "feed = []",
            "alerts.syslog = 3", "[alerts.syslog]", "\"\"\"", "'''", "=", "\u{feff}", "\r", "é = 'ü",
        ]),
    ];
    proptest::collection::vec((line, "\n|\r\n| |"), 0..25).prop_map(|parts| {
        parts
            .into_iter()
            .map(|(line, end)| format!("{line}{end}"))
            .collect()
    })
}

fn judge(text: &str) {
    let outcome = parse(text, "f");
    render(&outcome.diagnostics, text, "f", true);
    for diagnostic in &outcome.diagnostics {
        assert!(diagnostic.line >= 1 && diagnostic.column >= 1);
        assert!(diagnostic.span.end <= text.len());
    }
}

proptest! {
    #[test]
    fn any_text_never_panics(text: String) {
        judge(&text);
    }

    #[test]
    fn nearly_right_text_never_panics(text in pieces()) {
        judge(&text);
    }
}

#[test]
fn deep_nesting_is_an_error() {
    for text in [
        "[".repeat(100_000),
        format!("a = {}", "[".repeat(100_000)),
        "a.".repeat(100_000),
        format!("a = {}", "{a=".repeat(50_000)),
    ] {
        assert!(parse(&text, "f").config.is_none());
    }
}
