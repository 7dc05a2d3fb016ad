//! Lines of one target that wait on disk, oldest first.
//!
//! A folder holds segments, files named by a rising number. Each begins with a mark and the offset
//! up to which its lines are known to have arrived; records of length, checksum and line follow. A
//! segment goes when all its lines have arrived. A torn tail, left by a crash, is cut off; a
//! record that was damaged is skipped. Both are counted.
//!
//! Does not know where lines come from or go to ([`super::outbox`]).

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::alert::line::MAX_LINE;

/// First bytes of a segment: what it is, and the version of its form.
const MAGIC: &[u8; 8] = b"fgspool1";
/// Mark and offset.
const HEADER: u64 = 16;
/// Length, checksum and kind of a record.
const PREFIX: usize = 9;
/// No line is longer, with room for forms to come.
const LONGEST: usize = 8 * MAX_LINE;
/// Segments are no longer than that, and no shorter than the smaller one when the bound allows.
const SEGMENT: (u64, u64) = (64 << 10, 4 << 20);

/// A place behind a record: the segment's number and the offset in it. Later records are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position(u64, u64);

/// A line, and whether it is an alert (it may be a report of losses).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) line: &'a [u8],
    pub(super) alert: bool,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// A line, and the place behind it.
    Line(Vec<u8>, bool, Position),
    /// A record that is not what was written.
    Damaged(Position),
}

/// The lines of one target; locked against a second user while it is open.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    _lock: Flock<File>,
    bound: u64,
    /// Oldest first; appended to at the last one.
    segments: VecDeque<Segment>,
    next_number: u64,
    /// Behind what was read last.
    read: Position,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    file: File,
    len: u64,
    /// Lines before this offset have arrived.
    arrived: u64,
    /// Alerts behind it.
    alerts: u64,
}

