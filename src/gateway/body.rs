//! Bodies of answers, counted as they come over the wire.

use crate::gateway::connection::{Connector, Meter};
use crate::gateway::departure::Noted;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming as Received;
use hyper_util::client::legacy::Client;
use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tower_http::decompression::DecompressionBody;
use tower_service::Service;

/// A part of a body counts as so many bytes at least: it is the number that costs time.
const LEAST_PART: usize = 64;
/// What the packing of a small answer may add.
const SLACK: usize = 64 * 1024;

type BoxError = Box<dyn StdError + Send + Sync>;

/// An answer that is unpacked as it is read.
pub type Unpacked = Response<DecompressionBody<Tallied>>;

/// Bytes that the answer to a request may have, unpacked or not.
#[derive(Debug, Clone, Copy)]
pub struct Limit(pub usize);

/// The pool of connections.
#[derive(Clone)]
pub struct Requests(pub Client<Connector, Noted>);

impl Service<Request<Noted>> for Requests {
    type Response = Response<Tallied>;
    type Error = hyper_util::client::legacy::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Noted>) -> Self::Future {
        let limit = request.extensions().get::<Limit>().map_or(0, |limit| limit.0);
        let sending = self.0.request(request);
        Box::pin(async move {
            let response = sending.await?;
            let meter = response.extensions().get::<Meter>().cloned().unwrap_or_default();
            meter.delivered();
            Ok(response.map(|body| Tallied { body, meter, counted: 0, limit }))
        })
    }
}

/// A body as it comes over the wire, before it is unpacked, which must not be endless either.
pub struct Tallied {
    body: Received,
    meter: Meter,
    counted: usize,
    limit: usize,
}

/// An answer of which HTTP, or its packing, is the most.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("it sends more than an answer may have")]
pub struct TooMuch;

impl Body for Tallied {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.meter.delivered();
        if let Some(Ok(frame)) = &frame {
            let len = frame.data_ref().map_or(0, Bytes::len);
            self.counted = self.counted.saturating_add(len.max(LEAST_PART));
            if self.counted > self.limit.saturating_add(SLACK) {
                return Poll::Ready(Some(Err(TooMuch.into())));
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The next bytes of a body. `None`: it has ended.
pub async fn chunk(response: &mut Unpacked) -> Result<Option<Bytes>, BoxError> {
    while let Some(frame) = response.body_mut().frame().await {
        if let Ok(bytes) = frame?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}
