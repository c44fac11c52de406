//! How long other requests wait beside work on a whole large store: a resync, a rebuild of the view, backups, the question of a
//! restore and its answer, the whole restore, the opening behind it. Limit: the same requests while nothing else goes on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, anyhow, ensure};
use serde_json::Value;

use crate::Effort;
use crate::http::{self, Caller};
use crate::paced::{Latencies, paced_while};
use crate::prepared::Prepared;
use crate::row::{Reach, Row};
use crate::setup::{STORE, Setup, product, sale};

const LONGEST: Reach = Reach::ValueAtMost(50.0);
/// The store that nothing happens to.
const OTHER: &str = "s2";
const OTHER_ITEMS: u64 = 100;
/// Items of a page of a store's state, at most.
const PAGE: u64 = 200;
/// What follows these, at least.
const END_AND_ANSWER: u64 = 2;

/// A kind of request, made one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// At the large store's till.
    Sale,
    /// Of one of its items, at central.
    Read,
    /// From the other store, at central.
    Purchase,
}

impl Probe {
    fn name(self) -> &'static str {
        match self {
            Self::Sale => "sale",
            Self::Read => "read",
            Self::Purchase => "purchase",
        }
    }
}

const ALL: &[Probe] = &[Probe::Sale, Probe::Read, Probe::Purchase];
/// While the large store's agent does not run.
const AT_CENTRAL: &[Probe] = &[Probe::Read, Probe::Purchase];

pub(crate) fn measure(effort: &Effort, prepared: &mut Prepared) -> anyhow::Result<Vec<Row>> {
    let items = effort.large_store;
    println!("stall: {items} items");
    let mut setup = prepared.setup(items)?;
    setup.add_store(OTHER, OTHER_ITEMS)?;
    let mut asked = Asked {
        load: setup.next_load(),
        items,
        ports: [setup.agent(STORE), setup.central()],
        counts: Default::default(),
    };
    let rest = asked.beside(ALL, || {
        thread::sleep(effort.time);
        Ok(())
    })?;
    let mut rows = Vec::new();
    let mut told = |work: &str, probes: &[Probe], seen: Vec<Latencies>| {
        for (probe, seen) in probes.iter().zip(seen) {
            let rest = ALL.iter().zip(&rest).find_map(|(of, rest)| (of == probe).then_some(rest));
            let rest = |share| rest.map_or(f64::INFINITY, |rest| rest.quantile_ms(share));
            for (what, share, reach) in [("p99", 0.99, Reach::Unset), ("max", 1.0, LONGEST)] {
                let mut row = Row::new(format!("stall-{work}-{}-{what}", probe.name()), "ms", "at rest", reach);
                row.add(seen.quantile_ms(share), rest(share));
                rows.push(row);
            }
        }
    };

    let seen = asked.beside(ALL, || resync(&setup, &asked))?;
    told("resync", ALL, seen);
    let seen = asked.beside(ALL, || rebuild(&setup))?;
    told("rebuild", ALL, seen);
    let seen = asked.beside(ALL, || setup.back_up())?;
    told("backup", ALL, seen);
    setup.stop_agent();
    let seen = asked.beside(AT_CENTRAL, || setup.ask_restore())?;
    told("question", AT_CENTRAL, seen);
    let seen = asked.beside(AT_CENTRAL, || setup.restore_agent())?;
    told("restore", AT_CENTRAL, seen);
    setup.start_agent();
    let seen = asked.beside(ALL, || {
        setup.converge();
        Ok(())
    })?;
    told("opening", ALL, seen);

    let [sold, _, bought] = asked.counts.each_mut().map(|count| *count.get_mut());
    setup.sold(sold)?;
    setup.check()?;
    setup.check_stock(OTHER, OTHER_ITEMS, i64::try_from(bought)?)?;
    Ok(rows)
}

/// What was asked, and how often: by kind, in the order of [`ALL`].
struct Asked {
    load: u64,
    items: u64,
    /// The large store's and central's.
    ports: [u16; 2],
    counts: [AtomicU64; 3],
}

impl Asked {
    fn count(&self, probe: Probe) -> &AtomicU64 {
        &self.counts[probe as usize]
    }

    /// Makes these requests, each kind one at a time, while the work goes on.
    fn beside(&self, probes: &[Probe], work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Vec<Latencies>> {
        let over = AtomicBool::new(false);
        let goes_on = || !over.load(Ordering::Relaxed);
        thread::scope(|scope| {
            let probing: Vec<_> = probes.iter().map(|probe| scope.spawn(move || self.ask(*probe, goes_on))).collect();
            let done = work();
            over.store(true, Ordering::Relaxed);
            let seen = probing.into_iter().map(|probing| probing.join().map_err(|_| anyhow!("a caller panicked"))?);
            let seen = seen.collect::<anyhow::Result<Vec<_>>>();
            done.and(seen)
        })
    }

    fn ask(&self, probe: Probe, goes_on: impl Fn() -> bool) -> anyhow::Result<Latencies> {
        let Self { load, items, ports: [store, central], .. } = *self;
        let mut caller = Caller::connect(if probe == Probe::Sale { store } else { central })?;
        let mut request = Vec::new();
        paced_while(goes_on, |_| {
            let number = self.count(probe).fetch_add(1, Ordering::Relaxed);
            let item = product(number, items);
            match probe {
                Probe::Sale => sale(&mut request, &item, load, number),
                Probe::Read => http::get(&mut request, format_args!("/v1/inventory/{STORE}/{item}")),
                Probe::Purchase => http::post(
                    &mut request,
                    format_args!("/v1/purchase/{OTHER}/{}", product(number, OTHER_ITEMS)),
                    format_args!("purchase-{load}-{number}"),
                    r#"{"quantity":1}"#,
                ),
            }
            let answer = caller.call(&request, 200)?;
            if probe == Probe::Purchase {
                let answer: Value = serde_json::from_slice(answer.body)?;
                ensure!(answer["purchase"]["status"] == "confirmed", "a purchase that is not confirmed: {answer}");
            }
            Ok(())
        })
    }
}

/// Has the large store tell its whole state; until central has it.
fn resync(setup: &Setup, asked: &Asked) -> anyhow::Result<()> {
    let sold = || asked.count(Probe::Sale).load(Ordering::Relaxed);
    let before = setup.head(STORE)?.saturating_sub(sold());
    setup.post_to_central(&format!("/v1/stores/{STORE}/resync"), 202)?;
    setup.wait("the state's pages are written", || {
        // A sale that was counted may not be written yet: then this holds a little later.
        Ok(setup.head(STORE)?.saturating_sub(sold()) >= before + asked.items / PAGE + END_AND_ANSWER)
    })?;
    setup.converge();
    Ok(())
}

fn rebuild(setup: &Setup) -> anyhow::Result<()> {
    setup.post_to_central("/v1/projections/rebuild", 202)?;
    let mut found = Value::Null;
    setup.wait("the view is rebuilt", || {
        let mut central = Caller::connect(setup.central())?;
        let mut request = Vec::new();
        http::get(&mut request, format_args!("/v1/projections"));
        found = serde_json::from_slice(central.call(&request, 200)?.body)?;
        Ok(found["items"][0]["status"] == "live")
    })?;
    let left_out = found["items"][0]["leftOut"]["count"].as_u64().context("a count of what was left out")?;
    ensure!(left_out == 0, "a rebuild has left stores out: {found}");
    Ok(())
}
