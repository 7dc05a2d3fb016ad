//! The file format: one line of JSON, then the body as pulled.
//!
//! `sha256` is over the header line with that field empty, its line feed and the body, so that a
//! changed validator or time is noticed like a changed address.

use std::{
    fmt::Write,
    io::{self, BufRead, Read},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{LastGood, error::Damage};
use crate::feed::FeedName;

/// Longest `ETag` or `Last-Modified` that is stored, in bytes. Without one the next pull is whole.
pub const VALIDATOR_MAX: usize = 1024;
/// Longest source URL that can be stored, in bytes.
pub const SOURCE_MAX: usize = 8192;

const MAGIC: &str = "last-good";
const VERSION: u32 = 1;
/// Longest header line in bytes. JSON makes at most 6 bytes of one, so the limits above fit.
const HEADER_MAX: u64 = 64 << 10;
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// A stored file cannot be read, or must not be believed.
#[derive(Debug)]
pub(super) enum Unreadable {
    Io(io::Error),
    Damaged(Damage),
}

/// The order of the fields is part of the format.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Header {
    feedgate: String,
    version: u32,
    feed: String,
    pulled: String,
    etag: Option<String>,
    last_modified: Option<String>,
    source: String,
    length: u64,
    sha256: String,
}

/// The part of a header that every version has.
#[derive(Deserialize)]
struct Kind {
    feedgate: String,
    version: u32,
}

/// The header line of `data`, with its line feed.
pub(super) fn header(feed: &FeedName, data: &LastGood) -> io::Result<Vec<u8>> {
    let validator = |text: &Option<String>| text.clone().filter(|t| t.len() <= VALIDATOR_MAX);
    let mut header = Header {
        feedgate: MAGIC.to_owned(),
        version: VERSION,
        feed: feed.to_string(),
        pulled: to_text(data.pulled),
        etag: validator(&data.etag),
        last_modified: validator(&data.last_modified),
        source: data.source.clone(),
        length: data.bytes.len() as u64,
        sha256: String::new(),
    };
    header.sha256 = checksum(&line(&header)?, &data.bytes);
    line(&header)
}

/// Reads a file of `size` bytes. Allocates at most [`HEADER_MAX`] and the smaller of `size` and
/// `max_bytes`.
pub(super) fn read(
    file: &mut impl BufRead,
    size: u64,
    feed: &FeedName,
    max_bytes: u64,
) -> Result<LastGood, Unreadable> {
    let mut first = Vec::new();
    file.take(HEADER_MAX).read_until(b'\n', &mut first)?;
    let mut header = parse(&first)?;
    if header.feed != feed.as_str() {
        return Err(other(&header.feed).into());
    }
    let found = size.saturating_sub(first.len() as u64);
    let bytes = body(file, header.length, found, max_bytes)?;

    let expected = std::mem::take(&mut header.sha256);
    if checksum(&line(&header)?, &bytes) != expected {
        return Err(Damage::Checksum.into());
    }
    let pulled = humantime::parse_rfc3339(&header.pulled).map_err(|_| Damage::Header)?;
    Ok(LastGood {
        bytes,
        pulled,
        etag: header.etag,
        last_modified: header.last_modified,
        source: header.source,
    })
}

fn parse(first: &[u8]) -> Result<Header, Unreadable> {
    let kind: Kind = serde_json::from_slice(first).map_err(|_| Damage::NotOurs)?;
    if kind.feedgate != MAGIC {
        return Err(Damage::NotOurs.into());
    }
    if kind.version != VERSION {
        return Err(Damage::Version(kind.version).into());
    }
    let header: Header = serde_json::from_slice(first).map_err(|_| Damage::Header)?;
    // JSON has many forms of one value, and the checksum is over ours.
    if line(&header)? != first {
        return Err(Damage::Header.into());
    }
    Ok(header)
}

fn body(file: &mut impl Read, length: u64, found: u64, max: u64) -> Result<Vec<u8>, Unreadable> {
    if length > max {
        return Err(Damage::TooLarge { length, max }.into());
    }
    if length != found {
        return Err(Damage::Length { length, found }.into());
    }
    let mut bytes = Vec::new();
    let capacity = usize::try_from(length).map_err(io::Error::other)?;
    bytes
        .try_reserve_exact(capacity)
        .map_err(io::Error::other)?;
    file.take(length).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        read if read == length => Ok(bytes),
        found => Err(Damage::Length { length, found }.into()),
    }
}

/// The name comes from a damaged file: it is shown only when it is one.
fn other(name: &str) -> Damage {
    name.parse().map_or(Damage::Header, Damage::OtherFeed)
}

fn line(header: &Header) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(header)?;
    line.push(b'\n');
    Ok(line)
}

fn checksum(line: &[u8], body: &[u8]) -> String {
    let sum = Sha256::new().chain_update(line).chain_update(body);
    let mut hex = String::with_capacity(64);
    for byte in sum.finalize() {
        let _ = write!(hex, "{byte:02x}"); // a String takes everything
    }
    hex
}

fn to_text(time: SystemTime) -> String {
    let mut text = String::new();
    // humantime panics on a time before 1970, and refuses one after 9999.
    let time = time.max(SystemTime::UNIX_EPOCH);
    match write!(text, "{}", humantime::format_rfc3339_nanos(time)) {
        Ok(()) => text,
        Err(_) => EPOCH.to_owned(),
    }
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Damage> for Unreadable {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}
