//! Connections that do nothing, requests that do not end, and answers that nobody reads.

use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::arena::{Arena, Form};
use super::probes::size_of;
use super::wire::{ask_within, connect_from, request};
use crate::Daemon;

/// Descriptors of this program that are not connections of an attack.
const OWN_DESCRIPTORS: u64 = 500;
/// Time for a connection, long enough for a repeated SYN, and how many may fail.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const FAILURES_MAX: usize = 5;
/// A connection that sends no whole head must be gone after this long.
const HEAD_WITHIN: Duration = Duration::from_secs(15);

/// This program holds both ends' worth of clients: as many descriptors as it may have.
pub(super) fn raise_limit() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// So many connections, or half of what this program may open where that is less.
fn at_most(wanted: usize) -> anyhow::Result<usize> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(wanted.min(usize::try_from(soft.saturating_sub(OWN_DESCRIPTORS) / 2)?))
}

/// Connects that often; what is refused at once is not held.
async fn connect_many(count: usize, machines: usize, port: u16) -> Vec<TcpStream> {
    let (mut streams, mut failures) = (Vec::with_capacity(count), 0);
    for number in 0..count {
        // A server that takes no more of them lets the connection wait: the attacker does not.
        match timeout(CONNECT_WITHIN, connect_from(number % machines, port)).await {
            Ok(Ok(stream)) => streams.push(stream),
            _ if failures == FAILURES_MAX => break,
            _ => failures += 1,
        }
    }
    streams
}

/// How many of these the server still holds open; what it sent before the end does not matter.
async fn still_open(streams: &mut [TcpStream]) -> usize {
    let mut open = 0;
    let mut buffer = [0; 1_024];
    for stream in streams {
        loop {
            match stream.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    open += 1;
                    break;
                }
                Err(_) => break,
            }
        }
    }
    open
}

/// Both daemons with few descriptors, and a client that takes all of them.
pub(super) async fn descriptors(arena: &mut Arena) -> anyhow::Result<()> {
    arena.world.limit_descriptors(1_024);
    for daemon in [arena.agent(), Daemon::Central] {
        arena.world.terminate(&daemon);
        arena.world.restart(&daemon).await;
    }
    arena.world.online("s1").await;
    arena.world.online("s2").await;
    arena.watch().await?;
    let mut held = Vec::new();
    for port in arena.ports() {
        held.push(connect_many(1_100, 1, port).await);
    }
    sleep(arena.form.seconds(12, 4)).await;
    let counts: Vec<usize> = held.iter().map(Vec::len).collect();
    arena.note = format!("{} and {} connected", counts[0], counts[1]);
    Ok(())
}

/// Connections on which nothing is ever said, from several machines.
pub(super) async fn idle(arena: &mut Arena) -> anyhow::Result<()> {
    let count = at_most(arena.form.of(5_000, 600))?;
    arena.watch().await?;
    let mut held = Vec::new();
    for port in arena.ports() {
        held.extend(connect_many(count, 8, port).await);
    }
    let open = wait_for_end(&mut held, HEAD_WITHIN, "").await;
    arena.note = format!("{} of {} open after {} s", open, held.len(), HEAD_WITHIN.as_secs());
    arena.expect(open == 0, format!("{open} idle connections are open after {HEAD_WITHIN:?}"));
    Ok(())
}

/// Heads that go on for ever, from one machine.
pub(super) async fn half_sent(arena: &mut Arena) -> anyhow::Result<()> {
    let count = at_most(arena.form.of(5_000, 600))?;
    arena.watch().await?;
    let mut held = Vec::new();
    for port in arena.ports() {
        held.extend(connect_many(count, 1, port).await);
    }
    for stream in &mut held {
        // The server may have closed it; then there is nothing to drip into.
        let _ = stream.try_write(b"GET /v1/inventory HTTP/1.1\r\nhost: localhost\r\nx-more: ");
    }
    let open = wait_for_end(&mut held, HEAD_WITHIN, "x").await;
    arena.note = format!("{} of {} open after {} s", open, held.len(), HEAD_WITHIN.as_secs());
    arena.expect(open == 0, format!("{open} half-sent requests are open after {HEAD_WITHIN:?}"));
    Ok(())
}

