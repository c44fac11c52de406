//! Thousands of mutated requests: each gets a complete and documented answer, or the connection is closed; nothing
//! crashes, hangs or is recorded wrongly.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::arena::Arena;
use super::mutations::Draft;
use super::seeds::{SEEDS, Server};
use super::wire::{Reply, connect_from, read_reply};
use crate::Dice;

/// Requests at a time.
const LANES: usize = 16;
/// The servers' own limit for a request is 35 s.
const ANSWERED_WITHIN: Duration = Duration::from_secs(40);
/// How long is waited for the answer to what may not be a whole request.
const LOOSE_WITHIN: Duration = Duration::from_millis(150);
/// Between two pieces of a request.
const PIECE_EVERY: Duration = Duration::from_millis(2);

/// What is needed to make and to send a request again.
struct Plan {
    seed: u64,
    ports: [u16; 2],
    purchase: String,
    command: String,
}

impl Plan {
    /// The request with this number: where it goes and what it is.
    fn request(&self, number: u64) -> (u16, Draft, Vec<u8>) {
        let mut dice = Dice::new(self.seed.wrapping_mul(1_000_003).wrapping_add(number));
        let seed = &SEEDS[dice.below(SEEDS.len() as u64) as usize];
        let mut draft = Draft::of(seed, &self.purchase, &self.command);
        draft.mutate(&mut dice);
        let bytes = draft.to_bytes(&mut dice);
        (self.ports[usize::from(seed.0 == Server::Central)], draft, bytes)
    }
}

/// What came back.
enum Outcome {
    Answered(Reply),
    /// The connection was closed without a word.
    Closed,
    /// Nothing came, which is right as long as the request is not whole.
    Silent,
    /// What came is no whole answer.
    Broken(String),
}

pub(super) async fn mutated(arena: &mut Arena) -> anyhow::Result<()> {
    let (agent, central) = (arena.world.store("s1"), arena.world.central());
    let fuzz = json!({"productId": "fuzz", "name": "Fuzz", "quantity": 100_000_000});
    agent.post("/v1/inventory", fuzz).await.expect(201);
    arena
        .wait("central knows the product", Duration::from_secs(20), async || {
            super::arena::answer(&central, "/v1/inventory/s1/fuzz").await
        })
        .await?;
    let bought = central.post("/v1/purchase/s1/fuzz", json!({"quantity": 1})).await.expect(200);
    let received = central.post("/v1/inventory/s1/fuzz/receive", json!({"quantity": 1})).await.expect(200);
    drop(received);
    let commands = central.get("/v1/commands?storeId=s1").await.expect(200);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let plan = Arc::new(Plan {
        seed: arena.seed,
        ports: arena.ports(),
        purchase: text(&bought["purchase"]["purchaseId"]),
        command: text(&commands["items"][0]["commandId"]),
    });
    anyhow::ensure!(!plan.purchase.is_empty() && !plan.command.is_empty(), "no ids: {bought} {commands}");
    if let Some(number) = arena.request {
        return play_one(arena, &plan, number).await;
    }
    arena.watch().await?;
    // Mutated switches cut the store off now and then; buyers buy at another one.
    let count = arena.form.of(20_000, 3_000);
    let next = Arc::new(AtomicU64::new(0));
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let (plan, next) = (plan.clone(), next.clone());
        lanes.spawn(async move {
            let (mut wrong, mut statuses) = (Vec::new(), Vec::new());
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return (wrong, statuses);
                }
                let (port, draft, bytes) = plan.request(number);
                let outcome = send(&draft, &bytes, lane, port).await;
                if let Outcome::Answered(reply) = &outcome {
                    statuses.push(reply.status);
                }
                if let Err(why) = judge(&draft, &outcome) {
                    wrong.push(format!("request {number} ({}): {why}", draft.done.join(", ")));
                }
            }
        });
    }
    let (mut answered, mut refused) = (0, 0);
    for (wrong, statuses) in lanes.join_all().await {
        answered += statuses.len();
        refused += statuses.iter().filter(|status| (400..500).contains(*status)).count();
        wrong.into_iter().for_each(|finding| arena.find(finding));
    }
    arena.note = format!("{count} requests, {answered} answers, {refused} of them 4xx");
    set_right(arena).await?;
    Ok(())
}

