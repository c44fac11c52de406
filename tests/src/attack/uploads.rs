//! Bodies that arrive slowly or never.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::arena::Arena;
use super::wire::{ask_within, connect_from, request};

const READ_WITHIN: Duration = Duration::from_secs(5);

/// Begins requests and holds their connections; those that the server refuses are of no use to the attacker.
async fn begin(count: usize, port: u16, head: &str) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for number in 0..count {
        let Ok(mut stream) = connect_from(number, port).await else { continue };
        if stream.write_all(head.as_bytes()).await.is_ok() {
            held.push(stream);
        }
    }
    held
}

/// A body is announced and half of it sent.
pub(super) async fn stalled(arena: &mut Arena) -> anyhow::Result<()> {
    arena.watch().await?;
    let heads = ["/v1/inventory", "/v1/purchase/s2/tea"].map(|path| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n\
             {{\"productId\":"
        )
    });
    let mut held = Vec::new();
    for (port, head) in arena.ports().into_iter().zip(&heads) {
        held.push(begin(1_100, port, head).await);
    }
    sleep(arena.form.seconds(15, 4)).await;
    arena.note = format!("{} and {} stalled", held[0].len(), held[1].len());
    Ok(())
}

pub(super) async fn imports(arena: &mut Arena) -> anyhow::Result<()> {
    drip(arena, 520).await
}

pub(super) async fn more_imports(arena: &mut Arena) -> anyhow::Result<()> {
    drip(arena, 1_040).await
}

/// Imports without an end, a byte a second each.
async fn drip(arena: &mut Arena, count: usize) -> anyhow::Result<()> {
    arena.watch().await?;
    let head = "POST /v1/import HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/csv\r\ntransfer-encoding: chunked\r\n\r\n\
                1a\r\nproductId,name,quantity\na,\r\n";
    let mut held = begin(count, arena.ports()[0], head).await;
    let end = Instant::now() + arena.form.seconds(12, 4);
    let mut alive = 0;
    let list = request("GET", "/v1/inventory", &[], "").into_bytes();
    while Instant::now() < end {
        alive = held.iter_mut().filter_map(|stream| stream.try_write(b"1\r\nx\r\n").ok()).count();
        // Somebody who reads more than one item.
        match ask_within(READ_WITHIN, 9, arena.ports()[0], &list).await {
            Ok(reply) => arena.expect(reply.status == 200, format!("a list is answered {}", reply.status)),
            Err(error) => arena.find(format!("a list is not answered within {READ_WITHIN:?}: {error}")),
        }
        sleep(Duration::from_secs(1)).await;
    }
    arena.note = format!("{alive} of {} drip to the end", held.len());
    Ok(())
}
