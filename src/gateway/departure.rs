//! Whether a request has left: a body that notes when the connection takes it. What waits for a
//! name, a connection, TLS or its turn in the pool has not been written, and costs nothing.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// Asks, also after the request is gone, whether any of it was handed to a connection.
#[derive(Debug, Clone, Default)]
pub struct Departure(Arc<AtomicBool>);

impl Departure {
    pub fn has_left(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// The body to send, of which this tells.
    pub fn body(&self, bytes: Option<Bytes>) -> Noted {
        Noted { bytes, left: self.clone() }
    }
}

/// A body in one piece, or none. A connection asks for it once it is established and has taken the head.
#[derive(Debug)]
pub struct Noted {
    bytes: Option<Bytes>,
    left: Departure,
}

impl Body for Noted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.left.0.store(true, Ordering::Release);
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let len = self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        SizeHint::with_exact(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_notes_that_it_was_taken_and_not_that_it_was_made() {
        let departure = Departure::default();
        let mut body = Noted { bytes: Some(Bytes::from_static(b"{}")), left: departure.clone() };
        assert_eq!(body.size_hint().exact(), Some(2));
        assert!(!departure.has_left() && !body.is_end_stream());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) else {
            panic!()
        };
        assert_eq!(frame.into_data().unwrap(), "{}");
        assert!(departure.has_left() && body.is_end_stream());
        assert!(matches!(Pin::new(&mut body).poll_frame(&mut cx), Poll::Ready(None)));
    }
}
