//! What is printed: a line while it goes on, a table at the end.

use std::time::Instant;

use super::arena::Arena;
use super::probes::{Figures, Size, Times};

/// Lines with the time since the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Log(Instant);

impl Default for Log {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Log {
    /// Prints a line about a case.
    pub(super) fn say(&self, case: &str, text: &str) {
        println!("{:>7.1} s  {case:<18} {text}", self.0.elapsed().as_secs_f64());
    }
}

/// What became of one case.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) findings: Vec<String>,
    note: String,
    figures: Option<Figures>,
    recovered: Option<f64>,
}

impl Row {
    pub(super) fn of(name: &'static str, arena: Arena) -> Self {
        let Arena { findings, note, figures, recovered, .. } = arena;
        Self { name, findings, note, figures, recovered }
    }

    /// A case that could not be played.
    pub(super) fn failed(name: &'static str, why: String) -> Self {
        Self { name, findings: vec![why], note: String::new(), figures: None, recovered: None }
    }

    fn verdict(&self) -> &'static str {
        if self.findings.is_empty() { "held" } else { "BROKEN" }
    }

    /// Verdict and figures in a line.
    pub(super) fn summary(&self) -> String {
        let cells = self.cells();
        let told = TITLES.iter().zip(&cells).skip(1).filter(|(title, cell)| !title.is_empty() && *cell != "-");
        let told: Vec<String> = told.map(|(title, cell)| format!("{title} {cell}")).collect();
        format!("{} ({})", told.join(" | "), self.note)
    }

    fn cells(&self) -> Vec<String> {
        let none = || "-".to_owned();
        let mut cells = vec![self.name.to_owned()];
        match &self.figures {
            Some(figures) => {
                cells.extend([&figures.sales[1], &figures.purchases[1], &figures.ready[1]].map(times));
                cells.extend([&figures.agent, &figures.central].map(size));
                cells.push(figures.agent.descriptors.max(figures.central.descriptors).to_string());
            }
            None => cells.extend(std::iter::repeat_with(none).take(6)),
        }
        cells.push(self.recovered.map_or_else(none, |seconds| format!("{seconds:.1}")));
        cells.push(self.verdict().to_owned());
        cells.push(self.note.clone());
        cells
    }
}

fn times(times: &Times) -> String {
    match (times.p99_ms(), times.max_ms()) {
        (Some(p99), Some(max)) => format!("{p99:.1} / {max:.0}"),
        _ => "none".to_owned(),
    }
}

fn size(size: &Size) -> String {
    format!("{} > {} > {}", size.base_kib >> 10, size.peak_kib >> 10, size.now_kib >> 10)
}

const TITLES: [&str; 10] = [
    "case",
    "sale, ms",
    "purchase, ms",
    "ready, ms",
    "agent, MiB",
    "central, MiB",
    "files",
    "well after, s",
    "verdict",
    "",
];

/// The table, as Markdown, and what was found below it.
pub(super) fn print(rows: &[Row]) {
    let mut table: Vec<Vec<String>> = vec![TITLES.map(str::to_owned).into()];
    table.extend(rows.iter().map(Row::cells));
    let widths: Vec<usize> = (0..TITLES.len())
        .map(|column| table.iter().map(|cells| cells[column].chars().count()).max().unwrap_or_default())
        .collect();
    println!("\np99 / max of requests under attack; memory before > most > afterwards; most open files\n");
    for (number, cells) in table.iter().enumerate() {
        let mut line = String::from("|");
        for (column, cell) in cells.iter().enumerate() {
            // Names and words to the left, figures to the right.
            let left = matches!(column, 0 | 8 | 9);
            let width = widths[column];
            line.push_str(&if left { format!(" {cell:<width$} |") } else { format!(" {cell:>width$} |") });
        }
        println!("{line}");
        if number == 0 {
            let rules = widths.iter().enumerate().map(|(column, width)| {
                let rule = "-".repeat(*width);
                if matches!(column, 0 | 8 | 9) { format!(" {rule} |") } else { format!(" {rule}:|") }
            });
            println!("|{}", rules.collect::<String>());
        }
    }
    println!();
    for row in rows {
        for finding in &row.findings {
            println!("{}: {finding}", row.name);
        }
    }
}
