//! A selector that is read prints as one that reads the same, and means the same.
#![no_main]

use feedgate::policy::{Labels, Selector};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match text.parse::<Selector>() {
        Ok(selector) => {
            let again: Selector = selector.to_string().parse().unwrap();
            assert_eq!(again, selector);
            let labels: Labels = [("a".to_owned(), "b".to_owned())].into();
            assert_eq!(again.eval(&labels), selector.eval(&labels));
            let _ = selector.eval_set(&labels);
        }
        Err(error) => assert!(error.at >= 1 && error.at <= text.chars().count() + 1),
    }
});
