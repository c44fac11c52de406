//! Rows of the table: pairs of a value and its limit, and what they come to.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

/// The figure to reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reach {
    /// Value over limit, this or more.
    RatioAtLeast(f64),
    /// Value over limit, this or less.
    RatioAtMost(f64),
    /// The value itself, in the row's unit, this or less.
    ValueAtMost(f64),
    /// None was set: the row explains another one.
    Unset,
}

/// One figure, measured in pairs.
#[derive(Debug)]
pub(crate) struct Row {
    name: &'static str,
    unit: &'static str,
    limit: &'static str,
    reach: Reach,
    pairs: Vec<(f64, f64)>,
}

impl Row {
    /// A row without pairs; `limit` says what the limit's program is.
    pub(crate) fn new(name: &'static str, unit: &'static str, limit: &'static str, reach: Reach) -> Self {
        Self { name, unit, limit, reach, pairs: Vec::new() }
    }

    /// Adds a pair, and says so: a long run should show that it goes on.
    pub(crate) fn add(&mut self, value: f64, limit: f64) {
        let Self { name, unit, .. } = self;
        println!("  {name:<20} {} {unit}, limit {}, ratio {:.3}", figure(value), figure(limit), value / limit);
        self.pairs.push((value, limit));
    }

    fn ratios(&self) -> Vec<f64> {
        self.sorted(|(value, limit)| value / limit)
    }

    fn value(&self) -> f64 {
        median(&self.sorted(|(value, _)| *value))
    }

    fn limit(&self) -> f64 {
        median(&self.sorted(|(_, limit)| *limit))
    }

    fn sorted(&self, of: impl Fn(&(f64, f64)) -> f64) -> Vec<f64> {
        let mut all: Vec<f64> = self.pairs.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    fn reached(&self) -> Option<bool> {
        match self.reach {
            Reach::RatioAtLeast(wanted) => Some(median(&self.ratios()) >= wanted),
            Reach::RatioAtMost(wanted) => Some(median(&self.ratios()) <= wanted),
            Reach::ValueAtMost(wanted) => Some(self.value() <= wanted),
            Reach::Unset => None,
        }
    }

    fn json(&self) -> Value {
        let ratios = self.ratios();
        json!({
            "name": self.name,
            "ratioMedian": median(&ratios),
            "ratioMin": ratios.first(),
            "ratioMax": ratios.last(),
            "value": self.value(),
            "limit": self.limit(),
            "unit": self.unit,
        })
    }

    fn cells(&self, judge: bool) -> Vec<String> {
        let ratios = self.ratios();
        let range = format!("{:.3} to {:.3}", ratios.first().unwrap_or(&0.0), ratios.last().unwrap_or(&0.0));
        let reach = match self.reach {
            Reach::RatioAtLeast(wanted) => format!(">= {wanted}"),
            Reach::RatioAtMost(wanted) => format!("<= {wanted}"),
            Reach::ValueAtMost(wanted) => format!("<= {wanted} {}", self.unit),
            Reach::Unset => "-".to_owned(),
        };
        let reached = match self.reached() {
            Some(true) if judge => "yes",
            Some(false) if judge => "no",
            Some(_) | None => "-",
        };
        vec![
            self.name.to_owned(),
            format!("{} {}", figure(self.value()), self.unit),
            format!("{} ({})", figure(self.limit()), self.limit),
            format!("{:.3}", median(&ratios)),
            range,
            reach,
            reached.to_owned(),
            self.pairs.len().to_string(),
        ]
    }
}

/// Of sorted numbers, the middle one, or the mean of the two in the middle; 0 of none.
fn median(sorted: &[f64]) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    (sorted[last / 2] + sorted[sorted.len() / 2]) / 2.0
}

/// Three digits or more are enough for everything here.
fn figure(number: f64) -> String {
    if number >= 100.0 { format!("{number:.0}") } else { format!("{number:.3}") }
}

const TITLES: [&str; 8] = ["what", "value", "limit", "ratio", "range", "reach", "reached", "pairs"];

/// The table, as Markdown: medians, and the range of the ratio.
pub(crate) fn print(rows: &[Row], judge: bool) {
    let mut table: Vec<Vec<String>> = vec![TITLES.map(str::to_owned).into()];
    table.extend(rows.iter().map(|row| row.cells(judge)));
    let width = |column: usize| table.iter().map(|cells| cells[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..TITLES.len()).map(width).collect();
    println!();
    for (number, cells) in table.iter().enumerate() {
        let line: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} ")).collect();
        println!("|{}|", line.join("|"));
        if number == 0 {
            let rules: Vec<String> = widths.iter().map(|width| format!(" {} ", "-".repeat(*width))).collect();
            println!("|{}|", rules.join("|"));
        }
    }
}

/// A list of `{name, ratioMedian, ratioMin, ratioMax, value, limit, unit}`; `value` and `limit` are medians.
pub(crate) fn save(rows: &[Row], file: &Path) -> anyhow::Result<()> {
    let list: Vec<Value> = rows.iter().map(Row::json).collect();
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let text = serde_json::to_string_pretty(&list)? + "\n";
    std::fs::write(file, text).with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(reach: Reach, pairs: &[(f64, f64)]) -> Row {
        let mut row = Row::new("row", "ms", "a limit", reach);
        pairs.iter().for_each(|(value, limit)| row.add(*value, *limit));
        row
    }

    #[test]
    fn the_ratio_is_the_median_of_the_pairs_ratios_not_the_ratio_of_medians() {
        let row = row(Reach::RatioAtMost(2.0), &[(10.0, 10.0), (40.0, 20.0), (90.0, 30.0)]);
        let json = row.json();
        assert_eq!(
            (&json["ratioMin"], &json["ratioMedian"], &json["ratioMax"]),
            (&json!(1.0), &json!(2.0), &json!(3.0))
        );
        assert_eq!((&json["value"], &json["limit"]), (&json!(40.0), &json!(20.0)));
        assert_eq!(row.reached(), Some(true));
    }

    #[test]
    fn an_even_number_of_pairs_has_the_mean_of_the_middle_two() {
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn each_kind_of_figure_is_reached_on_its_own_side() {
        let pairs = [(30.0, 60.0)];
        assert_eq!(row(Reach::RatioAtLeast(0.5), &pairs).reached(), Some(true));
        assert_eq!(row(Reach::RatioAtLeast(0.6), &pairs).reached(), Some(false));
        assert_eq!(row(Reach::RatioAtMost(0.4), &pairs).reached(), Some(false));
        assert_eq!(row(Reach::ValueAtMost(20.0), &pairs).reached(), Some(false));
        assert_eq!(row(Reach::Unset, &pairs).reached(), None);
    }
}
