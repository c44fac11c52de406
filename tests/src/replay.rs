//! Real sales through real agents, Redis and central, with a kill of each on the way: central's closing stock is the
//! expected one to the last checksum.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::data::{Line, Set, checksum};
use crate::{Daemon, Till, World, until};

/// Tills of a store; each has products of its own, so that a product's lines stay in order.
const TILLS: usize = 8;

/// Replays a set; panics if a figure is not met.
pub async fn replay(set: &Set) {
    let started = Instant::now();
    let stores: BTreeSet<&str> = set.opening.keys().map(|(store, _)| store.as_str()).collect();
    let stores: Vec<&str> = stores.into_iter().collect();
    let mut world = World::with(&stores).await;
    open(&world, set, &stores).await;
    check(&world, set, 0).await;
    eprintln!("{} stores, {} items opened in {:?}", stores.len(), set.opening.len(), started.elapsed());

    let sold = Arc::new(AtomicUsize::new(0));
    let mut tills = sell(&world, set, &sold);
    // Each fault comes at its share of the lines, so that it meets the load wherever the machine is slow.
    for (fault, share) in [("flush", 15), ("central", 35), ("redis", 55), ("agent", 75)] {
        let at = set.lines.len() * share / 100;
        until(&format!("{share} % sold"), Duration::from_secs(600), async || {
            let count = sold.load(Ordering::Relaxed);
            if count >= at { Ok(()) } else { Err(count) }
        })
        .await;
        eprintln!("{:>6} of {} lines after {:?}: {fault}", at, set.lines.len(), started.elapsed());
        match fault {
            "flush" => world.flush_redis().await,
            "central" => {
                world.kill(&Daemon::Central);
                world.restart(&Daemon::Central).await;
            }
            "redis" => {
                world.kill_redis();
                world.start_redis().await;
            }
            _ => {
                let busiest = Daemon::Store(busiest(&set.lines));
                world.kill(&busiest);
                world.restart(&busiest).await;
            }
        }
    }
    while let Some(till) = tills.join_next().await {
        till.expect("a till that sold all its lines");
    }
    assert_eq!(sold.load(Ordering::Relaxed), set.lines.len());
    eprintln!("all lines sold after {:?}", started.elapsed());
    check(&world, set, set.lines.len()).await;
    world.converged(Duration::from_secs(60)).await;
    eprintln!("closing figures met after {:?}", started.elapsed());
}

fn busiest(lines: &[Line]) -> String {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for line in lines {
        *counts.entry(&line.store).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).expect("a line").0.to_owned()
}

/// Opening stock by import.
async fn open(world: &World, set: &Set, stores: &[&str]) {
    for store in stores {
        let mut csv = "productId,quantity\n".to_owned();
        for ((_, product), quantity) in set.opening.iter().filter(|((of, _), _)| of == store) {
            csv.push_str(&format!("{product},{quantity}\n"));
        }
        let headers = [("content-type", "text/csv")];
        let answer = world.store(store).send(reqwest::Method::POST, "/v1/import", &headers, csv.into_bytes()).await;
        let body = answer.expect(200);
        assert_eq!(body["totals"]["refused"], 0, "{}", body["totals"]);
    }
}

fn sell(world: &World, set: &Set, sold: &Arc<AtomicUsize>) -> JoinSet<()> {
    let mut by_till: BTreeMap<(String, usize), Vec<Line>> = BTreeMap::new();
    for line in &set.lines {
        let till = line.product.bytes().map(usize::from).sum::<usize>() % TILLS;
        by_till.entry((line.store.clone(), till)).or_default().push(line.clone());
    }
    let mut tills = JoinSet::new();
    for ((store, _), lines) in by_till {
        let (mut till, sold) = (Till::new(world.port_of(&store)), sold.clone());
        tills.spawn(async move {
            for Line { product, quantity, receipt, .. } in lines {
                let key = format!("{receipt}:{product}");
                let (path, body) = if quantity > 0 {
                    (format!("/v1/purchase/{product}"), format!(r#"{{"quantity":{quantity},"reference":"{receipt}"}}"#))
                } else {
                    let delta = -quantity;
                    let body = format!(r#"{{"delta":{delta},"reason":"return","reference":"{receipt}"}}"#);
                    (format!("/v1/inventory/{product}/adjust"), body)
                };
                let (status, answer) = till.post(&path, &key, &body).await;
                assert_eq!(status, 200, "{key}: {answer}");
                sold.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tills
}

/// Central's whole view has the checkpoint's three checksums.
async fn check(world: &World, set: &Set, lines: usize) {
    let expected = set.checkpoint(lines);
    until(&format!("the checkpoint after {lines} lines"), Duration::from_secs(120), async || {
        let seen = figures(world).await;
        let equal = ["sha256_store_product_qty", "sha256_product_qty", "sha256_store_qty"]
            .iter()
            .all(|name| seen[*name] == expected[*name].as_str().expect("a checksum"));
        if equal { Ok(()) } else { Err(seen["total"].clone()) }
    })
    .await;
}

async fn figures(world: &World) -> HashMap<&'static str, String> {
    let central = world.central();
    let (mut cursor, mut items, mut total) = (String::new(), Vec::new(), 0);
    let (mut products, mut stores): (BTreeMap<String, i64>, BTreeMap<String, i64>) = Default::default();
    loop {
        let page = central.get(&format!("/v1/inventory?size=1000&discontinued=true{cursor}")).await.expect(200);
        for item in page["items"].as_array().expect("a list") {
            let text = |name: &str| item[name].as_str().expect("text").to_owned();
            let (store, product) = (text("storeId"), text("productId"));
            let quantity = item["quantity"].as_i64().expect("a number");
            items.push(format!("{store},{product},{quantity}"));
            *products.entry(product).or_default() += quantity;
            *stores.entry(store).or_default() += quantity;
            total += quantity;
        }
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let pairs = |map: BTreeMap<String, i64>| checksum(map.into_iter().map(|(name, units)| format!("{name},{units}")));
    HashMap::from([
        ("total", format!("{total} units in {} items", items.len())),
        ("sha256_store_product_qty", checksum(items)),
        ("sha256_product_qty", pairs(products)),
        ("sha256_store_qty", pairs(stores)),
    ])
}
