//! An indicator that is read prints as one that reads the same.
#![no_main]

use feedgate::feed::Indicator;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(indicator) = text.parse::<Indicator>() {
        assert_eq!(indicator.to_string().parse(), Ok(indicator));
    }
});
