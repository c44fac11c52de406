//! A store far away: 200 ms there and back, one of a hundred segments lost, 10 Mbit/s. How soon its sales are visible, how
//! much of the line it uses when it has a lot to send, and whether another store notices.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::Effort;
use crate::network::{Network, Way};
use crate::paced::{Latencies, paced_every, paced_while};
use crate::row::{Reach, Row};
use crate::setup::{STORE, Setup};
use crate::visible::until_shown;

pub(crate) const WAY: Way = Way { delay: Duration::from_millis(100), lost_of: 100, rate: 1.25e6 };
const DISTANT: &str = "s2";
const ITEMS: u64 = 100;
/// Between two sales at the distant store: most of them travel alone.
const PAUSE: Duration = Duration::from_millis(400);

pub(crate) fn measure(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let (calls, backlog) = (effort.calls.div_ceil(20), effort.backlog.div_ceil(20));
    println!("slow-network: {calls} sales one at a time, {backlog} events");
    let mut setup = Setup::one_store(effort.items)?;
    let network = Network::start(setup.redis_port(), WAY)?;
    setup.add_store_through(DISTANT, ITEMS, network.port())?;
    let mut shop = Shop { load: setup.next_load(), sold: Default::default() };

    let way_ms = WAY.delay.as_secs_f64() * 1e3;
    let mut p50 = Row::new("slow-visible-p50", "ms", "the way alone", Reach::RatioAtMost(1.5));
    let mut p99 = Row::new("slow-visible-p99", "ms", "the way alone", Reach::Unset);
    let seen = shop.far(&setup, calls)?;
    p50.add(seen.quantile_ms(0.5), way_ms);
    p99.add(seen.quantile_ms(0.99), way_ms);

    let mut rate = Row::new("slow-backlog", "events/s", "full line", Reach::Unset);
    let mut near_p50 = Row::new("slow-beside-p50", "ms", "no slow store", Reach::Unset);
    let mut near_p99 = Row::new("slow-beside-p99", "ms", "no slow store", Reach::RatioAtMost(2.0));
    for _ in 0..effort.pairs.min(2) {
        setup.connect(DISTANT, false)?;
        shop.sell_far(&mut setup, backlog)?;
        let head = setup.head(DISTANT)?;
        let alone = shop.near(&setup, || {
            thread::sleep(effort.time);
            Ok(())
        })?;
        let (begin, before) = (Instant::now(), network.sent());
        let beside = shop.near(&setup, || {
            setup.connect(DISTANT, true)?;
            setup.applied(DISTANT, head)
        })?;
        let seconds = begin.elapsed().as_secs_f64();
        let bytes = network.sent().saturating_sub(before) as f64 / backlog as f64;
        setup.converge();
        rate.add(backlog as f64 / seconds, WAY.rate / bytes);
        near_p50.add(beside.quantile_ms(0.5), alone.quantile_ms(0.5));
        near_p99.add(beside.quantile_ms(0.99), alone.quantile_ms(0.99));
    }
    let [near, far] = shop.sold.each_mut().map(|sold| *sold.get_mut());
    setup.sold(near)?;
    setup.check()?;
    setup.check_stock(DISTANT, ITEMS, i64::try_from(far)?)?;
    Ok(vec![p50, p99, rate, near_p50, near_p99])
}

/// Who sells, and how much was sold: at the store nearby, and at the one far away.
struct Shop {
    load: u64,
    sold: [AtomicU64; 2],
}

impl Shop {
    /// Sales at the distant store until central shows them, one at a time.
    fn far(&self, setup: &Setup, calls: u64) -> anyhow::Result<Latencies> {
        let call = self.visible(setup, DISTANT, ITEMS, &self.sold[1])?;
        paced_every(PAUSE, calls, call)
    }

    /// The distant store's tills, as fast as they go.
    fn sell_far(&mut self, setup: &mut Setup, sales: u64) -> anyhow::Result<()> {
        setup.sales_of(setup.agent(DISTANT), ITEMS).exactly(sales)?;
        *self.sold[1].get_mut() += sales;
        Ok(())
    }

    /// Sales at the store nearby until central shows them, one at a time, while something else goes on.
    fn near(&self, setup: &Setup, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Latencies> {
        let call = self.visible(setup, STORE, setup.items(), &self.sold[0])?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let selling = scope.spawn(|| paced_while(|| !over.load(Ordering::Relaxed), call));
            let done = work();
            over.store(true, Ordering::Relaxed);
            let seen = selling.join().map_err(|_| anyhow!("who sells panicked"))?;
            done.and(seen)
        })
    }

    fn visible(
        &self,
        setup: &Setup,
        store: &'static str,
        items: u64,
        sold: &AtomicU64,
    ) -> anyhow::Result<impl FnMut(u64) -> anyhow::Result<()> + Send> {
        let mut call = until_shown(setup, store, items, self.load)?;
        Ok(move |_| call(sold.fetch_add(1, Ordering::Relaxed)))
    }
}