impl Spool {
    /// Opens `folder`, mode 0700, and counts torn records; `WouldBlock` when somebody else has it open.
    pub(super) fn open(folder: &Path, bound: u64) -> io::Result<(Self, u64)> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let lock = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_DIRECTORY.bits())
            .open(folder)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| io::Error::from(errno))?;
        let mut numbers: Vec<u64> = fs::read_dir(folder)?
            .filter_map(|entry| number(entry.ok()?.file_name().to_str()?))
            .collect();
        numbers.sort_unstable();
        let mut spool = Self {
            folder: folder.to_owned(),
            _lock: lock,
            bound,
            segments: VecDeque::new(),
            next_number: numbers.last().map_or(0, |last| last.saturating_add(1)),
            read: Position(0, 0),
        };
        let mut torn = 0;
        for number in numbers {
            let (segment, bad) = Segment::open(spool.path(number), number)?;
            torn += u64::from(bad);
            spool.segments.push_back(segment);
        }
        spool.remove_arrived();
        Ok((spool, torn))
    }

    /// Alerts that wait.
    pub(super) fn alerts(&self) -> u64 {
        self.segments.iter().map(|segment| segment.alerts).sum()
    }

    /// Where it is.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Appends `records` as far as they fit and gives the places behind them. `beyond`: also
    /// those that do not fit. An error means that none was appended.
    pub(super) fn append(
        &mut self,
        records: &[Record<'_>],
        beyond: bool,
    ) -> io::Result<Vec<Position>> {
        let mut places = Vec::with_capacity(records.len());
        let result = self.try_append(records, beyond, &mut places);
        // What a full disk did not take is not there.
        let last = self.segments.back_mut();
        let end = last
            .as_ref()
            .map_or(Position(0, 0), |last| Position(last.number, last.len));
        let written = places.partition_point(|place| *place <= end);
        let missing = records.iter().take(places.len()).skip(written);
        let missing = missing.filter(|record| record.alert).count();
        if let Some(last) = last {
            let missing = u64::try_from(missing).unwrap_or(0);
            last.alerts = last.alerts.saturating_sub(missing);
        }
        places.truncate(written);
        match result {
            Err(error) if places.is_empty() => Err(error),
            _ => Ok(places),
        }
    }

    fn try_append(
        &mut self,
        records: &[Record<'_>],
        beyond: bool,
        places: &mut Vec<Position>,
    ) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut used: u64 = self.segments.iter().map(|segment| segment.len).sum();
        for record in records {
            let size = size(record);
            if used + size > self.bound && !beyond {
                break;
            }
            let full = self
                .segments
                .back()
                .is_none_or(|last| last.len + length(&buffer) + size > self.longest());
            if full {
                self.write(&mut buffer)?;
                self.add()?;
                used += HEADER;
            }
            encode(&mut buffer, record);
            used += size;
            if let Some(last) = self.segments.back_mut() {
                last.alerts += u64::from(record.alert);
                places.push(Position(last.number, last.len + length(&buffer)));
            }
        }
        self.write(&mut buffer)
    }

    /// Brings what was appended to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.segments
            .back()
            .map_or(Ok(()), |last| last.file.sync_data())
    }

    /// The next line, `None` when all were read.
    pub(super) fn next(&mut self) -> io::Result<Option<Read>> {
        let Position(number, offset) = self.read;
        for segment in &self.segments {
            let from = match segment.number.cmp(&number) {
                std::cmp::Ordering::Less => continue,
                std::cmp::Ordering::Equal => offset.max(segment.arrived),
                std::cmp::Ordering::Greater => segment.arrived,
            };
            if let Some(read) = segment.read(from)? {
                let (Read::Line(.., end) | Read::Damaged(end)) = read;
                self.read = end;
                return Ok(Some(read));
            }
        }
        Ok(None)
    }

    /// Reads on behind `place`: the lines before it are known.
    pub(super) fn skip(&mut self, place: Position) {
        self.read = self.read.max(place);
    }

    /// Behind what was read last.
    pub(super) fn place(&self) -> Position {
        self.read
    }

    /// An alert before `place` counts no more.
    pub(super) fn uncount(&mut self, place: Position) {
        for segment in &mut self.segments {
            if segment.number == place.0 {
                segment.alerts = segment.alerts.saturating_sub(1);
            }
        }
    }

    /// All lines up to `place` have arrived, `alerts` more of them alerts.
    pub(super) fn arrived(&mut self, place: Position, mut alerts: u64) -> io::Result<()> {
        let mut result = Ok(());
        for segment in &mut self.segments {
            let end = match segment.number.cmp(&place.0) {
                std::cmp::Ordering::Less => segment.len,
                std::cmp::Ordering::Equal => place.1,
                std::cmp::Ordering::Greater => break,
            };
            let here = alerts.min(segment.alerts);
            segment.alerts -= here;
            alerts -= here;
            if end > segment.arrived {
                segment.arrived = end;
                result = segment.file.write_all_at(&end.to_le_bytes(), 8);
            }
        }
        self.remove_arrived();
        result
    }

    fn longest(&self) -> u64 {
        (self.bound / 16).clamp(SEGMENT.0, SEGMENT.1)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:016x}"))
    }

    fn write(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        let Some(last) = self.segments.back_mut() else {
            return Ok(());
        };
        let written = last.file.write_all_at(buffer, last.len);
        if written.is_ok() {
            last.len += length(buffer);
        } else {
            let _ = last.file.set_len(last.len); // a torn tail is no harm either
        }
        buffer.clear();
        written
    }

    fn add(&mut self) -> io::Result<()> {
        let number = self.next_number;
        self.next_number += 1;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(number))?;
        let mut header = [0; 16];
        let (mark, offset) = header.split_at_mut(8);
        mark.copy_from_slice(MAGIC);
        offset.copy_from_slice(&HEADER.to_le_bytes());
        file.write_all_at(&header, 0)?;
        self.segments.push_back(Segment {
            number,
            file,
            len: HEADER,
            arrived: HEADER,
            alerts: 0,
        });
        // The name must outlive a loss of power as well; some file systems cannot.
        let _ = File::open(&self.folder).and_then(|folder| folder.sync_all());
        Ok(())
    }

    fn remove_arrived(&mut self) {
        while self
            .segments
            .front()
            .is_some_and(|first| first.arrived >= first.len)
        {
            if let Some(gone) = self.segments.pop_front()
                && let Err(error) = fs::remove_file(self.path(gone.number))
            {
                tracing::warn!(
                    folder = %self.folder.display(),
                    %error,
                    "a spool file that was sent cannot be removed"
                );
            }
        }
    }
}

