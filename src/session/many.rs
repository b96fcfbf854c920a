//! Many chats in one statement: sent so many at a time, a row for each as it ends.

use crate::answer::Answer;
use crate::core::caching::Caching;
use crate::core::options::{OnDeadline, Options, Prepared};
use crate::core::reply::content;
use crate::error::Error;
use crate::protocol::{Batch, ChatCall, Reply, Request};
use crate::session::chat::text;
use crate::session::json::JsonText;
use crate::session::link::{self, Exchange};
use crate::session::raise::{or_raise, raise};
use crate::session::request::{Resolved, usable_ms};
use crate::settings;
use pgrx::prelude::*;
use serde_json::value::RawValue;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use uuid::Uuid;

const MOST_AT_ONCE: i32 = 10_000;

/// The fields of the function's table.
type Row = (
    i32,
    bool,
    Option<JsonText>,
    Option<String>,
    Option<JsonText>,
    Option<AnyNumeric>,
    Option<i64>,
);

/// Sends many chats, at most `concurrency` at a time, and returns a row for each as it ends. One
/// that fails is a row with its error.
#[pg_extern]
#[expect(clippy::type_complexity, reason = "the columns of its result")]
fn chat_many(
    requests: Option<JsonText>,
    options: default!(Option<JsonText>, "'{}'"),
    concurrency: default!(Option<i32>, "16"),
) -> TableIterator<
    'static,
    (
        name!(ord, i32),
        name!(ok, bool),
        name!(response, Option<JsonText>),
        name!(content, Option<String>),
        name!(error, Option<JsonText>),
        name!(cost, Option<AnyNumeric>),
        name!(latency_ms, Option<i64>),
    ),
> {
    let rows = begin(text(&requests), text(&options), concurrency);
    drop((requests, options));
    TableIterator::new(or_raise(rows))
}

fn begin(
    requests: Option<&str>,
    options: Option<&str>,
    concurrency: Option<i32>,
) -> Result<Rows, Error> {
    let requests: Vec<&RawValue> = serde_json::from_str(requests.unwrap_or("null"))
        .map_err(|_| Error::bad_request("requests must be a JSON array"))?;
    let (options, dedupe) = Options::of_many(options)?;
    let concurrency = concurrency.unwrap_or(16);
    if !(1..=MOST_AT_ONCE).contains(&concurrency) {
        return Err(Error::bad_request("concurrency must be a number from 1 to 10000"));
    }
    let mut batch = Planned::default();
    for (ord, request) in (1..).zip(requests) {
        batch.add(ord, Prepared::from_body_with(Some(request.get()), &options), dedupe);
    }
    batch.send(concurrency)
}

/// What makes two requests the same: their models, their body, their schema with its repairs, and what they ask of the
/// response cache.
type Identity = (Vec<String>, Arc<String>, Option<(String, u16)>, Option<Caching>);

/// What is to be sent, and which rows each call answers.
#[derive(Default)]
struct Planned {
    calls: Vec<ChatCall>,
    /// The rows that a call answers: more than one where identical requests are sent once.
    ords: Vec<Vec<i32>>,
    refused: VecDeque<(i32, Error)>,
    /// Routes of models seen so far; most requests of a batch are for one model.
    routes: HashMap<Vec<String>, Result<Resolved, Error>>,
    identical: HashMap<Identity, usize>,
}

impl Planned {
    fn add(&mut self, ord: i32, prepared: Result<Prepared, Error>, dedupe: bool) {
        let call = prepared.and_then(Prepared::whole).and_then(|prepared| {
            if prepared.on_deadline == OnDeadline::Queue {
                let hint = "Use chat_submit for each.";
                return Err(Error::bad_request_hint("a batch cannot become a job", hint));
            }
            // Before its route is looked for, which it shares with others.
            prepared.within(settings::max_request_size())?;
            let models: Vec<String> = prepared.models().map(str::to_owned).collect();
            let route = self
                .routes
                .entry(models.clone())
                .or_insert_with(|| Resolved::find(&prepared, None, None));
            let call = match route {
                Ok(resolved) => resolved.call(&prepared, prepared.timeout_ms),
                Err(error) => return Err(error.clone()),
            };
            let is_shared = dedupe && prepared.is_deterministic();
            Ok((call, is_shared.then_some(models)))
        });
        let (call, shared_models) = match call {
            Ok(call) => call,
            Err(error) => return self.refused.push_back((ord, error)),
        };
        if let Some(models) = shared_models {
            let check = call.check.as_ref();
            let schema = check.map(|check| (check.schema.clone(), check.max_repairs));
            let key = (models, call.body.clone(), schema, call.cache);
            if let Some(&index) = self.identical.get(&key) {
                return self.ords[index].push(ord);
            }
            self.identical.insert(key, self.calls.len());
        }
        self.calls.push(call);
        self.ords.push(vec![ord]);
    }

    fn send(self, concurrency: i32) -> Result<Rows, Error> {
        let ids = self.calls.iter().map(|call| call.call_id).collect();
        let exchange = match self.calls.is_empty() {
            true => None,
            false => {
                let request = Request::Many(Box::new(Batch {
                    calls: self.calls,
                    concurrency: concurrency as u32,
                    deadline_ms: usable_ms().unwrap_or(u64::MAX / 2),
                }));
                let mut exchange = Exchange::begin(&request)?;
                exchange.flushes = true;
                Some(exchange)
            }
        };
        let ready = VecDeque::new();
        Ok(Rows { exchange, ids, ords: self.ords, refused: self.refused, ready })
    }
}

/// Rows as they come.
struct Rows {
    /// `None` once every call has ended.
    exchange: Option<Exchange>,
    ids: Vec<Uuid>,
    ords: Vec<Vec<i32>>,
    refused: VecDeque<(i32, Error)>,
    ready: VecDeque<Row>,
}

impl Rows {
    fn step(&mut self) -> Result<Option<Row>, Error> {
        if let Some((ord, error)) = self.refused.pop_front() {
            return Ok(Some(row(ord, &Answer::refused(error))));
        }
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Ok(Some(row));
            }
            let Some(exchange) = &mut self.exchange else { return Ok(None) };
            match exchange.next(None)? {
                Some(Reply::Item { index, reply }) => {
                    let index = index as usize;
                    let (Some(id), Some(ords)) = (self.ids.get(index), self.ords.get(index)) else {
                        return Err(link::unexpected());
                    };
                    let mut answer = Answer::of(*id, *reply);
                    for ord in ords {
                        self.ready.push_back(row(*ord, &answer));
                        // Paid once: the rows add up to what was spent.
                        answer.cost = answer.cost.map(|_| "0".to_owned());
                    }
                }
                Some(Reply::End) => {
                    if let Some(exchange) = self.exchange.take() {
                        exchange.end();
                    }
                }
                _ => return Err(link::unexpected()),
            }
        }
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

fn row(ord: i32, answer: &Answer) -> Row {
    let cost = answer.cost.as_deref().and_then(|cost| AnyNumeric::try_from(cost).ok());
    let latency_ms = answer.latency_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
    match &answer.outcome {
        Ok(response) => {
            (ord, true, Some(JsonText(response.clone())), content(response), None, cost, latency_ms)
        }
        Err(error) => {
            let error = Some(JsonText(error.to_json().to_string()));
            (ord, false, None, None, error, cost, latency_ms)
        }
    }
}
