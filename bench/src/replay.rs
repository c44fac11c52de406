//! Real receipts through real agents, one a store, as fast as they go: from the first sale until central has all. In as
//! many parts as there are pairs, each followed by its limit: the smallest chain with as many events. And the same receipts
//! dealt out to ten times as many stores.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use ::tests::data::{self, Line};
use anyhow::{Context, ensure};

use crate::chain::Chain;
use crate::crowd::Crowd;
use crate::load::{self, Script};
use crate::row::{Reach, Row};
use crate::setup::{Setup, Stock, csv};
use crate::{Effort, http};

/// Tills of a store; each has products of its own, so that a product's lines stay in order.
const TILLS: usize = 8;

/// Receipt lines of the tenfold replay, at most.
const LINES: usize = 100_000;
/// Stores that one store's receipts are dealt out to.
const COPIES: usize = 10;

/// Opening stock by store.
type Opening = BTreeMap<String, Stock>;

pub(crate) fn measure(effort: &Effort, folder: &Path) -> anyhow::Result<Vec<Row>> {
    let Some((lines, opening)) = read(effort, folder) else { return Ok(Vec::new()) };
    println!("replay: {} lines, {} stores", lines.len(), opening.len());
    let stores: Vec<&str> = opening.keys().map(String::as_str).collect();
    let setup = Setup::start(&stores)?;
    for (store, stock) in &opening {
        setup.import(store, stock)?;
    }
    setup.converge();
    let mut chain = Chain::start(&setup, items(&opening))?;
    let mut row = Row::new("replay", "lines/s", "smallest chain", Reach::Unset);
    let agents = opening.keys().map(|store| (store.as_str(), setup.agent(store))).collect();
    play(&mut chain, effort, &lines, &agents, &mut row, || {
        setup.converge();
        Ok(())
    })?;
    check(&setup, &opening, &lines, &agents)?;
    Ok(vec![row])
}

/// The same with ten times as many stores, whose agents share processes.
pub(crate) fn measure_tenfold(effort: &Effort, folder: &Path) -> anyhow::Result<Vec<Row>> {
    let Some((mut lines, opening)) = read(effort, folder) else { return Ok(Vec::new()) };
    lines.truncate(LINES);
    let mut tenfold = Opening::new();
    for (number, line) in lines.iter_mut().enumerate() {
        let copy = format!("{}-{}", line.store, number % COPIES);
        let units = opening.get(&line.store).and_then(|stock| stock.get(&line.product));
        let units = units.with_context(|| format!("no opening stock of {} in {}", line.product, line.store))?;
        tenfold.entry(copy.clone()).or_default().insert(line.product.clone(), *units);
        line.store = copy;
    }
    println!("replay-tenfold: {} lines, {} stores", lines.len(), tenfold.len());
    let setup = Setup::start(&[])?;
    let crowd = Crowd::start_empty(&setup, tenfold.keys().cloned().collect(), setup.redis_port())?;
    crowd.import(&setup, |store| tenfold.get(store).map_or_else(String::new, csv))?;
    crowd.converge(&setup)?;
    let agents = crowd.stores.iter().map(|store| (store.id.as_str(), store.port)).collect();
    let mut chain = Chain::start(&setup, items(&tenfold))?;
    let mut row = Row::new("replay-tenfold", "lines/s", "smallest chain", Reach::Unset);
    play(&mut chain, effort, &lines, &agents, &mut row, || crowd.applied(&setup))?;
    crowd.converge(&setup)?;
    check(&setup, &tenfold, &lines, &agents)?;
    Ok(vec![row])
}

/// Receipt lines and opening stock, if they are there.
fn read(effort: &Effort, folder: &Path) -> Option<(Vec<Line>, Opening)> {
    let folder = if effort.sample { data::sample() } else { folder.to_owned() };
    if !folder.join("expected.json").is_file() {
        println!("replay: left out, there is no sales data in {}", folder.display());
        return None;
    }
    let mut set = data::read(&folder);
    set.lines.truncate(effort.lines);
    let mut opening = Opening::new();
    for ((store, product), quantity) in set.opening {
        opening.entry(store).or_default().insert(product, quantity);
    }
    Some((set.lines, opening))
}

fn items(opening: &Opening) -> u64 {
    opening.values().map(|stock| stock.len() as u64).sum()
}

/// The agents' ports by store.
type Agents<'a> = BTreeMap<&'a str, u16>;

fn play(
    chain: &mut Chain,
    effort: &Effort,
    lines: &[Line],
    agents: &Agents<'_>,
    row: &mut Row,
    caught_up: impl Fn() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for part in lines.chunks(lines.len().div_ceil(effort.pairs)) {
        let scripts = scripts(agents, part)?;
        let begin = Instant::now();
        load::play(scripts)?;
        caught_up()?;
        let rate = part.len() as f64 / begin.elapsed().as_secs_f64();
        row.add(rate, chain.bulk(i64::try_from(part.len())?)?);
    }
    Ok(())
}

/// Every store has what its receipts add up to.
fn check(setup: &Setup, opening: &Opening, lines: &[Line], agents: &Agents<'_>) -> anyhow::Result<()> {
    let mut stocks = opening.clone();
    for Line { store, product, quantity, .. } in lines {
        let stock = stocks.get_mut(store).and_then(|stock| stock.get_mut(product));
        *stock.with_context(|| format!("no opening stock of {product} in {store}"))? -= quantity;
    }
    for (store, port) in agents {
        let expected = stocks.get(*store).with_context(|| format!("no stock of {store}"))?;
        ensure!(setup.stock_at(*port)? == *expected, "the closing stock of {store} is not what the receipts add up to");
    }
    Ok(())
}

fn scripts(agents: &Agents<'_>, lines: &[Line]) -> anyhow::Result<Vec<Script>> {
    let mut by_till: BTreeMap<(&str, usize), Vec<Vec<u8>>> = BTreeMap::new();
    for line in lines {
        let till = line.product.bytes().map(usize::from).sum::<usize>() % TILLS;
        by_till.entry((&line.store, till)).or_default().push(request(line));
    }
    let script = |((store, _), requests): ((&str, usize), _)| {
        let port = *agents.get(store).with_context(|| format!("no agent of {store}"))?;
        Ok(Script { port, requests })
    };
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
