//! Clients that are slow, silent or many: the till sells on, memory stays, and a stop is a stop. An agent alone, without
//! Redis: none of this may depend on it.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;
use tests::{Client, Process, binary, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(8);

/// An agent that may have so many descriptors.
struct Agent {
    port: u16,
    process: Process,
    dir: TempDir,
}

impl Agent {
    async fn start(descriptors: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("shelfstream-").tempdir().expect("a directory");
        let args = [
            "-c".to_owned(),
            format!("ulimit -n {descriptors}; exec \"$0\" \"$@\""),
            binary("store-agent").display().to_string(),
            "serve".to_owned(),
            "--store-id=s1".to_owned(),
            "--redis-url=redis://127.0.0.1:1".to_owned(),
            format!("--database-path={}", dir.path().join("s1.db").display()),
            "--listen=127.0.0.1:0".to_owned(),
        ];
        let process = Process::start(Path::new("/bin/sh"), &args, &dir.path().join("log"));
        let port = until("the agent says its port", SOON, async || {
            let log = process.tail();
            let port =
                log.split("listening on http://127.0.0.1:").nth(1).and_then(|rest| rest.split_whitespace().next());
            port.and_then(|port| port.parse().ok()).ok_or(log.clone())
        })
        .await;
        let agent = Self { port, process, dir };
        let item = json!({"productId": "tea", "quantity": 1_000_000});
        agent.client().post("/v1/inventory", item).await.expect(201);
        agent
    }

    fn client(&self) -> Client {
        Client::new(self.port).recorded("store-agent", self.dir.path())
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("s1.db")
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.expect("connects")
    }

    /// So many connections that have sent this.
    async fn crowd(&self, many: usize, sent: &str) -> Vec<TcpStream> {
        let mut crowd = Vec::with_capacity(many);
        for _ in 0..many {
            let mut stream = self.connect().await;
            // Whom the agent does not want it may cut off.
            let _ = stream.write_all(sent.as_bytes()).await;
            crowd.push(stream);
        }
        crowd
    }

    /// Sells one by one, each on a connection of its own; the slowest took so long.
    async fn sell(&self, many: usize) -> Duration {
        let mut longest = Duration::ZERO;
        for _ in 0..many {
            let begun = Instant::now();
            self.client().post("/v1/purchase/tea", json!({"quantity": 1})).await.expect(200);
            longest = longest.max(begun.elapsed());
        }
        longest
    }

    /// How it ended, within so long.
    async fn ended(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.process.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "it has not ended within {within:?}: {}", self.process.tail());
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }

    /// Resident memory, KiB.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux says it");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }
}

/// The status of the answer that comes on a connection.
async fn status(stream: &mut TcpStream) -> u16 {
    let mut head = [0; 12];
    let read = tokio::time::timeout(SOON, stream.read_exact(&mut head)).await.expect("in time");
    read.expect("an answer");
    std::str::from_utf8(&head[9..]).ok().and_then(|code| code.parse().ok()).expect("a status")
}

