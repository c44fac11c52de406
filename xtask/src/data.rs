//! Sales data in the format of `demo/data`.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use flate2::read::GzDecoder;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// One receipt line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) store: String,
    pub(crate) product: String,
    pub(crate) quantity: i64,
    pub(crate) receipt: String,
}

/// What is played: some stores of a set.
pub(crate) struct Set {
    /// Names of the products.
    pub(crate) names: HashMap<String, String>,
    /// Opening stock by store and product.
    pub(crate) opening: BTreeMap<(String, String), i64>,
    /// Receipt lines in order.
    pub(crate) lines: Vec<Line>,
    /// SHA-256 of the closing stock: from `expected.json` when all stores are played, else from replaying these
    /// stores' lines.
    pub(crate) closing: String,
    /// Whether it is from `expected.json`.
    pub(crate) is_expected: bool,
}

fn rows(folder: &Path, name: &str) -> anyhow::Result<Vec<csv::StringRecord>> {
    let path = folder.join(name);
    let file = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
    let mut text = String::new();
    GzDecoder::new(file).read_to_string(&mut text).with_context(|| path.display().to_string())?;
    Ok(csv::Reader::from_reader(text.as_bytes()).records().collect::<Result<_, _>>()?)
}

/// Reads the busiest stores of a folder.
pub(crate) fn read(folder: &Path, stores: usize) -> anyhow::Result<Set> {
    let mut lines = Vec::new();
    for row in rows(folder, "transactions.csv.gz")? {
        let quantity = row[2].parse().context("a quantity")?;
        lines.push(Line { store: row[0].into(), product: row[1].into(), quantity, receipt: row[4].into() });
    }
    let mut busy: HashMap<String, usize> = HashMap::new();
    for line in &lines {
        *busy.entry(line.store.clone()).or_default() += 1;
    }
    let mut busiest: Vec<(usize, String)> = busy.into_iter().map(|(store, count)| (count, store)).collect();
    busiest.sort_by(|a, b| b.cmp(a));
    let all = busiest.len() <= stores;
    busiest.truncate(stores);
    let chosen = |store: &str| busiest.iter().any(|(_, name)| name == store);
    lines.retain(|line| chosen(&line.store));
    let mut opening = BTreeMap::new();
    for row in rows(folder, "opening_stock.csv.gz")?.iter().filter(|row| chosen(&row[0])) {
        opening.insert((row[0].to_owned(), row[1].to_owned()), row[2].parse().context("a quantity")?);
    }
    let names = rows(folder, "products.csv.gz")?.iter().map(|row| (row[0].to_owned(), row[1].to_owned())).collect();
    let closing = if all { expected(folder, lines.len())? } else { replayed(&opening, &lines) };
    Ok(Set { names, opening, lines, closing, is_expected: all })
}

fn expected(folder: &Path, lines: usize) -> anyhow::Result<String> {
    let path = folder.join("expected.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let json: Value = serde_json::from_str(&text)?;
    let checkpoints = json["checkpoints"].as_array().context("expected.json has no checkpoints")?;
    let last = checkpoints.iter().find(|checkpoint| checkpoint["rows_replayed"] == lines);
    let sum = last.and_then(|checkpoint| checkpoint["sha256_store_product_qty"].as_str());
    Ok(sum.context("expected.json has no checkpoint after the last line")?.to_owned())
}

fn replayed(opening: &BTreeMap<(String, String), i64>, lines: &[Line]) -> String {
    let mut stock = opening.clone();
    for line in lines {
        *stock.entry((line.store.clone(), line.product.clone())).or_default() -= line.quantity;
    }
    checksum(stock.into_iter().map(|((store, product), quantity)| format!("{store},{product},{quantity}")))
}

/// SHA-256 over sorted lines.
pub(crate) fn checksum(lines: impl IntoIterator<Item = String>) -> String {
    let mut lines: Vec<String> = lines.into_iter().collect();
    lines.sort_unstable();
    let mut hasher = Sha256::new();
    for line in lines {
        hasher.update(line.as_bytes());
        hasher.update(b"\n");
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
