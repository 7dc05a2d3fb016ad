//! gzip and zstd bodies, known by their first bytes, unpacked up to a limit.
//!
//! Both decoders are Rust without C below them (flate2 over miniz_oxide, ruzstd): the body is
//! anybody's, and the daemon is root.

use std::{
    borrow::Cow,
    io::{self, Read},
};

use flate2::bufread::GzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::{Limits, Refusal, collect::printable};

/// RFC 1952.
const GZIP: &[u8] = b"\x1f\x8b";
/// RFC 8878.
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// The smallest window every zstd decoder should take (RFC 8878 section 3.1.1.1.2).
const LEAST_WINDOW: u64 = 8 << 20;

/// Packed files in one body: more are no feed.
const MAX_MEMBERS: usize = 1024;

/// `body` unpacked, or as it is where it is not packed. Neither the body nor what it unpacks to may
/// have more than `limits.max_bytes`.
///
/// Several packed files one behind the other are one text. What follows a sound gzip file and is
/// none is left out: some servers append an error message.
pub fn unpack<'a>(body: &'a [u8], limits: &Limits) -> Result<Cow<'a, [u8]>, Refusal> {
    let bytes = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let limit = limits.max_bytes;
    if bytes > limit {
        return Err(Refusal::TooLarge { bytes, limit });
    }
    let (kind, member): (_, Member) = match body {
        _ if body.starts_with(GZIP) => ("gzip", gzip),
        _ if body.starts_with(ZSTD) => ("zstd", zstd),
        _ => return Ok(Cow::Borrowed(body)),
    };
    let magic = if kind == "gzip" { GZIP } else { ZSTD };
    let damaged = |error: io::Error| Refusal::Damaged {
        kind,
        cause: printable(error.to_string().as_bytes(), 200),
    };
    let mut text = Vec::new();
    let mut rest = body;
    let mut members = 0;
    while rest.starts_with(magic) {
        members += 1;
        if members > MAX_MEMBERS {
            return Err(damaged(io::Error::other("too many files in one")));
        }
        rest = member(rest, &mut text, limit).map_err(damaged)?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > limit {
            return Err(Refusal::UnpacksTooLarge { limit });
        }
    }
    Ok(Cow::Owned(text))
}

/// Unpacks the first file of `body` behind `text`, to one byte more than `limit` at most, and gives
/// the rest of `body`.
type Member = for<'a> fn(&'a [u8], &mut Vec<u8>, u64) -> io::Result<&'a [u8]>;

fn gzip<'a>(body: &'a [u8], text: &mut Vec<u8>, limit: u64) -> io::Result<&'a [u8]> {
    let mut decoder = GzDecoder::new(body);
    room(&mut decoder, text, limit)?;
    Ok(decoder.into_inner())
}

fn zstd<'a>(body: &'a [u8], text: &mut Vec<u8>, limit: u64) -> io::Result<&'a [u8]> {
    let window = limit.max(LEAST_WINDOW);
    let mut frame = FrameDecoder::new();
    // The decoder's own limit is as high as any window should be.
    frame.set_max_window_size(window.min(ruzstd::decoding::DEFAULT_MAX_WINDOW_SIZE));
    let mut decoder = StreamingDecoder::new_with_decoder(body, frame).map_err(io::Error::other)?;
    let whole = room(&mut decoder, text, limit)?;
    let (rest, frame) = decoder.into_parts();
    let told = frame.get_checksum_from_data();
    if whole && told.is_some() && told != frame.get_calculated_checksum() {
        return Err(io::Error::other("the checksum does not fit"));
    }
    Ok(rest)
}

/// Reads until the end (true) or to one byte more than `limit` in `text` (false).
fn room(reader: &mut impl Read, text: &mut Vec<u8>, limit: u64) -> io::Result<bool> {
    let used = u64::try_from(text.len()).unwrap_or(u64::MAX);
    let room = limit.saturating_sub(used).saturating_add(1);
    let read = reader.take(room).read_to_end(text)?;
    Ok(u64::try_from(read).unwrap_or(u64::MAX) < room)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;

    fn gz(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zst(text: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn limits(max_bytes: u64) -> Limits {
        Limits {
            max_bytes,
            ..Limits::default()
        }
    }

    #[test]
    fn both_forms_and_none() {
        let text = "192.0.2.1\n".repeat(1000).into_bytes();
        for body in [gz(&text), zst(&text), text.clone()] {
            assert_eq!(*unpack(&body, &limits(10_000)).unwrap(), text);
        }
    }

    #[test]
    fn several_files_and_junk_behind() {
        for pack in [gz, zst] {
            let body = [
                pack(b"192.0.2.1\n"),
                pack(b"192.0.2.2\n"),
                b"MySQL error".to_vec(),
            ];
            let text = unpack(&body.concat(), &limits(1000)).unwrap().into_owned();
            assert_eq!(text, b"192.0.2.1\n192.0.2.2\n");
        }
    }

    #[test]
    fn a_bomb_is_stopped() {
        let zeros = vec![0; 10 << 20];
        for body in [gz(&zeros), zst(&zeros)] {
            assert!(body.len() < 100_000);
            let limit = 1 << 20;
            let refusal = unpack(&body, &limits(limit)).unwrap_err();
            assert_eq!(refusal, Refusal::UnpacksTooLarge { limit });
            assert!(unpack(&body, &limits(10 << 20)).is_ok());
        }
    }

    #[test]
    fn damage_is_noticed() {
        let text: Vec<u8> = (0..2000u32)
            .flat_map(|i| format!("{i}\n").into_bytes())
            .collect();
        for body in [gz(&text), zst(&text)] {
            let cut = &body[..body.len() - 9];
            assert!(matches!(
                unpack(cut, &Limits::default()),
                Err(Refusal::Damaged { .. })
            ));
            let mut bent = body.clone();
            let last = bent.len() - 5;
            bent[last] ^= 1;
            // zstd texts without a checksum may unpack to something else.
            if let Ok(other) = unpack(&bent, &Limits::default()) {
                assert_ne!(*other, text);
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut body: Vec<u8>, magic in prop::sample::select(vec![GZIP, ZSTD])) {
            body.splice(0..0, magic.iter().copied());
            let _ = unpack(&body, &limits(1 << 16));
        }

        #[test]
        fn pack_then_unpack_is_identity(text: Vec<u8>) {
            for body in [gz(&text), zst(&text)] {
                prop_assert_eq!(&*unpack(&body, &Limits::default()).unwrap(), &text);
            }
        }
    }
}
