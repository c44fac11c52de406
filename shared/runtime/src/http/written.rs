//! Answers that are written as JSON where they are made.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Problem;

/// Bytes that most single records fit into: their text then grows no further.
const RECORD: usize = 512;

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
            Ok(text) => ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response(),
            Err(error) => Problem::internal(error).into_response(),
        }
    }
}
