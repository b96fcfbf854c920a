//! Making, rotating and revoking gateway keys.

use crate::core::budget::Period;
use crate::core::front::gateway_key::{self, Models, NewKey, RANDOM_BYTES};
use crate::core::model::is_hidden;
use crate::core::tags;
use crate::core::usage::decimal;
use crate::error::Error;
use crate::fresh::{self, Plan, required};
use crate::protocol::Whose;
use crate::session::gateways;
use crate::session::identity;
use crate::session::locks;
use crate::session::locks::as_owner_in_time;
use crate::session::owner::installed;
use crate::session::raise::or_raise;
use crate::session::writable;
use pgrx::datum::{DatumWithOid, Interval};
use pgrx::pg_sys::TEXTOID;
use pgrx::prelude::*;
use pgrx::spi::Spi;
use rust_decimal::Decimal;
use zeroize::Zeroizing;

/// Of a name, in bytes.
const LONGEST_NAME: usize = 255;
/// Of a limit in USD, in digits.
const LONGEST_LIMIT: usize = 64;
/// What a column of amounts holds.
const MOST_USD: i64 = 1_000_000_000_000;
/// Keys of one user, of which revoked ones make room.
const MOST_KEYS: i64 = 1000;
/// How far ahead a key may expire.
const LONGEST_LIFE_DAYS: i64 = 36_525;
const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// What a user asks for.
struct Wish<'a> {
    name: Option<&'a str>,
    models: Option<Array<'a, &'a str>>,
    expires_at: Option<TimestampWithTimeZone>,
    limit_usd: Option<AnyNumeric>,
    period: Option<&'a str>,
    requests_per_minute: Option<i64>,
    tokens_per_minute: Option<i64>,
    tags: Option<Array<'a, &'a str>>,
    user_id: Option<&'a str>,
}

/// Makes a gateway key, and gives it away this one time.
#[pg_extern]
#[expect(clippy::too_many_arguments, reason = "those of the SQL function")]
fn create_gateway_key<'a>(
    p_name: Option<&'a str>,
    p_models: default!(Option<Array<'a, &'a str>>, "NULL"),
    p_expires_at: default!(Option<TimestampWithTimeZone>, "NULL"),
    p_limit_usd: default!(Option<AnyNumeric>, "NULL"),
    p_period: default!(Option<&'a str>, "'month'"),
    p_requests_per_minute: default!(Option<i64>, "NULL"),
    p_tokens_per_minute: default!(Option<i64>, "NULL"),
    p_tags: default!(Option<Array<'a, &'a str>>, "NULL"),
    p_user_id: default!(Option<&'a str>, "NULL"),
) -> TableIterator<'static, (name!(id, pgrx::Uuid), name!(key, String))> {
    let made = create(Wish {
        name: p_name,
        models: p_models,
        expires_at: p_expires_at,
        limit_usd: p_limit_usd,
        period: p_period,
        requests_per_minute: p_requests_per_minute,
        tokens_per_minute: p_tokens_per_minute,
        tags: p_tags,
        user_id: p_user_id,
    });
    TableIterator::once(or_raise(made))
}

/// Gives a gateway key another secret; the old one passes for as long as `p_grace` says.
#[pg_extern]
fn rotate_gateway_key(
    p_id: Option<pgrx::Uuid>,
    p_grace: default!(Option<Interval>, "'0'"),
) -> String {
    let rotated = rotate(p_id, p_grace);
    or_raise(rotated)
}

/// Revokes a gateway key; false if there is none to revoke.
#[pg_extern]
fn revoke_gateway_key(p_id: Option<pgrx::Uuid>) -> bool {
    let revoked = revoke(p_id);
    or_raise(revoked)
}

/// Why a text is no tag. Declared in sql/budgets.sql.
#[pg_extern(sql = false)]
fn aggregator_tag_problem(tag: &str) -> Option<&'static str> {
    tags::problem(tag)
}

