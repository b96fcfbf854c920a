//! `GET /v1/models` and `GET /v1/models/{id}`: what the caller can call.

use crate::core::front::failure::{Failure, Sent};
use crate::core::front::openai::models as openai;
use crate::core::standard::anthropic::front::models as anthropic;
use crate::error::Error;
use crate::front::Front;
use crate::front::caller::Rights;
use crate::front::connection::Peer;
use crate::front::reply::{self, Body, Dialect};
use crate::gateway::ledger::{CallableModel, Task};
use http::request::Parts;
use http::{Response, StatusCode};
use std::collections::HashMap;

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
    let whose = caller.whose.clone();
    let asking = front.shared.ledger.ask(|reply| Task::Models(whose, reply));
    let mut models = asking.await.flatten().map_err(of)?;
    if let Some(key) = caller.gateway_key() {
        models.retain(|model| key.models.allow(&model.provider, &model.id));
    }
    let models = named(&models);
    let text = match (one, dialect) {
        (None, Dialect::OpenAi) => openai::list(models.iter().map(Named::openai)),
        (None, Dialect::Anthropic) => {
            let page = anthropic::Page::of(parts.uri.query()).map_err(of)?;
            let models: Vec<_> = models.iter().map(Named::anthropic).collect();
            anthropic::list(&models, &page).map_err(of)?
        }
        (Some(id), dialect) => {
            // A name that several providers have is theirs who come first.
            let found = models.iter().find(|model| model.id == id);
            let found = found.or_else(|| models.iter().find(|model| model.model.id == id));
            let unknown = || of(Error::UnknownModel { model: id.to_owned(), similar: vec![] });
            let found = found.ok_or_else(unknown)?;
            match dialect {
                Dialect::OpenAi => openai::one(&found.openai()),
                Dialect::Anthropic => anthropic::one(&found.anthropic()).map_err(of)?,
            }
        }
    };
    Ok(reply::json(StatusCode::OK, text))
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
