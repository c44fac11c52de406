//! Bounds on the memory that bodies take, however slowly clients send and read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A body up to this size costs no more than its connection.
pub(super) const SMALL: usize = 16 << 10;
/// KiB of greater answers that are on their way at once.
const ANSWERS: usize = 64 << 10;
/// One counts for so much at most: an export that is greater than all of the budget has its way, too. KiB.
const ANSWER_MOST: u64 = 16 << 10;
/// Bytes handed on at once: the rest counts until the client has taken what is before it.
const PIECE: usize = 16 << 10;

/// The memory for answers that are on their way.
#[derive(Debug)]
pub(super) struct Answers(Arc<Semaphore>);

impl Default for Answers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ANSWERS)))
    }
}

impl Answers {
    /// An answer that counts until the client has taken it. `None`: there is no room for it.
    pub(super) fn admit(&self, answer: Response) -> Option<Response> {
        let bytes = answer.body().size_hint().exact().unwrap_or(0);
        if bytes <= SMALL as u64 {
            return Some(answer);
        }
        let weight = u32::try_from((bytes >> 10).min(ANSWER_MOST)).ok()?;
        let permit = self.0.clone().try_acquire_many_owned(weight).ok()?;
        Some(answer.map(|inner| Body::new(Counted { inner, piece: Bytes::new(), _permit: permit })))
    }
}

/// Hands on a body in pieces.
struct Counted {
    inner: Body,
    piece: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.piece.is_empty() {
            match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.piece = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return other,
            }
        }
        let length = self.piece.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.piece.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let piece = self.piece.len() as u64;
        let rest = self.inner.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + piece);
        }
        hint.set_lower(rest.lower() + piece);
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_great_answer_counts_until_it_is_read() {
        let answers = Answers::default();
        let great = || Response::new(Body::from(vec![7; 100 << 10]));
        let mut held = Vec::new();
        while let Some(answer) = answers.admit(great()) {
            assert_eq!(answer.body().size_hint().exact(), Some(100 << 10));
            held.push(answer);
        }
        assert_eq!(held.len(), ANSWERS / 100);
        assert!(answers.admit(Response::new(Body::from("small"))).is_some());
        let mut one = held.pop().expect("many").into_body();
        let first = one.frame().await.expect("a frame").expect("reads").into_data().expect("data");
        assert_eq!(first.len(), PIECE);
        assert!(answers.admit(great()).is_none(), "it was read in part");
        assert_eq!(one.collect().await.expect("reads").to_bytes().len(), (100 << 10) - PIECE);
        assert!(answers.admit(great()).is_some());
    }
}
