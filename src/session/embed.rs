//! Embeddings from SQL: of one text, and of many in one statement, sent so many at a time.

use crate::core::embedding::answer::numbers;
use crate::core::embedding::batch::{is_too_large, ranges};
use crate::core::embedding::{LONGEST_INPUT, MOST_PER_REQUEST, MOST_PER_STATEMENT};
use crate::core::options::{Batching, Prepared};
use crate::error::Error;
use crate::protocol::{Batch, ChatCall, Reply, Request};
use crate::session::chat::text;
use crate::session::json::JsonText;
use crate::session::link::{self, Exchange};
use crate::session::raise::{or_raise, raise};
use crate::session::request::{Resolved, no_time, usable_ms};
use pgrx::prelude::*;
use std::collections::{BTreeMap, VecDeque};

/// Of the requests of a statement, how many bytes are handed over to the gateway at one time, and how many requests,
/// where it does not ask for more of them at once: what it will send in all may be more than anybody has memory for.
const MOST_BYTES: usize = 16 << 20;
const MOST_REQUESTS: usize = 2048;

/// The fields of `embed_many`'s table.
type Row = (i32, Option<Vec<f32>>, Option<JsonText>);

/// What became of one input.
type Embedded = Result<Vec<f32>, Error>;

/// The embedding of one text. NULL and '' have none, and nothing is sent.
#[pg_extern]
fn embed(
    input: Option<&str>,
    model: Option<&str>,
    options: default!(Option<JsonText>, "'{}'"),
    provider: default!(Option<&str>, "NULL"),
    p_user_id: default!(Option<&str>, "NULL"),
) -> Option<Vec<f32>> {
    let prepared = Prepared::embedding(model, text(&options));
    drop(options);
    let embedded = prepared.and_then(|(prepared, _)| match input {
        None | Some("") => Ok(None),
        Some(input) => one(input, &prepared, provider, p_user_id).map(Some),
    });
    or_raise(embedded)
}

fn one(
    input: &str,
    prepared: &Prepared,
    provider: Option<&str>,
    p_user_id: Option<&str>,
) -> Result<Vec<f32>, Error> {
    check(input)?;
    let prepared = prepared.with_inputs(&[input])?;
    let resolved = Resolved::find(&prepared, provider, p_user_id)?;
    let deadline_ms = match usable_ms() {
        Some(0) => return Err(no_time(resolved.target())),
        Some(usable) => usable.min(prepared.timeout_ms),
        None => prepared.timeout_ms,
    };
    let call = Box::new(resolved.call(&prepared, deadline_ms));
    match link::exchange(&Request::Chat { call, hand_over_after_ms: None })? {
        Reply::Chat(reply) => {
            let response = reply.outcome?.response;
            numbers(&response).and_then(|mut all| all.pop()).ok_or_else(link::unexpected)
        }
        _ => Err(link::unexpected()),
    }
}

fn check(input: &str) -> Result<(), Error> {
    match input.len() > LONGEST_INPUT {
        true => {
            let what = format!("an input must not be longer than {LONGEST_INPUT} bytes");
            Err(Error::bad_request_hint(what, "Embed its parts."))
        }
        false => Ok(()),
    }
}

/// The request of a job for embeddings: one, of all these texts.
pub fn job(
    inputs: Option<Vec<Option<String>>>,
    model: Option<&str>,
    options: Option<&str>,
) -> Result<Prepared, Error> {
    let (prepared, _) = Prepared::embedding(model, options)?;
    let inputs = inputs.unwrap_or_default();
    if inputs.is_empty() || inputs.len() > MOST_PER_REQUEST {
        let what = format!("inputs must be an array of 1 to {MOST_PER_REQUEST} texts");
        return Err(Error::bad_request_hint(what, "Submit a job for each part of them."));
    }
    let texts: Vec<&str> = inputs.iter().flatten().map(String::as_str).collect();
    if texts.len() < inputs.len() || texts.contains(&"") {
        return Err(Error::bad_request("inputs must not hold NULL or ''"));
    }
    texts.iter().try_for_each(|input| check(input))?;
    prepared.with_inputs(&texts)
}

