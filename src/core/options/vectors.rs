//! Requests for embeddings: the options of `embed` and `embed_many`, and bodies of OpenAI's form.

use super::{
    Fields, OURS, Prepared, Steering, Times, checked_model, extra_body, invalid, object, take,
    unknown_option,
};
use crate::core::embedding::batch::USUAL;
use crate::core::embedding::{Kind, MEMBERS, MOST_PER_REQUEST, find, request};
use crate::core::json;
use crate::core::request::MOST_MEMBERS;
use crate::core::scan::{Scanner, Unfit};
use crate::error::Error;
use serde_json::value::{RawValue, to_raw_value};

/// Those of our own that steer embeddings.
const STEERING: &[&str] =
    &["batch_size", "concurrency", "extra_body", "max_retries", "models", "tags", "timeout_ms"];

pub const MOST_AT_ONCE: u32 = 10_000;
const USUAL_AT_ONCE: u32 = 16;

/// How many inputs `embed_many` puts into one request, and how many requests it has on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    pub batch_size: usize,
    pub concurrency: u32,
}

impl Prepared {
    /// From the arguments of `embed` and `embed_many`, but for the inputs, which [`Self::with_inputs`] adds.
    pub fn embedding(
        model: Option<&str>,
        options: Option<&str>,
    ) -> Result<(Self, Batching), Error> {
        let mut fields = object(options.unwrap_or("{}"), "options")?;
        for reserved in ["model", "input"] {
            if fields.contains_key(reserved) {
                return Err(Error::bad_request(format!("options.{reserved} is not an option")));
            }
        }
        let extra = extra_body(&mut fields, "options.extra_body")?;
        let is_known = |key: &str| {
            STEERING.contains(&key) || find(key).is_some_and(|member| member.is_openais)
        };
        if let Some(unknown) = fields.keys().find(|key| !is_known(key)) {
            let known = MEMBERS.iter().filter(|member| member.is_openais).map(|member| member.name);
            return Err(unknown_option(unknown, known.chain(STEERING.iter().copied())));
        }
        fields.extend(extra);
        let expected = format!("a whole number from 1 to {MOST_PER_REQUEST}");
        let batch_size = take(&mut fields, "batch_size", &expected)?.unwrap_or(USUAL);
        if !(1..=MOST_PER_REQUEST).contains(&batch_size) {
            return Err(invalid("batch_size", &expected));
        }
        let expected = format!("a whole number from 1 to {MOST_AT_ONCE}");
        let concurrency = take(&mut fields, "concurrency", &expected)?.unwrap_or(USUAL_AT_ONCE);
        if !(1..=MOST_AT_ONCE).contains(&concurrency) {
            return Err(invalid("concurrency", &expected));
        }
        let prepared = Self::of_embeddings(model, fields, Times::SQL)?;
        Ok((prepared, Batching { batch_size, concurrency }))
    }

    /// The same request for these texts.
    pub fn with_inputs(&self, inputs: &[&str]) -> Result<Self, Error> {
        let mut prepared = self.clone();
        let input = to_raw_value(inputs).map_err(Error::internal)?;
        prepared.fields.insert("input".to_owned(), input);
        Ok(prepared)
    }

    /// From the body of `POST /v1/embeddings`.
    pub fn embedding_from_http(body: &str) -> Result<Self, Error> {
        Self::embedding_from_body(body, Times::HTTP)
    }

    /// The request of a job, as [`Self::to_request`] has written it.
    pub fn of_job(request: &str) -> Result<Self, Error> {
        match json::pick(request, &["messages", "input"]) {
            Ok([None, Some(_)]) => Self::embedding_from_body(request, Times::SQL),
            _ => Self::from_body(Some(request)),
        }
    }

    fn embedding_from_body(body: &str, times: Times) -> Result<Self, Error> {
        let mut fields = object(body, "the request body")?;
        let extra = extra_body(&mut fields, "extra_body")?;
        fields.extend(extra);
        let foreign =
            |key: &&String| OURS.contains(&key.as_str()) && !STEERING.contains(&key.as_str());
        if let Some(ours) = fields.keys().find(foreign) {
            return Err(Error::bad_request(format!("'{ours}' is no option of embeddings")));
        }
        if take(&mut fields, "stream", "true or false")? == Some(true) {
            return Err(Error::bad_request("stream must not be true: embeddings come whole"));
        }
        let model = take::<String>(&mut fields, "model", "a text")?;
        let input = fields.remove("input");
        let input = input.filter(|input| input.get() != "null");
        let input =
            input.ok_or_else(|| Error::bad_request("input must be a text or an array of texts"))?;
        // One text and a list of one are the same; so every request has a list.
        if request::inputs(input.get()).map_err(|unfit| unfit_input(&unfit))? == 1
            && !input.get().trim_start().starts_with('[')
        {
            let list = RawValue::from_string(format!("[{}]", input.get()));
            fields.insert("input".to_owned(), list.map_err(Error::internal)?);
        } else {
            fields.insert("input".to_owned(), input);
        }
        Self::of_embeddings(model.as_deref(), fields, times)
    }

    fn of_embeddings(model: Option<&str>, mut fields: Fields, times: Times) -> Result<Self, Error> {
        let model = checked_model(model.unwrap_or_default(), "model")?;
        if fields.len() > MOST_MEMBERS {
            return Err(Error::unfit(Unfit::Wrong(format!(
                "has more than {MOST_MEMBERS} members"
            ))));
        }
        let Steering { timeout_ms, max_retries, fallbacks, tags } =
            Steering::take(&mut fields, times)?;
        if fallbacks.iter().any(|other| *other != model) {
            return Err(Error::bad_request_hint(
                "options.models must not name another model: its vectors cannot be compared with those of this one",
                "Other providers of the same model are asked without it.",
            ));
        }
        // What is null says nothing.
        fields.retain(|_, value| value.get() != "null");
        for (name, value) in &fields {
            if name == "input" {
                continue;
            }
            Scanner::within_object(value.get()).skip().map_err(Error::unfit)?;
            if let Some(member) = find(name)
                && !member.takes.fits(value.get())
            {
                return Err(invalid(name, member.takes.words()));
            }
        }
        if let Some(asked) = fields.get("dimensions") {
            let asked = crate::core::parameters::whole(asked.get()).unwrap_or(0);
            request::checked_dimensions(asked).map_err(|_| {
                let most = crate::core::embedding::MOST_DIMENSIONS;
                invalid("dimensions", &format!("a whole number from 1 to {most}"))
            })?;
        }
        match fields.get("encoding_format").map(|format| format.get()) {
            Some(r#""float""# | r#""base64""#) => {}
            Some(_) => return Err(invalid("encoding_format", "'float' or 'base64'")),
            // Half of the bytes.
            None => {
                let base64 = to_raw_value("base64").map_err(Error::internal)?;
                fields.insert("encoding_format".to_owned(), base64);
            }
        }
        Ok(Self {
            kind: Kind::Embeddings,
            model,
            fallbacks: Vec::new(),
            timeout_ms,
            max_retries,
            throw_on_error: true,
            on_deadline: super::OnDeadline::Error,
            stream_upstream: None,
            tags,
            cache: None,
            streams: false,
            check: None,
            fields,
        })
    }
}

fn unfit_input(unfit: &Unfit) -> Error {
    match unfit {
        Unfit::NotJson(_) => Error::bad_request("input must be a text or an array of texts"),
        unfit => Error::bad_request(format!("input: the request {unfit}")),
    }
}
