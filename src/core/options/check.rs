//! The options of an answer that is checked against a schema.

use super::{Fields, invalid};
use crate::core::json;
use crate::core::schema::{self, DEFAULT_REPAIRS, MOST_REPAIRS};
use crate::error::Error;
use serde_json::value::RawValue;

/// Members that say what an answer is like, or how many there are: a schema says all of that.
const BESIDE_SCHEMA: &[&str] =
    &["function_call", "functions", "response_format", "tool_choice", "tools"];

/// The answer is JSON that fits a schema.
#[derive(Debug, Clone)]
pub struct Check {
    pub schema: Box<RawValue>,
    /// How often the model may be asked again, because its answer does not fit.
    pub max_repairs: u16,
}

/// Takes a schema out: our own option, or that of a `response_format` whose answers are to be checked.
pub(super) fn take(fields: &mut Fields) -> Result<Option<Check>, Error> {
    let expected = format!("a whole number from 0 to {MOST_REPAIRS}");
    let max_repairs: Option<u16> = super::take(fields, "max_repairs", &expected)?;
    if max_repairs.is_some_and(|repairs| repairs > MOST_REPAIRS) {
        return Err(invalid("max_repairs", &expected));
    }
    let given = fields.remove("schema").filter(|schema| schema.get() != "null");
    let formatted = checked_format(fields)?;
    let schema = match (given, formatted) {
        (Some(_), Some(_)) => {
            return Err(Error::bad_request(
                "schema is given twice, the second time by response_format",
            ));
        }
        (given, formatted) => given.or(formatted),
    };
    let Some(schema) = schema else {
        return match max_repairs {
            Some(_) => Err(Error::bad_request_hint(
                "options.max_repairs is for answers that are checked",
                "Give options.schema, too.",
            )),
            None => Ok(None),
        };
    };
    schema::outline(schema.get())?;
    let is_given = |name: &&&str| fields.get(**name).is_some_and(|value| value.get() != "null");
    if let Some(other) = BESIDE_SCHEMA.iter().find(is_given) {
        return Err(Error::bad_request(format!("{other} cannot be given beside a schema")));
    }
    if fields.get("n").is_some_and(|n| !matches!(n.get(), "1" | "null")) {
        return Err(Error::bad_request("n must be 1 beside a schema: one answer is checked"));
    }
    Ok(Some(Check { schema, max_repairs: max_repairs.unwrap_or(DEFAULT_REPAIRS) }))
}

/// Takes the schema out of `{"type": "json_schema", "json_schema": {...}, "check": true}`. Without `check` it is for
/// the provider alone.
fn checked_format(fields: &mut Fields) -> Result<Option<Box<RawValue>>, Error> {
    let Some(format) = fields.get("response_format") else { return Ok(None) };
    let Ok(mut members) = json::members(format.get()) else { return Ok(None) };
    let is_checked = match members.remove("check").map(RawValue::get) {
        None => return Ok(None),
        Some("true") => true,
        Some("false" | "null") => false,
        Some(_) => return Err(Error::bad_request("response_format.check must be true or false")),
    };
    if !is_checked {
        // It is ours, and no provider's.
        let rest = serde_json::to_string(&members).map_err(Error::internal)?;
        let rest = RawValue::from_string(rest).map_err(Error::internal)?;
        fields.insert("response_format".to_owned(), rest);
        return Ok(None);
    }
    let is_schema = members.get("type").is_some_and(|kind| kind.get() == r#""json_schema""#);
    let schema = members.get("json_schema").filter(|_| is_schema);
    let schema = schema.and_then(|schema| json::pick(schema.get(), &["schema"]).ok()?[0]);
    let schema = schema.map(ToOwned::to_owned).ok_or_else(|| {
        Error::bad_request("response_format.check is for json_schema, which needs its schema")
    })?;
    fields.remove("response_format");
    Ok(Some(schema))
}
