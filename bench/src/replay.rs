//! Real receipts through real agents, one a store, as fast as they go: from the first sale until central has all. In as
//! many parts as there are pairs, each followed by its limit: the smallest chain with as many events.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use ::tests::data::{self, Line};
use anyhow::ensure;

use crate::chain::Chain;
use crate::load::{self, Script};
use crate::row::{Reach, Row};
use crate::setup::{Setup, Stock};
use crate::{Effort, http};

/// Tills of a store; each has products of its own, so that a product's lines stay in order.
const TILLS: usize = 8;

pub(crate) fn measure(effort: &Effort, folder: &Path) -> anyhow::Result<Vec<Row>> {
    let folder = if effort.sample { data::sample() } else { folder.to_owned() };
    if !folder.join("expected.json").is_file() {
        println!("replay: left out, there is no sales data in {}", folder.display());
        return Ok(Vec::new());
    }
    let mut set = data::read(&folder);
    set.lines.truncate(effort.lines);
    let mut stocks: BTreeMap<String, Stock> = BTreeMap::new();
    for ((store, product), quantity) in &set.opening {
        stocks.entry(store.clone()).or_default().insert(product.clone(), *quantity);
    }
    println!("replay: {} lines, {} stores, {} items", set.lines.len(), stocks.len(), set.opening.len());
    let stores: Vec<&str> = stocks.keys().map(String::as_str).collect();
    let setup = Setup::start(&stores)?;
    for (store, stock) in &stocks {
        setup.import(store, stock)?;
    }
    setup.converge();
    let mut chain = Chain::start(&setup, set.opening.len() as u64)?;
    let mut row = Row::new("replay", "lines/s", "smallest chain", Reach::Unset);
    for part in set.lines.chunks(set.lines.len().div_ceil(effort.pairs)) {
        let scripts = scripts(&setup, part);
        let begin = Instant::now();
        load::play(scripts)?;
        setup.converge();
        let rate = part.len() as f64 / begin.elapsed().as_secs_f64();
        row.add(rate, chain.bulk(i64::try_from(part.len())?)?);
    }
    for Line { store, product, quantity, .. } in &set.lines {
        let stock = stocks.get_mut(store).and_then(|stock| stock.get_mut(product));
        *stock.ok_or_else(|| anyhow::anyhow!("no opening stock of {product} in {store}"))? -= quantity;
    }
    for (store, expected) in &stocks {
        ensure!(setup.stock(store)? == *expected, "the closing stock of {store} is not what the receipts add up to");
    }
    Ok(vec![row])
}

fn scripts(setup: &Setup, lines: &[Line]) -> Vec<Script> {
    let mut by_till: BTreeMap<(&str, usize), Vec<Vec<u8>>> = BTreeMap::new();
    for line in lines {
        let till = line.product.bytes().map(usize::from).sum::<usize>() % TILLS;
        by_till.entry((&line.store, till)).or_default().push(request(line));
    }
    let script = |((store, _), requests)| Script { port: setup.agent(store), requests };
    by_till.into_iter().map(script).collect()
}

/// A sale, or the goods that a buyer brings back.
fn request(Line { product, quantity, receipt, .. }: &Line) -> Vec<u8> {
    let mut request = Vec::new();
    let key = format_args!("{receipt}:{product}");
    if *quantity > 0 {
        let body = format!(r#"{{"quantity":{quantity},"reference":"{receipt}"}}"#);
        http::post(&mut request, format_args!("/v1/purchase/{product}"), key, &body);
    } else {
        let body = format!(r#"{{"delta":{},"reason":"return","reference":"{receipt}"}}"#, -quantity);
        http::post(&mut request, format_args!("/v1/inventory/{product}/adjust"), key, &body);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(quantity: i64) -> Line {
        Line { store: "s1".to_owned(), product: "tea".to_owned(), quantity, receipt: "r-7".to_owned() }
    }

    #[test]
    fn what_comes_back_is_not_sold() {
        let text = |quantity| String::from_utf8(request(&line(quantity))).expect("text");
        let (sold, returned) = (text(2), text(-3));
        assert!(sold.starts_with("POST /v1/purchase/tea ") && sold.contains(r#"{"quantity":2,"#), "{sold}");
        assert!(
            returned.starts_with("POST /v1/inventory/tea/adjust ") && returned.contains(r#"{"delta":3,"#),
            "{returned}"
        );
        assert!([sold, returned].iter().all(|request| request.contains("idempotency-key: r-7:tea\r\n")));
    }
}
