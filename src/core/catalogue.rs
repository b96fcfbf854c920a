//! Reading model lists: OpenRouter's (prices as strings per token), AiHubMix's (numbers per 1M)
//! and the bare list of OpenAI's `GET /models`. Which one it is shows in the data.

mod columns;
mod item;
mod unit;

use crate::core::price::{self, PER_UNIT, Prices, Unit};
use crate::core::reply::clean_word;
use crate::core::{mend, model};
use item::{Item, Word};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use unit::Units;

pub use columns::Columns;

/// A model as `aggregator_models` holds it. `None`: the list does not say.
#[derive(Debug, Clone)]
pub struct Model {
    pub model_id: String,
    pub model_name: String,
    pub display_name: String,
    pub model_type: &'static str,
    pub capabilities: BTreeMap<&'static str, bool>,
    pub context_window: Option<i32>,
    pub max_output_tokens: Option<i32>,
    pub pricing: Option<Prices>,
}

/// A catalogue that was read.
#[derive(Debug)]
pub struct Catalogue {
    pub models: Vec<Model>,
    /// A bare list: types and capabilities are guesses from names, which do not overwrite what an
    /// administrator has put right.
    pub is_inferred: bool,
    /// Prices that were left out because they make no sense.
    pub warnings: Vec<String>,
}

/// How a list is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialect {
    /// Recognise it from the data.
    Auto,
    OpenRouter,
    AiHubMix,
    OpenAi,
}

impl Dialect {
    /// Reads `api_providers.catalogue_format`.
    pub fn parse(name: &str) -> Self {
        match name {
            "openrouter" => Self::OpenRouter,
            "aihubmix" => Self::AiHubMix,
            "openai" => Self::OpenAi,
            _ => Self::Auto,
        }
    }

    /// What a list without an address of its own is asked for. OpenRouter's has models that return text alone, unless
    /// it is asked for more: <https://openrouter.ai/docs/models>.
    pub fn query(self) -> &'static str {
        match self {
            Self::OpenRouter => "?output_modalities=text,embeddings",
            Self::Auto | Self::AiHubMix | Self::OpenAi => "",
        }
    }
}

/// Reads a model list. `unit`: that of its prices of tokens, where somebody has fixed it. The error says
/// what the body is instead.
pub fn read(body: &str, dialect: Dialect, unit: Option<Unit>) -> Result<Catalogue, &'static str> {
    let mended;
    let (entries, body, marks) = match entries(body) {
        Some(entries) => (entries, body, Vec::new()),
        None => {
            mended = mend::marked_json(body);
            let entries = entries(&mended.0).ok_or("something that is not a model list")?;
            (entries, &*mended.0, mended.1)
        }
    };
    if entries.is_empty() {
        return Err("an empty model list");
    }
    let items: Vec<Item> =
        entries.iter().map(|entry| Item::read(entry).unwrap_or_default()).collect();
    let dialect = match dialect {
        Dialect::Auto => recognise(&items),
        fixed => fixed,
    };
    let mut warnings = Vec::new();
    let (keys, usual): (Vec<&str>, Unit) = match dialect {
        Dialect::AiHubMix => (AIHUBMIX.to_vec(), Unit::PerMillion),
        _ => (PER_TOKEN.iter().map(|(theirs, _)| *theirs).collect(), Unit::PerToken),
    };
    let pricings = items.iter().filter_map(|item| item.get("pricing"));
    let units = Units::of(pricings, &keys, usual, unit, &mut warnings);
    let mut models: BTreeMap<String, Model> = BTreeMap::new();
    for (place, (entry, item)) in entries.iter().zip(&items).enumerate() {
        let model = match dialect {
            Dialect::OpenRouter => openrouter(item, units, &mut warnings),
            Dialect::AiHubMix => aihubmix(item, units, &mut warnings),
            Dialect::OpenAi | Dialect::Auto => bare(item),
        };
        let is_marked = is_marked(entry.get(), body, &marks);
        name_bad_entry(place, entry.get(), is_marked, model.as_ref(), &mut warnings);
        if let Some(mut model) = model {
            let size = model.pricing.as_ref().map_or(0, |prices| {
                prices.iter().map(|(key, price)| key.len() + price.get().len() + 6).sum()
            });
            if size > LONGEST_PRICING {
                model.pricing = None;
            }
            models.insert(model.model_id.clone(), model);
        }
    }
    if models.is_empty() {
        return Err("a list without a single model id");
    }
    Ok(Catalogue {
        models: models.into_values().collect(),
        is_inferred: dialect == Dialect::OpenAi,
        warnings,
    })
}

