//! Load over many connections from one thread: plain TCP, so that the generator is not what is measured. It is the same
//! for both sides of a ratio.
//!
//! *Closed* load shows how much is done: each connection asks again once it was answered. *Open* load shows how long it
//! takes: requests come due at a steady rate whether or not the server keeps up, and each is timed from the moment it was
//! due. Timed from when it was sent, a server that stalls would look good, because nobody asks it meanwhile (coordinated
//! omission).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::tests::Dice;
use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::http::Answer;
use crate::paced::Latencies;

/// Connections of a load, as in the figures to reach.
const CONNECTIONS: usize = 64;
/// How often open load looks what has come due. Each time costs a wake-up of the generator.
const TICK: Duration = Duration::from_micros(250);

/// What is asked: writes the request of this number. Numbers begin at 0 and have no gap.
type Request = Arc<dyn Fn(u64, &mut Vec<u8>) + Send + Sync>;

/// Requests to one server.
#[derive(Clone)]
pub(crate) struct Load {
    port: u16,
    request: Request,
}

/// What closed load has seen.
#[derive(Debug)]
pub(crate) struct Closed {
    /// Answers in all, warm-up included.
    pub(crate) answers: u64,
    /// Answers a second while the clock ran.
    pub(crate) per_second: f64,
}

/// What open load has seen.
#[derive(Debug)]
pub(crate) struct Open {
    /// Answers in all, warm-up included.
    pub(crate) answers: u64,
    /// From due to answered, of those that came due while the clock ran.
    pub(crate) latencies: Latencies,
}

struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Connection {
    async fn open(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, bytes: Vec::with_capacity(8 << 10) })
    }

    /// Sends a request and waits for its answer, which must be a 200.
    async fn ask(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(request).await?;
        self.bytes.clear();
        loop {
            ensure!(self.stream.read_buf(&mut self.bytes).await? > 0, "the server closed the connection");
            if let Some(answer) = Answer::find(&self.bytes)? {
                return answer.must_be(200);
            }
        }
    }
}

impl Load {
    /// Load for the server on this port.
    pub(crate) fn new(port: u16, request: impl Fn(u64, &mut Vec<u8>) + Send + Sync + 'static) -> Self {
        Self { port, request: Arc::new(request) }
    }

    /// The same requests from this number on: what was asked before is not asked again.
    pub(crate) fn following(&self, asked: u64) -> Self {
        let request = self.request.clone();
        Self { port: self.port, request: Arc::new(move |number, bytes| request(asked + number, bytes)) }
    }

    /// As fast as it goes, for this long.
    pub(crate) fn closed(&self, warm_up: Duration, time: Duration) -> anyhow::Result<Closed> {
        self.until_answered(u64::MAX, warm_up, time)
    }

    /// So many requests, as fast as they go.
    pub(crate) fn exactly(&self, requests: u64) -> anyhow::Result<()> {
        // Longer than anything here takes.
        let forever = Duration::from_secs(3_600);
        let answers = self.until_answered(requests, Duration::ZERO, forever)?.answers;
        ensure!(answers == requests, "{answers} answers to {requests} requests");
        Ok(())
    }

    fn until_answered(&self, requests: u64, warm_up: Duration, time: Duration) -> anyhow::Result<Closed> {
        run(async {
            let connections = self.connect().await?;
            let begin = Instant::now() + warm_up;
            let end = begin + time;
            let next = Arc::new(AtomicU64::new(0));
            let mut asking = JoinSet::new();
            for mut connection in connections {
                let (ask, next) = (self.request.clone(), next.clone());
                asking.spawn(async move {
                    let (mut bytes, mut answers, mut timed) = (Vec::new(), 0, 0);
                    while Instant::now() < end {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= requests {
                            break;
                        }
                        ask(number, &mut bytes);
                        connection.ask(&bytes).await?;
                        answers += 1;
                        let now = Instant::now();
                        timed += u64::from(begin <= now && now < end);
                    }
                    anyhow::Ok((answers, timed))
                });
            }
            let (mut answers, mut timed) = (0, 0);
            while let Some(done) = asking.join_next().await {
                let (of_all, of_timed) = done??;
                answers += of_all;
                timed += of_timed;
            }
            Ok(Closed { answers, per_second: timed as f64 / time.as_secs_f64() })
        })
    }

