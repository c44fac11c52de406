//! An endpoint of webhooks, as a shop would have one: it checks signatures and answers as it is told.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What came in one request.
#[derive(Debug, Clone)]
pub struct Heard {
    /// `webhook-id`.
    pub id: String,
    /// `webhook-timestamp`.
    pub timestamp: String,
    /// `webhook-signature`.
    pub signatures: Vec<String>,
    pub text: String,
    pub body: Value,
    /// What was answered; 0: nothing, ever.
    pub status: u16,
}

impl Heard {
    /// Whether one of the signatures was made with this secret, as it was given out.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = secret.strip_prefix("whsec_").expect("a secret begins so");
        let key = BASE64_STANDARD.decode(key).expect("the rest is base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
        mac.update(format!("{}.{}.{}", self.id, self.timestamp, self.text).as_bytes());
        let signature = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
        self.signatures.contains(&signature)
    }

    /// The event's place in the chain.
    pub fn chain_seq(&self) -> i64 {
        self.body["data"]["chainSeq"].as_i64().unwrap_or_default()
    }

    /// The event's store.
    pub fn store(&self) -> &str {
        self.body["data"]["storeId"].as_str().unwrap_or_default()
    }
}

type Says = Box<dyn Fn(&Value) -> u16 + Send>;

/// Listens on a port of its own until it is dropped.
pub struct Endpoint {
    pub url: String,
    heard: Arc<Mutex<Vec<Heard>>>,
    says: Arc<Mutex<Says>>,
    task: JoinHandle<()>,
}

impl Endpoint {
    /// One that takes everything.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let says: Arc<Mutex<Says>> = Arc::new(Mutex::new(Box::new(|_| 200)));
        let (to, by) = (heard.clone(), says.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("it listens");
                let (to, by) = (to.clone(), by.clone());
                // Each connection is one request; who breaks it off has nothing more to say.
                tokio::spawn(async move { drop(serve(stream, &to, &by).await) });
            }
        });
        Self { url, heard, says, task }
    }

    /// Answers so from now on; 0: never.
    pub fn says(&self, status: impl Fn(&Value) -> u16 + Send + 'static) {
        *self.says.lock().expect("nobody panics") = Box::new(status);
    }

    /// What has come so far, in order.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("nobody panics").clone()
    }

    /// What was taken so far, in order.
    pub fn taken(&self) -> Vec<Heard> {
        self.heard().into_iter().filter(|heard| (200..300).contains(&heard.status)).collect()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, to: &Mutex<Vec<Heard>>, says: &Mutex<Says>) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let (head, body_at) = loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break (String::from_utf8_lossy(&bytes[..end]).into_owned(), end + 4);
        }
    };
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        found.next().unwrap_or_default().to_owned()
    };
    let length: usize = header("content-length").parse().unwrap_or_default();
    while bytes.len() < body_at + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&bytes[body_at..]).into_owned();
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    let status = says.lock().expect("nobody panics")(&body);
    to.lock().expect("nobody panics").push(Heard {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signatures: header("webhook-signature").split(' ').map(str::to_owned).collect(),
        text,
        body,
        status,
    });
    if status == 0 {
        // Until the other side gives up.
        while stream.read_buf(&mut bytes).await? > 0 {}
        return Ok(());
    }
    stream.write_all(format!("HTTP/1.1 {status} So\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes()).await
}