impl Segment {
    /// Opens the file and looks at its records' lengths; true when its tail was torn.
    fn open(path: PathBuf, number: u64) -> io::Result<(Self, bool)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path)?;
        let size = file.metadata()?.len();
        let mut segment = Self {
            number,
            file,
            len: HEADER,
            arrived: HEADER,
            alerts: 0,
        };
        let mut header = [0; 16];
        if size < HEADER || segment.file.read_exact_at(&mut header, 0).is_err() {
            return Ok((segment, size > 0)); // made, and never written to
        }
        let (mark, offset) = header.split_at(8);
        if mark != MAGIC {
            return Ok((segment, true));
        }
        segment.arrived = number_of(offset).clamp(HEADER, size.max(HEADER));
        segment.len = segment.arrived;
        while let Some((end, _, kind)) = segment.prefix(segment.len, size)? {
            segment.alerts += u64::from(kind == 1);
            segment.len = end;
        }
        let torn = segment.len < size;
        if torn {
            segment.file.set_len(segment.len)?;
        }
        Ok((segment, torn))
    }

    /// End, checksum and kind of the record at `at`; `None` where there is no whole one.
    fn prefix(&self, at: u64, size: u64) -> io::Result<Option<(u64, u32, u8)>> {
        let mut prefix = [0; PREFIX];
        let behind = at + length(&prefix);
        if behind > size {
            return Ok(None);
        }
        self.file.read_exact_at(&mut prefix, at)?;
        let [a, b, c, d, e, f, g, h, kind] = prefix;
        let line = u32::from_le_bytes([a, b, c, d]);
        let end = behind + u64::from(line);
        let good = usize::try_from(line).is_ok_and(|line| line <= LONGEST) && end <= size;
        Ok(good.then_some((end, u32::from_le_bytes([e, f, g, h]), kind)))
    }

    fn read(&self, at: u64) -> io::Result<Option<Read>> {
        let Some((end, sum, kind)) = self.prefix(at, self.len)? else {
            return Ok(None);
        };
        let start = at + u64::try_from(PREFIX).unwrap_or(0);
        let mut line = vec![0; usize::try_from(end - start).unwrap_or(0)];
        self.file.read_exact_at(&mut line, start)?;
        let place = Position(self.number, end);
        Ok(Some(if checksum(kind, &line) == sum {
            Read::Line(line, kind == 1, place)
        } else {
            Read::Damaged(place)
        }))
    }
}

/// Name of a target's folder: its name and form, with `_` for what a shell would mind.
pub(super) fn folder_name(target: &str, form: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let clean = |text: &str| -> String {
        text.chars()
            .map(|c| if plain(c) { c } else { '_' })
            .collect()
    };
    format!("{}.{}", clean(target), clean(form))
}

fn number(name: &str) -> Option<u64> {
    (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok())?
}

