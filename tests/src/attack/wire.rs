//! HTTP as bytes: what a client that keeps no rules can send, and what it gets back.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

/// Machines that the attack comes from; tills and buyers come from 127.0.0.1.
const PEERS: usize = 8;
/// Longest line of an answer's head, and the number of its lines, that are read.
const HEAD_LINE_MAX: usize = 64 << 10;
const HEAD_LINES_MAX: usize = 200;

/// A connection from one of the hostile machines to a port of this one.
pub(super) async fn connect_from(machine: usize, port: u16) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let last = u8::try_from(machine % PEERS).unwrap_or_default() + 2;
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0)))?;
    let stream = socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A request with the headers that every server wants.
pub(super) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text
}

/// Sends bytes on a connection of their own and reads the one answer.
pub(super) async fn ask(machine: usize, port: u16, bytes: &[u8]) -> Result<Reply> {
    let mut stream = connect_from(machine, port).await?;
    stream.write_all(bytes).await?;
    let is_head = bytes.starts_with(b"HEAD ");
    read_reply(&mut BufReader::new(stream), is_head).await
}

/// The same, with a limit; a server that does not answer in time is a finding like any other.
pub(super) async fn ask_within(within: Duration, machine: usize, port: u16, bytes: &[u8]) -> Result<Reply> {
    tokio::time::timeout(within, ask(machine, port, bytes)).await.map_err(|_| Error::from(ErrorKind::TimedOut))?
}

/// A whole answer.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// A header's text; empty if it is not there.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value)
    }

    /// Its JSON; `null` when there is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A problem's code.
    pub(super) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Reads the next answer of a connection. `UnexpectedEof`: it was closed before the first byte; `InvalidData`: what came
/// is no answer, or it was cut off in the middle.
pub(super) async fn read_reply(stream: &mut (impl AsyncBufRead + Unpin), is_head: bool) -> Result<Reply> {
    loop {
        let reply = read_one(stream, is_head).await?;
        // 100 Continue and its kind announce the answer.
        if reply.status >= 200 {
            return Ok(reply);
        }
    }
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what.to_owned())
}

async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<String> {
    let mut line = Vec::new();
    let read = (&mut *stream).take(HEAD_LINE_MAX as u64).read_until(b'\n', &mut line).await?;
    if read == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    if !line.ends_with(b"\r\n") {
        return Err(broken("a line of the head has no end"));
    }
    Ok(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned())
}

async fn read_one(stream: &mut (impl AsyncBufRead + Unpin), is_head: bool) -> Result<Reply> {
    let first = read_line(stream).await?;
    let status = first.strip_prefix("HTTP/1.1 ").or_else(|| first.strip_prefix("HTTP/1.0 "));
    let status = status.and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(|| broken("no status line"))?;
    let cut = |error: Error| if error.kind() == ErrorKind::UnexpectedEof { broken("cut off") } else { error };
    let mut headers = Vec::new();
    for _ in 0..HEAD_LINES_MAX {
        let line = read_line(stream).await.map_err(cut)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut reply = Reply { status, headers, body: Vec::new() };
    if is_head || status < 200 || status == 204 || status == 304 {
        return Ok(reply);
    }
    if reply.header("transfer-encoding") == "chunked" {
        loop {
            let size = read_line(stream).await.map_err(cut)?;
            let size = usize::from_str_radix(&size, 16).map_err(|_| broken("a chunk has no size"))?;
            let start = reply.body.len();
            reply.body.resize(start + size + 2, 0);
            stream.read_exact(&mut reply.body[start..]).await.map_err(cut)?;
            reply.body.truncate(start + size);
            if size == 0 {
                return Ok(reply);
            }
        }
    }
    match reply.header("content-length").parse() {
        Ok(length) => {
            reply.body = vec![0; length];
            stream.read_exact(&mut reply.body).await.map_err(cut)?;
        }
        // The end of the connection is the end of the answer.
        Err(_) => drop(stream.read_to_end(&mut reply.body).await?),
    }
    Ok(reply)
}
