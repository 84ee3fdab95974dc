//! Aligned plain columns: a header, rows, two blanks between; no lines, so that `awk` reads it too.

use crate::paint::{Paint, clean};

/// A table under construction.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// One field of a row.
#[derive(Debug)]
pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    /// A painted field.
    pub(crate) fn painted(text: &str, paint: Paint) -> Self {
        // An empty field would shift the ones after it for whoever splits at blanks.
        let text = clean(text);
        Self { text: if text.is_empty() { "-".into() } else { text }, paint }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::painted(text, Paint::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&String> for Cell {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl Table {
    /// A table with these column names.
    pub(crate) fn new<const N: usize>(header: [&'static str; N]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a column on the right; its cells follow in each row.
    pub(crate) fn column(&mut self, name: &'static str) {
        self.header.push(name);
    }

    /// Adds a row; missing fields are shown as `-`.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines, each ended by a line break.
    pub(crate) fn render(&self, colour: bool) -> String {
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.text.chars().count()).chain([self.header[column].len()]).max().unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        let header = self.header.iter().map(|name| ((*name).to_owned(), Paint::Quiet));
        line(&mut out, header, &widths, colour);
        for row in &self.rows {
            let fields = (0..widths.len()).map(|column| {
                row.get(column).map_or(("-".into(), Paint::Plain), |cell| (cell.text.clone(), cell.paint))
            });
            line(&mut out, fields, &widths, colour);
        }
        out
    }
}

fn line(out: &mut String, fields: impl Iterator<Item = (String, Paint)>, widths: &[usize], colour: bool) {
    for (column, (text, paint)) in fields.enumerate() {
        let padding = widths[column].saturating_sub(text.chars().count()) + 2;
        out.push_str(&paint.apply(colour, &text));
        if column + 1 < widths.len() {
            out.extend(std::iter::repeat_n(' ', padding));
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_the_colour() {
        let mut table = Table::new(["NODE", "STATE"]);
        table.row(["édge-1".into(), Cell::painted("healthy", Paint::Good)]);
        table.row(["e".into(), "".into()]);
        assert_eq!(table.render(false), "NODE    STATE\nédge-1  healthy\ne       -\n");
        assert!(table.render(true).contains("édge-1  \u{1b}[32mhealthy\u{1b}[0m\n"));
    }
}
