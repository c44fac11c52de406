//! One attempt of a delivery: resolve, connect, sign, post, hear the status.
//!
//! **Guarantees.** The address that is connected to is the one that was judged: there is no second look-up, no proxy, and a
//! redirect is an answer like any other. An attempt takes a bounded time and a bounded amount of memory, whatever the
//! endpoint does: of its answer the head is read, and the connection closed.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use protocol::time::Millis;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::outbound::addresses::Reach;
use crate::outbound::deliveries::Answer;

/// For all of it, the endpoint's answer included.
const TIMEOUT: Duration = Duration::from_secs(15);
/// For one address, when there are several.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest head of an answer.
const HEAD_BYTES: usize = 16 << 10;
const GONE: u16 = 410;

/// What deliveries are signed with (Standard Webhooks): 32 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl Secret {
    /// A new one, which nobody can guess.
    pub fn generate() -> Self {
        // Each of the two takes 122 bits from the system's source of random numbers.
        let halves = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
        Self(halves.iter().flat_map(|half| *half.as_bytes()).collect())
    }

    /// As receivers get it.
    pub fn to_text(&self) -> String {
        format!("whsec_{}", BASE64_STANDARD.encode(&self.0))
    }

    fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What is sent.
#[derive(Debug, Clone)]
pub struct Message {
    /// The same at each attempt: a receiver knows by it what it has already.
    pub id: String,
    pub body: String,
}

impl Message {
    /// Of an event. The parts of what is signed are joined by dots, so that an id has none; no event's has a tilde.
    pub fn of_event(event_id: &str, body: String) -> Self {
        Self { id: event_id.replace('.', "~"), body }
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub at: Millis,
    pub duration_ms: i64,
    /// What the endpoint answered, or why it did not.
    pub answer: Result<u16, String>,
}

impl Attempt {
    /// What it means for the delivery.
    pub fn means(&self) -> Answer {
        match &self.answer {
            Ok(200..=299) => Answer::Taken,
            Ok(GONE) => Answer::Gone,
            Ok(_) | Err(_) => Answer::Failed,
        }
    }
}

/// Sends to endpoints. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    reach: Reach,
    tls: TlsConnector,
}

impl Sender {
    /// Reaches these. Certificates are judged by the public CAs that Mozilla trusts.
    pub fn new(reach: Reach) -> Self {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        Self::trusting(roots, reach)
    }

    fn trusting(roots: RootCertStore, reach: Reach) -> Self {
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { reach, tls: TlsConnector::from(Arc::new(config)) }
    }

    /// Which endpoints are reached.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// One attempt, signed with each of the secrets.
    pub async fn send(&self, url: &str, secrets: &[Secret], message: &Message) -> Attempt {
        let (at, began) = (runtime::clock::now(), Instant::now());
        let answer = match tokio::time::timeout(TIMEOUT, self.post(url, secrets, message, at)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
        };
        Attempt { at, duration_ms: i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX), answer }
    }

    async fn post(&self, url: &str, secrets: &[Secret], message: &Message, at: Millis) -> Result<u16, String> {
        let refused = |why: String| format!("url {why}");
        let url = self.reach.read(url).map_err(refused)?;
        let timestamp = at.0 / 1_000;
        let signatures: Vec<String> =
            secrets.iter().map(|secret| secret.sign(&message.id, timestamp, &message.body)).collect();
        let host = url.host_str().unwrap_or_default();
        let request =
            Request::post(url.query().map_or(url.path().to_owned(), |query| format!("{}?{query}", url.path())))
                .header("host", url.port().map_or(host.to_owned(), |port| format!("{host}:{port}")))
                .header("content-type", "application/json")
                .header("user-agent", concat!("shelfstream/", env!("CARGO_PKG_VERSION")))
                .header("webhook-id", &message.id)
                .header("webhook-timestamp", timestamp)
                .header("webhook-signature", signatures.join(" "))
                .header("connection", "close")
                .body(Full::new(Bytes::from(message.body.clone())))
                .map_err(|error| error.to_string())?;
        let stream = connect(&self.reach.resolve(&url).await.map_err(refused)?).await?;
        if url.scheme() == "http" {
            return exchange(stream, request).await;
        }
        let name = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
        let stream = self.tls.connect(name, stream).await.map_err(|error| format!("no TLS: {error}"))?;
        exchange(stream, request).await
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut failed = "there is no address".to_owned();
    for address in addresses {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = format!("no connection: {error}"),
            Err(_) => failed = "no connection in time".to_owned(),
        }
    }
    Err(failed)
}

