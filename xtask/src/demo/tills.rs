//! The load: tills that replay the receipts, and online buyers. Both remember every answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::data::Line;
use crate::http::{Answer, Client};

/// Bought online in the play; not in the data, so its figures stay the data's own.
pub(crate) const ESPRESSO: &str = "demo-espresso";

/// Sold by the play itself, so that a check knows of a sale when it was made. Not in the data either.
pub(crate) const WATER: &str = "demo-water";

/// What the load has seen so far.
#[derive(Default)]
pub(crate) struct Tally {
    /// Receipt lines answered.
    pub(crate) lines: AtomicUsize,
    /// Lines that were refused, which none should be.
    pub(crate) refused: AtomicUsize,
    /// Online purchases confirmed, in units.
    pub(crate) confirmed: AtomicI64,
    /// Online purchases that ended otherwise or were told to come back.
    pub(crate) told_to_wait: AtomicUsize,
    /// Purchases answered 202: their outcome is looked up in the end.
    pub(crate) open: std::sync::Mutex<Vec<String>>,
}

impl Tally {
    /// Remembers what became of an online purchase.
    pub(crate) fn bought(&self, answer: &Answer) {
        match answer.status {
            200 => {
                self.confirmed.fetch_add(1, Ordering::Relaxed);
            }
            202 => {
                let id = answer.body["purchase"]["purchaseId"].as_str().unwrap_or_default().to_owned();
                self.open.lock().expect("no shopper panics with it").push(id);
            }
            _ => {
                self.told_to_wait.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Replays a store's lines, evenly over `over`. Each line is repeated under its key until it is answered.
pub(crate) fn till(
    port: u16,
    lines: Vec<Line>,
    over: Duration,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut client = Client::new(port);
        let started = Instant::now();
        let pause = over / u32::try_from(lines.len().max(1)).unwrap_or(u32::MAX);
        for (number, line) in (0_u32..).zip(&lines) {
            if let Some(early) = (pause * number).checked_sub(started.elapsed()) {
                std::thread::sleep(early);
            }
            let key = format!("{}:{}", line.receipt, line.product);
            let headers = [("idempotency-key", key.as_str())];
            let (path, body) = if line.quantity > 0 {
                let body = json!({"quantity": line.quantity, "reference": line.receipt});
                (format!("/v1/purchase/{}", line.product), body)
            } else {
                let body = json!({"delta": -line.quantity, "reason": "return", "reference": line.receipt});
                (format!("/v1/inventory/{}/adjust", line.product), body)
            };
            loop {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                match client.post(&path, &headers, &body) {
                    Ok(answer) if answer.status < 500 => {
                        tally.refused.fetch_add(usize::from(answer.status != 200), Ordering::Relaxed);
                        break;
                    }
                    _ => std::thread::sleep(Duration::from_millis(50)),
                }
            }
            tally.lines.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// Buys one espresso after the other, at one store after the other, until told to stop.
pub(crate) fn shopper(central: u16, stores: Vec<String>, tally: Arc<Tally>, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut client = Client::new(central);
        for (number, store) in stores.iter().cycle().enumerate() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let path = format!("/v1/purchase/{store}/{ESPRESSO}");
            let key = format!("order-{number}");
            let headers = [("idempotency-key", key.as_str())];
            loop {
                match client.post(&path, &headers, &json!({"quantity": 1})) {
                    Ok(answer) => tally.bought(&answer),
                    // Central is away: the same order again, under the same key.
                    Err(_) if !stop.load(Ordering::Relaxed) => {
                        std::thread::sleep(Duration::from_millis(50));
                        continue;
                    }
                    Err(_) => {}
                }
                break;
            }
            std::thread::sleep(Duration::from_millis(40));
        }
    })
}
