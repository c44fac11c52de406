//! A long way between stores and Redis: a proxy that takes its time, loses segments and carries no more than its line does.
//! Each connection has a line of its own.
//!
//! A segment that is lost is sent again a round trip later, and all behind it waits for it, as with TCP. What TCP does besides,
//! sending less for a while, is left to the rate of the line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::tests::Dice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Bytes of a segment.
const SEGMENT: usize = 1_460;
/// Segments on their way at most: more than any line below has room for.
const ON_THE_WAY: usize = 4_096;

/// What the way is like, each direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    /// How long a segment takes.
    pub(crate) delay: Duration,
    /// Of so many segments one is lost.
    pub(crate) lost_of: u64,
    /// Bytes a second.
    pub(crate) rate: f64,
}

/// Carries until it is dropped.
pub(crate) struct Network {
    port: u16,
    sent: Arc<AtomicU64>,
    _runtime: Runtime,
}

impl Network {
    /// Listens on a free port and carries to this one.
    pub(crate) fn start(to: u16, way: Way) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("network").enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let port = listener.local_addr()?.port();
        let sent = Arc::new(AtomicU64::new(0));
        runtime.spawn(accept(listener, to, way, sent.clone()));
        Ok(Self { port, sent, _runtime: runtime })
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Bytes that it has carried towards the server.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, to: u16, way: Way, sent: Arc<AtomicU64>) {
    let mut carrying = JoinSet::new();
    // The same losses at each run.
    let mut seed = 0;
    while let Ok((client, _)) = listener.accept().await {
        seed += 2;
        carrying.spawn(carry(client, to, way, seed, sent.clone()));
        while carrying.try_join_next().is_some() {}
    }
}

/// One connection, until both ends are done with it.
async fn carry(client: TcpStream, to: u16, way: Way, seed: u64, sent: Arc<AtomicU64>) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", to)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = direction(from_client, to_server, way, Dice::new(seed), sent);
    let down = direction(from_server, to_client, way, Dice::new(seed + 1), Arc::default());
    tokio::try_join!(up, down).map(drop)
}

async fn direction(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    mut dice: Dice,
    count: Arc<AtomicU64>,
) -> std::io::Result<()> {
    let (segments, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let sending = async move {
        let (mut free, mut last) = (Instant::now(), Instant::now());
        loop {
            let mut segment = vec![0; SEGMENT];
            let length = from.read(&mut segment).await?;
            segment.truncate(length);
            count.fetch_add(length as u64, Ordering::Relaxed);
            free = free.max(Instant::now()) + Duration::from_secs_f64(length as f64 / way.rate);
            let is_lost = dice.below(way.lost_of) == 0;
            last = last.max(free + way.delay + if is_lost { 2 * way.delay } else { Duration::ZERO });
            // Nobody takes it any more: the other end is gone.
            if length == 0 || segments.send((last, segment)).await.is_err() {
                return Ok(());
            }
        }
    };
    let receiving = async move {
        while let Some((at, segment)) = arriving.recv().await {
            tokio::time::sleep_until(at).await;
            to.write_all(&segment).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(sending, receiving).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net;

    use super::*;

    const WAY: Way = Way { delay: Duration::from_millis(20), lost_of: 4, rate: 1e6 };

    /// Sends so many bytes to an echo at the other end of the way, and gets them back.
    fn there_and_back(bytes: usize) -> Duration {
        let listener = net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut copy = stream.try_clone().expect("a second handle");
            std::io::copy(&mut stream, &mut copy).expect("an echo");
        });
        let network = Network::start(port, WAY).expect("starts");
        let begin = std::time::Instant::now();
        let mut stream = net::TcpStream::connect(("127.0.0.1", network.port())).expect("connects");
        let sent: Vec<u8> = (0..bytes).map(|number| number as u8).collect();
        stream.write_all(&sent).expect("sent");
        let mut back = vec![0; bytes];
        stream.read_exact(&mut back).expect("comes back");
        let time = begin.elapsed();
        assert!(back == sent, "in order, all of it");
        drop(stream);
        echo.join().expect("ends with the connection");
        assert_eq!(network.sent(), bytes as u64);
        time
    }

    #[test]
    fn it_takes_its_time_and_loses_nothing_for_ever() {
        assert!(there_and_back(1) >= WAY.delay * 2);
        // 100 ms for the line, and many of some 70 segments are lost.
        assert!(there_and_back(100_000) >= Duration::from_millis(100) + WAY.delay * 4);
    }
}
