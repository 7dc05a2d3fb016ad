//! Delimited columns with quotes (RFC 4180), with the options of Calico's GlobalThreatFeed.

use csv::{ByteRecord, Reader, ReaderBuilder};

use super::take;
use crate::feed::{
    Limits, Parsed, Refusal,
    collect::{Collector, Line, without_mark},
};

/// Lines that one record may span. A quote that is never closed swallows the rest of the text:
/// that is no record.
const MAX_SPAN: usize = 64;

/// How a text is cut into columns, and which one holds the entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvOptions {
    /// The column with the entries.
    pub column: Column,
    /// The first record is a header row. A [`Column::Name`] is looked up in it, and where there is
    /// none, in the comments in front of the first record (abuse.ch writes its header there).
    pub header: bool,
    /// Between columns, an ASCII character.
    pub delimiter: u8,
    /// Lines that begin with it are skipped.
    pub comment: Option<u8>,
    /// How many columns a record has.
    pub record_size: RecordSize,
}

/// Which column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// By number, from 0 (as Calico counts).
    Number(usize),
    /// By name in the header, upper and lower case alike.
    Name(String),
}

/// How many columns a record must have; others are malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordSize {
    /// As many as the first record.
    First,
    /// That many.
    Exactly(usize),
    /// Any number.
    Any,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            column: Column::Number(0),
            header: false,
            delimiter: b',',
            comment: Some(b'#'),
            record_size: RecordSize::First,
        }
    }
}

/// Reads delimited text; fails only when the column's name is not in it.
pub fn parse_csv(text: &[u8], options: &CsvOptions, limits: &Limits) -> Result<Parsed, Refusal> {
    let text = without_mark(text);
    let lines = text.iter().filter(|b| **b == b'\n').count() + 1;
    let mut out = Collector::new(limits, lines);
    let mut reader = options.reader(text);
    let mut record = ByteRecord::new();
    let mut table = None;
    while let Some(place) = next(&mut reader, &mut record, text, options.comment) {
        let table = match &table {
            Some(table) => table,
            None => {
                let (new, is_header) = options.table(&record, text)?;
                let table = table.insert(new);
                if is_header {
                    continue;
                }
                table
            }
        };
        table.read(place, &record, &mut out);
        if out.full() {
            break;
        }
    }
    Ok(out.finish())
}

/// Where a record is in the text.
#[derive(Clone, Copy)]
struct Place<'a> {
    line: Line<'a>,
    /// Lines it spans.
    span: usize,
}

/// Reads the next record; `None` at the end.
fn next<'a>(
    reader: &mut Reader<&[u8]>,
    record: &mut ByteRecord,
    text: &'a [u8],
    comment: Option<u8>,
) -> Option<Place<'a>> {
    let start = reader.position().clone();
    // Reading bytes from memory, with any number of columns, cannot fail.
    if !reader.read_byte_record(record).unwrap_or(false) {
        return None;
    }
    let index = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX);
    let mut text = text.get(index(start.byte())..index(reader.position().byte()))?;
    let mut number = index(start.line());
    // Blank and comment lines in front of a record are counted as part of it.
    while let Some(end) = text.iter().position(|b| matches!(b, b'\n' | b'\r'))
        && (end == 0 || text.first().copied() == comment)
    {
        number += usize::from(text.get(end) == Some(&b'\n'));
        text = text.get(end + 1..).unwrap_or_default();
    }
    let text = text.trim_ascii_end();
    let span = text.iter().filter(|b| **b == b'\n').count() + 1;
    let line = Line { number, text };
    Some(Place { line, span })
}

/// The shape of a text, known after its first record.
struct Table {
    column: usize,
    size: Option<usize>,
}

impl Table {
    fn read(&self, place: Place<'_>, record: &ByteRecord, out: &mut Collector<'_>) {
        let Place { line, span } = place;
        if span > MAX_SPAN {
            return out.bad_lines(line, span, "a quote that is not closed?");
        }
        if let Some(size) = self.size.filter(|size| *size != record.len()) {
            let has = record.len();
            return out.bad_lines(line, span, format_args!("{has} columns instead of {size}"));
        }
        match record.get(self.column) {
            Some(field) => take(line, field, out),
            None => out.bad_lines(line, span, format_args!("no column {}", self.column)),
        }
    }
}

impl CsvOptions {
    fn reader<'a>(&self, text: &'a [u8]) -> Reader<&'a [u8]> {
        ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(self.delimiter)
            .comment(self.comment)
            .from_reader(text)
    }

    /// The shape of `text`, and whether its first record is a header.
    fn table(&self, first: &ByteRecord, text: &[u8]) -> Result<(Table, bool), Refusal> {
        let size = match self.record_size {
            RecordSize::First => Some(first.len()),
            RecordSize::Exactly(size) => Some(size),
            RecordSize::Any => None,
        };
        let name = match &self.column {
            Column::Number(column) => {
                let column = *column;
                return Ok((Table { column, size }, self.header));
            }
            Column::Name(name) => name,
        };
        if let Some(column) = find(first, name) {
            return Ok((Table { column, size }, true));
        }
        match self.find_in_comments(text, name) {
            Some(column) => Ok((Table { column, size }, false)),
            None => Err(Refusal::NoColumn { name: name.clone() }),
        }
    }

    /// The column `name` in the last fitting comment in front of the first record.
    fn find_in_comments(&self, text: &[u8], name: &str) -> Option<usize> {
        let comment = self.comment?;
        let lines = text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
        lines
            .take_while(|line| line.is_empty() || line.first() == Some(&comment))
            .filter_map(|line| {
                let end = line.iter().position(|b| *b != comment)?;
                let mut header = ByteRecord::new();
                let mut reader = self.reader(line.get(end..)?.trim_ascii());
                reader.read_byte_record(&mut header).ok()?;
                find(&header, name)
            })
            .last()
    }
}