    /// At a steady rate, for this long. A request waits until a connection is free.
    pub(crate) fn open(&self, per_second: f64, warm_up: Duration, time: Duration) -> anyhow::Result<Open> {
        ensure!(per_second >= 1.0, "a rate of {per_second} a second");
        run(async {
            let connections = self.connect().await?;
            let arrivals = Arc::new(Arrivals::default());
            let begin = Instant::now();
            let clock = std::thread::spawn({
                let arrivals = arrivals.clone();
                move || arrivals.come(begin, per_second, warm_up + time)
            });
            let next = Arc::new(AtomicU64::new(0));
            let mut asking = JoinSet::new();
            for mut connection in connections {
                let (ask, next, arrivals) = (self.request.clone(), next.clone(), arrivals.clone());
                asking.spawn(async move {
                    let (mut bytes, mut answers, mut latencies) = (Vec::new(), 0, Vec::new());
                    while let Some(due) = arrivals.next().await? {
                        ask(next.fetch_add(1, Ordering::Relaxed), &mut bytes);
                        connection.ask(&bytes).await?;
                        answers += 1;
                        if due >= begin + warm_up {
                            latencies.push(due.elapsed());
                        }
                    }
                    anyhow::Ok((answers, latencies))
                });
            }
            let (mut answers, mut latencies) = (0, Vec::new());
            while let Some(done) = asking.join_next().await {
                let (of_all, of_timed) = done??;
                answers += of_all;
                latencies.extend(of_timed);
            }
            if clock.join().is_err() {
                bail!("the clock of the load panicked");
            }
            Ok(Open { answers, latencies: Latencies::of(latencies) })
        })
    }

    async fn connect(&self) -> anyhow::Result<Vec<Connection>> {
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            connections.push(Connection::open(self.port).await?);
        }
        Ok(connections)
    }
}

/// One till's requests in order, for the server on this port.
pub(crate) struct Script {
    /// Where.
    pub(crate) port: u16,
    /// What, each as its bytes.
    pub(crate) requests: Vec<Vec<u8>>,
}

