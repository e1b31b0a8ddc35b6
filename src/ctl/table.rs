//! Tables. On a terminal they are aligned and fit its width; in a pipe each row is a complete line with tabs, without a
//! head.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::print::Facts;
use crate::escape::escape_cell;
use crate::terminal::{self, Style, Tone};

/// The width of a terminal that does not report one.
const DEFAULT_WIDTH: usize = 80;
/// The default minimum width of a column of text.
const NARROWEST: usize = 8;
const GAP: usize = 2;

/// A column of a table.
#[derive(Clone, Copy)]
pub(super) struct Column {
    title: &'static str,
    right: bool,
    /// Its minimum width, if it may be cut.
    cut_to: Option<usize>,
    /// The order in which columns are dropped when the table is too wide, greatest first; 0 for never.
    spare: u8,
}

impl Column {
    /// A column of text, which may be cut.
    pub(super) const fn text(title: &'static str) -> Column {
        Column { title, right: false, cut_to: Some(NARROWEST), spare: 0 }
    }

    /// A column whose text must not be cut.
    pub(super) const fn whole(title: &'static str) -> Column {
        Column { title, right: false, cut_to: None, spare: 0 }
    }

    /// A column of numbers.
    pub(super) const fn figure(title: &'static str) -> Column {
        Column { title, right: true, cut_to: None, spare: 0 }
    }

    /// Sets the minimum width.
    pub(super) const fn at_least(self, width: usize) -> Column {
        Column { cut_to: Some(width), ..self }
    }

    /// Lets the column be dropped when the table is too wide; columns with the greatest `order` are dropped first.
    pub(super) const fn spare(self, order: u8) -> Column {
        Column { spare: order, ..self }
    }
}

/// A table.
pub(super) struct Table<'a> {
    columns: &'a [Column],
    rows: Vec<Vec<String>>,
}

impl<'a> Table<'a> {
    pub(super) fn new(columns: &'a [Column]) -> Table<'a> {
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row with one cell for each column, and escapes the cells.
    pub(super) fn add(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| escape_cell(cell)).collect());
    }

    pub(super) fn render(&self, style: Style) -> String {
        if style.terminal {
            self.fit(style, terminal::width().unwrap_or(DEFAULT_WIDTH))
        } else {
            self.rows.iter().map(|row| row.join("\t") + "\n").collect()
        }
    }

    /// Formats the first row completely, with a line for each cell.
    pub(super) fn render_one(&self, style: Style) -> String {
        let mut facts = Facts::new(style);
        for (column, cell) in self.columns.iter().zip(self.rows.iter().flatten()) {
            facts.add(column.title, cell);
        }
        facts.render()
    }

    fn fit(&self, style: Style, width: usize) -> String {
        let content = |at: usize| self.rows.iter().map(|row| row[at].width()).max().unwrap_or(0);
        let mut shown: Vec<(usize, usize)> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| (at, content(at).max(column.title.width())))
            .collect();
        let total = |shown: &[(usize, usize)]| {
            shown.iter().map(|(_, width)| width + GAP).sum::<usize>().saturating_sub(GAP)
        };
        while total(&shown) > width {
            let cut = |(at, width): &&mut (usize, usize)| {
                self.columns[*at].cut_to.is_some_and(|least| *width > least)
            };
            if let Some(widest) = shown.iter_mut().filter(cut).max_by_key(|(_, width)| *width) {
                widest.1 -= 1;
                continue;
            }
            let spare = |at: usize| self.columns[at].spare;
            let Some(dropped) = (0..shown.len()).max_by_key(|place| spare(shown[*place].0)) else { break };
            if spare(shown[dropped].0) == 0 {
                break;
            }
            shown.remove(dropped);
            // The other columns get back the width that they lost to it.
            for (at, width) in &mut shown {
                *width = content(*at).max(self.columns[*at].title.width());
            }
        }
        let line = |cell: &dyn Fn(usize) -> String| {
            let cells: Vec<String> = shown
                .iter()
                .map(|(at, width)| {
                    let text = cut(&cell(*at), *width);
                    let blanks = " ".repeat(width.saturating_sub(text.width()));
                    if self.columns[*at].right { blanks + &text } else { text + &blanks }
                })
                .collect();
            cells.join("  ").trim_end().to_owned()
        };
        let head = line(&|at| self.columns[at].title.to_owned());
        let mut text = style.paint(Tone::Faint, &head) + "\n";
        for row in &self.rows {
            text += &line(&|at| row[at].clone());
            text.push('\n');
        }
        text
    }
}

/// Cuts text to `width` columns; cut text ends in `…`.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut used = 1;
    let fits = |letter: &char| {
        used += letter.width().unwrap_or(0);
        used <= width
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::whole("ID"),
        Column::text("SUBJECT"),
        Column::figure("OUT"),
        Column::text("CHANNELS").spare(1),
    ];
    const TERMINAL: Style = Style { terminal: true, colour: false };

    fn table() -> Table<'static> {
        let mut table = Table::new(&COLUMNS);
        table.add(["5f0c6b0e", "alice in wonderland", "7", "chat, news"].map(String::from).to_vec());
        table.add(["00000001", "世界\x1b", "1,234", ""].map(String::from).to_vec());
        table
    }

    #[test]
    fn a_table_fits_its_terminal() {
        let wide = "ID        SUBJECT                OUT  CHANNELS\n\
                    5f0c6b0e  alice in wonderland      7  chat, news\n\
                    00000001  世界\\u{1b}           1,234\n";
        assert_eq!(table().fit(TERMINAL, 100), wide);
        assert_eq!(table().fit(TERMINAL, 48), wide);
        let narrow = "ID        SUBJECT          OUT  CHANNELS\n\
                      5f0c6b0e  alice in won…      7  chat, news\n\
                      00000001  世界\\u{1b}     1,234\n";
        assert_eq!(table().fit(TERMINAL, 42), narrow);
        let without = "ID        SUBJECT       OUT\n\
                       5f0c6b0e  alice in …      7\n\
                       00000001  世界\\u{1b}  1,234\n";
        assert_eq!(table().fit(TERMINAL, 27), without);
    }

    #[test]
    fn a_pipe_gets_complete_rows_with_tabs() {
        let piped = "5f0c6b0e\talice in wonderland\t7\tchat, news\n00000001\t世界\\u{1b}\t1,234\t\n";
        assert_eq!(table().render(Style { terminal: false, colour: false }), piped);
    }

    #[test]
    fn a_single_row_is_shown_completely() {
        let one = "ID        5f0c6b0e\nSUBJECT   alice in wonderland\nOUT       7\nCHANNELS  chat, news\n";
        assert_eq!(table().render_one(TERMINAL), one);
    }
}
