//! CSV, JSON, JSON lines, STIX, decision streams and warninglists, by the first byte.
#![no_main]

use std::time::{Duration, SystemTime};

use feedgate::feed::{
    Limits,
    formats::{
        CrowdsecState, CsvOptions, JsonOptions, JsonPath, parse_csv, parse_json, parse_jsonl,
        parse_stix, parse_warninglist,
    },
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, text)) = data.split_first() else {
        return;
    };
    let limits = Limits {
        max_entries: 10_000,
        ..Limits::default()
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let json = || {
        let path: JsonPath = "$..*".parse().expect("a path");
        JsonOptions::from(path)
    };
    match kind % 7 {
        0 => drop(parse_csv(text, &CsvOptions::default(), &limits)),
        1 => {
            let options = CsvOptions {
                column: "ip".into(),
                port: Some("port".into()),
                score: Some("2".into()),
                ..CsvOptions::default()
            };
            drop(parse_csv(text, &options, &limits));
        }
        2 => drop(parse_json(text, &json(), &limits)),
        3 => drop(parse_jsonl(text, &json(), &limits)),
        4 => drop(parse_stix(text, now, &limits)),
        5 => {
            let mut state = CrowdsecState::default();
            if state.apply(text, now, &limits).is_ok() {
                let stream = state.to_stream(now);
                let mut again = CrowdsecState::default();
                again.apply(stream.as_bytes(), now, &limits).expect("our own stream");
                assert_eq!(
                    again.parsed(now, &limits).entries,
                    state.parsed(now, &limits).entries
                );
            }
        }
        _ => drop(parse_warninglist(text)),
    }
});
