//! Usage and prices for the price rules, which are SQL.

use crate::core::cost::{self, Counts, PriceList};
use crate::core::usage::Usage;
use crate::core::{estimate, price};
use crate::database::failed;
use crate::error::Error;
use crate::session::json::JsonText;
use crate::session::owner::{as_owner, installed};
use crate::session::raise::or_raise;
use crate::session::{identity, writable};
use bigdecimal::BigDecimal;
use pgrx::prelude::*;
use pgrx::spi::{self, Spi};
use serde_json::json;

/// A `usage` object of OpenAI's or Anthropic's form as disjoint `parts`, and the cost that the
/// upstream reports, as text.
#[pg_extern(immutable, parallel_safe, strict)]
fn aggregator_usage(p_usage: JsonText) -> JsonText {
    let usage = Usage::parse(&p_usage.0);
    JsonText(json!({"parts": usage.parts, "reported_cost": usage.reported_cost}).to_string())
}

/// How large messages are: `tokens`, estimated, `bytes`, and `is_text`.
#[pg_extern(immutable, parallel_safe, strict)]
fn aggregator_prompt_size(p_messages: JsonText) -> Option<JsonText> {
    let size = estimate::prompt_size(&p_messages.0)?;
    Some(JsonText(json!(size).to_string()))
}

/// What is wrong with a price list; NULL: nothing.
#[pg_extern(immutable, parallel_safe, strict)]
fn aggregator_pricing_problem(p_pricing: JsonText) -> Option<String> {
    price::problem(&p_pricing.0)
}

fn price_list(pricing: Option<&JsonText>) -> Result<PriceList, Error> {
    let Some(pricing) = pricing else { return Ok(PriceList::default()) };
    PriceList::parse(&pricing.0).ok_or_else(|| bad("p_pricing is no price list"))
}

fn counts(parts: &JsonText) -> Result<Counts, Error> {
    Counts::parse(&parts.0).ok_or_else(|| bad("p_parts are no counts"))
}

fn clock(clock: i32) -> Result<u16, Error> {
    u16::try_from(clock).map_err(|_| bad("p_clock is no time of day"))
}

fn bad(message: &str) -> Error {
    Error::BadRequest { message: message.to_owned(), hint: None }
}

/// A decimal, or null, as JSON.
fn shown(number: Option<&BigDecimal>) -> String {
    number.map_or_else(|| "null".to_owned(), cost::shown)
}

/// Declared in sql/cost.sql, like the next two.
#[pg_extern(sql = false)]
fn aggregator_price_tiers(
    p_pricing: Option<JsonText>,
    p_prompt_tokens: Option<i64>,
    p_clock: Option<i32>,
) -> Option<JsonText> {
    let (pricing, tokens, at) = (p_pricing?, p_prompt_tokens?, p_clock?);
    let tiers = price_list(Some(&pricing)).and_then(|list| Ok(list.at_json(tokens, clock(at)?)));
    drop(pricing);
    Some(JsonText(or_raise(tiers)))
}

#[pg_extern(sql = false)]
fn aggregator_price_parts(p_pricing: JsonText, p_parts: JsonText, p_clock: i32) -> JsonText {
    let priced = (|| {
        let priced =
            cost::cost(&price_list(Some(&p_pricing))?, &counts(&p_parts)?, clock(p_clock)?);
        let cost = shown(priced.cost.as_ref());
        Ok(format!(r#"{{"cost": {cost}, "is_complete": {}}}"#, priced.is_complete))
    })();
    drop((p_pricing, p_parts));
    JsonText(or_raise(priced))
}

#[pg_extern(sql = false)]
fn aggregator_price_attempt(
    p_pricing: Option<JsonText>,
    p_parts: Option<JsonText>,
    p_reported: Option<String>,
    p_is_free: Option<bool>,
    p_clock: Option<i32>,
    p_is_estimate: Option<bool>,
) -> Option<JsonText> {
    let at = p_clock?;
    let settled = (|| {
        let list = price_list(p_pricing.as_ref())?;
        let counts = p_parts.as_ref().map(counts).transpose()?;
        let reported = p_reported
            .as_deref()
            .map(|text| cost::exact(text).ok_or_else(|| bad("p_reported is no amount")))
            .transpose()?;
        let settled = cost::settled(
            &list,
            counts.as_ref(),
            reported,
            p_is_free == Some(true),
            clock(at)?,
            p_is_estimate == Some(true),
        );
        Ok(format!(
            r#"{{"cost": {}, "computed": {}, "source": "{}"}}"#,
            shown(settled.cost.as_ref()),
            shown(settled.computed.as_ref()),
            settled.source
        ))
    })();
    drop((p_pricing, p_parts, p_reported));
    Some(JsonText(or_raise(settled)))
}

/// Brings the price history of these models up to date, as the owner, because the history is for
/// nobody else to write. What is written is what the catalogue says.
#[pg_extern(strict)]
fn aggregator_note_prices(p_models: Vec<pgrx::Uuid>) {
    let noted = note(p_models);
    or_raise(noted)
}

fn note(models: Vec<pgrx::Uuid>) -> Result<(), Error> {
    writable::require("note prices")?;
    let installed = installed()?;
    let sql = installed.sql("SELECT @extschema@.aggregator_store_prices($1)");
    as_owner(&installed, || Spi::run_with_args(&sql, &[models.into()]))
        .map_err(failed("note prices"))
}

type RecostRow = (
    pgrx::Uuid,
    i16,
    TimestampWithTimeZone,
    String,
    Option<AnyNumeric>,
    Option<AnyNumeric>,
    Option<String>,
    Option<String>,
);

/// Prices usage rows that had no price, or not every price, and returns those that changed.
#[pg_extern]
#[expect(clippy::type_complexity, reason = "the columns of its result")]
fn recost_usage(
    p_from: default!(Option<TimestampWithTimeZone>, "NULL"),
    p_to: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(call_id, pgrx::Uuid),
        name!(attempt, i16),
        name!(created_at, TimestampWithTimeZone),
        name!(model_id, String),
        name!(old_cost, Option<AnyNumeric>),
        name!(new_cost, Option<AnyNumeric>),
        name!(old_source, Option<String>),
        name!(new_source, Option<String>),
    ),
> {
    let rows = recost(p_from, p_to);
    TableIterator::new(or_raise(rows))
}

fn recost(
    from: Option<TimestampWithTimeZone>,
    to: Option<TimestampWithTimeZone>,
) -> Result<Vec<RecostRow>, Error> {
    identity::require_admin("price usage again")?;
    writable::require("price usage again")?;
    let installed = installed()?;
    let sql = installed.sql(
        "SELECT r.call_id, r.attempt, r.created_at, r.model_id,
             r.old_cost, r.new_cost, r.old_source, r.new_source
         FROM @extschema@.aggregator_recost($1, $2) AS r",
    );
    as_owner(&installed, || {
        Spi::connect_mut(|client| {
            let rows = client.update(sql.as_str(), None, &[from.into(), to.into()])?;
            rows.map(|row| {
                Ok((
                    row.get(1)?.ok_or(spi::Error::InvalidPosition)?,
                    row.get(2)?.ok_or(spi::Error::InvalidPosition)?,
                    row.get(3)?.ok_or(spi::Error::InvalidPosition)?,
                    row.get(4)?.ok_or(spi::Error::InvalidPosition)?,
                    row.get(5)?,
                    row.get(6)?,
                    row.get(7)?,
                    row.get(8)?,
                ))
            })
            .collect::<spi::Result<_>>()
        })
    })
    .map_err(failed("price usage again"))
}
