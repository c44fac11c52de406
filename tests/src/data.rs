//! Real sales data with expected results.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde_json::Value;

/// One receipt line.
#[derive(Debug, Clone)]
pub struct Line {
    pub store: String,
    pub product: String,
    /// Above 0 a sale, below 0 a return.
    pub quantity: i64,
    /// Names the line for ever, together with the product.
    pub receipt: String,
}

/// A set of sales.
#[derive(Debug)]
pub struct Set {
    /// Opening stock by store and product.
    pub opening: BTreeMap<(String, String), i64>,
    /// Receipt lines in order.
    pub lines: Vec<Line>,
    pub expected: Value,
}

/// The project's own sample.
pub fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/data")
}

fn rows(folder: &Path, name: &str) -> Vec<csv::StringRecord> {
    let file = std::fs::File::open(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut text = String::new();
    GzDecoder::new(file).read_to_string(&mut text).expect("gzip of UTF-8");
    csv::Reader::from_reader(text.as_bytes()).records().map(|record| record.expect("CSV")).collect()
}

/// Reads a set.
pub fn read(folder: &Path) -> Set {
    let opening = rows(folder, "opening_stock.csv.gz")
        .iter()
        .map(|row| ((row[0].to_owned(), row[1].to_owned()), row[2].parse().expect("a number")))
        .collect();
    let lines = rows(folder, "transactions.csv.gz")
        .iter()
        .map(|row| Line {
            store: row[0].to_owned(),
            product: row[1].to_owned(),
            quantity: row[2].parse().expect("a number"),
            receipt: row[4].to_owned(),
        })
        .collect();
    let expected = std::fs::read_to_string(folder.join("expected.json")).expect("expected.json");
    Set { opening, lines, expected: serde_json::from_str(&expected).expect("JSON") }
}

impl Set {
    /// The checkpoint after so many lines.
    pub fn checkpoint(&self, lines: usize) -> &Value {
        let all = self.expected["checkpoints"].as_array().expect("checkpoints");
        all.iter().find(|checkpoint| checkpoint["rows_replayed"] == lines).expect("this checkpoint")
    }
}

/// SHA-256 over sorted lines, as the data's README defines it.
pub fn checksum(lines: impl IntoIterator<Item = String>) -> String {
    use sha2::{Digest, Sha256};
    let mut lines: Vec<String> = lines.into_iter().collect();
    lines.sort_unstable();
    let mut hasher = Sha256::new();
    for line in lines {
        hasher.update(line.as_bytes());
        hasher.update(b"\n");
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