const IMPORT: &str = "POST /v1/import HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/csv\r\n\
    content-length: 1000000\r\n\r\nproductId,quantity\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_descriptors_shut_nobody_out() {
    let mut agent = Agent::start(256).await;
    for sent in ["", "GET /v1/inventory HTTP/1.1\r\nhost: local"] {
        let _crowd = agent.crowd(400, sent).await;
        let longest = agent.sell(20).await;
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        agent.client().get("/health").await.expect(200);
    }
    assert!(agent.process.is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_do_not_come_shut_nobody_out() {
    let agent = Agent::start(4_096).await;
    let write = "POST /v1/inventory HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
        content-length: 1000\r\n\r\n{";
    let _bodies = agent.crowd(1_100, write).await;
    let mut imports = agent.crowd(40, IMPORT).await;
    let longest = agent.sell(50).await;
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    agent.client().get("/v1/inventory/tea").await.expect(200);
    let mut refused = 0;
    for stream in &mut imports {
        let mut byte = [0; 1];
        let answered = tokio::time::timeout(Duration::from_millis(100), stream.peek(&mut byte)).await.is_ok();
        if answered {
            assert_eq!(status(stream).await, 503);
            refused += 1;
        }
    }
    assert_eq!(refused, 36, "four imports are read at once");
    let text = b"productId,quantity\njam,1\n".to_vec();
    let kind = [("content-type", "text/csv")];
    let one_more = agent.client().send(reqwest::Method::POST, "/v1/import", &kind, text).await;
    assert_eq!((one_more.status, one_more.code(), one_more.header("retry-after")), (503, "overloaded", "1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_nobody_reads_take_little_memory() {
    let agent = Agent::start(4_096).await;
    let lines: String = (0..2_000).map(|number| format!("p{number},{}\n", "n".repeat(200))).collect();
    let text = format!("productId,name\n{lines}");
    let kind = [("content-type", "text/csv")];
    agent.client().send(reqwest::Method::POST, "/v1/import", &kind, text.into_bytes()).await.expect(200);
    let before = agent.memory();
    let list = "GET /v1/events?size=1000 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut crowd = agent.crowd(400, list).await;
    let longest = agent.sell(20).await;
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    for stream in &mut crowd {
        assert!([200, 503].contains(&status(stream).await));
    }
    let more = agent.memory().saturating_sub(before) >> 10;
    assert!(more < 200, "{more} MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_gone_is_not_sold_into() {
    let mut agent = Agent::start(1_024).await;
    agent.sell(3).await;
    std::fs::remove_file(agent.database()).expect("deletes");
    let sale = json!({"quantity": 1});
    let sold = agent.client().ask(reqwest::Method::POST, "/v1/purchase/tea", &[], Some(&sale)).await;
    assert!(sold.is_err() || sold.is_ok_and(|answer| answer.status == 503), "what is not on disk is not sold");
    let ended = agent.ended(SOON).await;
    assert!(!ended.success());
    assert!(agent.process.tail().contains("s1.db is no longer there"), "{}", agent.process.tail());
    let files = std::fs::read_dir(agent.dir.path()).expect("lists").flatten().map(|file| file.path());
    let kept = files.into_iter().find(|file| file.to_string_lossy().contains(".rescued-")).expect("it is kept");
    let kept = rusqlite::Connection::open(kept).expect("opens");
    let left: i64 = kept.query_row("select quantity from item", [], |row| row.get(0)).expect("reads");
    assert!((999_996..=999_997).contains(&left), "{left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_read_its_database_is_not_ready() {
    let agent = Agent::start(1_024).await;
    let ready = async || {
        let answer = agent.client().get("/ready").await;
        let told = json!([answer.body["status"], answer.body["checks"]["database"]]);
        (answer.status, told)
    };
    // Its link must not read: it ends the process if it cannot.
    agent.client().post("/v1/disconnected", json!({})).await.expect(200);
    assert_eq!(ready().await, (200, json!(["degraded", "up"])));
    let file = rusqlite::Connection::open(agent.database()).expect("opens");
    file.execute("alter table meta rename to elsewhere", []).expect("writes");
    // What another process does to the file is seen once the writer has ended its rest.
    let told = until("it says so", SOON, async || match ready().await {
        (503, told) => Ok(told),
        other => Err(other),
    });
    assert_eq!(told.await, json!(["broken", "down"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_takes_no_longer_than_eight_seconds() {
    let mut agent = Agent::start(1_024).await;
    for mut stream in agent.crowd(3, IMPORT).await {
        tokio::spawn(async move {
            while stream.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    let _silent = agent.crowd(3, "GET / HTTP/1.1\r\n").await;
    let mut write = agent.connect().await;
    let body = r#"{"quantity":1}"#;
    let head = format!(
        "POST /v1/purchase/tea HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         expect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    write.write_all(head.as_bytes()).await.expect("sends");
    let mut goes_on = [0; 25];
    write.read_exact(&mut goes_on).await.expect("the request is at work");
    assert_eq!(&goes_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    let begun = Instant::now();
    agent.process.signal(Signal::SIGTERM);
    until("it listens no more", SOON, async || match TcpStream::connect(("127.0.0.1", agent.port)).await {
        Ok(_) => Err(()),
        Err(_) => Ok(()),
    })
    .await;
    write.write_all(body.as_bytes()).await.expect("sends");
    assert_eq!(status(&mut write).await, 200, "a write that was on its way is answered");
    let ended = agent.ended(Duration::from_secs(9)).await;
    assert!(ended.success(), "{}", agent.process.tail());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}
