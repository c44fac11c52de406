//! Whom the attack must not hurt: a till, an online buyer at another store, and whoever watches the two processes.
//!
//! They run on a thread of their own, so that a busy attacker in this program does not slow the clocks. A till or a buyer
//! repeats a request under its key until it is answered as it should be, and the time is that of all tries together: a
//! refusal is not fast. Who waits longer than the pace of asking stands for all who would have asked meanwhile; their
//! times are counted as well, so that one long stall is not one slow request among thousands.

use std::io::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until, timeout};

use super::wire::{Reply, read_reply, request};

/// Between two sales at the till.
const SALE_EVERY: Duration = Duration::from_millis(10);
/// Between two purchases online.
const PURCHASE_EVERY: Duration = Duration::from_millis(25);
/// Between two looks at `/ready`.
const READY_EVERY: Duration = Duration::from_millis(100);
/// Between two looks at memory and descriptors.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After this long without an answer the till connects anew.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before a refused or broken request is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

/// When something was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Before the attack.
    Calm,
    /// While it goes on.
    Attack,
    After,
}

/// Times of one kind of request in one phase.
#[derive(Debug, Clone, Default)]
pub(super) struct Times {
    micros: Vec<u32>,
    /// Answers other than the wanted one, and broken connections.
    pub(super) refused: u64,
    /// Requests that came to a good end.
    pub(super) done: u64,
    /// What the last refusal was.
    pub(super) last_refusal: String,
}

impl Times {
    fn add(&mut self, took: Duration, every: Duration) {
        self.done += 1;
        let mut took = took;
        loop {
            self.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
            match took.checked_sub(every) {
                Some(rest) if !rest.is_zero() => took = rest,
                _ => return,
            }
        }
    }

    fn refuse(&mut self, why: String) {
        self.refused += 1;
        self.last_refusal = why;
    }

    /// The time that one in a hundred exceeds, ms; none: there was no request.
    pub(super) fn p99_ms(&self) -> Option<f64> {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        sorted.get((sorted.len() * 99 / 100).min(sorted.len().saturating_sub(1))).map(|micros| f64::from(*micros) / 1e3)
    }

    /// The longest, ms.
    pub(super) fn max_ms(&self) -> Option<f64> {
        self.micros.iter().max().map(|micros| f64::from(*micros) / 1e3)
    }
}

/// Memory and descriptors of a process.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Size {
    /// In the calm, KiB.
    pub(super) base_kib: u64,
    /// Most since then, KiB.
    pub(super) peak_kib: u64,
    /// At the last look, KiB.
    pub(super) now_kib: u64,
    pub(super) descriptors: usize,
}

/// What the probes saw.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    pub(super) sales: [Times; 3],
    pub(super) purchases: [Times; 3],
    /// Both servers, by phase.
    pub(super) ready: [Times; 3],
    /// Of the agent.
    pub(super) agent: Size,
    pub(super) central: Size,
}

/// What is watched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Targets {
    /// The agent's port and process.
    pub(super) agent: (u16, u32),
    pub(super) central: (u16, u32),
}

struct Watch {
    targets: Targets,
    phase: AtomicU8,
    stop: AtomicBool,
    figures: Mutex<Figures>,
}

impl Watch {
    fn phase(&self) -> usize {
        usize::from(self.phase.load(Ordering::Relaxed))
    }

    fn runs(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.figures.lock().expect("no probe panics"));
    }
}

/// The running probes.
pub(super) struct Probes {
    watch: Arc<Watch>,
    thread: Option<JoinHandle<()>>,
}

