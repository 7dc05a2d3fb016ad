//! The one table at the end.

/// Limit a measure is held against.
#[derive(Clone, Copy)]
pub enum Target {
    /// The compared value may be at most this.
    AtMost(f64),
    /// For information.
    None,
}

/// One line of the table.
pub struct Row {
    /// What was measured.
    pub measure: String,
    /// feedgate's value with its unit.
    pub ours: String,
    /// The value beside it, with its unit and whose it is.
    pub other: String,
    /// How the two compare, or a difference: text and number.
    pub compared: (String, f64),
    /// The limit for that number, and how it reads.
    pub target: (Target, String),
}

impl Row {
    /// `ours / other` against a largest ratio.
    pub fn ratio(
        measure: &str,
        ours: String,
        other: String,
        ratio: f64,
        target: Option<f64>,
    ) -> Self {
        Self {
            measure: measure.to_owned(),
            ours,
            other,
            compared: (format!("{ratio:.2} x"), ratio),
            target: match target {
                Some(limit) => (Target::AtMost(limit), format!("<= {limit:.2} x")),
                None => (Target::None, "-".to_owned()),
            },
        }
    }

    /// A value against a fixed limit; `other` is there to compare by eye.
    pub fn limit(measure: &str, value: f64, unit: &str, other: String, limit: Option<f64>) -> Self {
        Self {
            measure: measure.to_owned(),
            ours: format!("{value:.0} {unit}"),
            other,
            compared: ("-".to_owned(), value),
            target: match limit {
                Some(limit) => (Target::AtMost(limit), format!("<= {limit:.0} {unit}")),
                None => (Target::None, "-".to_owned()),
            },
        }
    }

    /// The difference `ours - other` against a limit.
    pub fn difference(
        measure: &str,
        ours: f64,
        other: f64,
        more: f64,
        whose: &str,
        unit: &str,
        limit: Option<f64>,
    ) -> Self {
        Self {
            measure: measure.to_owned(),
            ours: format!("{ours:.0} {unit}"),
            other: format!("{other:.0} {unit} {whose}"),
            compared: (format!("{more:+.0} {unit}"), more),
            target: match limit {
                Some(limit) => (Target::AtMost(limit), format!("<= +{limit:.0} {unit}")),
                None => (Target::None, "-".to_owned()),
            },
        }
    }

    /// A measure that could not be taken.
    pub fn skipped(measure: &str, why: &str) -> Self {
        Self {
            measure: measure.to_owned(),
            ours: "-".to_owned(),
            other: why.to_owned(),
            compared: ("-".to_owned(), f64::NAN),
            target: (Target::None, "-".to_owned()),
        }
    }

    /// Met, missed, or nothing to meet.
    fn met(&self) -> Option<bool> {
        match self.target.0 {
            Target::AtMost(limit) => Some(self.compared.1 <= limit),
            Target::None => None,
        }
    }
}

/// Prints header and rows; returns the number of missed targets.
pub fn print(header: &[String], rows: &[Row]) -> usize {
    for line in header {
        println!("{line}");
    }
    println!();
    let mut cells =
        vec![["measure", "ours", "floor or peer", "ratio", "target", ""].map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        let met = match row.met() {
            Some(true) => "ok",
            Some(false) => "MISSED",
            None => "",
        };
        [
            row.measure.clone(),
            row.ours.clone(),
            row.other.clone(),
            row.compared.0.clone(),
            row.target.1.clone(),
            met.to_owned(),
        ]
    }));
    let widths: Vec<usize> = (0..6)
        .map(|column| {
            let lengths = cells.iter().map(|row| row[column].chars().count());
            lengths.max().unwrap_or(0)
        })
        .collect();
    for (i, row) in cells.iter().enumerate() {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        println!("{}", line.join("  ").trim_end());
        if i == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            println!("{}", rule.join("  ").trim_end());
        }
    }
    let missed = rows.iter().filter(|row| row.met() == Some(false)).count();
    let targets = rows.iter().filter(|row| row.met().is_some()).count();
    println!("\n{} of {targets} targets met", targets - missed);
    missed
}