/// Posts, and hears the status. The rest of the answer is of no interest.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<u16, String> {
    let failed = |error: hyper::Error| format!("no answer: {error}");
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD_BYTES).handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let (mut answer, mut connection) = (pin!(sender.send_request(request)), pin!(connection));
    let answer = tokio::select! {
        answer = answer.as_mut() => answer,
        // The answer may have been the last that came over it.
        _ = connection.as_mut() => answer.await,
    };
    answer.map(|answer| answer.status().as_u16()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

    use super::*;

    #[test]
    fn signatures_are_those_of_the_specification() {
        // The example of Standard Webhooks.
        let key = BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let signed = Secret(key).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}");
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_differ_and_show_nowhere() {
        let (one, other) = (Secret::generate(), Secret::generate());
        assert!(one != other && one.0.len() == 32);
        assert!(one.to_text().starts_with("whsec_"));
        assert_eq!(format!("{one:?}"), "Secret");
    }

    #[test]
    fn no_id_has_a_dot() {
        assert_eq!(Message::of_event("store.1:7-9", String::new()).id, "store~1:7-9");
    }

    /// An endpoint that answers once, after it has read the request's head.
    async fn endpoint(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook?a=b", listener.local_addr().expect("an address"));
        let heard = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("comes");
            exchanged(stream, answer).await
        });
        (url, heard)
    }

    /// Reads a request's head and body, and answers.
    async fn exchanged(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
        let mut heard = Vec::new();
        while !heard.ends_with(b"{\"a\":1}") {
            assert!(stream.read_buf(&mut heard).await.expect("reads") > 0);
        }
        stream.write_all(answer.as_bytes()).await.expect("writes");
        stream.flush().await.expect("writes");
        String::from_utf8(heard).expect("text")
    }

    async fn sent(answer: &'static str) -> (Attempt, String) {
        let (url, heard) = endpoint(answer).await;
        let message = Message { id: "m".into(), body: "{\"a\":1}".into() };
        let secrets = [Secret(vec![1; 32]), Secret(vec![2; 32])];
        let attempt = Sender::new(Reach { private: true }).send(&url, &secrets, &message).await;
        (attempt, heard.await.expect("ends"))
    }

    #[tokio::test]
    async fn what_an_endpoint_answers_is_what_its_status_says() {
        let redirect = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        let endless = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\nx";
        let cases = [
            ("HTTP/1.1 204 No Content\r\n\r\n", Answer::Taken),
            (endless, Answer::Taken),
            (redirect, Answer::Failed),
            ("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", Answer::Failed),
            ("HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", Answer::Gone),
            ("nonsense\r\n\r\n", Answer::Failed),
            ("", Answer::Failed),
        ];
        for (answer, means) in cases {
            let (attempt, heard) = sent(answer).await;
            assert_eq!(attempt.means(), means, "{answer}: {attempt:?}");
            assert!(heard.starts_with("POST /hook?a=b HTTP/1.1\r\nhost: 127.0.0.1:"), "{heard}");
            let signatures = heard.lines().find_map(|line| line.strip_prefix("webhook-signature: "));
            assert_eq!(signatures.expect("is signed").split(' ').count(), 2);
        }
    }

    #[tokio::test]
    async fn over_tls_nothing_is_said_to_whom_no_trusted_certificate_names() {
        for (named, is_trusted) in [("127.0.0.1", true), ("127.0.0.1", false), ("127.0.0.2", true)] {
            let own = rcgen::generate_simple_self_signed([named.to_owned()]).expect("a certificate");
            let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
            let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
            let config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("the provider speaks TLS")
                .with_no_client_auth()
                .with_single_cert(vec![own.cert.der().clone()], key.into())
                .expect("they belong together");
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let url = format!("https://{}/hook", listener.local_addr().expect("an address"));
            let heard = tokio::spawn(async move {
                let (stream, _) = listener.accept().await.expect("comes");
                let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.ok()?;
                Some(exchanged(stream, "HTTP/1.1 204 No Content\r\n\r\n").await)
            });
            let reach = Reach { private: true };
            let sender = if is_trusted {
                let mut roots = RootCertStore::empty();
                roots.add(own.cert.der().clone()).expect("a certificate");
                Sender::trusting(roots, reach)
            } else {
                Sender::new(reach)
            };
            let message = Message { id: "m".into(), body: "{\"a\":1}".into() };
            let attempt = sender.send(&url, &[Secret(vec![1; 32])], &message).await;
            let heard = heard.await.expect("ends");
            if named == "127.0.0.1" && is_trusted {
                assert_eq!(attempt.answer, Ok(204));
                assert!(heard.expect("was sent").contains("\r\nwebhook-signature: v1,"));
            } else {
                let why = attempt.answer.expect_err("is refused");
                assert!(why.starts_with("no TLS: invalid peer certificate"), "{why}");
                assert_eq!(heard, None, "{why}");
            }
        }
    }

    #[tokio::test]
    async fn nothing_is_sent_to_an_address_that_is_not_public() {
        let (url, heard) = endpoint("").await;
        let message = Message { id: "m".into(), body: String::new() };
        let attempt = Sender::new(Reach { private: false }).send(&url.replace("http", "https"), &[], &message).await;
        assert!(attempt.answer.expect_err("is refused").contains("public"));
        assert!(!heard.is_finished(), "nobody has come");
        heard.abort();
    }
}
