//! What goes to the caller of an answer before it is whole.

use crate::core::sse::Event;
use crate::core::standard::anthropic::front::native;
use crate::core::standard::{Chunks, Standard, Step};
use crate::core::stream::Added;
use crate::gateway::delivery::{Delivery, Piece, Said};
use crate::gateway::memory::{Lease, Shortage};
use crate::protocol::Reply;
use std::mem::{replace, take};
use tokio::time::{Instant, timeout_at};

/// Pieces of fewer bytes have room in what every answer holds from its start, for as many as wait to be taken.
const SMALL: usize = 1024;
/// What is held back at the most until the model has said something.
const MOST_HELD: usize = 16;
const MOST_HELD_BYTES: usize = 64 * 1024;

/// Reads the events of a stream.
pub enum Reader {
    Chunks(Box<dyn Chunks>),
    /// Of an answer to a request in the provider's own form, with what the caller gets of the last events.
    Native(Box<native::Events>, String),
}

impl Reader {
    pub fn new(standard: Standard, is_native: bool) -> Self {
        match is_native {
            true => Self::Native(Box::default(), String::new()),
            false => Self::Chunks(standard.wire().stream()),
        }
    }

    pub fn read(&mut self, event: &Event, key: Option<&str>) -> Step {
        match self {
            Self::Chunks(chunks) => chunks.read(event, key),
            Self::Native(events, out) => events.read(event, key, out).step,
        }
    }

    /// What the caller gets of the last event. `chunk`: what that was in OpenAI's form.
    pub fn said(&mut self, chunk: String) -> Said {
        match self {
            Self::Chunks(_) => Said::Chunk(chunk),
            Self::Native(_, out) => Said::Events(take(out)),
        }
    }

    /// What the caller gets at the end of a stream that is complete.
    pub fn rest(&mut self) -> Said {
        match self {
            Self::Chunks(_) => Said::Chunk(String::new()),
            Self::Native(events, out) => {
                events.finish(out);
                Said::Events(take(out))
            }
        }
    }
}

/// Why something was not handed on.
pub enum Blocked {
    /// The caller has not taken it until the deadline.
    Late,
    Shortage(Shortage),
}

/// Hands on what an answer gains.
pub struct Outlet<'a, 'l> {
    pub delivery: Delivery<'a>,
    provider: &'a str,
    pub deadline: Instant,
    /// Something of the answer has reached the caller.
    pub has_delivered: &'l mut bool,
    held: Vec<Said>,
    held_bytes: usize,
}

impl<'a, 'l> Outlet<'a, 'l> {
    /// Of an answer by this provider.
    pub fn new(
        provider: &'a str,
        delivery: Delivery<'a>,
        deadline: Instant,
        has_delivered: &'l mut bool,
    ) -> Self {
        let held = Vec::new();
        Self { delivery, provider, deadline, has_delivered, held, held_bytes: 0 }
    }

    /// Hands on what a chunk has added. Waits while the caller does not take it, and with that the upstream, but not
    /// beyond the deadline: an idle cursor would hold its place for ever.
    ///
    /// Of whole chunks those are held back that come before the model has said anything: another candidate may still
    /// be asked where this one fails by then.
    pub async fn add(
        &mut self,
        added: Added,
        said: impl FnOnce() -> Said,
        lease: &Lease,
    ) -> Result<(), Blocked> {
        match self.delivery {
            Delivery::Whole | Delivery::Job => Ok(()),
            Delivery::Deltas(_) => self.text(added.text).await,
            Delivery::Chunks(_) => self.piece(said(), added.has_output, lease).await,
        }
    }

    /// Hands on text.
    pub async fn text(&mut self, text: String) -> Result<(), Blocked> {
        let Delivery::Deltas(sink) = self.delivery else { return Ok(()) };
        if text.is_empty() {
            return Ok(());
        }
        *self.has_delivered = true;
        let delta = Reply::Delta(text.replace('\0', "\u{fffd}"));
        let sent = timeout_at(self.deadline, sink.send(delta.into())).await;
        sent.map(drop).map_err(|_| Blocked::Late)
    }

    /// Hands on a piece; `is_said`: and all that was held back before it.
    pub async fn piece(&mut self, said: Said, is_said: bool, lease: &Lease) -> Result<(), Blocked> {
        let Delivery::Chunks(sink) = self.delivery else { return Ok(()) };
        if !said.is_empty() {
            self.held_bytes += said.len();
            self.held.push(said);
        }
        let is_full = self.held.len() > MOST_HELD || self.held_bytes > MOST_HELD_BYTES;
        if !(*self.has_delivered || is_said || is_full) {
            return Ok(());
        }
        for said in take(&mut self.held) {
            let is_first = !replace(self.has_delivered, true);
            let provider = is_first.then(|| self.provider.to_owned());
            let mut own = lease.another();
            if said.len() > SMALL {
                own.grow(said.len()).map_err(Blocked::Shortage)?;
            }
            let piece = Piece { said, lease: own, provider };
            let sent = timeout_at(self.deadline, sink.send(piece)).await;
            sent.map(drop).map_err(|_| Blocked::Late)?;
        }
        self.held_bytes = 0;
        Ok(())
    }

