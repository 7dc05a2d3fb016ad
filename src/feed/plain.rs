//! One address or prefix a line, with `#` and `;` comments and trailing columns.

use super::Parsed;

/// Parses newline-delimited text.
pub fn parse_plain(_text: &str) -> Parsed {
    Parsed::default()
}
