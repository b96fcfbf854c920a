//! `GET /v1/models` and `GET /v1/models/{id}`: what the caller can call.

use crate::core::front::failure::{Failure, Sent};
use crate::core::front::openai::models as openai;
use crate::core::standard::anthropic::front::models as anthropic;
use crate::error::Error;
use crate::front::Front;
use crate::front::caller::Rights;
use crate::front::connection::Peer;
use crate::front::reply::{self, Body, Dialect};
use crate::gateway::task::{CallableModel, Task};
use http::request::Parts;
use http::{Response, StatusCode};
use std::collections::HashMap;

/// About so long is what is said of a model.
const BYTES_OF_MODEL: usize = 256;

/// Answers with all models, or a page of them, or with one.
pub async fn models(
    front: &Front,
    parts: &Parts,
    peer: Peer,
    one: Option<&str>,
    dialect: Dialect,
) -> Result<Response<Body>, Failure> {
    let of = |error: Error| Failure::of(&error, Sent::Nothing);
    let caller = front.callers.identify(front, peer, &parts.headers, Rights::AsOfNow).await?;
    let turn = front.questions.turn(&caller.whose.user).await.map_err(of)?;
    let whose = caller.whose.clone();
    let asking = turn.ask(|reply| Task::Models(whose, reply));
    let mut models = asking.await.flatten().map_err(of)?;
    if let Some(key) = caller.gateway_key() {
        models.retain(|model| key.models.allow(&model.provider, &model.id));
    }
    let query = parts.uri.query().map(str::to_owned);
    let one = one.map(str::to_owned);
    let bytes = models.len() * BYTES_OF_MODEL;
    let write = move || match one {
        None => list(&models, query.as_deref(), dialect),
        Some(id) => find(&models, &id, dialect),
    };
    let text = front.shared.heavy.run(bytes, write).await.flatten().map_err(of)?;
    Ok(reply::json(StatusCode::OK, text))
}

fn list(models: &[CallableModel], query: Option<&str>, dialect: Dialect) -> Result<String, Error> {
    let models = named(models);
    match dialect {
        Dialect::OpenAi | Dialect::Console => Ok(openai::list(models.iter().map(Named::openai))),
        Dialect::Anthropic => {
            let page = anthropic::Page::of(query)?;
            let models: Vec<_> = models.iter().map(Named::anthropic).collect();
            anthropic::list(&models, &page)
        }
    }
}

fn find(models: &[CallableModel], id: &str, dialect: Dialect) -> Result<String, Error> {
    let models = named(models);
    // A name that several providers have is theirs who come first.
    let found = models.iter().find(|model| model.id == id);
    let found = found.or_else(|| models.iter().find(|model| model.model.id == id));
    let unknown = || Error::UnknownModel { model: id.to_owned(), similar: vec![] };
    let found = found.ok_or_else(unknown)?;
    match dialect {
        Dialect::OpenAi | Dialect::Console => Ok(openai::one(&found.openai())),
        Dialect::Anthropic => anthropic::one(&found.anthropic()),
    }
}

/// A model under a name that means it and no other.
struct Named<'a> {
    id: String,
    model: &'a CallableModel,
}

/// What several providers have is named with the provider.
fn named(models: &[CallableModel]) -> Vec<Named<'_>> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for model in models {
        *counts.entry(&model.id).or_default() += 1;
    }
    let name = |model: &CallableModel| match counts.get(model.id.as_str()) {
        Some(1) => model.id.clone(),
        _ => format!("{}:{}", model.provider, model.id),
    };
    models.iter().map(|model| Named { id: name(model), model }).collect()
}

impl Named<'_> {
    fn openai(&self) -> openai::Model<'_> {
        openai::Model {
            id: &self.id,
            provider: &self.model.provider,
            name: self.model.name.as_deref(),
            created: self.model.first_seen.unwrap_or(0),
            context_length: self.model.context_window,
            max_output_tokens: self.model.max_output_tokens,
            pricing: self.model.pricing.as_deref(),
        }
    }

    fn anthropic(&self) -> anthropic::Model<'_> {
        anthropic::Model {
            id: &self.id,
            display_name: self.model.name.as_deref().unwrap_or(&self.id),
            context_window: self.model.context_window,
            max_output_tokens: self.model.max_output_tokens,
        }
    }
}