/// The entries of a list. `None`: it is none.
fn entries(body: &str) -> Option<Vec<&RawValue>> {
    #[derive(Deserialize)]
    struct List<'a> {
        #[serde(borrow)]
        data: Option<Vec<&'a RawValue>>,
    }
    match serde_json::from_str::<List>(body) {
        Ok(List { data: Some(data) }) => Some(data),
        // together.ai answers the bare array.
        _ => serde_json::from_str(body).ok(),
    }
}

/// Whether one of these places of `body` is in `entry`, which is a part of it.
fn is_marked(entry: &str, body: &str, marks: &[usize]) -> bool {
    let start = entry.as_ptr() as usize - body.as_ptr() as usize;
    let next = marks.partition_point(|mark| *mark < start);
    marks.get(next).is_some_and(|mark| *mark < start + entry.len())
}

/// Says which entry has no model in it, or a model with a part that cannot be read.
fn name_bad_entry(
    place: usize,
    entry: &str,
    is_marked: bool,
    model: Option<&Model>,
    warnings: &mut Vec<String>,
) {
    if warnings.len() >= MOST_WARNINGS {
        return;
    }
    match model {
        Some(model) if is_marked => warnings.push(format!(
            "model '{}': what is not JSON in its entry, such as NaN, is taken for unknown",
            model.model_id
        )),
        Some(model) if entry.contains(char::REPLACEMENT_CHARACTER) => warnings.push(format!(
            "model '{}': bytes of its entry that are not UTF-8 are replaced",
            model.model_id
        )),
        Some(_) => {}
        None => {
            let shown = clean_word(&entry.chars().take(60).collect::<String>());
            warnings.push(format!(
                "entry {} is left out, because it has no id that a model can have: {shown}",
                place + 1
            ));
        }
    }
}

fn recognise(items: &[Item]) -> Dialect {
    let any = |test: &dyn Fn(&Item) -> bool| items.iter().any(test);
    if any(&|item| item.contains("model_id") && !item.contains("id")) {
        Dialect::AiHubMix
    } else if any(&|item| {
        item.contains("architecture")
            || item.get("pricing").is_some_and(|p| p.get().contains("\"prompt\""))
    }) {
        Dialect::OpenRouter
    } else {
        Dialect::OpenAi
    }
}

fn openrouter(item: &Item, units: Units, warnings: &mut Vec<String>) -> Option<Model> {
    let model_id = id(item, "id")?;
    let architecture = item.part("architecture");
    let inputs = words(architecture.get("input_modalities"));
    let outputs = words(architecture.get("output_modalities"));
    let parameters = words(item.get("supported_parameters"));
    let has = |list: &[String], word: &str| list.iter().any(|w| w == word);
    let model_type = if has(&outputs, "embeddings") {
        "embedding"
    } else if has(&outputs, "image") && !has(&outputs, "text") {
        "image"
    } else if has(&outputs, "audio") && !has(&outputs, "text") {
        "audio"
    } else if has(&outputs, "video") && !has(&outputs, "text") {
        "video"
    } else {
        "chat"
    };
    let top = item.part("top_provider");
    Some(Model {
        model_name: name_of(&model_id),
        display_name: text(item, "name").unwrap_or_else(|| model_id.clone()),
        model_type,
        capabilities: BTreeMap::from([
            ("vision", has(&inputs, "image")),
            ("functions", has(&parameters, "tools")),
            ("streaming", model_type == "chat"),
            ("audio", has(&inputs, "audio") || has(&outputs, "audio")),
            ("reasoning", has(&parameters, "reasoning")),
            ("structured_outputs", has(&parameters, "structured_outputs")),
        ]),
        context_window: whole(item.get("context_length")),
        max_output_tokens: whole(top.get("max_completion_tokens")),
        pricing: Some(openrouter_prices(item, &model_id, units, warnings)),
        model_id,
    })
}

