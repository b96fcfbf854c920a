//! What writes a streamed answer, in each dialect.

use crate::core::front::event::{KEEPALIVE, OfChunks};
use crate::core::front::failure::Failure;
use crate::core::standard::anthropic::front::{Asked, events, stream};
use crate::gateway::delivery::Said;
use uuid::Uuid;

/// Writes the events of one answer.
pub trait Writer: Send {
    /// What has arrived.
    fn piece(&mut self, said: &Said, out: &mut String);

    /// The end. `answer` is the whole of it, in OpenAI's form and with our member; where nothing has arrived before, it
    /// is all there is.
    fn finish(&mut self, answer: &str, out: &mut String);

    /// The end of one that failed.
    fn fail(&mut self, failure: &Failure, out: &mut String);

    /// Keeps the connection from looking dead.
    fn keepalive(&self, out: &mut String) {
        out.push_str(KEEPALIVE);
    }

    /// Bytes that are held of the answer.
    fn size(&self) -> usize;
}

/// The dialects of OpenAI: no provider's own events are theirs.
impl<S: OfChunks + Send> Writer for S {
    fn piece(&mut self, said: &Said, out: &mut String) {
        if let Said::Chunk(chunk) = said {
            self.chunk(chunk, out);
        }
    }

    fn finish(&mut self, answer: &str, out: &mut String) {
        OfChunks::finish(self, answer, out);
    }

    fn fail(&mut self, failure: &Failure, out: &mut String) {
        OfChunks::fail(self, failure, out);
    }

    fn size(&self) -> usize {
        OfChunks::size(self)
    }
}

/// Anthropic's: events of a provider that speaks it go as they come.
pub struct Messages {
    events: stream::Events,
    id: Uuid,
    has_begun: bool,
    is_native: bool,
}

impl Messages {
    pub fn new(id: Uuid, model: &str, prompt_tokens: i32) -> Self {
        let asked = Asked { id: &id.to_string(), model, prompt_tokens };
        Self { events: stream::Events::new(&asked), id, has_begun: false, is_native: false }
    }
}

impl Writer for Messages {
    fn piece(&mut self, said: &Said, out: &mut String) {
        self.has_begun = true;
        match said {
            Said::Chunk(chunk) => self.events.chunk(chunk, out),
            Said::Events(events) => {
                self.is_native = true;
                out.push_str(events);
            }
        }
    }

    fn finish(&mut self, answer: &str, out: &mut String) {
        if self.is_native {
            return;
        }
        if !self.has_begun {
            self.events.chunk(answer, out);
        }
        self.events.finish(out);
    }

    fn fail(&mut self, failure: &Failure, out: &mut String) {
        self.events.fail(&failure.anthropic(&self.id.to_string()), out);
    }

    fn keepalive(&self, out: &mut String) {
        events::ping(out);
    }

    fn size(&self) -> usize {
        self.events.size()
    }
}
