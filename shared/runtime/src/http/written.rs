//! Answers that are written as JSON where they are made.

use std::fmt::Write;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Problem;

/// Bytes that most single records fit into: their text then grows no further.
const RECORD: usize = 512;
/// Headers that an answer has besides those of its route: room for all of them is made at once.
pub const HEADERS: usize = 10;
/// Bytes that most headers' values fit into.
const VALUE: usize = 96;

/// A header's value, written where there is room for it from the beginning; an empty one if a header cannot say that.
pub fn header_value(value: impl std::fmt::Display) -> HeaderValue {
    let mut text = String::with_capacity(VALUE);
    // Writing into memory does not fail.
    let _ = write!(text, "{value}");
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

/// JSON text. To write a list of 1,000 records takes as long as dozens of sales: that is done in the scan which reads them,
/// on a thread that serves nobody else, and of which there are few.
#[derive(Debug)]
pub struct Written(serde_json::Result<Vec<u8>>);

impl Written {
    /// Writes a value now.
    pub fn json(value: &impl Serialize) -> Self {
        let mut text = Vec::with_capacity(RECORD);
        Self(serde_json::to_writer(&mut text, value).map(|()| text))
    }
}

impl IntoResponse for Written {
    fn into_response(self) -> Response {
        match self.0 {
            Ok(text) => {
                let mut response = Response::new(Body::from(text));
                let headers = response.headers_mut();
                headers.reserve(HEADERS);
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            Err(error) => Problem::internal(error).into_response(),
        }
    }
}
