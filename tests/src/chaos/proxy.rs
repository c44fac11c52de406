//! A fault proxy in front of Redis: one listener a daemon, TCP and nothing above it.
//!
//! What it does to a connection is what networks do. A *cut* resets it and lets no new one live. *Half-open*: it is dead
//! for ever at one end, and the other is told nothing. *One way*: bytes of one direction are held back, and delivered
//! when the way is free again, even if the sender has given up meanwhile: the late command of an old connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the network is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Clear,
    /// Connections are reset, new ones too.
    Cut,
    /// Connections die silently, new ones too.
    HalfOpen,
    /// What the daemon sends is held back.
    UpHeld,
    /// What Redis sends is held back.
    DownHeld,
    /// Each chunk takes so long.
    Delayed(Duration),
    /// So many bytes a second each way.
    Throttled(u64),
}

#[derive(Debug, Clone, Copy)]
struct State {
    weather: Weather,
    /// Connections born in an earlier era are dead.
    era: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// One daemon's way to Redis.
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    accepted: Arc<AtomicU64>,
    hindered: Arc<AtomicU64>,
    sought: Arc<Sought>,
    listener: JoinHandle<()>,
}

/// Bytes that Redis is to send to the daemon; none: nothing is looked for.
#[derive(Default)]
struct Sought {
    mark: Mutex<Vec<u8>>,
    is_found: watch::Sender<bool>,
}

impl Sought {
    /// Looks at what has gone over a connection. `before`: the end of what went before it.
    fn look_at(&self, before: &mut Vec<u8>, chunk: &[u8]) {
        let mark = self.mark.lock().expect("nobody panics with it");
        if mark.is_empty() {
            return before.clear();
        }
        before.extend_from_slice(chunk);
        if before.windows(mark.len()).any(|bytes| *bytes == **mark) {
            self.is_found.send_replace(true);
        }
        before.drain(..before.len().saturating_sub(mark.len() - 1));
    }
}

impl Proxy {
    /// Listens on a free port and passes on to this one.
    pub async fn start(to: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let state = watch::Sender::new(State { weather: Weather::Clear, era: 0 });
        let accepted = Arc::new(AtomicU64::new(0));
        let hindered = Arc::new(AtomicU64::new(0));
        let sought = Arc::new(Sought::default());
        let (seen, count, harm, marks) = (state.subscribe(), accepted.clone(), hindered.clone(), sought.clone());
        let listener = tokio::spawn(async move {
            loop {
                // An accept that fails (no descriptors) is tried again when the next client comes.
                let Ok((client, _)) = listener.accept().await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(carry(client, to, seen.clone(), harm.clone(), marks.clone()));
            }
        });
        Ok(Self { port, state, accepted, hindered, sought, listener })
    }

    /// Where the daemon finds Redis.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connections that daemons have made so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How often the weather has done something to a connection: cut it, or lost, held back or slowed what went over it.
    pub fn hindered(&self) -> u64 {
        self.hindered.load(Ordering::Relaxed)
    }

    /// Tells when Redis has sent the daemon these bytes, from now on.
    pub fn look_for(&self, mark: &[u8]) -> watch::Receiver<bool> {
        *self.sought.mark.lock().expect("nobody panics with it") = mark.to_vec();
        self.sought.is_found.send_replace(false);
        self.sought.is_found.subscribe()
    }

