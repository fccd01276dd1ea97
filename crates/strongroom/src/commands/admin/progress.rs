//! How far something has come: a bar on a terminal, elsewhere a line now and then.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// What is counted.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Keys,
    Bytes,
}

/// On standard error, so that the result stands alone on standard output.
pub(super) struct Progress {
    what: &'static str,
    unit: Unit,
    bar: Option<ProgressBar>,
    line: Instant,
}

impl Progress {
    pub(super) fn new(what: &'static str, unit: Unit) -> Self {
        let bar = io::stderr().is_terminal().then(|| bar(what, unit));
        Self { what, unit, bar, line: Instant::now() }
    }

    pub(super) fn set(&mut self, done: u64, total: Option<u64>) {
        if let Some(bar) = &self.bar {
            bar.set_length(total.unwrap_or(done));
            bar.set_position(done);
        } else if self.line.elapsed() >= LINE_INTERVAL {
            self.line = Instant::now();
            let of = total.map_or_else(String::new, |total| format!(" of {}", self.amount(total)));
            // If standard error is gone, nobody waits.
            let _ = writeln!(io::stderr(), "{}: {}{of}", self.what, self.amount(done));
        }
    }

    fn amount(&self, number: u64) -> String {
        match self.unit {
            Unit::Keys => super::output::count(number, "key", "keys"),
            Unit::Bytes => super::output::size(number),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &'static str, unit: Unit) -> ProgressBar {
    let template = match unit {
        Unit::Keys => "{msg} [{bar:40}] {pos} of {len} keys, {eta} left",
        Unit::Bytes => "{msg} [{bar:40}] {decimal_bytes} of {decimal_total_bytes}, {eta} left",
    };
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
    ProgressBar::new(0).with_style(style).with_message(what)
}
