//! Asks central for what it knows of the store (L10).

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use axum::http::HeaderMap;
use protocol::ids::StoreId;
use protocol::wire::restore::{Answer, AnswerReader, Question};

/// How long central may say nothing; how long it may take in all depends on the store.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often is asked when central says that it will answer in a moment.
const TRIES: u32 = 30;
/// Between two of these.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// One line is a part of the answer; one that is longer than this is none.
const LINE_MAX: usize = 64 << 20;

/// What central says instead of answering.
pub(crate) async fn refused(response: reqwest::Response) -> anyhow::Error {
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    let problem: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    anyhow!("central refuses ({status}): {}", problem["detail"].as_str().unwrap_or(&text))
}

/// Asks central at an address with these headers, and hears all of its answer: one that broke off is an error. From the question on the store
/// waits for the epoch that the answer gives out.
pub async fn ask(central: &str, headers: HeaderMap, store: &StoreId, question: &Question) -> anyhow::Result<Answer> {
    let central = central.trim_end_matches('/');
    let url = format!("{central}/v1/stores/{store}/restore");
    let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).read_timeout(PATIENCE);
    let client = client.default_headers(headers).build()?;
    let mut tries = 1;
    let mut response =
        loop {
            let response =
                client.post(&url).json(question).send().await.with_context(|| {
                    format!("central does not answer at {central}: it must be reachable for a restore")
                })?;
            let status = response.status();
            if status.is_success() {
                break response;
            }
            if status == reqwest::StatusCode::SERVICE_UNAVAILABLE && tries < TRIES {
                tries += 1;
                tokio::time::sleep(AGAIN_AFTER).await;
                continue;
            }
            return Err(refused(response).await);
        };
    let mut reader = AnswerReader::default();
    let mut heard: Vec<u8> = Vec::new();
    while let Some(bytes) = response.chunk().await.context("central's answer broke off: ask again")? {
        heard.extend_from_slice(&bytes);
        let mut from = 0;
        while let Some(length) = heard[from..].iter().position(|byte| *byte == b'\n') {
            reader.read_line(&heard[from..from + length]).context("central's answer cannot be read")?;
            from += length + 1;
        }
        heard.drain(..from);
        if heard.len() > LINE_MAX {
            bail!("central's answer cannot be read: a line of it has no end");
        }
    }
    let answer = reader.finish().context("central's answer broke off: ask again")?;
    if answer.store_id != store.as_str() {
        bail!("central answered for store {}", answer.store_id);
    }
    Ok(answer)
}
