//! What is printed: for a person, aligned and without tricks, or for a script, as JSON.

use std::{
    fmt,
    io::{self, Write as _},
    time::Duration,
};

use serde::Serialize;
use strongroom_store::{Change, Timestamp};

/// Prints the result. Whoever has closed standard output has read enough.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("can't print the result"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn print_json(result: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(result)?))
}

/// A text that somebody else has chosen: what could play tricks on a terminal is escaped.
pub(super) fn shown(text: impl fmt::Display) -> String {
    let mut shown = String::new();
    for char in text.to_string().chars() {
        match char {
            '"' | '\'' => shown.push(char),
            _ => shown.extend(char.escape_debug()),
        }
    }
    shown
}

/// A word as it is pasted into a shell.
pub(super) fn quoted(text: impl fmt::Display) -> String {
    let text = text.to_string();
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "@:._=/+-".contains(char);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// A time, in UTC, to the second.
pub(super) fn time(time: Timestamp) -> String {
    // Microseconds follow the second: `2026-11-25T10:00:00.000000Z`.
    let whole = time.to_string();
    let second = whole.split_once('.').map_or(whole.as_str(), |(second, _)| second);
    format!("{second}Z")
}

/// A time that may not have been.
pub(super) fn time_or(at: Option<Timestamp>, none: &str) -> String {
    at.map_or_else(|| none.to_owned(), time)
}

/// A size for a person.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["kB", "MB", "GB", "TB"] {
        // What would be rounded to a thousand has the next unit.
        if value < 999.95 {
            break;
        }
        (value, unit) = (value / 1000.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// A span of time for a person, to the second.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let days = count(seconds / 86_400, "day", "days");
    let (hours, minutes, rest) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let parts = [
        (seconds / 86_400, days),
        (hours, format!("{hours} h")),
        (minutes, format!("{minutes} min")),
        (rest, format!("{rest} s")),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|(number, _)| *number > 0).collect();
    let words: Vec<_> = parts.into_iter().map(|(_, words)| words).collect();
    if words.is_empty() { "0 s".to_owned() } else { words.join(" ") }
}

/// A number with what it counts.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// The operation of a change, and the device that asked for it.
pub(super) fn by(change: &Change) -> String {
    let action = change.action.as_deref().map_or_else(|| "not on record".to_owned(), shown);
    match &change.device_id {
        Some(device_id) => format!("{action} by {}", shown(device_id)),
        None => action,
    }
}

/// Rows of cells under a heading; a `>` before it means that the column is of numbers.
pub(super) struct Table {
    is_number: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heading: &[&str]) -> Self {
        let is_number = heading.iter().map(|name| name.starts_with('>')).collect();
        let names = heading.iter().map(|name| name.trim_start_matches('>').to_owned());
        Self { is_number, rows: vec![names.collect()] }
    }

    pub(super) fn has_rows(&self) -> bool {
        self.rows.len() > 1
    }

    /// In the order of the first column.
    pub(super) fn sorted(mut self) -> Self {
        if let Some((_, rows)) = self.rows.split_first_mut() {
            rows.sort_by(|a, b| a.first().cmp(&b.first()));
        }
        self
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |index: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(index));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.is_number.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), is_number) in row.iter().zip(&widths).zip(&self.is_number) {
                if *is_number {
                    line += &format!("{cell:>width$}  ");
                } else {
                    line += &format!("{cell:width$}  ");
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Names and values, one a line.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// A change in JSON.
#[derive(Serialize)]
pub(super) struct ChangeJson {
    at: String,
    stamp: String,
    action: Option<String>,
    device_id: Option<String>,
}

impl From<&Change> for ChangeJson {
    fn from(change: &Change) -> Self {
        Self {
            at: change.at.to_string(),
            stamp: change.at.as_micros().to_string(),
            action: change.action.clone(),
            device_id: change.device_id.as_ref().map(ToString::to_string),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (1_234_567, "1.2 MB"),
            (8_589_934_592, "8.6 GB"),
            (u64::MAX, "18446744.1 TB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn spans_are_told_in_whole_units() {
        for (seconds, expected) in [
            (0, "0 s"),
            (86_400, "1 day"),
            (365 * 86_400, "365 days"),
            (90_061, "1 day 1 h 1 min 1 s"),
            (7_200, "2 h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn what_somebody_else_has_chosen_can_do_nothing_to_a_terminal() {
        for (text, expected) in [
            ("@alice:example.org", "@alice:example.org"),
            ("é 'x' \"y\"", "é 'x' \"y\""),
            ("a\x1b[2J\r\nb", "a\\u{1b}[2J\\r\\nb"),
            ("a\u{202e}b\u{200b}c\u{9b}d", "a\\u{202e}b\\u{200b}c\\u{9b}d"),
            ("\\u{1b}", "\\\\u{1b}"),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_word_for_a_shell_is_one_word() {
        assert_eq!(quoted("@alice:example.org"), "@alice:example.org");
        assert_eq!(quoted("@a'b;c:x"), r"'@a'\''b;c:x'");
    }

    #[test]
    fn a_table_is_aligned() {
        let mut table = Table::new(&["NAME", ">KEYS", "REST"]);
        table.row(["é".to_owned(), "7".to_owned(), String::new()]);
        table.row(["longer".to_owned(), "12345".to_owned(), "x".to_owned()]);
        assert_eq!(table.to_string(), "NAME     KEYS  REST\né           7\nlonger  12345  x\n");
    }
}
