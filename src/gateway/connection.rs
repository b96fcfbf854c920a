//! Connections to providers, metered: what a provider sends must become part of an answer.
//!
//! HTTP has much that a peer may send without end and that never reaches a caller: interim responses
//! (`100 Continue`, `103 Early Hints`), headers, extensions and trailers of chunks, and the control
//! frames of HTTP/2. The HTTP library reads on for as long as there is something to read. So every
//! connection counts the bytes that it has read since something was last delivered, breaks at a limit, and
//! lets the other tasks of the thread run after each slice.

use crate::gateway::resolver::GuardedResolver;
use http::Uri;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

/// For the name, the connection and its TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(15);
/// What the HTTP library holds of an answer that is not taken yet. The head of a response fits.
pub const BUFFER: usize = 128 * 1024;
/// Bytes that may be read without anything of them being delivered: what the library may hold, twice.
const UNDELIVERED: usize = 4 * BUFFER;
/// A control frame of HTTP/2 counts as so many bytes at least: it is the number that costs time.
const CONTROL_FRAME: usize = 128;
/// One byte may be read for so many that are sent, beyond that.
const SENT_PER_ANSWER: usize = 16;
/// Bytes that are read in one go, and those after which others have their turn.
const PORTION: usize = 16 * 1024;
const SLICE: usize = 64 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a connection has read since something was last delivered.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<AtomicUsize>);

impl Meter {
    /// A head or a part of a body has arrived where it belongs.
    pub fn delivered(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// What is sent is answered: by the windows of HTTP/2, say, that make room for more of a request.
    fn sent(&self, bytes: usize) {
        let answers = bytes / SENT_PER_ANSWER;
        if answers > 0 {
            let less = |sum: usize| Some(sum.saturating_sub(answers));
            let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.sent(*bytes);
        }
        written
    }

    fn add(&self, bytes: usize) -> Result<(), Flood> {
        let sum = self.0.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if sum > UNDELIVERED { Err(Flood) } else { Ok(()) }
    }
}

/// The provider sends what is no answer.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("it sends without end what is no answer")]
pub struct Flood;

/// Makes metered connections.
#[derive(Debug, Clone)]
pub struct Connector(HttpsConnector<HttpConnector<GuardedResolver>>);

impl Connector {
    /// `resolver.plain`: for http, too.
    pub fn new(resolver: GuardedResolver, tls: ClientConfig) -> Self {
        let mut http = HttpConnector::new_with_resolver(resolver);
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(KEEPALIVE));
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls);
        let builder = if resolver.plain { builder.https_or_http() } else { builder.https_only() };
        Self(builder.enable_http1().enable_http2().wrap_connector(http))
    }
}

impl Service<Uri> for Connector {
    type Response = Metered<MaybeHttpsStream<TokioIo<TcpStream>>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            match timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(connected) => Ok(Metered::new(connected?)),
                Err(_) => Err("it does not accept a connection in time".into()),
            }
        })
    }
}

/// A connection that counts.
#[derive(Debug)]
pub struct Metered<S> {
    stream: S,
    meter: Meter,
    /// Read since others had their turn.
    slice: usize,
    /// Of HTTP/2, where answers of many calls share the connection, only what controls it counts.
    frames: Option<Frames>,
}

impl<S: Connection> Metered<S> {
    fn new(stream: S) -> Self {
        let is_http2 = stream.connected().is_negotiated_h2();
        Self { stream, meter: Meter::default(), slice: 0, frames: is_http2.then(Frames::default) }
    }
}

impl<S: Connection> Connection for Metered<S> {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(self.meter.clone())
    }
}

impl<S: Read + Unpin> Read for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut target: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.slice >= SLICE {
            this.slice = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut space = [MaybeUninit::uninit(); PORTION];
        let room = target.remaining().min(PORTION);
        let mut portion = ReadBuf::uninit(&mut space[..room]);
        match Pin::new(&mut this.stream).poll_read(cx, portion.unfilled()) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                this.slice = 0;
                return Poll::Pending;
            }
        }
        let bytes = portion.filled();
        this.slice += bytes.len();
        let counted = match &mut this.frames {
            Some(frames) => frames.count(bytes),
            None => bytes.len(),
        };
        this.meter.add(counted).map_err(io::Error::other)?;
        target.put_slice(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<S: Write + Unpin> Write for Metered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.meter.note(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.meter.note(written)
    }
}

/// Follows the frames of HTTP/2, of which each says its length and its type.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; 9],
    /// Bytes of the header that have been read.
    have: usize,
    /// Bytes of the frame that are still to come.
    rest: usize,
}

impl Frames {
    /// What of these bytes is to be counted: frames that carry no data.
    fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut counted = 0;
        while !bytes.is_empty() {
            if self.rest > 0 {
                let passed = self.rest.min(bytes.len());
                self.rest -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            let taken = (self.header.len() - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == self.header.len() {
                self.have = 0;
                let [a, b, c, kind, ..] = self.header;
                self.rest = u32::from_be_bytes([0, a, b, c]) as usize;
                let carries_data = kind == 0 && self.rest > 0;
                if !carries_data {
                    counted += self.rest.max(CONTROL_FRAME);
                }
            }
        }
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, len: usize) -> Vec<u8> {
        let size = (len as u32).to_be_bytes();
        let mut frame = vec![size[1], size[2], size[3], kind, 0, 0, 0, 0, 1];
        frame.resize(9 + len, 7);
        frame
    }

    #[test]
    fn frames_are_followed_however_they_are_cut() {
        let sent: Vec<u8> =
            [frame(0, 5000), frame(6, 8), frame(0, 0), frame(1, 300), frame(0, 1)].concat();
        for cut in [1, 2, 7, 9, 10, 4096, sent.len()] {
            let mut frames = Frames::default();
            let counted: usize = sent.chunks(cut).map(|part| frames.count(part)).sum();
            assert_eq!(counted, CONTROL_FRAME + CONTROL_FRAME + 300, "{cut}");
            assert_eq!((frames.have, frames.rest), (0, 0));
        }
    }

    #[test]
    fn what_is_delivered_no_longer_counts() {
        let meter = Meter::default();
        for _ in 0..10 {
            meter.add(UNDELIVERED).unwrap();
            meter.clone().delivered();
        }
        meter.add(UNDELIVERED).unwrap();
        meter.add(1).unwrap_err();
        meter.add(usize::MAX).unwrap_err();
        // A request of 32 MB, and a window for each 16 kB of it, twice.
        let meter = Meter::default();
        for _ in 0..2048 {
            meter.sent(16 * 1024);
            meter.add(2 * CONTROL_FRAME).unwrap();
        }
        assert_eq!(meter.0.load(Ordering::Relaxed), 2 * CONTROL_FRAME);
        // Answers to what floods are no requests.
        let flood = (0..2 * UNDELIVERED / CONTROL_FRAME).map(|_| {
            meter.sent(17);
            meter.add(CONTROL_FRAME)
        });
        assert!(flood.collect::<Vec<_>>().iter().any(Result::is_err));
    }
}
