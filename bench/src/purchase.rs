//! A purchase at central that the store confirms, one after the other. Two limits: the smallest chain one way, which the
//! figure to reach is set against, and the smallest chain there and back, which is what a purchase takes at least: a
//! transaction at central, one at the store, one at central, and two ways through Redis between them.

use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::Effort;
use crate::chain::{Chain, End, both};
use crate::database::{Entry, Event};
use crate::http::{self, Caller};
use crate::paced::{Latencies, paced};
use crate::row::{Reach, Row};
use crate::setup::{STORE, Setup, product};

const COMMANDS: &str = "limit:purchase:commands";
const REPLIES: &str = "limit:purchase:replies";

pub(crate) fn measure(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    println!("purchase: {} one at a time, {} items", effort.calls, effort.items);
    let mut setup = Setup::one_store(effort.items)?;
    let mut chain = Chain::start(&setup, effort.items)?;
    let mut round = Round::start(&setup, effort.items)?;
    let mut p50 = Row::new("purchase-p50", "ms", "smallest chain", Reach::RatioAtMost(3.0));
    let mut p50_round = Row::new("purchase-p50-round", "ms", "there and back", Reach::Unset);
    let mut p99 = Row::new("purchase-p99", "ms", "there and back", Reach::ValueAtMost(15.0));
    for _ in 0..effort.pairs {
        let seen = buy(&mut setup, effort.calls)?;
        let one_way = chain.single(effort.calls)?;
        let there_and_back = round.single(effort.calls)?;
        p50.add(seen.quantile_ms(0.5), one_way.quantile_ms(0.5));
        p50_round.add(seen.quantile_ms(0.5), there_and_back.quantile_ms(0.5));
        p99.add(seen.quantile_ms(0.99), there_and_back.quantile_ms(0.99));
    }
    setup.check()?;
    Ok(vec![p50, p50_round, p99])
}

fn buy(setup: &mut Setup, calls: u64) -> anyhow::Result<Latencies> {
    let (load, items) = (setup.next_load(), setup.items());
    let mut central = Caller::connect(setup.central())?;
    let mut request = Vec::new();
    let latencies = paced(calls, |number| {
        http::post(
            &mut request,
            format_args!("/v1/purchase/{STORE}/{}", product(number, items)),
            format_args!("purchase-{load}-{number}"),
            r#"{"quantity":1}"#,
        );
        // 202 would mean that the store has not answered.
        let answer: Value = serde_json::from_slice(central.call(&request, 200)?.body)?;
        ensure!(answer["purchase"]["status"] == "confirmed", "a purchase that is not confirmed: {answer}");
        Ok(())
    })?;
    setup.sold(calls)?;
    Ok(latencies)
}

/// The smallest chain there and back.
struct Round {
    central: End,
    store: End,
    items: u64,
    /// Of the last entry that central recorded: an even number each, one for what it asks and one for what it learns.
    seq: i64,
    _dir: TempDir,
}

impl Round {
    fn start(setup: &Setup, items: u64) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("limit-").tempdir_in(setup.dir())?;
        let (central, store) = (End::create(setup, items, &dir, "central")?, End::create(setup, items, &dir, "store")?);
        let mut round = Self { central, store, items, seq: 0, _dir: dir };
        // Statements, caches and connections are new.
        round.single(20)?;
        Ok(round)
    }

    /// So many purchases one at a time: from the start of central's first transaction to the end of its second.
    fn single(&mut self, purchases: u64) -> anyhow::Result<Latencies> {
        let (from, items) = (self.seq, self.items);
        let last = from + 2 * i64::try_from(purchases)?;
        let (central, store) = (&mut self.central, &mut self.store);
        let latencies = both(
            || {
                paced(purchases, |number| {
                    let seq = from + 1 + 2 * i64::try_from(number)?;
                    let asked = [Entry::of(Event::sold(seq, product(number, items)))?];
                    central.database.record(&asked)?;
                    central.publish(COMMANDS, &asked)?;
                    let replies = central.read(REPLIES, seq)?;
                    ensure!(replies.len() == 1, "{} replies to one purchase", replies.len());
                    central.database.record(&replies)
                })
            },
            move || {
                let mut at = from;
                while at < last {
                    let asked = store.read(COMMANDS, at)?;
                    let seq = asked.last().context("an answer without entries")?.event.seq;
                    let replies: Vec<Entry> = asked.into_iter().map(reply).collect::<Result<_, _>>()?;
                    store.database.record(&replies)?;
                    store.publish(REPLIES, &replies)?;
                    at = seq + 1;
                }
                Ok(())
            },
        )?;
        self.seq = last;
        for stream in [COMMANDS, REPLIES] {
            self.central.clear(stream)?;
        }
        let (central, store) = (self.central.database.sums()?, self.store.database.sums()?);
        ensure!(
            (central, store) == ((-last, last), (-last / 2, last / 2)),
            "there and back: {central:?} at central and {store:?} at the store, not {last} and half of it"
        );
        Ok(latencies)
    }
}

fn reply(Entry { event, .. }: Entry) -> anyhow::Result<Entry> {
    Entry::of(event.next())
}
