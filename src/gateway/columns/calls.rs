//! Requests of AI columns: made of a column's request and the inputs of rows, routed as a call over HTTP is, and read
//! into values.

use super::Place;
use crate::clock::unix_micros;
use crate::core::budget::Rules;
use crate::core::embedding::answer::numbers;
use crate::core::embedding::batch::is_too_large;
use crate::core::options::Prepared;
use crate::core::reply::{content, parsed};
use crate::core::tags::{self, Labels};
use crate::error::{Error, Target};
use crate::gateway::call;
use crate::gateway::delivery::Delivery;
use crate::gateway::memory::Lease;
use crate::gateway::shared::Shared;
use crate::gateway::task::{RouteAsked, Routed, Task};
use crate::protocol::columns::{Definition, Entry, MOST_BYTES, Value};
use crate::protocol::{ChatAnswer, ChatCall, Checking, Whose};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How often a request is routed anew, because something has changed before it was sent.
const MOST_ROUTES: usize = 10;
/// For so long a route is used without asking whether it holds: what has changed is seen when it is sent.
const ROUTE_LASTS: Duration = Duration::from_secs(60);

/// A row on its way.
#[derive(Debug)]
pub struct Row {
    pub entry: Entry,
    pub attempts: u32,
    pub input: String,
}

/// Who may serve a column, as it was last asked, and since when (microseconds since 1970).
#[derive(Default)]
pub struct Route(Mutex<Option<(Routed, i64, Instant)>>);

impl Route {
    fn known(&self) -> Option<(Routed, i64)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref().filter(|(.., since)| since.elapsed() < ROUTE_LASTS);
        known.map(|(routed, at, _)| (routed.clone(), *at))
    }

    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn find(
        &self,
        shared: &Shared,
        definition: &Definition,
        prepared: &Prepared,
    ) -> Result<(Routed, i64), Error> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let at = unix_micros();
        let asked = Box::new(RouteAsked {
            whose: Whose::of(definition.user_id.as_str(), None),
            models: prepared.models().map(str::to_owned).collect(),
            provider: definition.provider.clone(),
        });
        let routed = shared.ledger.ask(|reply| Task::Route(asked, reply)).await??;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((routed.clone(), at, Instant::now()));
        Ok((routed, at))
    }
}

/// A request for rows, and what it came to.
pub struct Called {
    pub rows: Vec<Row>,
    pub outcome: Result<Vec<Value>, Error>,
    /// What the values hold.
    pub lease: Lease,
}

/// Asks for the values of rows.
pub async fn run(
    shared: Arc<Shared>,
    definition: Arc<Definition>,
    route: Arc<Route>,
    rows: Vec<Row>,
    _place: Place,
) -> Called {
    let mut lease = shared.memory.lease(&definition.user_id);
    let outcome = ask(&shared, &definition, &route, &rows, &mut lease).await;
    Called { rows, outcome, lease }
}

