//! Streaming out of SQL: one row for each piece of text, as it arrives.
//!
//! The function gives a row for each call of its iterator, and sends what waits in the client's
//! buffer before it waits for the next piece. Dropping the iterator (LIMIT, CLOSE, an error, the
//! end of the transaction) closes the connection to the gateway, which aborts the upstream call.

use crate::answer::{Answer, usage_of};
use crate::core::options::{OnDeadline, Prepared};
use crate::error::{Error, Target};
use crate::protocol::{Reply, Request};
use crate::session::chat::text;
use crate::session::json::JsonText;
use crate::session::link::{self, Exchange};
use crate::session::raise::{or_raise, raise};
use crate::session::request::{Resolved, no_time, usable_ms};
use pgrx::prelude::*;
use std::time::Instant;
use uuid::Uuid;

/// A piece of text; or, in the last row, the whole answer, its usage and its cost.
type Row = (Option<String>, Option<JsonText>, Option<JsonText>, Option<AnyNumeric>);

/// Sends a chat to a model and returns its text in pieces as they arrive, then the whole answer.
#[pg_extern]
#[expect(clippy::type_complexity, reason = "the columns of its result")]
fn chat_stream(
    model: Option<&str>,
    messages: Option<JsonText>,
    options: default!(Option<JsonText>, "'{}'"),
    provider: default!(Option<&str>, "NULL"),
    p_user_id: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(delta, Option<String>),
        name!(response, Option<JsonText>),
        name!(usage, Option<JsonText>),
        name!(cost, Option<AnyNumeric>),
    ),
> {
    let prepared = Prepared::from_arguments(model, text(&messages), text(&options));
    drop((messages, options));
    let deltas = prepared.and_then(|prepared| {
        if prepared.on_deadline == OnDeadline::Queue {
            let hint = "Use chat_complete, or chat_submit.";
            return Err(Error::bad_request_hint("a stream cannot become a job", hint));
        }
        if prepared.check.is_some() {
            let what = "an answer that is checked against a schema cannot be streamed";
            return Err(Error::bad_request_hint(what, "Use chat_json or chat_complete."));
        }
        let throws = prepared.throw_on_error;
        match Deltas::begin(&prepared, provider, p_user_id) {
            Err(error) if !throws => Ok(Deltas::failed(error)),
            begun => begun,
        }
    });
    TableIterator::new(or_raise(deltas))
}

struct Deltas {
    /// `None` once the last reply is here.
    exchange: Option<Exchange>,
    /// An error that is given as a row.
    refused: Option<Error>,
    call_id: Uuid,
    target: Target,
    began: Instant,
    throws: bool,
}

impl Deltas {
    fn begin(
        prepared: &Prepared,
        provider: Option<&str>,
        p_user_id: Option<&str>,
    ) -> Result<Self, Error> {
        let resolved = Resolved::find(prepared, provider, p_user_id)?;
        let target = resolved.target();
        if usable_ms() == Some(0) {
            return Err(no_time(target));
        }
        // The statement's own time is looked at for each row: a cursor's FETCH is a statement.
        let call = resolved.call(prepared, prepared.timeout_ms);
        let call_id = call.call_id;
        let mut exchange = Exchange::begin(&Request::Stream(Box::new(call)))?;
        exchange.flushes = true;
        let throws = prepared.throw_on_error;
        let began = Instant::now();
        Ok(Self { exchange: Some(exchange), refused: None, call_id, target, began, throws })
    }

    fn failed(error: Error) -> Self {
        let target = Target { provider: String::new(), model: String::new() };
        let (call_id, throws) = (Uuid::nil(), false);
        let began = Instant::now();
        Self { exchange: None, refused: Some(error), call_id, target, began, throws }
    }

    /// The next reply, or the last answer.
    fn step(&mut self) -> Result<Step, Error> {
        let Some(exchange) = &mut self.exchange else {
            return Ok(match self.refused.take() {
                Some(error) => Step::Last(Box::new(Answer::refused(error))),
                None => Step::Over,
            });
        };
        let patience_ms = usable_ms();
        match exchange.next(patience_ms)? {
            Some(Reply::Delta(text)) => Ok(Step::Text(text)),
            Some(Reply::Chat(reply)) => {
                if let Some(exchange) = self.exchange.take() {
                    exchange.end();
                }
                Ok(Step::Last(Box::new(Answer::of(self.call_id, *reply))))
            }
            Some(_) => Err(link::unexpected()),
            None => Err(Error::Deadline {
                target: self.target.clone(),
                waited_ms: self.began.elapsed().as_millis() as u64,
            }),
        }
    }
}

enum Step {
    Text(String),
    Last(Box<Answer>),
    Over,
}

impl Iterator for Deltas {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        let answer = match self.step() {
            Ok(Step::Text(text)) => return Some((Some(text), None, None, None)),
            Ok(Step::Over) => return None,
            Ok(Step::Last(answer)) => *answer,
            Err(error) => {
                // Closes the connection, which aborts the call.
                self.exchange = None;
                Answer::refused(error)
            }
        };
        let cost = answer.cost.as_deref().and_then(|cost| AnyNumeric::try_from(cost).ok());
        let usage = answer.outcome.as_ref().ok().and_then(|response| usage_of(response));
        match answer.into_json(self.throws) {
            Ok(response) => Some((None, Some(JsonText(response)), usage.map(JsonText), cost)),
            Err(error) => {
                drop((cost, usage));
                raise(error)
            }
        }
    }
}