/// Waits until the server has closed all, and sends something on each every second; how many are left.
async fn wait_for_end(streams: &mut [TcpStream], within: Duration, drip: &str) -> usize {
    let end = Instant::now() + within;
    loop {
        let open = still_open(streams).await;
        if open == 0 || Instant::now() >= end {
            return open;
        }
        sleep(Duration::from_secs(1)).await;
        for stream in &mut *streams {
            // Closed ones do not take it.
            let _ = stream.try_write(drip.as_bytes());
        }
    }
}

/// Something to list: events with long texts.
async fn fill(arena: &Arena, lines: usize) -> anyhow::Result<()> {
    let mut csv = String::from("productId,name,quantity\n");
    for number in 0..lines {
        csv.push_str(&format!("p-{number:05},{},5\n", "long name ".repeat(18)));
    }
    let import = [("content-type", "text/csv")];
    let answer = arena.world.store("s1").send(reqwest::Method::POST, "/v1/import", &import, csv.into_bytes()).await;
    anyhow::ensure!(answer.status == 200, "the import: {} {}", answer.status, answer.body);
    let central = arena.world.central();
    arena
        .wait("central has the import", Duration::from_secs(30), async || {
            let item = super::arena::answer(&central, &format!("/v1/inventory/s1/p-{:05}", lines - 1)).await;
            item.map(drop)
        })
        .await
}

/// Long lists for everybody, again and again.
pub(super) async fn listing(arena: &mut Arena) -> anyhow::Result<()> {
    fill(arena, 2_000).await?;
    let ports = arena.ports();
    let clients = arena.form.of(400, 100);
    arena.watch().await?;
    let end = Instant::now() + arena.form.seconds(8, 3);
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let port = ports[number % 2];
        tasks.spawn(async move {
            let list = request("GET", "/v1/events?size=1000", &[("connection", "close")], "");
            let (mut answered, mut failed) = (0_u64, Vec::new());
            while Instant::now() < end {
                match ask_within(Duration::from_secs(40), number, port, list.as_bytes()).await {
                    Ok(reply) if reply.status == 200 => answered += 1,
                    Ok(reply) if reply.status == 503 && !reply.header("retry-after").is_empty() => {
                        sleep(Duration::from_millis(100)).await;
                    }
                    Ok(reply) => failed.push(format!("a list: {}", reply.status)),
                    // A connection too many may be closed; a hang may not be.
                    Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                        failed.push("no list for 40 s".into())
                    }
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
            (answered, failed)
        });
    }
    let mut lists = 0;
    for (answered, failed) in tasks.join_all().await {
        lists += answered;
        failed.into_iter().for_each(|finding| arena.find(finding));
    }
    arena.note = format!("{lists} lists");
    arena.expect(lists > 0, "no list was answered");
    Ok(())
}

/// Answers that the server must not keep for those who do not take them.
pub(super) async fn slow_readers(arena: &mut Arena) -> anyhow::Result<()> {
    const CUT_WITHIN: Duration = Duration::from_secs(50);
    /// Connections of tills and tools that may come and go meanwhile.
    const OTHERS: usize = 10;
    fill(arena, 3_000).await?;
    let count = arena.form.of(200, 100);
    arena.watch().await?;
    let processes = [arena.agent(), Daemon::Central].map(|daemon| arena.world.running(&daemon).id());
    let files = || processes.map(|process| size_of(process).map_or(0, |(_, files)| files));
    let before = files();
    // Several answers in a row: more than any socket's buffer takes.
    let lists = request("GET", "/v1/events?size=1000", &[], "").repeat(20);
    let mut held = Vec::new();
    for port in arena.ports() {
        for mut stream in connect_many(count, 8, port).await {
            if stream.write_all(lists.as_bytes()).await.is_ok() {
                held.push(stream);
            }
        }
    }
    sleep(arena.form.seconds(5, 3)).await;
    if arena.form == Form::Full {
        sleep(CUT_WITHIN - Duration::from_secs(5)).await;
        let kept: usize = files().into_iter().zip(before).map(|(now, then)| now.saturating_sub(then)).sum();
        arena.note = format!("about {kept} of {} kept after {} s", held.len(), CUT_WITHIN.as_secs());
        arena.expect(kept <= OTHERS, format!("{kept} connections that nobody reads are kept after {CUT_WITHIN:?}"));
    }
    Ok(())
}