async fn ask(
    shared: &Shared,
    definition: &Definition,
    route: &Route,
    rows: &[Row],
    lease: &mut Lease,
) -> Result<Vec<Value>, Error> {
    let mut prepared = Prepared::of_job(&request(definition, rows)?)?;
    let tag = tag(&definition.label);
    if !tag.is_empty() && tags::checked(prepared.tags.iter().chain([&tag])).is_some() {
        prepared.tags.push(tag);
    }
    let labels = Labels::of(None, &prepared.tags);
    let body: Arc<String> = Arc::new(prepared.body());
    lease.begin(body.len())?;
    let began = Instant::now();
    let check = Checking::of(&prepared);
    let mut attempts = 0;
    let call_id = Uuid::now_v7();
    for _ in 0..MOST_ROUTES {
        let (routed, resolved_at) = route.find(shared, definition, &prepared).await?;
        let left = prepared.timeout_ms.saturating_sub(began.elapsed().as_millis() as u64);
        let call = ChatCall {
            kind: prepared.kind,
            call_id,
            user_id: definition.user_id.clone(),
            candidates: routed.candidates,
            body: body.clone(),
            max_retries: prepared.max_retries,
            deadline_ms: left.max(1),
            stream_upstream: prepared.stream_upstream,
            cache: prepared.caching(),
            rules: Rules::about(&routed.rules, labels.as_deref()),
            resolved_at,
            earlier_attempts: attempts,
            labels: labels.clone(),
            check: check.clone(),
            generation: Some(routed.generation),
            native: None,
            standings: None,
        };
        let reply = call::run(shared, &call, Delivery::Whole, lease).await;
        attempts = attempts.saturating_add(reply.attempts);
        match reply.outcome {
            Ok(answer) => return values(definition, rows.len(), &answer),
            Err(Error::Stale) if left > 1 => route.forget(),
            Err(error) => {
                // What refuses it may be gone by now.
                route.forget();
                return Err(error);
            }
        }
    }
    Err(Error::Stale)
}

/// The request of a column with these inputs.
fn request(definition: &Definition, rows: &[Row]) -> Result<String, Error> {
    let mut fields: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(&definition.request).map_err(Error::internal)?;
    let (name, value) = match (definition.kind.as_str(), rows) {
        ("embed", rows) => {
            let inputs: Vec<&str> = rows.iter().map(|row| row.input.as_str()).collect();
            ("input", to_raw_value(&inputs))
        }
        (_, [row]) => ("messages", to_raw_value(&json!([{"role": "user", "content": row.input}]))),
        _ => return Err(Error::internal("a chat of another number of rows than one")),
    };
    fields.insert(name.to_owned(), value.map_err(Error::internal)?);
    if !fields.contains_key("model") {
        fields
            .insert("model".to_owned(), to_raw_value(&definition.model).map_err(Error::internal)?);
    }
    serde_json::to_string(&fields).map_err(Error::internal)
}

/// By what calls of a column are found again: its name, as far as a tag holds it.
fn tag(label: &str) -> String {
    let fits = |(at, c): &(usize, char)| at + c.len_utf8() <= tags::LONGEST;
    label.char_indices().take_while(fits).map(|(_, c)| c).collect()
}

/// The values of an answer, one for each row.
fn values(definition: &Definition, rows: usize, answer: &ChatAnswer) -> Result<Vec<Value>, Error> {
    let response = answer.response.as_str();
    let values: Option<Vec<Value>> = match definition.kind.as_str() {
        "embed" => numbers(response)
            .filter(|all| all.len() == rows)
            .map(|all| all.into_iter().map(Value::Vector).collect()),
        "json" => parsed(response).map(|json| vec![Value::Json(json)]),
        _ => content(response).map(|text| vec![Value::Text(text)]),
    };
    // It was paid for, and would be again.
    let broken = |what: String| Error::BrokenAnswer {
        target: Target { provider: answer.provider.clone(), model: answer.served_model.clone() },
        status: 200,
        what,
        request_id: None,
    };
    let values = values.ok_or_else(|| broken("no text".to_owned()))?;
    let bytes = values.iter().map(Value::size).max().unwrap_or(0);
    if bytes > MOST_BYTES / 2 {
        let most = MOST_BYTES / 2;
        return Err(broken(format!("{bytes} bytes, of which a value has at most {most}")));
    }
    Ok(values)
}

/// Whether fewer inputs may get through: the provider's limit, our own of a request's bytes, or one input that it does
/// not take.
pub fn may_pass_in_parts(error: &Error) -> bool {
    match error {
        Error::Upstream { refusal, .. } => {
            is_too_large(refusal) || matches!(refusal.status, 400 | 422)
        }
        Error::RequestBeyond { .. } | Error::BrokenAnswer { .. } | Error::AnswerTooLarge { .. } => {
            true
        }
        _ => false,
    }
}
