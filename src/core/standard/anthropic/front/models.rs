//! The models that a caller can call, in Anthropic's form (pages "List models" and "Get a model"). The
//! path is that of OpenAI's list: which of the two is meant shows in `anthropic-version`.

use crate::error::Error;
use serde::Serialize;

/// "Defaults to 20. Ranges from 1 to 1000."
const USUAL_LIMIT: usize = 20;
const LARGEST_LIMIT: usize = 1_000;

/// "May be set to an epoch value if the release date is unknown", as it is to every catalogue here.
const UNKNOWN_DATE: &str = "1970-01-01T00:00:00Z";

/// A model that can be called.
#[derive(Debug, Clone, Copy)]
pub struct Model<'a> {
    /// The name under which it is called.
    pub id: &'a str,
    pub display_name: &'a str,
    pub context_window: Option<i32>,
    pub max_output_tokens: Option<i32>,
}

/// Which part of the list is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    limit: usize,
    start: Start,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Start {
    First,
    After(String),
    Before(String),
}

#[derive(Serialize)]
struct Entry<'a> {
    r#type: &'static str,
    id: &'a str,
    display_name: &'a str,
    created_at: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_input_tokens: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<i32>,
}

#[derive(Serialize)]
struct List<'a> {
    data: Vec<Entry<'a>>,
    has_more: bool,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
}

impl Page {
    /// Reads the query of the list's URL, without its question mark. What else it holds is passed over.
    pub fn of(query: Option<&str>) -> Result<Self, Error> {
        let (mut limit, mut after, mut before) = (USUAL_LIMIT, None, None);
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "limit" => {
                    let asked: Option<usize> = value.parse().ok();
                    let asked = asked.filter(|limit| (1..=LARGEST_LIMIT).contains(limit));
                    limit = asked.ok_or_else(|| {
                        Error::bad_request("limit: must be a whole number from 1 to 1000")
                    })?;
                }
                "after_id" => after = Some(value.into_owned()),
                "before_id" => before = Some(value.into_owned()),
                _ => {}
            }
        }
        let start = match (after, before) {
            (None, None) => Start::First,
            (Some(id), None) => Start::After(id),
            (None, Some(id)) => Start::Before(id),
            (Some(_), Some(_)) => {
                return Err(Error::bad_request("after_id and before_id exclude each other"));
            }
        };
        Ok(Self { limit, start })
    }
}

/// A page of the list, of which `models` is the whole, in its order.
pub fn list(models: &[Model<'_>], page: &Page) -> Result<String, Error> {
    let place = |name: &str, id: &str| {
        let place = models.iter().position(|model| model.id == id);
        place.ok_or_else(|| Error::bad_request(format!("{name}: no model of the list has this id")))
    };
    // Models left out before the page, and where it ends.
    let (from, to) = match &page.start {
        Start::First => (0, page.limit.min(models.len())),
        Start::After(id) => {
            let from = place("after_id", id)? + 1;
            (from, from.saturating_add(page.limit).min(models.len()))
        }
        Start::Before(id) => {
            let to = place("before_id", id)?;
            (to.saturating_sub(page.limit), to)
        }
    };
    let has_more = match page.start {
        Start::Before(_) => from > 0,
        Start::First | Start::After(_) => to < models.len(),
    };
    let shown = models.get(from..to).unwrap_or_default();
    let list = List {
        data: shown.iter().map(entry).collect(),
        has_more,
        first_id: shown.first().map(|model| model.id),
        last_id: shown.last().map(|model| model.id),
    };
    serde_json::to_string(&list).map_err(Error::internal)
}

/// One model.
pub fn one(model: &Model<'_>) -> Result<String, Error> {
    serde_json::to_string(&entry(model)).map_err(Error::internal)
}

fn entry<'a>(model: &Model<'a>) -> Entry<'a> {
    Entry {
        r#type: "model",
        id: model.id,
        display_name: model.display_name,
        created_at: UNKNOWN_DATE,
        max_input_tokens: model.context_window,
        max_tokens: model.max_output_tokens,
    }
}