    /// Changes the weather. What was dead stays dead.
    pub fn set(&self, weather: Weather) {
        self.state.send_modify(|state| {
            if state.weather == Weather::HalfOpen || weather == Weather::HalfOpen {
                state.era += 1;
            }
            state.weather = weather;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// One connection, until both ends are done with it or it is cut.
async fn carry(
    client: TcpStream,
    to: u16,
    mut state: watch::Receiver<State>,
    hindered: Arc<AtomicU64>,
    sought: Arc<Sought>,
) {
    let born = *state.borrow_and_update();
    let hinder = || {
        hindered.fetch_add(1, Ordering::Relaxed);
    };
    if born.weather == Weather::Cut {
        hinder();
        return reset(&client);
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    // Without it small requests would wait for each other: that is no fault anybody asked for.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut before = Vec::new();
    let look = |chunk: &[u8]| sought.look_at(&mut before, chunk);
    let up = pump(from_client, to_server, state.clone(), born.era, Direction::Up, &hinder, |_| {});
    let down = pump(from_server, to_client, state.clone(), born.era, Direction::Down, &hinder, look);
    let cut = async {
        // An error: the proxy itself is gone.
        let _ = state.wait_for(|state| state.weather == Weather::Cut).await;
    };
    tokio::select! {
        _ = async { tokio::join!(up, down) } => {}
        () = cut => hinder(),
    }
}

/// A connection that ends so is an error at the other end, not an orderly close.
fn reset(stream: &TcpStream) {
    // Should it fail, the close is orderly: just as good.
    let _ = stream.set_zero_linger();
}

/// Carries one direction. When it returns, the write half is dropped, which closes that direction.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    era: u64,
    direction: Direction,
    hinder: &impl Fn(),
    mut carried: impl FnMut(&[u8]),
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let length = from.read(&mut buffer).await?;
        loop {
            let now = *state.borrow_and_update();
            let dead = now.era > era || now.weather == Weather::HalfOpen;
            match (now.weather, direction) {
                _ if dead && length == 0 => return Ok(()),
                _ if dead => {
                    hinder();
                    break;
                }
                (Weather::UpHeld, Direction::Up) | (Weather::DownHeld, Direction::Down) => {
                    hinder();
                    if state.changed().await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
                (Weather::Delayed(by), _) => {
                    hinder();
                    tokio::time::sleep(by).await;
                }
                (Weather::Throttled(rate), _) => {
                    hinder();
                    tokio::time::sleep(Duration::from_micros(length as u64 * 1_000_000 / rate.max(1))).await;
                }
                _ => {}
            }
            if length == 0 {
                return to.shutdown().await;
            }
            to.write_all(&buffer[..length]).await?;
            carried(&buffer[..length]);
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        port
    }

    async fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
        stream.write_u8(7).await?;
        tokio::time::timeout(Duration::from_millis(200), stream.read_u8())
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
    }

    #[tokio::test]
    async fn each_weather_is_what_it_says() {
        let proxy = Proxy::start(echo().await).await.expect("starts");
        let hindered = |before: u64| {
            assert!(proxy.hindered() > before, "each counts");
            proxy.hindered()
        };
        let connect = async || TcpStream::connect(("127.0.0.1", proxy.port())).await.expect("connects");
        let mut first = connect().await;
        assert_eq!(ask(&mut first).await.expect("passes"), 7);
        assert_eq!(proxy.hindered(), 0);

        proxy.set(Weather::UpHeld);
        assert!(ask(&mut first).await.is_err());
        proxy.set(Weather::Clear);
        assert_eq!(first.read_u8().await.expect("held back, not lost"), 7);
        let harm = hindered(0);

        proxy.set(Weather::HalfOpen);
        let mut second = connect().await;
        assert!(ask(&mut first).await.is_err() && ask(&mut second).await.is_err());
        proxy.set(Weather::Clear);
        assert!(ask(&mut first).await.is_err() && ask(&mut second).await.is_err(), "dead for ever");

        let harm = hindered(harm);
        let mut third = connect().await;
        assert_eq!(ask(&mut third).await.expect("a new one passes"), 7);
        proxy.set(Weather::Cut);
        assert!(third.read_u8().await.is_err());
        hindered(harm);
        proxy.set(Weather::Clear);
        assert_eq!(ask(&mut connect().await).await.expect("passes again"), 7);
    }

    #[test]
    fn a_mark_is_found_wherever_a_chunk_ends() {
        let sought = Sought { mark: Mutex::new(b"mark".to_vec()), ..Sought::default() };
        let found = |chunks: &[&str]| {
            sought.is_found.send_replace(false);
            let mut before = Vec::new();
            chunks.iter().for_each(|chunk| sought.look_at(&mut before, chunk.as_bytes()));
            *sought.is_found.borrow()
        };
        assert!(found(&["a mark"]) && found(&["a m", "ar", "k"]) && found(&["mar", "mark"]));
        assert!(!found(&["a mar", "", "j"]) && !found(&[]));
    }
}