fn number_of(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn size(record: &Record<'_>) -> u64 {
    length(record.line) + length(&[0; PREFIX])
}

fn encode(out: &mut Vec<u8>, record: &Record<'_>) {
    let line = record.line.get(..LONGEST).unwrap_or(record.line);
    let kind = u8::from(record.alert);
    out.extend(u32::try_from(line.len()).unwrap_or(0).to_le_bytes());
    out.extend(checksum(kind, line).to_le_bytes());
    out.push(kind);
    out.extend_from_slice(line);
}

fn checksum(kind: u8, line: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&[kind]);
    sum.update(line);
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn records(lines: &[Vec<u8>]) -> Vec<Record<'_>> {
        lines
            .iter()
            .map(|line| Record { line, alert: true })
            .collect()
    }

    fn lines(from: u32, to: u32) -> Vec<Vec<u8>> {
        (from..to)
            .map(|n| format!("line {n}").into_bytes())
            .collect()
    }

    fn rest(spool: &mut Spool) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(read) = spool.next().unwrap() {
            match read {
                Read::Line(line, ..) => all.push(line),
                Read::Damaged(_) => all.push(b"damaged".to_vec()),
            }
        }
        all
    }

    #[test]
    fn what_has_not_arrived_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("spool/tcp");
        let (mut spool, torn) = Spool::open(&folder, 1 << 20).unwrap();
        assert_eq!(torn, 0);
        let places = spool.append(&records(&lines(0, 10)), false).unwrap();
        assert_eq!(
            Spool::open(&folder, 1).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        assert!(
            matches!(spool.next(), Ok(Some(Read::Line(line, true, place)))
            if line == b"line 0" && place == places[0])
        );
        spool.arrived(places[3], 4).unwrap();
        assert_eq!(spool.alerts(), 6);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&spool.path(0)), 0o600);
        drop(spool);

        let (mut spool, torn) = Spool::open(&folder, 1 << 20).unwrap();
        assert_eq!((torn, spool.alerts()), (0, 6));
        spool.append(&records(&lines(10, 12)), false).unwrap();
        assert_eq!(rest(&mut spool), lines(4, 12));
        let end = spool.read;
        spool.arrived(end, 8).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "nothing is left");
        spool.append(&records(&lines(12, 13)), false).unwrap();
        assert_eq!(rest(&mut spool), lines(12, 13));
    }

    #[test]
    fn bounded_over_many_segments() {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(dir.path(), 300_000).unwrap();
        let line = vec![b'x'; 1000];
        let many = vec![
            Record {
                line: &line,
                alert: true
            };
            1000
        ];
        let places = spool.append(&many, false).unwrap();
        assert!((285..=298).contains(&places.len()), "{}", places.len());
        let used: u64 = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(used <= 300_000 + HEADER && spool.segments.len() > 3);
        assert_eq!(spool.append(&many[..1], false).unwrap(), []);
        assert_eq!(spool.append(&many[..1], true).unwrap().len(), 1);
        spool.arrived(places[places.len() / 2], 140).unwrap();
        assert!(
            !spool.append(&many, false).unwrap().is_empty(),
            "room again"
        );
    }

    #[test]
    fn a_damaged_record_is_skipped_and_a_torn_one_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(dir.path(), 1 << 20).unwrap();
        spool.append(&records(&lines(0, 4)), false).unwrap();
        let path = spool.path(0);
        drop(spool);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(6).position(|part| part == b"line 1").unwrap();
        bytes[at] = b'X';
        bytes.truncate(bytes.len() - 2);
        fs::write(&path, &bytes).unwrap();
        let (mut spool, torn) = Spool::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(torn, 1);
        spool.append(&records(&lines(4, 5)), false).unwrap();
        let all = rest(&mut spool);
        assert_eq!(
            all,
            [
                b"line 0".to_vec(),
                b"damaged".to_vec(),
                b"line 2".to_vec(),
                b"line 4".to_vec()
            ]
        );
    }

    #[test]
    fn folders_have_plain_names() {
        assert_eq!(
            folder_name("tcp:[2001:db8::1]:601", "rfc5424"),
            "tcp__2001_db8__1__601.rfc5424"
        );
        assert_eq!(folder_name("unix:/../x", "cef"), "unix__.._x.cef");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever a crash or a disk made of the file: no panic, no line that was not written.
        #[test]
        fn nothing_is_invented(cut in 0usize..2000, flips in prop::collection::vec((0usize..2000, any::<u8>()), 0..5)) {
            let dir = tempfile::tempdir().unwrap();
            let (mut spool, _) = Spool::open(dir.path(), 1 << 20).unwrap();
            let written = lines(0, 80);
            spool.append(&records(&written), false).unwrap();
            let path = spool.path(0);
            drop(spool);
            let mut bytes = fs::read(&path).unwrap();
            for (at, value) in flips {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(cut);
            fs::write(&path, &bytes).unwrap();
            let (mut spool, _) = Spool::open(dir.path(), 1 << 20).unwrap();
            for line in rest(&mut spool) {
                prop_assert!(line == b"damaged" || written.contains(&line));
            }
            spool.append(&records(&lines(90, 91)), false).unwrap();
            prop_assert_eq!(rest(&mut spool), lines(90, 91));
        }
    }
}
