//! A till for load: one keep-alive connection, as little of HTTP as it needs, and the same key until it has an answer.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Duration, sleep};

/// One till of a store.
pub struct Till {
    port: u16,
    connection: Option<BufReader<TcpStream>>,
}

impl Till {
    /// A till of the store that listens on this port.
    pub fn new(port: u16) -> Self {
        Self { port, connection: None }
    }

    /// Posts until there is an answer: connections may break, and agents may be away, for a while.
    pub async fn post(&mut self, path: &str, key: &str, body: &str) -> (u16, String) {
        for _ in 0..2_000 {
            match self.try_post(path, key, body).await {
                Ok((503, _)) => sleep(Duration::from_millis(20)).await,
                Ok(answer) => return answer,
                Err(_) => {
                    self.connection = None;
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
        panic!("no answer to {key} at {path} for 40 s");
    }

    async fn try_post(&mut self, path: &str, key: &str, body: &str) -> std::io::Result<(u16, String)> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
                stream.set_nodelay(true)?;
                self.connection.insert(BufReader::new(stream))
            }
        };
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nidempotency-key: {key}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.write_all(request.as_bytes()).await?;
        let (mut status, mut length, mut line) = (0, 0, String::new());
        loop {
            line.clear();
            if connection.read_line(&mut line).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let text = line.trim_end();
            if let Some(rest) = text.strip_prefix("HTTP/1.1 ") {
                status = rest.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0);
            } else if let Some(rest) = text.strip_prefix("content-length: ") {
                length = rest.parse().unwrap_or(0);
            } else if text.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).await?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}
