//! A text behind a line with its checksum: what was cut short or changed by other hands is noticed.

use sha2::{Digest, Sha256};

/// How the first line begins; a comment in YAML.
const MARK: &str = "# feedgate 1 sha256 ";

/// The first line for `body`.
pub(super) fn head(body: &str) -> String {
    format!("{MARK}{}\n", digest(body))
}

/// The text without its first line.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn open(bytes: Vec<u8>) -> Result<String, &'static str> {
    let mut text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
    let wanted = text
        .strip_prefix(MARK)
        .and_then(|rest| rest.split_once('\n'));
    let (wanted, body) = wanted.ok_or("it does not begin with a checksum")?;
    if digest(body) != wanted {
        return Err("its checksum does not fit: it was cut short, or changed by other hands");
    }
    let head = text.len() - body.len();
    Ok(text.split_off(head))
}

fn digest(body: &str) -> String {
    let digest = Sha256::digest(body);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