/// The vectors of an answer as a job keeps it, in the order of their inputs.
#[pg_extern(immutable, parallel_safe)]
fn aggregator_embeddings(
    p_response: Option<JsonText>,
) -> TableIterator<'static, (name!(ord, i32), name!(embedding, Vec<f32>))> {
    let vectors = p_response.and_then(|response| numbers(&response.0)).unwrap_or_default();
    TableIterator::new((1..).zip(vectors))
}

/// The embeddings of many texts, so many in one request and so many requests at a time: a row for each, in their
/// order. One that fails is a row with its error; NULL and '' are rows without an embedding.
#[pg_extern]
fn embed_many(
    inputs: Option<Vec<Option<String>>>,
    model: Option<&str>,
    options: default!(Option<JsonText>, "'{}'"),
    provider: default!(Option<&str>, "NULL"),
    p_user_id: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (name!(ord, i32), name!(embedding, Option<Vec<f32>>), name!(error, Option<JsonText>)),
> {
    let prepared = Prepared::embedding(model, text(&options));
    drop(options);
    let rows = prepared.and_then(|(prepared, batching)| {
        Rows::begin(inputs.unwrap_or_default(), &prepared, batching, provider, p_user_id)
    });
    TableIterator::new(or_raise(rows))
}

/// Rows in the order of their inputs, as soon as all before them are known.
struct Rows {
    prepared: Prepared,
    /// `None`: nothing is to be sent.
    resolved: Option<Resolved>,
    concurrency: u32,
    inputs: Vec<Option<String>>,
    /// `None`: no request is on its way.
    exchange: Option<Exchange>,
    /// Of each request on its way, the places of its inputs.
    sent: Vec<Vec<usize>>,
    /// What is to be sent next, a request for each.
    waiting: VecDeque<Vec<usize>>,
    /// Something was paid for, which is not to be lost.
    has_embedded: bool,
    known: BTreeMap<usize, Option<Embedded>>,
    next: usize,
}

impl Rows {
    fn begin(
        inputs: Vec<Option<String>>,
        prepared: &Prepared,
        batching: Batching,
        provider: Option<&str>,
        p_user_id: Option<&str>,
    ) -> Result<Self, Error> {
        if inputs.len() > MOST_PER_STATEMENT {
            let what = format!("inputs must not be more than {MOST_PER_STATEMENT}");
            return Err(Error::bad_request_hint(
                what,
                "Call embed_many with a part of them at a time.",
            ));
        }
        let mut known = BTreeMap::new();
        let mut places = Vec::new();
        for (place, input) in inputs.iter().enumerate() {
            match input.as_deref() {
                None | Some("") => drop(known.insert(place, None)),
                Some(input) => match check(input) {
                    Ok(()) => places.push((place, input.len())),
                    Err(error) => drop(known.insert(place, Some(Err(error)))),
                },
            }
        }
        let resolved = match places.is_empty() {
            true => None,
            false => Some(Resolved::find(prepared, provider, p_user_id)?),
        };
        let bytes: Vec<usize> = places.iter().map(|(_, bytes)| *bytes).collect();
        let waiting = ranges(&bytes, batching.batch_size)
            .into_iter()
            .map(|range| places[range].iter().map(|(place, _)| *place).collect())
            .collect();
        let mut rows = Self {
            prepared: prepared.clone(),
            resolved,
            concurrency: batching.concurrency,
            inputs,
            exchange: None,
            sent: Vec::new(),
            waiting,
            has_embedded: false,
            known,
            next: 0,
        };
        rows.send()?;
        Ok(rows)
    }

    /// Sends as many requests as go together.
    fn send(&mut self) -> Result<(), Error> {
        self.sent.clear();
        let Some(resolved) = &self.resolved else { return Ok(()) };
        let deadline_ms = usable_ms().unwrap_or(u64::MAX / 2);
        let most = MOST_REQUESTS.max(self.concurrency as usize);
        let (mut calls, mut bytes) = (Vec::new(), 0);
        while calls.len() < most
            && bytes < MOST_BYTES
            && let Some(places) = self.waiting.pop_front()
        {
            let texts: Vec<&str> =
                places.iter().filter_map(|place| self.inputs[*place].as_deref()).collect();
            let prepared = self.prepared.with_inputs(&texts)?;
            let call: ChatCall = resolved.call(&prepared, prepared.timeout_ms);
            bytes += call.body.len();
            calls.push(call);
            self.sent.push(places);
        }
        if calls.is_empty() {
            return Ok(());
        }
        let batch = Batch { calls, concurrency: self.concurrency, deadline_ms };
        let mut exchange = Exchange::begin(&Request::Many(Box::new(batch)))?;
        exchange.flushes = true;
        self.exchange = Some(exchange);
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Row>, Error> {
        loop {
            if let Some(embedded) = self.known.remove(&self.next) {
                self.inputs[self.next] = None;
                self.next += 1;
                let ord = i32::try_from(self.next).unwrap_or(i32::MAX);
                return Ok(Some(match embedded {
                    None => (ord, None, None),
                    Some(Ok(vector)) => (ord, Some(vector), None),
                    Some(Err(error)) => (ord, None, Some(JsonText(error.to_json().to_string()))),
                }));
            }
            if self.next == self.inputs.len() && self.exchange.is_none() {
                return Ok(None);
            }
            let Some(exchange) = &mut self.exchange else { return Err(link::unexpected()) };
            match exchange.next(None) {
                Ok(Some(Reply::Item { index, reply })) => {
                    let Some(places) = self.sent.get_mut(index as usize) else {
                        return Err(link::unexpected());
                    };
                    let places = std::mem::take(places);
                    self.take(places, reply.outcome.map(|answer| answer.response));
                }
                Ok(Some(Reply::End)) => {
                    if let Some(exchange) = self.exchange.take() {
                        exchange.end();
                    }
                    self.send()?;
                }
                // Nothing of this part has left.
                Err(error @ Error::OutOfMemory { .. }) if self.has_embedded => {
                    self.exchange = None;
                    for places in std::mem::take(&mut self.sent) {
                        self.fail(&places, &error);
                    }
                    self.send()?;
                }
                Err(error) => return Err(error),
                Ok(_) => return Err(link::unexpected()),
            }
        }
    }

    /// Takes what became of a request.
    fn take(&mut self, places: Vec<usize>, outcome: Result<String, Error>) {
        match outcome {
            Ok(response) => match numbers(&response).filter(|all| all.len() == places.len()) {
                Some(vectors) => {
                    self.has_embedded = true;
                    let all = places.into_iter().zip(vectors);
                    self.known.extend(all.map(|(place, vector)| (place, Some(Ok(vector)))));
                }
                None => self.fail(&places, &link::unexpected()),
            },
            Err(error) if places.len() > 1 && may_pass_in_parts(&error) => {
                let (first, second) = places.split_at(places.len().div_ceil(2));
                // Rows come in their order: these are waited for.
                self.waiting.push_front(second.to_vec());
                self.waiting.push_front(first.to_vec());
            }
            Err(error) => self.fail(&places, &error),
        }
    }

    fn fail(&mut self, places: &[usize], error: &Error) {
        let all = places.iter().map(|place| (*place, Some(Err(error.clone()))));
        self.known.extend(all);
    }
}

/// Whether fewer inputs may get through: the provider's limit, or our own of a request's bytes.
fn may_pass_in_parts(error: &Error) -> bool {
    match error {
        Error::Upstream { refusal, .. } => is_too_large(refusal),
        Error::RequestBeyond { .. } => true,
        _ => false,
    }
}

impl Iterator for Rows {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        match self.step() {
            Ok(row) => row,
            Err(error) => {
                // Closes the connection, which aborts what is in flight.
                self.exchange = None;
                raise(error)
            }
        }
    }
}
