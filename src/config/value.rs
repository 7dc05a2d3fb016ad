//! Single values: from a TOML value to a typed one, or what is wrong with it.

use std::{fmt::Display, net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use toml::de::DeValue;

use super::{keys, words::Words};
use crate::prefix::Prefix;

/// The longest duration the configuration takes: ten years, far from any clock's overflow.
pub(super) const LONGEST: Duration = Duration::from_secs(315_576_000);

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
        }
    }

    /// The value is of another type.
    pub(super) fn expected(what: &str, found: &DeValue<'_>) -> Self {
        Self::new(format!("expected {what}, found {}", kind(found)))
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The type of a value, in words.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// `text` in quotes, printable and short enough for a message.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((cut, _)) => format!("{:?}...", text.get(..cut).unwrap_or_default()),
    }
}

pub(super) fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, Problem> {
    value
        .as_str()
        .ok_or_else(|| Problem::expected("a text in quotes", value))
}

/// A text that is not empty, at most 256 bytes and without control characters.
pub(super) fn label(value: &DeValue<'_>) -> Result<String, Problem> {
    const LONGEST: usize = 256;
    let text = text(value)?;
    if text.is_empty() {
        return Err(Problem::new("must not be empty"));
    }
    if text.len() > LONGEST || text.chars().any(char::is_control) {
        return Err(Problem::new(format!(
            "must have at most {LONGEST} bytes and no control characters"
        )));
    }
    Ok(text.to_owned())
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Problem> {
    value
        .as_bool()
        .ok_or_else(|| Problem::expected("true or false", value))
}

/// An integer inside `range`.
pub(super) fn integer<T>(range: RangeInclusive<T>) -> impl Fn(&DeValue<'_>) -> Result<T, Problem>
where
    T: TryFrom<i128> + PartialOrd + Display,
{
    move |value| {
        let number = value
            .as_integer()
            .ok_or_else(|| Problem::expected("an integer", value))?;
        i128::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                Problem::new(format!("must be from {} to {}", range.start(), range.end()))
            })
    }
}

/// One of `words`.
pub(super) fn word<T: Copy>(words: Words<T>) -> impl Fn(&DeValue<'_>) -> Result<T, Problem> {
    move |value| {
        let text = text(value)?;
        if let Some((_, found)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*found);
        }
        let all: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let problem = Problem::new(format!("{} is not one of {}", quoted(text), all.join(", ")));
        let near = keys::nearest(text, words.iter().map(|(word, _)| *word));
        Err(match near {
            Some(near) => problem.help(format!("did you mean {near:?}?")),
            None => problem,
        })
    }
}

/// A duration such as `"24h"`, inside `range`.
pub(super) fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&DeValue<'_>) -> Result<Duration, Problem> {
    move |value| {
        const HELP: &str =
            "write a number and a unit, such as \"50ms\", \"90s\", \"24h\" or \"7days\"";
        let text = value
            .as_str()
            .ok_or_else(|| Problem::expected("a duration in quotes", value).help(HELP))?;
        let parsed = humantime::parse_duration(text).map_err(|error| {
            Problem::new(format!("{} is not a duration: {error}", quoted(text))).help(HELP)
        })?;
        if range.contains(&parsed) {
            return Ok(parsed);
        }
        Err(Problem::new(if parsed < *range.start() {
            format!(
                "must be at least {}",
                humantime::format_duration(*range.start())
            )
        } else {
            format!(
                "must be at most {}",
                humantime::format_duration(*range.end())
            )
        }))
    }
}

/// A duration, or `"never"`.
pub(super) fn duration_or_never(
    range: RangeInclusive<Duration>,
) -> impl Fn(&DeValue<'_>) -> Result<Option<Duration>, Problem> {
    let read = duration(range);
    move |value| match value.as_str() {
        Some("never") => Ok(None),
        _ => read(value).map(Some),
    }
}

/// A size in bytes, at least 1: `"64MiB"`, or an integer.
pub(super) fn size(value: &DeValue<'_>) -> Result<u64, Problem> {
    const HELP: &str = "write \"64MiB\", \"100kB\" or a number of bytes";
    let bytes = match value {
        DeValue::String(text) => text
            .parse::<ByteSize>()
            .map(|size| size.as_u64())
            .map_err(|_| Problem::new(format!("{} is not a size", quoted(text))).help(HELP))?,
        DeValue::Integer(_) => integer(0..=u64::MAX)(value)?,
        _ => return Err(Problem::expected("a size", value).help(HELP)),
    };
    if bytes == 0 {
        return Err(Problem::new("must be at least 1 byte"));
    }
    Ok(bytes)
}

/// A size in bytes; 0 for none.
pub(super) fn size_or_none(value: &DeValue<'_>) -> Result<u64, Problem> {
    match value {
        DeValue::Integer(number) if number.as_str() == "0" => Ok(0),
        DeValue::String(text) if text == "0" => Ok(0),
        _ => size(value),
    }
}

/// A share: `"5%"`, or a number from 0 to 1.
pub(super) fn share(value: &DeValue<'_>) -> Result<f64, Problem> {
    let problem = || {
        Problem::new("must be a percentage from 0% to 100%, or a number from 0 to 1")
            .help("write \"5%\" or 0.05")
    };
    match value {
        DeValue::String(text) => text
            .strip_suffix('%')
            .and_then(decimal)
            .and_then(|percent| percent.in_range(0.0, 100.0))
            .map(|percent| percent / 100.0),
        _ => number(value).and_then(|share| share.in_range(0.0, 1.0)),
    }
    .ok_or_else(problem)
}

