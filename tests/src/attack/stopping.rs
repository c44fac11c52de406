//! SIGTERM, whatever clients do.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::time::{sleep, timeout};

use super::arena::Arena;
use super::wire::{connect_from, read_reply, request};
use crate::Daemon;

const ENDS_WITHIN: Duration = Duration::from_secs(8);
/// How long is waited for an end that comes too late.
const WATCHED: Duration = Duration::from_secs(25);

pub(super) async fn stopping(arena: &mut Arena) -> anyhow::Result<()> {
    let [agent, central] = arena.ports();
    let mut notes = Vec::new();
    for (name, daemon, port, path) in [
        ("agent", arena.agent(), agent, "/v1/purchase/tea"),
        ("central", Daemon::Central, central, "/v1/purchase/s2/tea"),
    ] {
        let mut idle = connect_from(0, port).await?;
        idle.write_all(request("GET", "/health", &[], "").as_bytes()).await?;
        let mut stalled = connect_from(1, port).await?;
        stalled.write_all(b"POST /v1/inventory HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{").await?;
        let mut dripping = connect_from(2, port).await?;
        let import =
            b"POST /v1/import HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/csv\r\ntransfer-encoding: chunked\
                       \r\n\r\na\r\nproductId,\r\n";
        dripping.write_all(import).await?;
        let drip = tokio::spawn(async move {
            while dripping.write_all(b"1\r\nx\r\n").await.is_ok() {
                sleep(Duration::from_millis(200)).await;
            }
        });
        let mut unread = connect_from(3, port).await?;
        unread.write_all(request("GET", "/v1/events?size=1000", &[], "").repeat(50).as_bytes()).await?;
        // A write that is on its way when the server is told to stop.
        let write = request("POST", path, &[("prefer", "wait=1")], r#"{"quantity":1}"#);
        let (first, rest) = write.split_at(write.len() - 5);
        let mut writing = connect_from(4, port).await?;
        writing.write_all(first.as_bytes()).await?;
        sleep(Duration::from_millis(200)).await;
        arena.signal(&daemon, Signal::SIGTERM);
        let told = Instant::now();
        sleep(Duration::from_millis(200)).await;
        // A connection that was cut shows in what is read.
        let _ = writing.write_all(rest.as_bytes()).await;
        match timeout(ENDS_WITHIN, read_reply(&mut BufReader::new(writing), false)).await {
            Ok(Ok(reply)) => arena.expect(
                matches!(reply.status, 200 | 202 | 503),
                format!("{name}: {} for a write on its way", reply.status),
            ),
            Ok(Err(error)) => arena.find(format!("{name}: a write on its way is not answered: {error}")),
            Err(_) => arena.find(format!("{name}: a write on its way is not answered in {ENDS_WITHIN:?}")),
        }
        match arena.ends(&daemon, WATCHED).await {
            Some(status) => {
                let took = told.elapsed();
                arena.expect(took <= ENDS_WITHIN, format!("{name} took {took:.1?} to end"));
                arena.expect(status.success(), format!("{name} ended with {status}"));
                notes.push(format!("{name} ended in {took:.1?}"));
            }
            None => arena.find(format!("{name} has not ended after {WATCHED:?}")),
        }
        drip.abort();
        drop((idle, stalled, unread));
    }
    arena.note = notes.join(", ");
    Ok(())
}