/// Undoes what valid requests among them did on purpose, and looks at both databases.
async fn set_right(arena: &mut Arena) -> anyhow::Result<()> {
    arena.world.store("s1").send(reqwest::Method::POST, "/v1/connected", &[], Vec::new()).await.expect(200);
    let stores = arena.world.central();
    stores.patch("/v1/stores/s1", json!({"onlineSale": true})).await.expect(200);
    for (program, args) in [
        ("store-agent", &["verify", "--store-id", "s1", "--database-path", "s1.db"][..]),
        ("central", &["verify", "--database-path", "central.db"][..]),
    ] {
        let (well, said) = arena.world.tool(program, args).await;
        arena.expect(well, format!("{program} verify: {}", said.trim()));
    }
    Ok(())
}

async fn play_one(arena: &mut Arena, plan: &Plan, number: u64) -> anyhow::Result<()> {
    const SHOWN: usize = 4_000;
    let (port, draft, bytes) = plan.request(number);
    println!("request {number} ({}), {} bytes:", draft.done.join(", "), bytes.len());
    println!("{}", bytes[..bytes.len().min(SHOWN)].escape_ascii());
    let outcome = send(&draft, &bytes, 0, port).await;
    match &outcome {
        Outcome::Answered(reply) => println!("{} {}", reply.status, String::from_utf8_lossy(&reply.body)),
        Outcome::Closed => println!("closed without an answer"),
        Outcome::Silent => println!("no answer"),
        Outcome::Broken(what) => println!("{what}"),
    }
    if let Err(why) = judge(&draft, &outcome) {
        arena.find(why);
    }
    Ok(())
}

async fn send(draft: &Draft, bytes: &[u8], machine: usize, port: u16) -> Outcome {
    let stream = match connect_from(machine, port).await {
        Ok(stream) => stream,
        Err(error) => return Outcome::Broken(format!("no connection: {error}")),
    };
    let (reader, mut writer) = stream.into_split();
    let write = async {
        for piece in bytes.chunks(bytes.len().div_ceil(draft.pieces).max(1)) {
            // A server that has refused already reads no further; what it said is what counts.
            if writer.write_all(piece).await.is_err() {
                return;
            }
            if draft.pieces > 1 {
                sleep(PIECE_EVERY).await;
            }
        }
    };
    let mut reader = BufReader::new(reader);
    let within = if draft.is_loose { LOOSE_WITHIN } else { ANSWERED_WITHIN };
    let read = async {
        let first = timeout(within, read_reply(&mut reader, draft.is_head())).await;
        match first {
            Err(_) => Outcome::Silent,
            Ok(Ok(reply)) => Outcome::Answered(reply),
            Ok(Err(error)) if error.kind() == ErrorKind::InvalidData => Outcome::Broken(error.to_string()),
            Ok(Err(_)) => Outcome::Closed,
        }
    };
    tokio::pin!(read);
    tokio::select! {
        outcome = &mut read => outcome,
        () = write => read.await,
    }
}

fn judge(draft: &Draft, outcome: &Outcome) -> Result<(), String> {
    let reply = match outcome {
        Outcome::Answered(reply) => reply,
        Outcome::Closed | Outcome::Silent if draft.is_loose => return Ok(()),
        Outcome::Closed => return Err("closed without an answer".into()),
        Outcome::Silent => return Err(format!("no answer in {ANSWERED_WITHIN:?}")),
        Outcome::Broken(what) => return Err(what.clone()),
    };
    let shown = || String::from_utf8_lossy(&reply.body[..reply.body.len().min(300)]).into_owned();
    let reached = !reply.header("x-trace-id").is_empty();
    match reply.status {
        503 if !reply.header("retry-after").is_empty() => {}
        500.. => return Err(format!("{} {}", reply.status, shown())),
        400.. if !reached && draft.is_loose => return Ok(()),
        400.. if !reached => return Err(format!("{} from below the application", reply.status)),
        400.. => {}
        _ => return Ok(()),
    }
    if draft.is_head() {
        return Ok(());
    }
    let (kind, problem) = (reply.header("content-type"), reply.json());
    // Unready is no problem: it lists its checks.
    if reply.status == 503 && problem["checks"].is_object() {
        return Ok(());
    }
    if kind != "application/problem+json" || problem["code"].as_str().is_none() || problem["status"] != reply.status {
        return Err(format!("{} is no problem document: {kind} {}", reply.status, shown()));
    }
    Ok(())
}