    /// Bytes that are held back.
    pub fn size(&self) -> usize {
        self.held_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::delivery::Pieces;
    use crate::gateway::memory::Memory;
    use std::time::Duration;
    use tokio::sync::mpsc;

    const LIMIT: usize = 1 << 20;

    fn chunk(text: &str) -> Said {
        Said::Chunk(text.to_owned())
    }

    fn outlet<'a, 'l>(sink: &'a Pieces, has_delivered: &'l mut bool) -> Outlet<'a, 'l> {
        let deadline = Instant::now() + Duration::from_secs(600);
        Outlet::new("p", Delivery::Chunks(sink), deadline, has_delivered)
    }

    #[tokio::test]
    async fn nothing_goes_out_before_the_model_has_said_something() {
        let memory = Memory::new(LIMIT);
        let (lease, (sink, mut pieces)) = (memory.lease("u"), mpsc::channel(8));
        let mut has_delivered = false;
        let mut outlet = outlet(&sink, &mut has_delivered);
        for text in ["role", "", "ping"] {
            assert!(outlet.piece(chunk(text), false, &lease).await.is_ok());
        }
        assert_eq!(outlet.size(), "roleping".len());
        assert!(!*outlet.has_delivered);
        assert!(pieces.try_recv().is_err());
        let added = Added { text: "x".to_owned(), has_output: true };
        assert!(outlet.add(added, || chunk("said"), &lease).await.is_ok());
        assert!(outlet.piece(chunk("more"), false, &lease).await.is_ok());
        assert_eq!(outlet.size(), 0);
        assert!(*outlet.has_delivered);
        for (text, provider) in
            [("role", Some("p")), ("ping", None), ("said", None), ("more", None)]
        {
            let piece = pieces.try_recv().unwrap();
            assert_eq!((piece.said, piece.provider.as_deref()), (chunk(text), provider));
        }
    }

    #[tokio::test]
    async fn what_is_held_back_has_an_end() {
        let memory = Memory::new(LIMIT);
        let lease = memory.lease("u");
        for (count, bytes) in [(MOST_HELD + 1, 1), (2, MOST_HELD_BYTES)] {
            let (sink, mut pieces) = mpsc::channel(MOST_HELD + 1);
            let mut has_delivered = false;
            let mut outlet = outlet(&sink, &mut has_delivered);
            for _ in 0..count {
                assert!(pieces.try_recv().is_err());
                let said = chunk(&"x".repeat(bytes));
                assert!(outlet.piece(said, false, &lease).await.is_ok());
            }
            assert!(has_delivered && pieces.try_recv().is_ok(), "{count} of {bytes}");
        }
    }

    #[tokio::test]
    async fn a_large_piece_holds_its_memory_until_it_is_written() {
        let memory = Memory::new(LIMIT);
        let lease = memory.lease("u");
        let (sink, mut pieces) = mpsc::channel(8);
        let mut has_delivered = false;
        let mut outlet = outlet(&sink, &mut has_delivered);
        let before = memory.room("u");
        let large = || Said::Events("x".repeat(LIMIT / 4));
        assert!(outlet.piece(large(), true, &lease).await.is_ok());
        assert_eq!(memory.room("u"), before - LIMIT / 4);
        // Half of the memory is a user's.
        assert!(outlet.piece(large(), true, &lease).await.is_ok());
        let blocked = outlet.piece(large(), true, &lease).await;
        assert!(matches!(blocked, Err(Blocked::Shortage(_))));
        while pieces.try_recv().is_ok() {}
        assert_eq!(memory.room("u"), before);
    }

    #[tokio::test]
    async fn a_caller_that_takes_nothing_is_waited_for_until_the_deadline() {
        let memory = Memory::new(LIMIT);
        let lease = memory.lease("u");
        let (sink, _pieces) = mpsc::channel(1);
        let mut has_delivered = false;
        let mut outlet = outlet(&sink, &mut has_delivered);
        assert!(outlet.piece(chunk("a"), true, &lease).await.is_ok());
        outlet.deadline = Instant::now() + Duration::from_millis(50);
        assert!(matches!(outlet.piece(chunk("b"), true, &lease).await, Err(Blocked::Late)));
    }
}
