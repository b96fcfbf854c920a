//! One connection: HTTP/1.1 within limits.

use crate::front::Front;
use crate::front::patient::Patient;
use crate::front::{routes, tls};
use crate::gateway::shared::until_true;
use http::header::{CONNECTION, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// For the head of a request, from the moment that the connection is idle: so long one may be kept open.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes after which a head is too large, and of what is read at one time: that much more may have come by then,
/// so what is in it is counted once more (`routes`).
const BUFFER: usize = 32 * 1024;
const MOST_HEADERS: usize = 100;
/// Requests of one connection.
const MOST_REQUESTS: usize = 1000;
/// For the request that it is at, when the connection is to end, and then to say that it was cut off.
const DRAIN: Duration = Duration::from_secs(60);
const LAST_WORDS: Duration = Duration::from_secs(1);

/// From where a request comes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peer {
    /// Our side of it. `None`: a Unix socket.
    pub reached: Option<SocketAddr>,
    /// The other side, which can be a proxy. `None`: a Unix socket.
    pub from: Option<IpAddr>,
    /// Who asks: the other side, or whom it asks for if it is a proxy that is trusted. `None`: nobody knows.
    pub address: Option<IpAddr>,
    /// By us; what a proxy does is not known.
    pub is_encrypted: bool,
}

/// Tells what came by a connection that the connection ends now.
#[derive(Debug, Clone, Default)]
pub struct Ending(Option<watch::Receiver<bool>>);

impl Ending {
    /// Of the connection of a request.
    pub fn of(parts: &Parts) -> Self {
        parts.extensions.get().cloned().unwrap_or_default()
    }

    /// Waits until it does.
    pub async fn wait(&mut self) {
        match &mut self.0 {
            Some(ending) => until_true(ending).await,
            None => std::future::pending().await,
        }
    }
}

/// Serves a connection to its end. When it is `closing`, it ends after the request that it is at.
pub async fn serve<S>(
    front: Arc<Front>,
    stream: S,
    tls: Option<TlsAcceptor>,
    peer: Peer,
    mut closing: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = Patient::new(stream);
    let Some(tls) = tls else { return speak(front, stream, peer, closing).await };
    let accepted = tokio::select! {
        accepted = timeout(tls::HANDSHAKE, tls.accept(stream)) => accepted,
        () = until_true(&mut closing) => return,
    };
    if let Ok(Ok(stream)) = accepted {
        speak(front, stream, peer, closing).await;
    }
}

async fn speak<S>(front: Arc<Front>, stream: S, peer: Peer, mut closing: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = Arc::new(AtomicUsize::new(0));
    let ending = watch::Sender::new(false);
    let told = Ending(Some(ending.subscribe()));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(told.clone());
        let (front, served) = (front.clone(), served.clone());
        // hyper reads what is chunked so, and passes over a length beside it. Whoever stands before us may have gone
        // by the length: to it, what comes next begins elsewhere (RFC 9112, 6.1).
        let is_last = request.headers().contains_key(TRANSFER_ENCODING);
        async move {
            let mut response = routes::answer(&front, peer, request).await;
            if served.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_REQUESTS || is_last {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    // Without a timer there would be no limit of time at all.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(BUFFER)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = until_true(&mut closing) => {}
    }
    connection.as_mut().graceful_shutdown();
    if timeout(DRAIN, connection.as_mut()).await.is_err() {
        ending.send_replace(true);
        let _ = timeout(LAST_WORDS, connection).await;
    }
}