/// Plays all at the same time, each over a connection of its own, as fast as they go.
pub(crate) fn play(scripts: Vec<Script>) -> anyhow::Result<()> {
    run(async {
        let mut playing = JoinSet::new();
        for Script { port, requests } in scripts {
            playing.spawn(async move {
                let mut connection = Connection::open(port).await?;
                for request in requests {
                    connection.ask(&request).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(played) = playing.join_next().await {
            played??;
        }
        Ok(())
    })
}

/// Plays all at the same time, each over a connection of its own and one request within each such time, at a moment of its own:
/// no two keep step. When each was answered, in the order of the scripts.
pub(crate) async fn play_steadily(scripts: Vec<Script>, every: Duration) -> anyhow::Result<Vec<Vec<Instant>>> {
    let mut all = vec![Vec::new(); scripts.len()];
    let begin = Instant::now();
    let mut playing = JoinSet::new();
    for (number, Script { port, requests }) in scripts.into_iter().enumerate() {
        playing.spawn(async move {
            let mut dice = Dice::new(number as u64);
            let mut connection = Connection::open(port).await?;
            let mut answered = Vec::with_capacity(requests.len());
            for (turn, request) in (0..).zip(requests) {
                let due = begin + every * turn + every.mul_f64(dice.below(1_000) as f64 / 1e3);
                tokio::time::sleep_until(due.into()).await;
                connection.ask(&request).await?;
                answered.push(Instant::now());
            }
            anyhow::Ok((number, answered))
        });
    }
    while let Some(played) = playing.join_next().await {
        let (number, answered) = played??;
        all[number] = answered;
    }
    Ok(all)
}

/// The generator's one thread is the one that calls.
pub(crate) fn run<T>(load: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    Builder::new_current_thread().enable_all().build()?.block_on(load)
}

/// Requests that have come due; `None` behind them tells a connection that no more will.
struct Arrivals {
    due: Mutex<VecDeque<Option<Instant>>>,
    waiting: Semaphore,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self { due: Mutex::default(), waiting: Semaphore::new(0) }
    }
}

impl Arrivals {
    /// Lets requests come due at a steady rate until the time is over. On a thread of its own: the runtime's timers are
    /// as coarse as 1 ms.
    fn come(&self, begin: Instant, per_second: f64, time: Duration) {
        let all = (per_second * time.as_secs_f64()) as u64;
        let due = |number: u64| begin + Duration::from_secs_f64(number as f64 / per_second);
        let mut number = 0;
        while number < all {
            let now = Instant::now();
            let mut ready = Vec::new();
            while number < all && due(number) <= now {
                ready.push(Some(due(number)));
                number += 1;
            }
            self.add(ready);
            if number < all {
                std::thread::sleep(due(number).saturating_duration_since(now).max(TICK));
            }
        }
        self.add(vec![None; CONNECTIONS]);
    }

    fn add(&self, arrivals: Vec<Option<Instant>>) {
        let count = arrivals.len();
        self.due.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(arrivals);
        self.waiting.add_permits(count);
    }

    async fn next(&self) -> anyhow::Result<Option<Instant>> {
        self.waiting.acquire().await?.forget();
        let mut due = self.due.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        due.pop_front().context("a permit for each arrival")
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;

    use super::*;
    use crate::http;
    use crate::server::Server;

    fn load(server: &Server, path: &'static str) -> Load {
        Load::new(server.port(), move |_, request| http::get(request, format_args!("{path}")))
    }

    #[test]
    fn every_answer_is_counted_once() {
        let asked = Arc::new(AtomicU64::new(0));
        let count = asked.clone();
        let router = Router::new().route("/", get(async move || count.fetch_add(1, Ordering::Relaxed).to_string()));
        let server = Server::start(router).expect("a server");
        let load = load(&server, "/");
        load.exactly(1_000).expect("all answered");
        assert_eq!(asked.load(Ordering::Relaxed), 1_000);
        let closed = load.closed(Duration::ZERO, Duration::from_millis(100)).expect("all answered");
        let open = load.open(1_000.0, Duration::from_millis(50), Duration::from_millis(100)).expect("all answered");
        assert_eq!((open.answers, open.latencies.count()), (150, 100));
        assert_eq!(asked.load(Ordering::Relaxed), 1_000 + closed.answers + open.answers);
    }

    #[test]
    fn what_is_played_steadily_comes_due_within_its_own_time() {
        let server = Server::start(Router::new().route("/", get(async || "done"))).expect("a server");
        let mut request = Vec::new();
        http::get(&mut request, format_args!("/"));
        let script = |turns| Script { port: server.port(), requests: vec![request.clone(); turns] };
        let (begin, every) = (Instant::now(), Duration::from_millis(30));
        let answered = run(play_steadily(vec![script(4), script(1)], every)).expect("all answered");
        assert_eq!(answered.iter().map(Vec::len).collect::<Vec<_>>(), [4, 1]);
        for (turn, at) in (0..).zip(&answered[0]) {
            assert!(*at >= begin + every * turn, "{turn} was early");
        }
    }

    #[test]
    fn a_refusal_ends_the_load_with_what_it_says() {
        let refusal = async || (StatusCode::SERVICE_UNAVAILABLE, "overloaded");
        let server = Server::start(Router::new().route("/", get(refusal))).expect("a server");
        let error = load(&server, "/").exactly(10).expect_err("refused").to_string();
        assert!(error.contains("503") && error.contains("overloaded"), "{error}");
    }

    #[test]
    fn a_stall_counts_for_all_that_came_due_in_it() {
        let first = Arc::new(AtomicU64::new(0));
        // The 64 connections are stuck in the first requests; what comes due meanwhile must wait for them.
        let stall = async move || {
            if first.fetch_add(1, Ordering::Relaxed) < CONNECTIONS as u64 {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            "done"
        };
        let server = Server::start(Router::new().route("/", get(stall))).expect("a server");
        let open = load(&server, "/").open(1_000.0, Duration::ZERO, Duration::from_millis(200)).expect("all answered");
        let median = open.latencies.quantile_ms(0.5);
        assert!(median > 50.0, "{median} ms: what waited for a connection must not be left out");
    }
}
