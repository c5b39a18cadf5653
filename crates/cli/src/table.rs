//! Lines in columns.

/// Rows whose cells are padded to the widest of their column.
pub struct Table {
    rows: Vec<Vec<String>>,
    right: &'static [usize],
}

impl Table {
    /// A table with a heading; the columns numbered in `right` stand to the right.
    pub fn new(heading: &[&str], right: &'static [usize]) -> Self {
        Self { rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()], right }
    }

    /// Adds a row; it may have fewer cells than the heading.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The finished lines, the heading first.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max())
            .map(Option::unwrap_or_default)
            .collect();
        self.rows.iter().map(move |row| {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let padding = " ".repeat(widths[column].saturating_sub(width(cell)));
                let (before, after) =
                    if self.right.contains(&column) { (&*padding, "") } else { ("", &*padding) };
                line.extend([before, cell, after, "  "]);
            }
            line.truncate(line.trim_end().len());
            line
        })
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["id", "size", "path"], &[1]);
        table.row(["a".into(), "1 KiB".into(), "/ö".into()]);
        table.row(["bcd".into()]);
        assert_eq!(table.lines().collect::<Vec<_>>(), ["id    size  path", "a    1 KiB  /ö", "bcd"]);
    }
}