fn create(wish: Wish<'_>) -> Result<(pgrx::Uuid, String), Error> {
    const ACTION: &str = "make a gateway key";
    let user = keeper(wish.user_id, ACTION)?;
    writable::require(ACTION)?;
    gateways::require_own_configuration()?;
    let name = checked_name(wish.name)?;
    let models = checked_models(&wish.models)?;
    let tags = checked_tags(&wish.tags)?;
    check_expiry(wish.expires_at)?;
    check_limits(&wish.limit_usd, wish.period, wish.requests_per_minute, wish.tokens_per_minute)?;
    // As another user nobody knows which roles they have.
    let role = identity::current_user_id().filter(|own| *own == user);
    let role = role.map(|_| identity::acting_role().1);
    let installed = installed()?;
    let key = make()?;
    let count = installed.sql(
        "SELECT count(*) FROM @extschema@.aggregator_gateway_keys AS k
         WHERE k.user_id = $1 AND k.revoked_at IS NULL",
    );
    let sql = installed.sql(
        "SELECT @extschema@.aggregator_store_gateway_key($1::text, $2::text, $3::text, $4::bytea, $5::text, $6::text[],
             $7::text[], $8::boolean, $9::timestamptz, $10::numeric, $11::text, $12::bigint, $13::bigint,
             $14::bigint)",
    );
    let is_anonymous = identity::is_anonymous(&user);
    let id = as_owner_in_time(&installed, ACTION, || {
        // One after the other: each sees the keys that others have committed by then, also in REPEATABLE READ.
        locks::lock_user(pg_sys::TypeRelationId, installed.admin_type, &user);
        Spi::connect_mut(|client| {
            let plan = Plan::prepare(client, &count, &[TEXTOID])?;
            let rows = fresh::select(client, &plan, &[user.as_str().into()])?;
            if rows.first().map(|row| required::<i64>(row, 1)).transpose()? >= Some(MOST_KEYS) {
                return Ok(None);
            }
            let arguments: [DatumWithOid<'_>; 14] = [
                user.as_str().into(),
                role.as_deref().into(),
                name.into(),
                key.hash.0.as_slice().into(),
                key.hint.as_str().into(),
                models.into(),
                tags.into(),
                is_anonymous.into(),
                wish.expires_at.into(),
                wish.limit_usd.into(),
                wish.period.into(),
                wish.requests_per_minute.into(),
                wish.tokens_per_minute.into(),
                MOST_KEYS.into(),
            ];
            client.update(sql.as_str(), Some(1), &arguments)?.first().get_one::<pgrx::Uuid>()
        })
    })?;
    match id {
        Some(id) => Ok((id, key.text.to_string())),
        None => Err(Error::TooManyKeys { limit: MOST_KEYS as u64 }),
    }
}

/// For whom a call with this `p_user_id` makes keys: for nobody who has not signed in, unless they may what anybody
/// may.
fn keeper(p_user_id: Option<&str>, action: &str) -> Result<String, Error> {
    match identity::acting(p_user_id, action)? {
        Whose { own_keys_only: true, .. } => Err(Error::NotSignedIn { action: action.to_owned() }),
        Whose { user, .. } => Ok(user),
    }
}

/// A key from the operating system's random bytes.
fn make() -> Result<NewKey, Error> {
    let mut random = Zeroizing::new([0; RANDOM_BYTES]);
    getrandom::fill(random.as_mut())
        .map_err(|error| Error::internal(format!("there are no random bytes: {error}")))?;
    Ok(gateway_key::make(&random))
}

fn checked_name(name: Option<&str>) -> Result<&str, Error> {
    let name = name.filter(|name| !name.is_empty() && name.len() <= LONGEST_NAME);
    name.filter(|name| {
        name.trim() == *name && !name.contains(|c| c != ' ' && is_hidden(c))
    })
    .ok_or_else(|| {
        Error::bad_request(format!(
            "p_name must be a text of at most {LONGEST_NAME} bytes that can be seen, without spaces around it"
        ))
    })
}

