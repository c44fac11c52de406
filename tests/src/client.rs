//! A thin JSON client.

use std::path::Path;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::record::Record;

/// What a server said.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// Its JSON; `null` when there is none.
    pub body: Value,
}

impl Answer {
    /// A header's text; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body, if the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// A problem's code.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

/// A client of one server.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    record: Option<Record>,
}

impl Client {
    /// A client of `http://127.0.0.1:port`.
    pub fn new(port: u16) -> Self {
        Self { http: http(HeaderMap::new()), base: format!("http://127.0.0.1:{port}"), record: None }
    }

    /// The same, which says who it is.
    #[must_use]
    pub fn bearing(self, token: &str) -> Self {
        let value = format!("Bearer {token}").parse().expect("a header's value");
        Self { http: http(HeaderMap::from_iter([(AUTHORIZATION, value)])), ..self }
    }

    /// The same, of a server whose answers are written down.
    #[must_use]
    pub fn recorded(self, server: &'static str, world: &Path) -> Self {
        Self { record: Some(Record::new(server, world)), ..self }
    }

    /// Asks; an error if there was no answer.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> reqwest::Result<Answer> {
        let json = [("content-type", "application/json")];
        match body {
            Some(body) => {
                self.answer(method, path, &[&json, headers].concat(), Some(body.to_string().into_bytes())).await
            }
            None => self.answer(method, path, headers, None).await,
        }
    }

    /// Sends a body as it is.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        self.answer(method, path, headers, Some(body)).await.expect("an answer")
    }

    /// An answer that is not JSON, or that has no end: its status and headers are here.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        let request = self.request(Method::GET, path, headers, None).timeout(Duration::from_secs(600));
        let response = request.send().await.expect("an answer");
        if let Some(record) = &self.record {
            record.take(&Method::GET, path, headers, None, response.status().as_u16(), response.headers(), None);
        }
        response
    }

    fn request(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<Vec<u8>>) -> RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        body.into_iter().fold(request, RequestBuilder::body)
    }

    async fn answer(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> reqwest::Result<Answer> {
        let response = self.request(method.clone(), path, headers, body.clone()).send().await?;
        let (status, answered) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await?;
        let answer = Answer { status, headers: answered, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) };
        if let Some(record) = &self.record {
            // Also a purchase says with which code it has ended.
            let code = answer.body["code"].as_str().filter(|_| status >= 400);
            record.take(&method, path, headers, body.as_deref(), status, &answer.headers, code);
        }
        Ok(answer)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], None).await.expect("an answer")
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, &[], Some(&body)).await.expect("an answer")
    }

    /// `POST` with headers.
    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        self.ask(Method::POST, path, headers, Some(&body)).await.expect("an answer")
    }

    /// `PUT` with headers.
    pub async fn put_with(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        self.ask(Method::PUT, path, headers, Some(&body)).await.expect("an answer")
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::PUT, path, &[], Some(&body)).await.expect("an answer")
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::PATCH, path, &[], Some(&body)).await.expect("an answer")
    }
}

fn http(headers: HeaderMap) -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(40))
        .default_headers(headers)
        .build()
        .expect("a client of plain http")
}