fn find(header: &ByteRecord, name: &str) -> Option<usize> {
    header
        .iter()
        .position(|field| field.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: impl AsRef<[u8]>, options: &CsvOptions) -> Result<Parsed, Refusal> {
        parse_csv(text.as_ref(), options, &Limits::default())
    }

    fn number(column: usize) -> CsvOptions {
        CsvOptions {
            column: Column::Number(column),
            ..CsvOptions::default()
        }
    }

    fn name(name: &str) -> CsvOptions {
        CsvOptions {
            column: Column::Name(name.to_owned()),
            header: true,
            ..CsvOptions::default()
        }
    }

    fn entries(parsed: &Parsed) -> Vec<String> {
        let entries = parsed.entries.iter();
        entries.map(|entry| entry.prefix.to_string()).collect()
    }

    #[test]
    fn a_header_in_the_comments() {
        let text = include_bytes!("../../../tests/fixtures/formats/c2.csv");
        for options in [name("dst_ip"), name("DST_IP"), number(1)] {
            let parsed = read(text, &options).unwrap();
            assert_eq!(
                entries(&parsed),
                ["192.0.2.246", "198.51.100.7", "2001:db8::7"]
            );
            assert_eq!(parsed.lines(), 3);
        }
        // The wrong column is noticed, not read as something.
        assert_eq!(read(text, &number(0)).unwrap().bad.count, 3);
        assert_eq!(
            read(text, &name("ip")).unwrap_err(),
            Refusal::NoColumn {
                name: "ip".to_owned()
            }
        );
    }

    #[test]
    fn line_ends_of_windows() {
        let text = include_bytes!("../../../tests/fixtures/formats/ssl.csv");
        let parsed = read(text, &name("DstIP")).unwrap();
        assert_eq!(entries(&parsed), ["192.0.2.222", "203.0.113.60"]);
        assert_eq!(parsed.lines(), 2);
    }

    #[test]
    fn a_header_row_and_another_delimiter() {
        let text = include_bytes!("../../../tests/fixtures/formats/scores.csv");
        let by_name = CsvOptions {
            delimiter: b'|',
            ..name("net")
        };
        let by_number = CsvOptions {
            column: Column::Number(0),
            ..by_name.clone()
        };
        for options in [by_name, by_number] {
            let parsed = read(text, &options).unwrap();
            assert_eq!(entries(&parsed), ["192.0.2.0/24", "198.51.100.9"]);
            assert_eq!(parsed.not_address.count, 1);
            assert_eq!(
                parsed.bad.examples[0].to_string(),
                "line 5: 198.51.100.|5|cut off (not an IP address)"
            );
        }
    }

    #[test]
    fn the_number_of_columns() {
        let text = "192.0.2.1,a\n192.0.2.2\n192.0.2.3,a,b\n";
        for (record_size, count) in [
            (RecordSize::First, 1),
            (RecordSize::Exactly(3), 1),
            (RecordSize::Exactly(9), 0),
            (RecordSize::Any, 3),
        ] {
            let options = CsvOptions {
                record_size,
                ..CsvOptions::default()
            };
            let parsed = read(text, &options).unwrap();
            assert_eq!(parsed.entries.len(), count, "{record_size:?}");
            assert_eq!(parsed.lines(), 3, "{record_size:?}");
        }
        let parsed = read(text, &CsvOptions::default()).unwrap();
        assert_eq!(
            parsed.bad.examples[0].to_string(),
            "line 2: 192.0.2.2 (1 columns instead of 2)"
        );
        let parsed = read("192.0.2.1,a\n", &number(2)).unwrap();
        assert_eq!(parsed.bad.examples[0].why, "no column 2");
    }

    #[test]
    fn line_numbers_count_blank_and_comment_lines() {
        for end in ["\n", "\r\n"] {
            let lines = [
                "",
                "# a",
                "192.0.2.1,\"x",
                "y\"",
                "",
                "# b",
                "bad,x",
                "192.0.2.2,",
                "#",
            ];
            let parsed = read(lines.join(end), &CsvOptions::default()).unwrap();
            assert_eq!(entries(&parsed), ["192.0.2.1", "192.0.2.2"]);
            assert_eq!(parsed.bad.examples[0].line, 7, "{end:?}");
            assert_eq!(parsed.bad.examples[0].text, "bad,x");
        }
    }

    #[test]
    fn an_open_quote_counts_all_it_swallows() {
        let rest = "192.0.2.9,b\n".repeat(100);
        for record_size in [RecordSize::First, RecordSize::Any] {
            let options = CsvOptions {
                record_size,
                ..CsvOptions::default()
            };
            let text = format!("192.0.2.1,a\n192.0.2.2,\"b\n{rest}");
            let parsed = read(&text, &options).unwrap();
            assert_eq!(entries(&parsed), ["192.0.2.1"]);
            assert_eq!(parsed.bad.count, 101);
        }
    }

    #[test]
    fn an_empty_text_has_no_header_to_miss() {
        assert_eq!(read("", &name("ip")).unwrap(), Parsed::default());
        assert_eq!(read("# ip\n", &name("ip")).unwrap(), Parsed::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>, column in 0usize..4) {
            let parsed = read(&text, &number(column)).unwrap();
            prop_assert!(parsed.lines() <= text.len());
            let _ = read(&text, &name("a"));
        }

        #[test]
        fn any_near_miss_is_survived(text in "[0-9a.:/,\"#\\r\\n ]{0,200}") {
            let parsed = read(&text, &CsvOptions::default()).unwrap();
            prop_assert!(parsed.lines() <= text.len());
            let _ = read(&text, &name("a"));
        }
    }
}