/// OpenRouter's names for prices per token, and ours.
const PER_TOKEN: &[(&str, &str)] = &[
    ("prompt", "input"),
    ("completion", "output"),
    ("input_cache_read", "cache_read"),
    ("input_cache_write", "cache_write"),
    ("input_cache_write_1h", "cache_write_1h"),
    ("internal_reasoning", "reasoning"),
    ("audio", "audio_input"),
    ("audio_output", "audio_output"),
];
/// AiHubMix's names for prices per token, which are ours.
const AIHUBMIX: &[&str] = &["input", "output", "cache_read", "cache_write"];
/// Prices of theirs for what no usage counts.
const UNPRICED: &[&str] = &["image_token", "image_output", "input_audio_cache", "discount"];
/// More say nothing new.
const MOST_WARNINGS: usize = 20;
/// Bytes of a model's prices: what is more is no price list.
const LONGEST_PRICING: usize = 12_000;

fn openrouter_prices(
    item: &Item,
    model_id: &str,
    units: Units,
    warnings: &mut Vec<String>,
) -> Prices {
    let Some(raw) = item.get("pricing").and_then(Item::read) else { return Prices::new() };
    let mut prices = per_token_prices(&raw, model_id, units, warnings);
    let overrides: Vec<Item> = raw
        .get("overrides")
        .and_then(|list| serde_json::from_str(list.get()).ok())
        .unwrap_or_default();
    let tiers: Vec<Prices> = overrides
        .iter()
        .filter_map(|entry| {
            let tier = openrouter_tier(entry, model_id, units, warnings);
            if tier.is_none() && warnings.len() < MOST_WARNINGS {
                warnings
                    .push(format!("model '{model_id}': an override has conditions unknown here"));
            }
            tier
        })
        .collect();
    if !tiers.is_empty()
        && let Ok(tiers) = serde_json::value::to_raw_value(&tiers)
    {
        prices.insert("tiers".to_owned(), tiers);
    }
    prices
}

/// Prices that hold under conditions. `None`: under which ones is not understood.
fn openrouter_tier(
    entry: &Item,
    model_id: &str,
    units: Units,
    warnings: &mut Vec<String>,
) -> Option<Prices> {
    let mut tier = per_token_prices(entry, model_id, units, warnings);
    // A key that is absent inherits; one that cannot be read is unknown for as long as this holds.
    for (theirs, ours) in PER_TOKEN.iter().copied().chain(PER_UNIT.iter().map(|key| (*key, *key))) {
        if entry.contains(theirs) && !tier.contains_key(ours) && ours != "reasoning" {
            tier.insert(ours.to_owned(), RawValue::NULL.to_owned());
        }
    }
    let is_price = |key: &str| PER_TOKEN.iter().any(|(theirs, _)| *theirs == key);
    for (key, raw) in entry.iter() {
        if is_price(key) || PER_UNIT.contains(&key) || UNPRICED.contains(&key) {
            continue;
        }
        price::put(&mut tier, key, Some(price::condition(key, raw.get())?));
    }
    Some(tier)
}

fn per_token_prices(
    raw: &Item,
    model_id: &str,
    units: Units,
    warnings: &mut Vec<String>,
) -> Prices {
    let mut prices = Prices::new();
    for (theirs, ours) in PER_TOKEN {
        if let Some(raw) = raw.get(theirs) {
            let price = units.read(raw.get());
            warn_unless_priced(price.is_some(), raw.get(), theirs, model_id, warnings);
            price::put(&mut prices, ours, price);
        }
    }
    for key in PER_UNIT {
        if let Some(raw) = raw.get(key) {
            let price = price::per_unit(raw.get());
            warn_unless_priced(price.is_some(), raw.get(), key, model_id, warnings);
            price::put(&mut prices, key, price);
        }
    }
    // A reasoning price of 0 beside an output price means "billed as output", not "free".
    let is_zero = |key: &str, prices: &Prices| prices.get(key).is_some_and(|p| p.get() == "0");
    if is_zero("reasoning", &prices) && !is_zero("output", &prices) {
        prices.remove("reasoning");
    }
    prices
}

