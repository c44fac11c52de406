//! Connections: how many, for how long, and who has to leave when there is no room.
//!
//! **Guarantees.** A client that sends nothing, half a request, or does not read its answer is gone within seconds, with
//! what it held. Whoever comes when all places are taken gets that of the connection that has rested longest; only if
//! all are at work it is told to come back. A stop takes no longer than the grace time, whatever clients do. An answer
//! arrives whole also where the server did not want to read all of the request.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{Patience, Served};

/// What is thrown away at a time of a request that has its answer.
const UNREAD: usize = 4 << 10;
/// Longest head; also the most that is read or written at once, and that waits in the system to be sent: what a slow
/// connection holds.
const HEAD_BYTES: usize = 16 << 10;
const TIMES: Times =
    Times { head: Duration::from_secs(10), reading: Duration::from_secs(30), grace: Duration::from_secs(5) };
/// Connections that leave at once when there is no room: finding them looks at all.
const LEAVE: usize = 32;
/// Pause after the system could not give a descriptor.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two lines in the log about connections that were not taken.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Descriptors left to database, Redis, log and the runtime.
const KEPT_FREE: u64 = 128;
/// Connections in all, however many descriptors there are: each costs memory.
const CONNECTIONS: u64 = 8_192;
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
    content-type: application/problem+json\r\ncontent-length: 103\r\n\r\n\
    {\"type\":\"/problems/overloaded\",\"title\":\"Overloaded\",\"status\":503,\"code\":\"overloaded\",\"retryable\":true}\n";

/// How long a client may take.
#[derive(Clone, Copy)]
struct Times {
    /// For a request's head, and for a rest between two requests.
    head: Duration,
    /// Over so much waiting it is judged by how fast it reads.
    reading: Duration,
    /// To finish once the server is told to stop; to take the end of an answer.
    grace: Duration,
}

/// How many connections a server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// In all.
    pub all: usize,
    /// From one address.
    pub each: usize,
}

impl Room {
    /// What fits into so many descriptors.
    pub fn within(descriptors: u64) -> Self {
        let all = descriptors.saturating_sub(KEPT_FREE).clamp(16, CONNECTIONS) as usize;
        Self { all, each: all / 2 }
    }
}

/// Serves until `stop`, then lets requests at work finish for a few seconds.
pub async fn serve(listener: TcpListener, served: Served, room: Room, stop: CancellationToken) -> std::io::Result<()> {
    serve_within(TIMES, listener, served, room, stop).await
}

