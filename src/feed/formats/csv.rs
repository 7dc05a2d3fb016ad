//! Delimited columns with quotes (RFC 4180), with the options of Calico's GlobalThreatFeed.

use std::collections::BTreeMap;

use csv::{ByteRecord, Reader, ReaderBuilder};

use super::take;
use crate::feed::{
    Limits, Parsed, Refusal,
    collect::{Collector, Extra, Line, without_mark},
    header,
    plain::score,
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
    /// The column with the port of each entry; an empty one means all ports.
    pub port: Option<Column>,
    /// The column with the score of each entry.
    pub score: Option<Column>,
    /// The column with a word for each entry.
    pub tag: Option<Column>,
    /// Only records with these values in these columns, upper and lower case alike.
    pub only: BTreeMap<String, String>,
}

/// Which column. As text: a number of digits only is one, all else is a name.
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
            port: None,
            score: None,
            tag: None,
            only: BTreeMap::new(),
        }
    }
}

/// Reads delimited text; fails only when the column's name is not in it.
pub fn parse_csv(text: &[u8], options: &CsvOptions, limits: &Limits) -> Result<Parsed, Refusal> {
    let text = without_mark(text);
    let lines = text.iter().filter(|b| **b == b'\n').count() + 1;
    let mut out = Collector::new(limits, lines);
    options.comments(text, &mut out);
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
struct Table<'a> {
    column: usize,
    size: Option<usize>,
    port: Option<usize>,
    score: Option<usize>,
    tag: Option<usize>,
    only: Vec<(usize, &'a str)>,
}

impl Table<'_> {
    fn read(&self, place: Place<'_>, record: &ByteRecord, out: &mut Collector<'_>) {
        let Place { line, span } = place;
        if span > MAX_SPAN {
            return out.bad_lines(line, span, "a quote that is not closed?");
        }
        if let Some(size) = self.size.filter(|size| *size != record.len()) {
            let has = record.len();
            return out.bad_lines(line, span, format_args!("{has} columns instead of {size}"));
        }
        let Some(field) = record.get(self.column) else {
            return out.bad_lines(line, span, format_args!("no column {}", self.column));
        };
        let wanted = self.only.iter().all(|(column, value)| {
            let field = record.get(*column).unwrap_or_default();
            field.trim_ascii().eq_ignore_ascii_case(value.as_bytes())
        });
        if !wanted {
            return out.filtered();
        }
        let value = |column: Option<usize>| Some(record.get(column?)?.trim_ascii());
        let port = match value(self.port).filter(|port| !port.is_empty()) {
            None => None,
            Some(port) => match std::str::from_utf8(port).ok().and_then(|p| p.parse().ok()) {
                Some(port) => Some(port),
                None => return out.bad_lines(line, span, "not a port"),
            },
        };
        let extra = Extra {
            port,
            score: value(self.score).and_then(score),
            tag: value(self.tag),
        };
        take(line, field, extra, out);
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

    /// What the comments say about the whole.
    fn comments(&self, text: &[u8], out: &mut Collector<'_>) {
        let Some(comment) = self.comment else { return };
        let lines = text.split(|b| *b == b'\n');
        for line in lines.filter(|line| line.first() == Some(&comment)) {
            let start = line.iter().position(|b| *b != comment);
            header::read(start.and_then(|at| line.get(at..)).unwrap_or_default(), out);
        }
    }

    /// The shape of `text`, and whether its first record is a header.
    fn table(&self, first: &ByteRecord, text: &[u8]) -> Result<(Table<'_>, bool), Refusal> {
        let size = match self.record_size {
            RecordSize::First => Some(first.len()),
            RecordSize::Exactly(size) => Some(size),
            RecordSize::Any => None,
        };
        let names = self.names();
        let (names, is_header) = match names.first() {
            None => (None, self.header),
            Some(name) if find(first, name).is_some() => (Some(first.clone()), true),
            Some(name) => match self.header_in_comments(text, name) {
                Some(header) => (Some(header), false),
                None => return Err(no_column(name)),
            },
        };
        let place = |column: &Column| match column {
            Column::Number(number) => Ok(*number),
            Column::Name(name) => names
                .as_ref()
                .and_then(|header| find(header, name))
                .ok_or_else(|| no_column(name)),
        };
        let optional = |column: &Option<Column>| column.as_ref().map(place).transpose();
        let only = self.only.iter().map(|(column, value)| {
            let column = place(&Column::from(column.as_str()))?;
            Ok((column, value.as_str()))
        });
        let table = Table {
            column: place(&self.column)?,
            size,
            port: optional(&self.port)?,
            score: optional(&self.score)?,
            tag: optional(&self.tag)?,
            only: only.collect::<Result<_, Refusal>>()?,
        };
        Ok((table, is_header))
    }

    /// All names of columns, the one of the entries first.
    fn names(&self) -> Vec<String> {
        let columns = [Some(&self.column), self.port.as_ref()].into_iter();
        let columns = columns.chain([self.score.as_ref(), self.tag.as_ref()]);
        let only = self.only.keys().map(|key| Column::from(key.as_str()));
        columns
            .flatten()
            .cloned()
            .chain(only)
            .filter_map(|column| match column {
                Column::Name(name) => Some(name),
                Column::Number(_) => None,
            })
            .collect()
    }

    /// The last comment in front of the first record that has a column `name`.
    fn header_in_comments(&self, text: &[u8], name: &str) -> Option<ByteRecord> {
        let comment = self.comment?;
        let lines = text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
        lines
            .take_while(|line| line.is_empty() || line.first() == Some(&comment))
            .filter_map(|line| {
                let end = line.iter().position(|b| *b != comment)?;
                let mut header = ByteRecord::new();
                let mut reader = self.reader(line.get(end..)?.trim_ascii());
                reader.read_byte_record(&mut header).ok()?;
                find(&header, name).is_some().then_some(header)
            })
            .last()
    }
}

impl From<&str> for Column {
    fn from(text: &str) -> Self {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits => Self::Number(number),
            _ => Self::Name(text.to_owned()),
        }
    }
}

impl std::fmt::Display for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

fn no_column(name: &str) -> Refusal {
    Refusal::NoColumn {
        name: name.to_owned(),
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
