//! Lines of columns for people, as wide as the terminal, with nothing in them that steers it.

pub(super) use crate::visible::visible;

/// Columns are not made narrower than this.
const NARROWEST: usize = 8;
/// Between two columns.
const GAP: &str = "  ";

/// Rows under a head. One column gives way when the rows are wider than the terminal.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    flexible: usize,
}

impl Table {
    /// With these heads; the column of number `flexible` gives way.
    pub(super) fn new(heads: &[&str], flexible: usize) -> Self {
        Self {
            rows: vec![heads.iter().map(|head| (*head).to_owned()).collect()],
            flexible,
        }
    }

    /// A row with a cell for each head.
    pub(super) fn add(&mut self, cells: Vec<String>) {
        self.rows
            .push(cells.iter().map(|cell| visible(cell)).collect());
    }

    /// The text, in lines of at most `width` characters where that can be; the last column is not cut.
    pub(super) fn render(&self, width: Option<usize>) -> String {
        let count = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths: Vec<usize> = (0..count)
            .map(|at| {
                let cells = self.rows.iter().filter_map(|row| row.get(at));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let total = widths.iter().sum::<usize>() + GAP.len() * count.saturating_sub(1);
        if let (Some(width), Some(flexible)) = (width, widths.get_mut(self.flexible)) {
            let less = flexible.saturating_sub(total.saturating_sub(width));
            *flexible = less.max(NARROWEST.min(*flexible));
        }
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{:<width$}", cut(cell, *width)))
                .collect();
            text.push_str(cells.join(GAP).trim_end());
            text.push('\n');
        }
        text
    }
}

/// The width of the terminal on standard output; `None` when that is none.
pub(super) fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
}

/// At most `width` characters; a mark stands where something is left out.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept + "~"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_column_gives_way_and_nothing_steers_the_terminal() {
        let mut table = Table::new(&["TIME", "SOURCE", "ID"], 1);
        table.add(vec![
            "now".into(),
            "a program with a long name".into(),
            "1".into(),
        ]);
        table.add(vec!["then".into(), "\u{1b}[2J\n".into(), "22".into()]);
        assert_eq!(
            table.render(None),
            "TIME  SOURCE                      ID\n\
             now   a program with a long name  1\n\
             then  ?[2J?                       22\n"
        );
        assert_eq!(
            table.render(Some(20)),
            "TIME  SOURCE      ID\nnow   a program~  1\nthen  ?[2J?       22\n"
        );
        assert!(table.render(Some(0)).contains("a progr~"));
    }
}
