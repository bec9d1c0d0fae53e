//! Tables and lists on a page of a given width.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{
    Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width,
};

/// A rule under the header, and nothing else.
const STYLE: TableStyle = NOTHING.header_separator(LineStyle::none().fill('─'));

/// Keys of this width are never broken.
const WIDE_KEY: u16 = 24;

/// A table with a row for each of its keys.
///
/// Figures are never broken. Where the page is too narrow for all columns, those that find no room follow in a
/// further table, under the same keys.
pub(super) struct Grid {
    keys: Column,
    columns: Vec<Column>,
}

struct Column {
    header: &'static str,
    cells: Vec<String>,
    alignment: CellAlignment,
}

impl Grid {
    /// A table with these keys on the left.
    pub(super) fn new(header: &'static str, keys: impl IntoIterator<Item = String>) -> Self {
        let keys = Column { header, cells: keys.into_iter().collect(), alignment: CellAlignment::Left };
        Self { keys, columns: Vec::new() }
    }

    /// Adds a column of figures, flush right.
    pub(super) fn figures(self, header: &'static str, cells: impl IntoIterator<Item = String>) -> Self {
        self.column(header, cells, CellAlignment::Right)
    }

    /// Adds a column of words.
    pub(super) fn words(self, header: &'static str, cells: impl IntoIterator<Item = String>) -> Self {
        self.column(header, cells, CellAlignment::Left)
    }

    fn column(
        mut self,
        header: &'static str,
        cells: impl IntoIterator<Item = String>,
        alignment: CellAlignment,
    ) -> Self {
        self.columns.push(Column { header, cells: cells.into_iter().collect(), alignment });
        self
    }

    /// Writes it. Without a width every column is as wide as it needs.
    pub(super) fn write(&self, width: Option<u16>, out: &mut impl Write) -> io::Result<()> {
        let page = width.map_or(usize::MAX, usize::from);
        let mut rest = self.columns.as_slice();
        while !rest.is_empty() {
            let fits = |count: &usize| widest(&self.table(&rest[..*count], width)) <= page;
            let count = (1..=rest.len()).rev().find(fits).unwrap_or(1);
            let (here, later) = rest.split_at(count);
            write_lines(&self.table(here, width), out)?;
            if !later.is_empty() {
                writeln!(out)?;
            }
            rest = later;
        }
        Ok(())
    }

    fn table(&self, columns: &[Column], width: Option<u16>) -> Table {
        let columns: Vec<&Column> = [&self.keys].into_iter().chain(columns).collect();
        let height = columns.iter().map(|column| lines(column.header)).max().unwrap_or(1);
        let mut table = table(width);
        table.load_style(STYLE).set_header(columns.iter().map(|column| column.heading(height)));
        for row in 0..self.keys.cells.len() {
            table.add_row(columns.iter().map(|column| column.cell(row)));
        }
        table.set_constraints(columns.iter().map(|_| ColumnConstraint::ContentWidth));
        flush(&mut table);
        let most = width.map_or(u16::MAX, |width| WIDE_KEY.max(width / 3));
        if table.column_max_content_widths().first().is_some_and(|natural| *natural > most)
            && let Some(keys) = table.column_mut(0)
        {
            keys.set_constraint(ColumnConstraint::Absolute(Width::Fixed(most)));
        }
        table
    }
}

impl Column {
    /// The header, resting on the rule.
    fn heading(&self, height: usize) -> Cell {
        let above = height.saturating_sub(lines(self.header));
        Cell::new(format!("{}{}", "\n".repeat(above), self.header)).set_alignment(self.alignment)
    }

    fn cell(&self, row: usize) -> Cell {
        Cell::new(self.cells.get(row).map_or("", String::as_str)).set_alignment(self.alignment)
    }
}

/// Writes rows without a header; the last column is broken into lines where the page ends.
pub(super) fn write_list<const N: usize>(
    rows: impl IntoIterator<Item = [String; N]>,
    width: Option<u16>,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut table = table(width);
    table.load_style(NOTHING).add_rows(rows);
    table.set_constraints((1..N).map(|_| ColumnConstraint::ContentWidth));
    flush(&mut table);
    write_lines(&table, out)
}

fn table(width: Option<u16>) -> Table {
    let mut table = Table::new();
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table
}

/// Two spaces between columns, none before the first.
fn flush(table: &mut Table) {
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 0 } else { 2 }, 0));
    }
}

fn lines(header: &str) -> usize {
    header.split('\n').count()
}

fn widest(table: &Table) -> usize {
    table.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

fn write_lines(table: &Table, out: &mut impl Write) -> io::Result<()> {
    table.lines().try_for_each(|line| writeln!(out, "{}", line.trim_end()))
}