/// The elements of a list that is short enough, of which each is.
fn short_list<'a>(
    list: &Array<'a, &'a str>,
    what: &str,
    most: usize,
    longest: usize,
) -> Result<Vec<String>, Error> {
    // Before any of it is copied.
    if list.len() > most {
        return Err(Error::bad_request(format!("{what} may hold {most} texts")));
    }
    let elements = list.iter().map(|element| match element {
        Some(text) if text.len() <= longest => Ok(text.to_owned()),
        Some(_) => {
            Err(Error::bad_request(format!("a text in {what} is longer than {longest} bytes")))
        }
        None => Err(Error::bad_request(format!("{what} must not hold NULL"))),
    });
    elements.collect()
}

fn checked_models<'a>(list: &Option<Array<'a, &'a str>>) -> Result<Option<Vec<String>>, Error> {
    const WHAT: &str = "p_models";
    let Some(list) = list else { return Ok(None) };
    let longest = crate::core::model::LONGEST + 1;
    let list = short_list(list, WHAT, gateway_key::MOST_PATTERNS, longest)?;
    match Models::read(Some(&list)) {
        Ok(_) => Ok(Some(list)),
        Err(error) => Err(Error::bad_request_hint(
            format!("{WHAT}: {error}"),
            "For example: '{openai/gpt-4o, anthropic/*, openrouter:*}'.",
        )),
    }
}

fn checked_tags<'a>(list: &Option<Array<'a, &'a str>>) -> Result<Option<Vec<String>>, Error> {
    const WHAT: &str = "p_tags";
    let Some(list) = list else { return Ok(None) };
    let list = short_list(list, WHAT, tags::MOST, tags::LONGEST)?;
    let checked = tags::checked(list).filter(|tags| !tags.is_empty()).map(Some);
    checked.ok_or_else(|| {
        let (most, longest) = (tags::MOST, tags::LONGEST);
        let what = format!("{WHAT} must be up to {most} texts of at most {longest} bytes each");
        Error::bad_request_hint(what, "NULL is none.")
    })
}

fn check_expiry(at: Option<TimestampWithTimeZone>) -> Result<(), Error> {
    let Some(at) = at else { return Ok(()) };
    let at = pg_sys::TimestampTz::from(at);
    // SAFETY: reads the clock.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    // 'infinity' is the largest number, '-infinity' the smallest.
    if at <= now || at > now + LONGEST_LIFE_DAYS * DAY {
        return Err(Error::bad_request_hint(
            "p_expires_at must be a time ahead, within a hundred years",
            "NULL: the key does not expire.",
        ));
    }
    Ok(())
}

fn check_limits(
    usd: &Option<AnyNumeric>,
    period: Option<&str>,
    requests_per_minute: Option<i64>,
    tokens_per_minute: Option<i64>,
) -> Result<(), Error> {
    if let Some(usd) = usd {
        let usd = usd.to_string();
        let amount = (usd.len() <= LONGEST_LIMIT).then(|| decimal(&usd)).flatten();
        let fits = |amount: Decimal| amount >= Decimal::ZERO && amount < Decimal::from(MOST_USD);
        if !amount.is_some_and(fits) {
            return Err(Error::bad_request("p_limit_usd must be a number from 0 up"));
        }
    }
    if period.and_then(Period::parse).is_none() {
        return Err(Error::bad_request("p_period must be hour, day, week, month or total"));
    }
    if requests_per_minute.into_iter().chain(tokens_per_minute).any(|limit| limit < 1) {
        return Err(Error::bad_request("a limit per minute must be at least 1"));
    }
    Ok(())
}

/// Whose keys the caller may change: their own, or everybody's.
fn changer(action: &str) -> Result<(Option<String>, bool), Error> {
    let is_admin = identity::is_admin(&installed()?);
    let user = identity::current_user_id();
    if user.is_none() && !is_admin {
        return Err(Error::Anonymous { action: action.to_owned() });
    }
    Ok((user, is_admin))
}

