//! Packed bodies unpack to no more than the limit.
#![no_main]

use feedgate::feed::{Limits, unpack};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let limits = Limits {
        max_bytes: 1 << 20,
        ..Limits::default()
    };
    if let Ok(text) = unpack(body, &limits) {
        assert!(text.len() <= 1 << 20);
    }
});
