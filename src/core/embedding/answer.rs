//! Reading what an upstream answered to a request for embeddings, and the one form in which that is kept: OpenAI's,
//! each vector as base64, in the order of the inputs.

use super::{MOST_PER_REQUEST, Wanted, vector};
use crate::core::failure::{self, Signs};
use crate::core::json;
use crate::core::refusal::{self, Refusal};
use crate::core::reply::{Completion, clean_word};
use crate::core::usage::{Parts, Usage};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// How an answer of status 2xx reads.
#[derive(Debug, PartialEq)]
pub enum Reading {
    Embeddings {
        completion: Completion,
        /// Fit for `jsonb`.
        response: String,
    },
    /// An error inside a 200.
    Refused(Refusal),
    /// Not what was asked for; the text says what it is instead.
    Broken(Cow<'static, str>),
}

/// Reads the body of a 2xx answer. `key` is removed from whatever is repeated.
pub fn read(body: &str, wanted: Wanted, key: Option<&str>) -> Reading {
    let broken = |what: &'static str| Reading::Broken(Cow::Borrowed(what));
    let trimmed = body.trim_start();
    if trimmed.is_empty() {
        return broken("an empty body");
    }
    if trimmed.starts_with('<') {
        return broken("HTML instead of JSON");
    }
    // An array with an error in it (Gemini).
    if trimmed.starts_with('[')
        && let Some(refusal) = refusal::inside_success(body, key)
    {
        return Reading::Refused(refusal);
    }
    let names = ["model", "id", "data", "error", "base_resp", "usage"];
    let [model, id, data, error, base_resp, said_usage] = match json::pick(body, &names) {
        Ok(members) => members,
        Err(error) if error.is_eof() => return broken("JSON that ends too early"),
        Err(error) if error.is_data() => return broken("JSON that has no embeddings"),
        Err(_) => return broken("something that is not JSON"),
    };
    let signs = Signs { error, base_resp, choices: data };
    if let Some(refusal) = failure::beside_choices(body, signs, key) {
        return Reading::Refused(refusal);
    }
    let Some(data) = data else { return broken("JSON that has no embeddings") };
    let mut vectors = match vectors(data, wanted) {
        Ok(vectors) => vectors,
        Err(what) => return Reading::Broken(what),
    };
    let mut response = String::with_capacity(vectors.iter().map(|vector| vector.len() + 64).sum());
    response.push_str(r#"{"object":"list","data":["#);
    for (index, vector) in vectors.drain(..).enumerate() {
        if index > 0 {
            response.push(',');
        }
        response.push_str(&format!(r#"{{"object":"embedding","index":{index},"embedding":""#));
        response.push_str(&vector);
        response.push_str(r#""}"#);
    }
    response.push(']');
    for (name, value) in [("model", model), ("usage", said_usage)] {
        if let Some(value) = value {
            response.push_str(&format!(r#","{name}":{}"#, json::answer_for_jsonb(value.get())));
        }
    }
    response.push('}');
    Reading::Embeddings {
        completion: Completion {
            served_model: model.and_then(word),
            usage: said_usage.map(input_usage).unwrap_or_default(),
            finish_reason: None,
            id: id.and_then(word),
            has_choice: true,
        },
        response,
    }
}

/// What a body says of its use, whatever else it is: what it gives is paid for though it is not what was asked for.
pub fn usage(body: &str) -> Usage {
    let said = json::pick(body, &["usage"]).ok().and_then(|[said]| said);
    said.map(input_usage).unwrap_or_default()
}

/// Nothing comes out but vectors, which are not counted in tokens: what goes in is the whole use. Some say the total
/// alone (Voyage).
fn input_usage(said: &RawValue) -> Usage {
    let usage = Usage::parse(said.get());
    let total = || {
        let [total] = json::pick(said.get(), &["total_tokens"]).ok()?;
        let input = total?.get().parse::<i32>().ok().filter(|total| *total >= 0)?;
        Some(Parts { input, ..Parts::default() })
    };
    let parts = usage.input().or_else(total);
    Usage { parts, input_only: None, ..usage }
}

/// The vectors of an answer as base64, in the order of the inputs.
fn vectors(data: &RawValue, wanted: Wanted) -> Result<Vec<Cow<'_, str>>, Cow<'static, str>> {
    let mut vectors: Vec<Option<Cow<'_, str>>> = vec![None; wanted.inputs.min(MOST_PER_REQUEST)];
    let mut bytes = Vec::new();
    let (mut count, mut length) = (0, None);
    let mut wrong: Option<Cow<'static, str>> = None;
    let is_list = json::each_item(data.get(), |item| {
        if wrong.is_some() {
            return;
        }
        let place = count;
        count += 1;
        let mut read = || -> Result<(), Cow<'static, str>> {
            let [index, embedding] = json::pick(item.get(), &["index", "embedding"])
                .map_err(|_| "a list with something that is no embedding")?;
            let embedding = embedding.ok_or("an embedding without its vector")?;
            let index = match index {
                Some(index) => index.get().parse::<usize>().ok(),
                None => Some(place),
            };
            let slot = index
                .and_then(|index| vectors.get_mut(index))
                .ok_or("an embedding of an input that nobody sent")?;
            if slot.is_some() {
                return Err("two embeddings of one input".into());
            }
            vector::read(embedding, &mut bytes)?;
            let dimensions = bytes.len() / 4;
            if *length.get_or_insert(dimensions) != dimensions {
                return Err("embeddings of different lengths".into());
            }
            if let Some(asked) = wanted.dimensions.filter(|asked| *asked != dimensions) {
                let what =
                    format!("embeddings of {dimensions} numbers where {asked} were asked for");
                return Err(what.into());
            }
            *slot = Some(vector::as_base64(embedding, &bytes));
            Ok(())
        };
        wrong = read().err();
    });
    match wrong {
        Some(wrong) => Err(wrong),
        None if !is_list => Err("JSON that has no embeddings".into()),
        None => {
            let missing = format!("{count} embeddings of {} inputs", wanted.inputs);
            vectors.into_iter().collect::<Option<_>>().ok_or(missing.into())
        }
    }
}

fn word(value: &RawValue) -> Option<String> {
    let text: String = serde_json::from_str(value.get()).ok()?;
    Some(clean_word(&text)).filter(|word| !word.is_empty())
}

/// The vectors of an answer that [`read`] has written. `None`: it is none.
pub fn numbers(response: &str) -> Option<Vec<Vec<f32>>> {
    let [data] = json::pick(response, &["data"]).ok()?;
    let mut all = Some(Vec::new());
    let mut bytes = Vec::new();
    let is_list = json::each_item(data?.get(), |item| {
        let read = json::pick(item.get(), &["embedding"]).ok().and_then(|[embedding]| {
            vector::read(embedding?, &mut bytes).ok()?;
            Some(vector::numbers(&bytes).collect())
        });
        match (read, &mut all) {
            (Some(vector), Some(vectors)) => vectors.push(vector),
            _ => all = None,
        }
    });
    all.filter(|_| is_list)
}

/// The same answer with lists of numbers in place of base64.
pub fn with_lists(response: &str) -> Option<String> {
    let [data] = json::pick(response, &["data"]).ok()?;
    let data = data?.get();
    // It is a part of the text.
    let start = data.as_ptr() as usize - response.as_ptr() as usize;
    let mut out = String::with_capacity(3 * response.len());
    out.push_str(response.get(..start)?);
    out.push('[');
    let mut bytes = Vec::new();
    let (mut index, mut is_whole) = (0, true);
    let is_list = json::each_item(data, |item| {
        let read = json::pick(item.get(), &["embedding"])
            .ok()
            .and_then(|[embedding]| vector::read(embedding?, &mut bytes).ok());
        is_whole &= read.is_some();
        if index > 0 {
            out.push(',');
        }
        out.push_str(&format!(r#"{{"object":"embedding","index":{index},"embedding":"#));
        vector::write_list(&bytes, &mut out);
        out.push('}');
        index += 1;
    });
    out.push(']');
    out.push_str(response.get(start + data.len()..)?);
    (is_list && is_whole).then_some(out)
}
