//! Tables: on a terminal they are aligned and fit its width; piped, each row is a line with tabs, whole and without a head.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::print::Facts;
use crate::escape::escape_cell;
use crate::terminal::{self, Style, Tone};

/// A terminal that does not say how wide it is.
const USUAL_WIDTH: usize = 80;
/// The narrowest that a column of text is cut to when it does not say.
const NARROWEST: usize = 8;
const GAP: usize = 2;

/// A column of a table.
pub(super) struct Column {
    title: &'static str,
    right: bool,
    /// The narrowest that it is cut to, where it is text.
    cut_to: Option<usize>,
    /// What is dropped where room is short, the greatest first; 0 is never.
    spare: u8,
}

impl Column {
    /// Text, cut where room is short.
    pub(super) const fn text(title: &'static str) -> Column {
        Column { title, right: false, cut_to: Some(NARROWEST), spare: 0 }
    }

    /// Something that makes no sense when it is cut.
    pub(super) const fn whole(title: &'static str) -> Column {
        Column { title, right: false, cut_to: None, spare: 0 }
    }

    /// A figure.
    pub(super) const fn figure(title: &'static str) -> Column {
        Column { title, right: true, cut_to: None, spare: 0 }
    }

    /// The same, not cut below this width.
    pub(super) const fn at_least(self, width: usize) -> Column {
        Column { cut_to: Some(width), ..self }
    }

    /// The same, dropped where room is short: columns with the greatest `order` first.
    pub(super) const fn spare(self, order: u8) -> Column {
        Column { spare: order, ..self }
    }
}

/// Rows under columns.
pub(super) struct Table<'a> {
    columns: &'a [Column],
    rows: Vec<Vec<String>>,
}

impl<'a> Table<'a> {
    pub(super) fn new(columns: &'a [Column]) -> Table<'a> {
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row, one cell a column. What others wrote in it is escaped here.
    pub(super) fn add(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| escape_cell(cell)).collect());
    }

    pub(super) fn render(&self, style: Style) -> String {
        if style.terminal {
            self.fit(style, terminal::width().unwrap_or(USUAL_WIDTH))
        } else {
            self.rows.iter().map(|row| row.join("\t") + "\n").collect()
        }
    }

    /// The first row in full, a line for each cell.
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
            // What was cut for its sake gets its room back.
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

/// Text of at most `width` columns; what is cut ends in `…`.
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
    const PERSON: Style = Style { terminal: true, colour: false };

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
        assert_eq!(table().fit(PERSON, 100), wide);
        assert_eq!(table().fit(PERSON, 48), wide);
        let narrow = "ID        SUBJECT          OUT  CHANNELS\n\
                      5f0c6b0e  alice in won…      7  chat, news\n\
                      00000001  世界\\u{1b}     1,234\n";
        assert_eq!(table().fit(PERSON, 42), narrow);
        let without = "ID        SUBJECT       OUT\n\
                       5f0c6b0e  alice in …      7\n\
                       00000001  世界\\u{1b}  1,234\n";
        assert_eq!(table().fit(PERSON, 27), without);
    }

    #[test]
    fn programs_get_everything_with_tabs() {
        let piped = "5f0c6b0e\talice in wonderland\t7\tchat, news\n00000001\t世界\\u{1b}\t1,234\t\n";
        assert_eq!(table().render(Style { terminal: false, colour: false }), piped);
    }

    #[test]
    fn one_row_is_shown_in_full() {
        let one = "ID        5f0c6b0e\nSUBJECT   alice in wonderland\nOUT       7\nCHANNELS  chat, news\n";
        assert_eq!(table().render_one(PERSON), one);
    }
}
