//! Rows of the table: values, most of them beside a limit, and what they come to.

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

/// One figure, measured once or several times.
#[derive(Debug)]
pub(crate) struct Row {
    name: String,
    unit: &'static str,
    /// Empty if there is none.
    limit: &'static str,
    reach: Reach,
    values: Vec<f64>,
    /// One for each value, or none at all.
    limits: Vec<f64>,
}

impl Row {
    /// A row of pairs, so far without any; `limit` says what the limit is.
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, limit: &'static str, reach: Reach) -> Self {
        Self { name: name.into(), unit, limit, reach, values: Vec::new(), limits: Vec::new() }
    }

    /// A row of values that have no limit beside them.
    pub(crate) fn alone(name: impl Into<String>, unit: &'static str, reach: Reach) -> Self {
        Self::new(name, unit, "", reach)
    }

    /// Adds a pair, and says so: a long run should show that it goes on.
    pub(crate) fn add(&mut self, value: f64, limit: f64) {
        let Self { name, unit, .. } = self;
        println!("  {name:<20} {} {unit}, limit {}, ratio {:.3}", figure(value), figure(limit), value / limit);
        self.values.push(value);
        self.limits.push(limit);
    }

    /// Adds a value that has no limit.
    pub(crate) fn observe(&mut self, value: f64) {
        println!("  {:<20} {} {}", self.name, figure(value), self.unit);
        self.values.push(value);
    }

    fn ratios(&self) -> Vec<f64> {
        sorted(self.values.iter().zip(&self.limits).map(|(value, limit)| value / limit))
    }

    fn value(&self) -> f64 {
        median(&sorted(self.values.iter().copied())).unwrap_or_default()
    }

    fn limit(&self) -> Option<f64> {
        median(&sorted(self.limits.iter().copied()))
    }

    fn ratio(&self) -> Option<f64> {
        median(&self.ratios())
    }

    fn reached(&self) -> Option<bool> {
        match self.reach {
            Reach::RatioAtLeast(wanted) => Some(self.ratio()? >= wanted),
            Reach::RatioAtMost(wanted) => Some(self.ratio()? <= wanted),
            Reach::ValueAtMost(wanted) => Some(self.value() <= wanted),
            Reach::Unset => None,
        }
    }

    fn json(&self) -> Value {
        let ratios = self.ratios();
        json!({
            "name": self.name,
            "ratioMedian": self.ratio(),
            "ratioMin": ratios.first(),
            "ratioMax": ratios.last(),
            "value": self.value(),
            "limit": self.limit(),
            "unit": self.unit,
        })
    }

    fn cells(&self, judge: bool) -> Vec<String> {
        let ratios = self.ratios();
        let none = || "-".to_owned();
        let range = match (ratios.first(), ratios.last()) {
            (Some(least), Some(most)) => format!("{least:.3} to {most:.3}"),
            _ => none(),
        };
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
            self.limit().map_or_else(none, |limit| format!("{} ({})", figure(limit), self.limit)),
            self.ratio().map_or_else(none, |ratio| format!("{ratio:.3}")),
            range,
            reach,
            reached.to_owned(),
            self.values.len().to_string(),
        ]
    }
}

fn sorted(numbers: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut all: Vec<f64> = numbers.collect();
    all.sort_by(f64::total_cmp);
    all
}

/// Of sorted numbers, the middle one, or the mean of the two in the middle.
fn median(sorted: &[f64]) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some((sorted[last / 2] + sorted[sorted.len() / 2]) / 2.0)
}

/// Three digits or more are enough for everything here.
fn figure(number: f64) -> String {
    if number >= 100.0 { format!("{number:.0}") } else { format!("{number:.3}") }
}

const TITLES: [&str; 8] = ["what", "value", "limit", "ratio", "range", "reach", "reached", "times"];

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

/// A list of `{name, ratioMedian, ratioMin, ratioMax, value, limit, unit}`; `value` and `limit` are medians. What a row
/// without limit does not have is `null`.
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
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
        assert_eq!(median(&[]), None);
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

    #[test]
    fn a_value_without_limit_is_judged_by_itself() {
        let mut row = Row::alone("row", "MiB", Reach::ValueAtMost(40.0));
        [38.0, 44.0, 30.0].into_iter().for_each(|value| row.observe(value));
        let json = row.json();
        assert_eq!((&json["value"], &json["limit"], &json["ratioMedian"]), (&json!(38.0), &Value::Null, &Value::Null));
        assert_eq!(row.reached(), Some(true));
        assert_eq!(row.cells(true)[2..5], ["-", "-", "-"]);
    }
}