/// A growth factor of at least 1: `"10x"`, or a number.
pub(super) fn growth(value: &DeValue<'_>) -> Result<f64, Problem> {
    match value {
        DeValue::String(text) => text.strip_suffix('x').and_then(decimal),
        _ => number(value),
    }
    .and_then(|factor| factor.in_range(1.0, f64::MAX))
    .ok_or_else(|| Problem::new("must be a factor of at least 1").help("write \"10x\""))
}

/// A mask of exactly `bits` bits in 32: `"0x0c000000"`, or an integer.
pub(super) fn mask(bits: u32) -> impl Fn(&DeValue<'_>) -> Result<u32, Problem> {
    move |value| {
        const HELP: &str = "write 32 bits in hexadecimal, such as \"0x0c000000\"";
        let mask = match value {
            DeValue::String(text) => text
                .strip_prefix("0x")
                .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                .ok_or_else(|| {
                    Problem::new(format!("{} is not a mask", quoted(text))).help(HELP)
                })?,
            DeValue::Integer(_) => integer(0..=u32::MAX)(value)?,
            _ => return Err(Problem::expected("a mask", value).help(HELP)),
        };
        let set = mask.count_ones();
        if set == bits {
            return Ok(mask);
        }
        let unit = if bits == 1 { "bit" } else { "bits" };
        Err(Problem::new(format!(
            "must have exactly {bits} {unit} set, {mask:#010x} has {set}"
        )))
    }
}

/// An absolute path without control characters, shorter than 4096 bytes (PATH_MAX).
pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, Problem> {
    const PATH_MAX: usize = 4096;
    absolute(text(value)?, PATH_MAX)
}

/// An absolute path, or `None` for the empty text.
pub(super) fn path_or_none(value: &DeValue<'_>) -> Result<Option<PathBuf>, Problem> {
    match value.as_str() {
        Some("") => Ok(None),
        _ => path(value).map(Some),
    }
}

/// The path of a Unix socket.
pub(super) fn socket_path(value: &DeValue<'_>) -> Result<PathBuf, Problem> {
    socket(text(value)?)
}

/// An absolute path shorter than the 108 bytes of `sun_path` (unix(7)).
pub(super) fn socket(text: &str) -> Result<PathBuf, Problem> {
    const SUN_PATH: usize = 108;
    absolute(text, SUN_PATH)
}

/// A strict prefix without host bits.
pub(super) fn prefix(value: &DeValue<'_>) -> Result<Prefix, Problem> {
    let text = text(value)?;
    match Prefix::parse(text) {
        Ok((prefix, false)) => Ok(prefix),
        Ok((prefix, true)) => Err(Problem::new(format!(
            "{} has bits set behind its length",
            quoted(text)
        ))
        .help(format!("the prefix is {prefix}"))),
        Err(error) => Err(Problem::new(format!("{}: {error}", quoted(text)))
            .help("write an address or a prefix, such as 192.0.2.1 or 2001:db8::/32")),
    }
}

/// A prefix that holds IPv4 addresses, of a length that RFC 6052 section 2.2 has.
pub(super) fn nat64(value: &DeValue<'_>) -> Result<Prefix, Problem> {
    let prefix = prefix(value)?;
    let is_one = prefix.addr().is_ipv6() && [32, 40, 48, 56, 64, 96].contains(&prefix.len());
    if !is_one {
        return Err(
            Problem::new(format!("\"{prefix}\" is not a prefix of NAT64")).help(
                "write an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits, such as 64:ff9b::/96",
            ),
        );
    }
    if octet_u(prefix) != 0 {
        return Err(Problem::new(format!(
            "\"{prefix}\": bits 64 to 71 must be zero (RFC 6052 section 2.2)"
        )));
    }
    Ok(prefix)
}

/// Bits 64 to 71 of an IPv6 prefix; 0 for IPv4.
fn octet_u(prefix: Prefix) -> u8 {
    match prefix.addr() {
        IpAddr::V6(address) => address.octets()[8],
        IpAddr::V4(_) => 0,
    }
}

fn absolute(text: &str, limit: usize) -> Result<PathBuf, Problem> {
    if !text.starts_with('/') || text.chars().any(char::is_control) {
        return Err(Problem::new(format!(
            "{} is not an absolute path",
            quoted(text)
        )));
    }
    if text.len() >= limit {
        return Err(Problem::new(format!(
            "the path must be shorter than {limit} bytes, it has {}",
            text.len()
        )));
    }
    Ok(PathBuf::from(text))
}

/// An integer or a float.
fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
        DeValue::Float(number) => number.as_str().parse().ok(),
        _ => None,
    }
}

/// Digits with at most one point: no sign, exponent, `inf` or `nan`.
fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if plain { text.parse().ok() } else { None }
}

trait InRange: Sized {
    /// The number if it lies in `low..=high`; not-a-number never does.
    fn in_range(self, low: f64, high: f64) -> Option<f64>;
}

impl InRange for f64 {
    fn in_range(self, low: f64, high: f64) -> Option<f64> {
        (low..=high).contains(&self).then_some(self)
    }
}
