//! As much of an HTTP client as the demo needs: JSON over one keep-alive connection, on std alone.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// What a server said.
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    /// Its JSON; `null` when there is none.
    pub(crate) body: Value,
}

/// A client of one server.
pub(crate) struct Client {
    port: u16,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    /// A client of `http://127.0.0.1:port`.
    pub(crate) fn new(port: u16) -> Self {
        Self { port, connection: None }
    }

    /// `GET`.
    pub(crate) fn get(&mut self, path: &str) -> std::io::Result<Answer> {
        self.ask("GET", path, &[], "application/json", "")
    }

    /// `POST` of JSON.
    pub(crate) fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &Value) -> std::io::Result<Answer> {
        self.ask("POST", path, headers, "application/json", &body.to_string())
    }

    /// Asks. A connection that the server has closed is opened again once.
    pub(crate) fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        kind: &str,
        body: &str,
    ) -> std::io::Result<Answer> {
        let fresh = self.connection.is_none();
        let result = self.try_ask(method, path, headers, kind, body);
        if result.is_err() {
            self.connection = None;
            // Only what may be repeated: a write is repeated by its caller, under its key.
            if !fresh && method == "GET" {
                return self.try_ask(method, path, headers, kind, body);
            }
        }
        result
    }

    fn try_ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        kind: &str,
        body: &str,
    ) -> std::io::Result<Answer> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(("127.0.0.1", self.port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(40)))?;
                self.connection.insert(BufReader::new(stream))
            }
        };
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n", body.len());
        if !body.is_empty() {
            head.push_str(&format!("content-type: {kind}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.push_str(body);
        connection.get_mut().write_all(head.as_bytes())?;
        let (mut status, mut length, mut chunked, mut line) = (0, 0, false, String::new());
        loop {
            line.clear();
            if connection.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let text = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = text.strip_prefix("http/1.1 ") {
                status = rest.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0);
            } else if let Some(rest) = text.strip_prefix("content-length: ") {
                length = rest.parse().unwrap_or(0);
            } else if text == "transfer-encoding: chunked" {
                chunked = true;
            } else if text.is_empty() {
                break;
            }
        }
        let body = if chunked { read_chunks(connection)? } else { read_exactly(connection, length)? };
        Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
    }
}

fn read_exactly(connection: &mut impl Read, length: usize) -> std::io::Result<Vec<u8>> {
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok(body)
}

fn read_chunks(connection: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(|_| std::io::ErrorKind::InvalidData)?;
        body.extend(read_exactly(connection, length)?);
        connection.read_line(&mut line)?;
        if length == 0 {
            return Ok(body);
        }
    }
}