fn aihubmix(item: &Item, units: Units, warnings: &mut Vec<String>) -> Option<Model> {
    let model_id = id(item, "model_id")?;
    let types = words(item.get("types"));
    let features = words(item.get("features"));
    let inputs = words(item.get("input_modalities"));
    let has = |list: &[String], word: &str| list.iter().any(|w| w == word);
    let model_type = match types.first().map(String::as_str) {
        Some("image_generation") => "image",
        Some("tts" | "stt") => "audio",
        Some("embedding") => "embedding",
        Some("rerank") => "rerank",
        Some("video") => "video",
        _ => "chat",
    };
    let mut prices = Prices::new();
    let raw = item.part("pricing");
    for key in AIHUBMIX {
        if let Some(raw) = raw.get(key) {
            let price = units.read(raw.get());
            warn_unless_priced(price.is_some(), raw.get(), key, &model_id, warnings);
            price::put(&mut prices, key, price);
        }
    }
    Some(Model {
        model_name: name_of(&model_id),
        display_name: text(item, "model_name").unwrap_or_else(|| model_id.clone()),
        model_type,
        capabilities: BTreeMap::from([
            ("vision", has(&inputs, "image")),
            ("functions", has(&features, "tools") || has(&features, "function_calling")),
            ("streaming", model_type == "chat"),
            ("audio", model_type == "audio" || has(&inputs, "audio")),
            ("reasoning", has(&features, "thinking")),
            ("structured_outputs", has(&features, "structured_outputs")),
        ]),
        context_window: whole(item.get("context_length")),
        max_output_tokens: whole(item.get("max_output")),
        pricing: Some(prices),
        model_id,
    })
}

/// A list of ids and little else: what a model is, is inferred from its name.
fn bare(item: &Item) -> Option<Model> {
    let model_id = id(item, "id").or_else(|| id(item, "model_id"))?;
    let lower = model_id.to_lowercase();
    let model_type = if lower.contains("embed") {
        "embedding"
    } else if lower.contains("tts") {
        "audio"
    } else if lower.contains("dall-e") || lower.contains("image") {
        "image"
    } else {
        "chat"
    };
    let limit = |keys: &[&str]| keys.iter().find_map(|key| whole(item.get(key)));
    Some(Model {
        model_name: name_of(&model_id),
        display_name: text(item, "display_name").unwrap_or_else(|| model_id.clone()),
        model_type,
        capabilities: BTreeMap::from([
            ("vision", lower.contains("vision") || lower.contains("4o")),
            ("functions", !lower.contains("instruct")),
            ("streaming", model_type == "chat"),
        ]),
        context_window: limit(&["context_window", "context_length", "max_input_tokens"]),
        max_output_tokens: limit(&["max_output_tokens", "max_completion_tokens", "max_tokens"]),
        pricing: None,
        model_id,
    })
}

fn warn_unless_priced(ok: bool, raw: &str, key: &str, model: &str, warnings: &mut Vec<String>) {
    let varies = raw.trim_matches('"').starts_with('-') || raw == "null" || raw == "\"\"";
    if !ok && !varies && warnings.len() < MOST_WARNINGS {
        let shown: String = raw.chars().take(40).collect();
        warnings.push(format!("model '{model}': {key} price {shown} makes no sense"));
    }
}

fn id(item: &Item, key: &str) -> Option<String> {
    let id: String = serde_json::from_str(item.get(key)?.get()).ok()?;
    // Gemini's list writes ids as paths.
    let id = id.strip_prefix("models/").unwrap_or(&id);
    // An id with a byte that was no character cannot be asked for.
    let is_whole = !id.contains(char::REPLACEMENT_CHARACTER);
    (is_whole && model::problem(id).is_none()).then(|| id.to_owned())
}

/// The last part of `vendor/model`.
fn name_of(model_id: &str) -> String {
    model_id.rsplit('/').next().unwrap_or(model_id).to_owned()
}

fn text(item: &Item, key: &str) -> Option<String> {
    let text: String = serde_json::from_str(item.get(key)?.get()).ok()?;
    let text = clean_word(text.trim());
    (!text.is_empty()).then_some(text)
}

/// A list of words, given as an array or as one comma-separated text.
fn words(raw: Option<&RawValue>) -> Vec<String> {
    let clean = |word: &str| word.trim().to_lowercase();
    let Some(raw) = raw else { return Vec::new() };
    if let Ok(words) = serde_json::from_str::<Vec<Word>>(raw.get()) {
        return words.iter().map(|Word(word)| clean(word)).collect();
    }
    match serde_json::from_str(raw.get()) {
        Ok(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(clean).collect(),
        Ok(Value::String(list)) => list.split(',').map(clean).filter(|w| !w.is_empty()).collect(),
        _ => Vec::new(),
    }
}

/// A positive limit, given as a number or as text.
fn whole(raw: Option<&RawValue>) -> Option<i32> {
    let n = match serde_json::from_str(raw?.get()).ok()? {
        Value::String(text) => text.trim().parse::<i64>().ok(),
        other => other.as_i64().or_else(|| other.as_f64().map(|n| n as i64)),
    };
    n.and_then(|n| i32::try_from(n).ok()).filter(|n| *n > 0)
}

#[cfg(test)]
mod tests;
