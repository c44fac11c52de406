//! As little of HTTP as a client needs that must cost next to nothing: requests are bytes, an answer is found in bytes.

use std::io::{Read, Write};

use anyhow::{Context, bail, ensure};

/// An answer that has arrived wholly.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    status: u16,
    head: &'a str,
    /// Its body.
    pub(crate) body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Finds an answer in what was read; `None` while there is more to come. Only bodies with `Content-Length`.
    pub(crate) fn find(bytes: &'a [u8]) -> anyhow::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let head = std::str::from_utf8(&bytes[..end])?;
        let status = head.get(9..12).and_then(|code| code.parse().ok()).context("no status line")?;
        let length: usize = header(head, "content-length").context("an answer without length")?.parse()?;
        let body = &bytes[end + 4..];
        ensure!(body.len() <= length, "more than an answer to one request");
        Ok((body.len() == length).then_some(Self { status, head, body }))
    }

    /// An error that tells the answer if it has another status.
    pub(crate) fn must_be(&self, status: u16) -> anyhow::Result<()> {
        if self.status != status {
            bail!("status {}, not {status}: {}", self.status, String::from_utf8_lossy(self.body));
        }
        Ok(())
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        header(self.head, name)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let of = |line: &'a str| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    };
    head.split("\r\n").skip(1).find_map(of)
}

/// Writes a `GET`.
pub(crate) fn get(request: &mut Vec<u8>, path: std::fmt::Arguments<'_>) {
    put(request, format_args!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"));
}

/// Writes a `POST` of JSON under an `Idempotency-Key`, as every till should send one.
pub(crate) fn post(request: &mut Vec<u8>, path: std::fmt::Arguments<'_>, key: std::fmt::Arguments<'_>, body: &str) {
    let length = body.len();
    put(
        request,
        format_args!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nidempotency-key: {key}\r\n\
             content-length: {length}\r\n\r\n{body}"
        ),
    );
}

fn put(request: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    request.clear();
    // Writing into memory does not fail.
    let _ = request.write_fmt(text);
}

/// A caller who waits for each answer: one connection, no runtime in between.
pub(crate) struct Caller {
    stream: std::net::TcpStream,
    bytes: Vec<u8>,
}

impl Caller {
    /// Connects. A server closes a connection that rests for 10 s, so each measurement makes its own.
    pub(crate) fn connect(port: u16) -> anyhow::Result<Self> {
        let stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, bytes: Vec::with_capacity(8 << 10) })
    }

    /// Sends a request and waits for the answer, which must have this status.
    pub(crate) fn call(&mut self, request: &[u8], status: u16) -> anyhow::Result<Answer<'_>> {
        self.stream.write_all(request)?;
        self.bytes.clear();
        let mut some = [0; 4 << 10];
        while Answer::find(&self.bytes)?.is_none() {
            let count = self.stream.read(&mut some)?;
            ensure!(count > 0, "the server closed the connection");
            self.bytes.extend_from_slice(&some[..count]);
        }
        let answer = Answer::find(&self.bytes)?.context("it was there")?;
        answer.must_be(status)?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_once_it_is_whole() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nShelf-Position: s1:1-7\r\n\r\nok";
        for end in 0..bytes.len() {
            assert_eq!(Answer::find(&bytes[..end]).expect("not wrong so far"), None);
        }
        let answer = Answer::find(bytes).expect("right").expect("whole");
        assert_eq!((answer.status, answer.body), (200, &b"ok"[..]));
        assert_eq!(answer.header("shelf-position"), Some("s1:1-7"));
        assert!(answer.must_be(201).is_err());
    }

    #[test]
    fn what_cannot_be_counted_is_an_error() {
        assert!(Answer::find(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(Answer::find(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxHTTP/1.1 200").is_err());
    }

    #[test]
    fn a_request_replaces_the_one_before() {
        let mut request = b"old".to_vec();
        post(&mut request, format_args!("/a/{}", 1), format_args!("k-{}", 2), "{}");
        let text = String::from_utf8(request.clone()).expect("text");
        assert!(text.starts_with("POST /a/1 HTTP/1.1\r\n") && text.ends_with("content-length: 2\r\n\r\n{}"), "{text}");
        get(&mut request, format_args!("/b"));
        assert_eq!(request, b"GET /b HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
    }
}