async fn serve_within(
    times: Times,
    listener: TcpListener,
    served: Served,
    room: Room,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let mut guests = Guests { times, room, here: HashMap::new(), from: HashMap::new(), tasks: JoinSet::new() };
    let mut logged: Option<Instant> = None;
    let mut say = move |what: &dyn Fn()| {
        if logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            logged = Some(Instant::now());
            what();
        }
    };
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = guests.tasks.join_next_with_id() => {
                guests.left(ended.map_or_else(|error| error.id(), |(id, ())| id));
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let peer = network(peer.ip());
                if guests.have_room(peer) {
                    guests.receive(stream, peer, served.clone(), stop.clone());
                } else {
                    say(&|| tracing::warn!(%peer, "a connection was refused: as many as there may be are at work"));
                    refuse(stream);
                }
            }
            Err(error) if is_about_the_client(&error) => {}
            // Those that rest make room; the system is asked again in a moment.
            Err(error) => {
                say(&|| tracing::error!(%error, "a connection cannot be taken"));
                guests.make_room(None);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    let all_left = async { while guests.tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(times.grace, all_left).await.is_err() {
        tracing::warn!(connections = guests.tasks.len(), "cut off at the stop");
    }
    Ok(())
}

fn is_about_the_client(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Whom a connection counts for: an IPv4 address, or the network that one IPv6 customer has.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

fn refuse(stream: TcpStream) {
    // A fresh socket takes so few bytes at once; a client that has gone needs no answer.
    let _ = stream.into_std().and_then(|mut stream| stream.write_all(TOO_MANY));
}

/// Options of a new connection; one that is gone already does not care.
fn set_options(stream: &TcpStream) {
    // Else an answer may wait for the client's delayed ack.
    let _ = stream.set_nodelay(true);
    // Else Linux takes megabytes for a client that reads nothing, and it can be written to again only when a third of them
    // has gone: that would be no measure of how fast it reads.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(HEAD_BYTES as u32);
}

/// All connections.
struct Guests {
    times: Times,
    room: Room,
    here: HashMap<Id, Arc<Guest>>,
    from: HashMap<IpAddr, usize>,
    tasks: JoinSet<()>,
}

impl Guests {
    /// Whether one more may come from there, perhaps since others leave for it.
    fn have_room(&mut self, peer: IpAddr) -> bool {
        let same = self.from.get(&peer).copied().unwrap_or(0) >= self.room.each;
        if same || self.here.len() >= self.room.all {
            return self.make_room(same.then_some(peer));
        }
        true
    }

    /// Asks those that have rested longest to leave. Whether there are any.
    fn make_room(&mut self, peer: Option<IpAddr>) -> bool {
        let here = self.here.iter().filter(|(_, guest)| peer.is_none_or(|peer| guest.peer == peer));
        let mut resting: Vec<(Reverse<u64>, Id)> =
            here.filter_map(|(id, guest)| Some((Reverse(guest.rests_for()?), *id))).collect();
        if resting.len() > LEAVE {
            resting.select_nth_unstable(LEAVE);
            resting.truncate(LEAVE);
        }
        for (_, id) in &resting {
            if let Some(guest) = self.here.get(id) {
                guest.leave.notify_one();
            }
            self.left(*id);
        }
        !resting.is_empty()
    }

    fn receive(&mut self, stream: TcpStream, peer: IpAddr, served: Served, stop: CancellationToken) {
        set_options(&stream);
        let guest = Arc::new(Guest::new(peer));
        // Each waits for a token of its own: to look at one that all share would be a lock for all of them.
        let task = self.tasks.spawn(host(stream, guest.clone(), self.times, served, stop.child_token()));
        self.here.insert(task.id(), guest);
        *self.from.entry(peer).or_default() += 1;
    }

    fn left(&mut self, id: Id) {
        let Some(guest) = self.here.remove(&id) else { return };
        if let Some(many) = self.from.get_mut(&guest.peer) {
            *many -= 1;
            if *many == 0 {
                self.from.remove(&guest.peer);
            }
        }
    }
}

/// One connection. It is at work from when a request got its place until its answer begins; else it rests, since when it
/// last moved a byte of an answer.
#[derive(Debug)]
pub(super) struct Guest {
    peer: IpAddr,
    began: Instant,
    /// Milliseconds from `began`; `AT_WORK`: it does not rest.
    resting_since: AtomicU64,
    leave: Notify,
}

const AT_WORK: u64 = u64::MAX;

impl Guest {
    fn new(peer: IpAddr) -> Self {
        Self { peer, began: Instant::now(), resting_since: AtomicU64::new(0), leave: Notify::new() }
    }

    /// A request has its place.
    pub(super) fn works(&self) {
        self.resting_since.store(AT_WORK, Ordering::Relaxed);
    }

    fn rests(&self) {
        self.resting_since.store(self.age(), Ordering::Relaxed);
    }

    fn moved(&self) {
        if self.rests_for().is_some() {
            self.rests();
        }
    }

    /// Whom it counts for.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// For how long it has rested, ms.
    fn rests_for(&self) -> Option<u64> {
        let since = self.resting_since.load(Ordering::Relaxed);
        (since != AT_WORK).then(|| self.age().saturating_sub(since))
    }

    fn age(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

/// Serves one connection to its end.
async fn host(stream: TcpStream, guest: Arc<Guest>, times: Times, served: Served, stop: CancellationToken) {
    // One that sends nothing costs next to nothing.
    let begins = tokio::select! {
        begins = tokio::time::timeout(times.head, stream.readable()) => matches!(begins, Ok(Ok(()))),
        () = stop.cancelled() => false,
        () = guest.leave.notified() => false,
    };
    if !begins {
        return;
    }
    let stream = Slow {
        stream,
        guest: guest.clone(),
        patience: Patience::new(times.reading),
        stalled: None,
        grace: times.grace,
        stop: stop.clone(),
        ending: None,
    };
    let service = service_fn(|request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(guest.clone());
        let answered = served.clone().call(request);
        let guest = guest.clone();
        async move {
            let answer = answered.await;
            guest.rests();
            answer.map_err(|never: Infallible| never)
        }
    });
    let mut connection = Box::pin(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(times.head)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service),
    );
    let mut stopping = false;
    loop {
        tokio::select! {
            // What a client breaks is its own affair.
            _ = connection.as_mut() => return,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            // A request may have come meanwhile: this task is the one that would have begun with it.
            () = guest.leave.notified() => if guest.rests_for().is_some() { return },
        }
    }
}

/// A stream that fails when its client reads too slowly, and that waits at its end until the client has read.
struct Slow {
    stream: TcpStream,
    guest: Arc<Guest>,
    patience: Patience,
    stalled: Option<(Instant, Pin<Box<Sleep>>)>,
    grace: Duration,
    stop: CancellationToken,
    /// Until when it waits at its end.
    ending: Option<Pin<Box<Sleep>>>,
}

impl Slow {
    fn judge(&mut self, cx: &mut Context<'_>, written: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        let too_slow =
            || Poll::Ready(Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the client reads too slowly")));
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.guest.moved();
                let waited = self.stalled.take().map_or(Duration::ZERO, |(since, _)| since.elapsed());
                if self.patience.waited(waited, bytes) { too_slow() } else { Poll::Ready(Ok(bytes)) }
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => loop {
                let left = self.patience.left();
                let (since, sleep) =
                    self.stalled.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
                let since = *since;
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.stalled = None;
                if self.patience.waited(since.elapsed(), 0) {
                    return too_slow();
                }
            },
        }
    }
}

impl Slow {
    /// Ready when the client has closed its side, too, or is given up. A connection closed while something that was
    /// sent on it is unread is reset by the system, and the end of the answer is lost with it.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; UNREAD];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                // It has closed, or is gone.
                Poll::Ready(_) => return Poll::Ready(()),
                // A stop waits for no client that keeps its connection.
                Poll::Pending if self.stop.is_cancelled() => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        self.ending.as_mut().map_or(Poll::Ready(()), |ending| ending.as_mut().poll(cx))
    }
}

impl AsyncRead for Slow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.ending.is_none() {
            std::task::ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.ending = Some(Box::pin(tokio::time::sleep(self.grace)));
        }
        self.poll_closed(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;

    struct Server {
        address: std::net::SocketAddr,
        stop: CancellationToken,
        task: JoinHandle<std::io::Result<()>>,
        /// Rings when the body of `/great` is dropped.
        gone: Arc<Notify>,
    }

    struct Held(Arc<Notify>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }

    const SHORT: Times = Times {
        head: Duration::from_millis(300),
        reading: Duration::from_millis(300),
        grace: Duration::from_millis(300),
    };

    async fn server(room: Room) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let gone = Arc::new(Notify::new());
        let ended = gone.clone();
        let routes = Router::new()
            .route("/a", get(|| async { "a" }))
            .route(
                "/great",
                get(move || async move {
                    let held = Held(ended);
                    let pieces = futures_util::stream::repeat_with(move || {
                        let _ = &held;
                        Ok::<_, Infallible>(axum::body::Bytes::from_static(&[b'x'; 1 << 10]))
                    });
                    Body::from_stream(futures_util::StreamExt::take(pieces, 64 << 10))
                }),
            )
            .route("/large", get(|| async { vec![b'x'; 1 << 20] }))
            .route(
                "/slow",
                get(|axum::Extension(guest): axum::Extension<Arc<Guest>>| async move {
                    guest.works();
                    std::future::pending::<()>().await
                }),
            );
        let task = tokio::spawn(serve_within(SHORT, listener, Served::new(routes), room, stop.clone()));
        Server { address, stop, task, gone }
    }

    impl Server {
        async fn send(&self, text: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.expect("connects");
            stream.write_all(text.as_bytes()).await.expect("sends");
            stream
        }
    }

    const ASK: &str = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n";

    async fn first_line(stream: &mut TcpStream) -> String {
        let mut bytes = [0; 12];
        let read = stream.read_exact(&mut bytes).await;
        read.map_or_else(|error| error.to_string(), |_| String::from_utf8_lossy(&bytes).into_owned())
    }

    #[tokio::test]
    async fn who_rests_makes_room_and_who_works_stays() {
        let server = server(Room { all: 4, each: 4 }).await;
        let mut first = server.send(ASK).await;
        assert_eq!(first_line(&mut first).await, "HTTP/1.1 200");
        let mut half = [server.send("GET").await, server.send("").await, server.send("GET /a").await];
        for _ in 0..8 {
            let mut next = server.send(ASK).await;
            assert_eq!(first_line(&mut next).await, "HTTP/1.1 200");
        }
        for stream in &mut half {
            let ended = stream.read(&mut [0; 1]).await;
            assert!(!matches!(ended, Ok(1..)), "it has left: {ended:?}");
        }
        let mut busy = Vec::new();
        for _ in 0..4 {
            busy.push(server.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await);
        }
        // Until all of them are at work one or the other still makes room.
        loop {
            let mut next = server.send(ASK).await;
            let line = first_line(&mut next).await;
            if line == "HTTP/1.1 503" {
                break;
            }
            assert_eq!(line, "HTTP/1.1 200");
            drop(next);
        }
    }

    #[tokio::test]
    async fn one_address_cannot_take_all() {
        let room = Room { all: 10, each: 2 };
        let mut guests =
            Guests { times: SHORT, room, here: HashMap::new(), from: HashMap::new(), tasks: JoinSet::new() };
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for peer in [one, one, other] {
            assert!(guests.have_room(peer));
            let guest = Arc::new(Guest::new(peer));
            guest.works();
            let task = guests.tasks.spawn(std::future::pending());
            guests.here.insert(task.id(), guest);
            *guests.from.entry(peer).or_default() += 1;
        }
        assert!(!guests.have_room(one), "its own are all at work");
        assert!(guests.have_room(other));
        let ids: Vec<Id> = guests.here.keys().copied().collect();
        ids.into_iter().for_each(|id| guests.left(id));
        assert!(guests.from.is_empty() && guests.have_room(one));
    }

    #[test]
    fn addresses_of_one_customer_count_as_one() {
        let network = |text: &str| super::network(text.parse().expect("an address"));
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:3::4"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
    }

    #[tokio::test]
    async fn half_a_request_and_silence_end() {
        let server = server(Room::within(1_024)).await;
        for sent in ["", "GET /a HTTP/1.1\r\nhost: a\r\nx: ", ASK] {
            let mut stream = server.send(sent).await;
            let mut answer = Vec::new();
            // It ends, which is all there is to see.
            let _ = stream.read_to_end(&mut answer).await;
            assert_eq!(answer.starts_with(b"HTTP/1.1 200"), sent == ASK, "{sent}");
        }
    }

    #[tokio::test]
    async fn who_does_not_read_is_cut_off() {
        let server = server(Room::within(1_024)).await;
        let mut stream = server.send("GET /great HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(first_line(&mut stream).await, "HTTP/1.1 200");
        server.gone.notified().await;
        let mut received = 0;
        let mut bytes = vec![0; 1 << 20];
        while let Ok(read @ 1..) = stream.read(&mut bytes).await {
            received += read;
        }
        // What its own system took for it, and hardly more.
        assert!(received < 1 << 20, "{received}");
    }

    #[tokio::test]
    async fn an_answer_is_whole_though_the_request_was_not_read() {
        const ANSWER: usize = 1 << 20;
        let server = server(Room::within(1_024)).await;
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4 << 10).expect("a small buffer");
        let mut stream = socket.connect(server.address).await.expect("connects");
        let body = "x".repeat(84_000);
        let request = format!("GET /large HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.expect("sends");
        let (mut received, mut bytes) = (0, vec![0; 16 << 10]);
        loop {
            let read = stream.read(&mut bytes).await.unwrap_or_else(|error| panic!("{error} after {received} bytes"));
            if read == 0 {
                break;
            }
            received += read;
        }
        assert!(received > ANSWER, "{received}");
    }

    #[tokio::test]
    async fn a_client_that_never_closes_is_left() {
        let server = server(Room::within(1_024)).await;
        let mut stream = server.send("GET /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("a whole answer");
        // What it goes on sending is read for a while, then refused by the system.
        while stream.write_all(b"more").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_stop_waits_for_nobody_for_ever() {
        let server = server(Room::within(1_024)).await;
        let mut half = server.send("GET").await;
        let mut slow = server.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
        server.stop.cancel();
        assert!(server.task.await.expect("does not panic").is_ok());
        for stream in [&mut half, &mut slow] {
            assert!(!matches!(stream.read(&mut [0; 1]).await, Ok(1..)));
        }
    }

    #[test]
    fn room_is_left_for_the_rest_of_the_process() {
        assert_eq!(Room::within(256), Room { all: 128, each: 64 });
        assert_eq!(Room::within(1 << 20), Room { all: 8_192, each: 4_096 });
    }
}
