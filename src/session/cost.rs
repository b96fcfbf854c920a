//! Usage for the price rules, which are SQL.

use crate::core::usage::Usage;
use crate::session::json::JsonText;
use pgrx::prelude::*;
use serde_json::json;

/// A `usage` object of OpenAI's or Anthropic's form as disjoint `parts`, and the cost that the
/// upstream reports, as text.
#[pg_extern(immutable, parallel_safe, strict)]
fn aggregator_usage(p_usage: JsonText) -> JsonText {
    let usage = Usage::parse(&p_usage.0);
    JsonText(json!({"parts": usage.parts, "reported_cost": usage.reported_cost}).to_string())
}