fn rotate(id: Option<pgrx::Uuid>, grace: Option<Interval>) -> Result<String, Error> {
    const ACTION: &str = "rotate a gateway key";
    writable::require(ACTION)?;
    gateways::require_own_configuration()?;
    let id = id.ok_or_else(|| Error::bad_request("p_id must not be NULL"))?;
    let grace = grace.ok_or_else(bad_grace)?;
    let (user, is_admin) = changer(ACTION)?;
    if user.is_some() {
        keeper(None, ACTION)?;
    }
    let is_anonymous = user.as_deref().is_some_and(identity::is_anonymous);
    let installed = installed()?;
    let key = make()?;
    // A month is 30 days here, and never much more when it is added.
    let allowed = installed.sql(
        "SELECT $1 BETWEEN '0'::interval AND '30 days'::interval
            AND (CASE WHEN $1 BETWEEN '0'::interval AND '30 days'::interval THEN now() + $1 END)
                BETWEEN now() AND now() + '31 days'::interval",
    );
    let sql = installed.sql(
        "UPDATE @extschema@.aggregator_gateway_keys AS k
         SET key_hash = $4,
             key_hint = $5,
             old_key_hash = CASE WHEN $6 > '0'::interval THEN k.key_hash END,
             old_valid_until = CASE WHEN $6 > '0'::interval THEN now() + $6 END,
             is_anonymous = CASE WHEN k.user_id = $2 THEN $7 ELSE k.is_anonymous END,
             rotated_at = now()
         WHERE k.id = $1 AND k.revoked_at IS NULL AND (k.user_id = $2 OR $3)
           AND (k.expires_at IS NULL OR k.expires_at > now())
         RETURNING k.id",
    );
    let rotated = as_owner_in_time(&installed, ACTION, || {
        Spi::connect_mut(|client| {
            let rows = client.select(allowed.as_str(), Some(1), &[grace.into()])?;
            if rows.first().get_one::<bool>()? != Some(true) {
                return Ok(None);
            }
            let arguments: [DatumWithOid<'_>; 7] = [
                id.into(),
                user.as_deref().into(),
                is_admin.into(),
                key.hash.0.as_slice().into(),
                key.hint.as_str().into(),
                grace.into(),
                is_anonymous.into(),
            ];
            client.update(sql.as_str(), Some(1), &arguments).map(|rows| Some(!rows.is_empty()))
        })
    })?;
    match rotated.ok_or_else(bad_grace)? {
        true => Ok(key.text.to_string()),
        false => Err(Error::UnknownGatewayKey { id: id.to_string() }),
    }
}

fn bad_grace() -> Error {
    Error::bad_request("p_grace must be an interval from 0 to 30 days")
}

fn revoke(id: Option<pgrx::Uuid>) -> Result<bool, Error> {
    const ACTION: &str = "revoke a gateway key";
    writable::require(ACTION)?;
    gateways::require_own_configuration()?;
    let id = id.ok_or_else(|| Error::bad_request("p_id must not be NULL"))?;
    let (user, is_admin) = changer(ACTION)?;
    let installed = installed()?;
    let sql = installed.sql(
        "UPDATE @extschema@.aggregator_gateway_keys AS k
         SET revoked_at = now(), old_key_hash = NULL, old_valid_until = NULL
         WHERE k.id = $1 AND k.revoked_at IS NULL AND (k.user_id = $2 OR $3)
         RETURNING k.id",
    );
    as_owner_in_time(&installed, ACTION, || {
        Spi::connect_mut(|client| {
            let arguments: [DatumWithOid<'_>; 3] =
                [id.into(), user.as_deref().into(), is_admin.into()];
            client.update(sql.as_str(), Some(1), &arguments).map(|rows| !rows.is_empty())
        })
    })
}
