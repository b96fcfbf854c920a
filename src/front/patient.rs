//! A connection whose other side must take what it is sent: one that does not is broken off, and with it what it
//! holds (an upstream's connection, a place in flight, a reservation). It stands below TLS, which takes more than it
//! can pass on.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// For so long a reader may take nothing.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Patient<S> {
    stream: S,
    patience: Duration,
    /// When it is given up, while it takes nothing.
    given_up: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, patience: PATIENCE, given_up: None }
    }

    /// What becomes of a write that came to this.
    fn waited<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.given_up = None;
            return written;
        }
        let patience = self.patience;
        let given_up =
            self.given_up.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + patience)));
        given_up.as_mut().poll(cx).map(|()| Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, target)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.waited(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.waited(cx, written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt;

    async fn write<S: AsyncWrite + Unpin>(stream: &mut S) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, &[0; 64])).await
    }

    /// Whether a write waits for the other side.
    async fn waits<S: AsyncWrite + Unpin>(stream: &mut S) -> bool {
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_write(cx, &[0; 64])));
        polled.await.is_pending()
    }

    #[tokio::test]
    async fn who_takes_nothing_is_given_up_and_who_takes_little_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut patient = Patient::new(ours);
        assert_eq!(write(&mut patient).await.unwrap(), 64);
        let mut last = Instant::now();
        for _ in 0..4 {
            // One wait has one end, however often it is looked at.
            assert!(waits(&mut patient).await);
            let end = patient.given_up.as_ref().unwrap().deadline();
            assert!(waits(&mut patient).await);
            assert_eq!(patient.given_up.as_ref().unwrap().deadline(), end);
            // The next one has its own.
            assert!(end > last);
            last = end;
            theirs.read_exact(&mut [0; 1]).await.unwrap();
            assert_eq!(write(&mut patient).await.unwrap(), 1);
            assert!(patient.given_up.is_none());
        }
        patient.patience = Duration::from_millis(60);
        let began = Instant::now();
        assert_eq!(write(&mut patient).await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(began.elapsed() >= Duration::from_millis(60));
    }
}