impl Probes {
    /// Starts them, in the calm.
    pub(super) fn start(targets: Targets) -> Result<Self> {
        let watch = Arc::new(Watch {
            targets,
            phase: AtomicU8::new(Phase::Calm as u8),
            stop: AtomicBool::new(false),
            figures: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("probes".into()).spawn({
            let watch = watch.clone();
            move || {
                runtime.block_on(async {
                    let Targets { agent, central } = watch.targets;
                    let body = r#"{"quantity":1}"#;
                    tokio::join!(
                        ask_all_the_time(&watch, agent.0, "/v1/purchase/tea", body, SALE_EVERY, |figures| &mut figures
                            .sales),
                        ask_all_the_time(&watch, central.0, "/v1/purchase/s2/tea", body, PURCHASE_EVERY, |figures| {
                            &mut figures.purchases
                        }),
                        look_ready(&watch, agent.0),
                        look_ready(&watch, central.0),
                        look_at_sizes(&watch),
                    )
                });
            }
        })?;
        Ok(Self { watch, thread: Some(thread) })
    }

    /// What begins now is measured as of this phase.
    pub(super) fn enter(&self, phase: Phase) {
        self.watch.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// What was seen so far.
    pub(super) fn figures(&self) -> Figures {
        self.watch.figures.lock().expect("no probe panics").clone()
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.watch.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It notices within the patience of one request; what it would say is not needed any more.
            let _ = thread.join();
        }
    }
}

/// One keep-alive connection, made anew when it breaks.
struct Line {
    port: u16,
    stream: Option<BufReader<TcpStream>>,
}

impl Line {
    async fn ask(&mut self, text: &str) -> Result<Reply> {
        let answered = timeout(PATIENCE, self.try_ask(text)).await;
        let answer = answered.unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, "no answer")));
        if answer.as_ref().map_or(true, |reply| reply.header("connection") == "close") {
            self.stream = None;
        }
        answer
    }

    async fn try_ask(&mut self, text: &str) -> Result<Reply> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
                stream.set_nodelay(true)?;
                self.stream.insert(BufReader::new(stream))
            }
        };
        stream.write_all(text.as_bytes()).await?;
        read_reply(stream, false).await
    }
}

async fn ask_all_the_time(
    watch: &Watch,
    port: u16,
    path: &str,
    body: &str,
    every: Duration,
    times: impl Fn(&mut Figures) -> &mut [Times; 3],
) {
    let mut line = Line { port, stream: None };
    let mut number = 0_u64;
    while watch.runs() {
        let (began, phase) = (tokio::time::Instant::now(), watch.phase());
        number += 1;
        let text = request("POST", path, &[("idempotency-key", &format!("probe-{number}"))], body);
        while watch.runs() {
            let refusal = match line.ask(&text).await {
                Ok(reply) if reply.status == 200 => break,
                Ok(reply) => format!("{} {}", reply.status, reply.json()["code"]),
                Err(error) => error.to_string(),
            };
            watch.note(|figures| times(figures)[phase].refuse(refusal));
            sleep(AGAIN_AFTER).await;
        }
        let took = began.elapsed();
        watch.note(|figures| times(figures)[phase].add(took, every));
        sleep_until(began + every).await;
    }
}

/// On a connection of its own each time: whether somebody new is let in.
async fn look_ready(watch: &Watch, port: u16) {
    let text = request("GET", "/ready", &[("connection", "close")], "");
    while watch.runs() {
        let (began, phase) = (tokio::time::Instant::now(), watch.phase());
        let refusal = match (Line { port, stream: None }).ask(&text).await {
            Ok(reply) if reply.status == 200 => None,
            Ok(reply) => Some(reply.status.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let took = began.elapsed();
        watch.note(|figures| match refusal {
            None => figures.ready[phase].add(took, READY_EVERY),
            Some(why) => figures.ready[phase].refuse(why),
        });
        sleep_until(began + READY_EVERY).await;
    }
}

async fn look_at_sizes(watch: &Watch) {
    while watch.runs() {
        let calm = watch.phase() == Phase::Calm as usize;
        for is_central in [false, true] {
            let process = if is_central { watch.targets.central.1 } else { watch.targets.agent.1 };
            // A process that has ended has no size any more.
            let Some((kib, descriptors)) = size_of(process) else { continue };
            watch.note(|figures| {
                let size = if is_central { &mut figures.central } else { &mut figures.agent };
                size.now_kib = kib;
                size.peak_kib = size.peak_kib.max(kib);
                size.descriptors = size.descriptors.max(descriptors);
                if calm {
                    size.base_kib = kib;
                }
            });
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Resident memory in KiB and number of descriptors.
pub(super) fn size_of(process: u32) -> Option<(u64, usize)> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((kib, std::fs::read_dir(format!("/proc/{process}/fd")).ok()?.count()))
}

/// How long something took, in seconds.
pub(super) fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
