//! Saving, checking, removing and rotating provider keys.

use crate::core::catalogue::Dialect;
use crate::core::refusal::Verdict;
use crate::core::secret::{self, Binding, SecretError};
use crate::database::{failed, no_row};
use crate::error::Error;
use crate::installed::Installed;
use crate::keyring;
use crate::protocol::{CatalogueFetch, FirstSync, KeyCheck, Provider, Reply, Request, SealedKey};
use crate::routing::pg_uuid;
use crate::session::locks::as_owner_in_time;
use crate::session::owner::{as_owner, installed};
use crate::session::provider::{self, ProviderRow};
use crate::session::raise::{hiding_statement, or_raise};
use crate::session::{gateways, identity, link, writable};
use crate::settings;
use pgrx::prelude::*;
use pgrx::spi::{self, Spi};

const LONGEST_KEY: usize = 4096;

/// Saves the user's key for a provider, sealed; with `p_validate` only if the provider takes it.
#[pg_extern]
fn save_provider_key(
    p_provider: Option<&str>,
    p_api_key: Option<&str>,
    p_user_id: default!(Option<&str>, "NULL"),
    p_validate: default!(Option<bool>, "true"),
) -> pgrx::Uuid {
    hiding_statement(|| {
        let saved = identity::acting_user(p_user_id, "save a key")
            .and_then(|user| save(p_provider, p_api_key, Some(user), p_validate.unwrap_or(true)));
        or_raise(saved)
    })
}

/// Saves a key that every user may spend, after their own, and nobody may read.
#[pg_extern]
fn save_platform_key(p_provider: Option<&str>, p_api_key: Option<&str>) -> pgrx::Uuid {
    hiding_statement(|| {
        let saved = identity::require_admin("save a platform key")
            .and_then(|()| save(p_provider, p_api_key, None, false));
        or_raise(saved)
    })
}

/// Whether the provider takes a key: the one given, or with NULL the caller's saved one.
#[pg_extern]
fn validate_provider_key(
    p_provider: Option<&str>,
    p_api_key: default!(Option<&str>, "NULL"),
) -> bool {
    hiding_statement(|| {
        let verdict = validate(p_provider, p_api_key);
        or_raise(verdict.map(|refused| refused.is_none()))
    })
}

/// The same, and where it does not, what the provider says.
#[pg_extern]
fn check_provider_key(
    p_provider: Option<&str>,
    p_api_key: default!(Option<&str>, "NULL"),
) -> TableIterator<'static, (name!(is_valid, bool), name!(reason, Option<String>))> {
    let refused = hiding_statement(|| or_raise(validate(p_provider, p_api_key)));
    TableIterator::once((refused.is_none(), refused.map(|error| error.in_full())))
}

/// Removes the user's key for a provider; false if there was none.
#[pg_extern]
fn remove_provider_key(
    p_provider: Option<&str>,
    p_user_id: default!(Option<&str>, "NULL"),
) -> bool {
    let removed = identity::acting_user(p_user_id, "remove a key")
        .and_then(|user| remove(p_provider, Some(user)));
    or_raise(removed)
}

/// Removes the platform's key for a provider; false if there was none.
#[pg_extern]
fn remove_platform_key(p_provider: Option<&str>) -> bool {
    let removed =
        identity::require_admin("remove a platform key").and_then(|()| remove(p_provider, None));
    or_raise(removed)
}

fn save(
    provider: Option<&str>,
    key: Option<&str>,
    user: Option<String>,
    validate: bool,
) -> Result<pgrx::Uuid, Error> {
    writable::require("save a key")?;
    gateways::require_own_configuration()?;
    let installed = installed()?;
    let row = provider::find(&installed, provider)?;
    let key = checked(key)?;
    let sealed = seal(&installed, &row.provider, user.clone(), key)?;
    if validate && let Some(refused) = refusal_of(&row, sealed.clone())? {
        return Err(refused);
    }
    let sql = installed.sql(
        "INSERT INTO @extschema@.user_api_providers AS k
             (user_id, provider_id, api_key_encrypted, key_hint, last_validated_at)
         VALUES ($1, $2, $3, $4, CASE WHEN $5 THEN now() END)
         ON CONFLICT (user_id, provider_id) DO UPDATE
         SET api_key_encrypted = excluded.api_key_encrypted,
             key_hint = excluded.key_hint,
             last_validated_at = excluded.last_validated_at,
             is_active = true
         RETURNING k.id",
    );
    let id = as_owner_in_time(&installed, "save the key", || {
        Spi::connect_mut(|client| {
            let arguments = [
                user.as_deref().into(),
                pg_uuid(row.provider.id).into(),
                sealed.envelope.as_slice().into(),
                secret::hint(key).into(),
                validate.into(),
            ];
            client.update(sql.as_str(), Some(1), &arguments)?.first().get_one::<pgrx::Uuid>()
        })
    });
    let id = id?.ok_or_else(|| no_row("save the key"))?;
    sync_soon(&installed, row, sealed)?;
    Ok(id)
}

/// Has the models of a provider fetched that was never synced; nobody waits for it. The key is good whatever
/// becomes of this: the list can still be synced by hand.
fn sync_soon(installed: &Installed, row: ProviderRow, key: SealedKey) -> Result<(), Error> {
    if row.is_synced {
        return Ok(());
    }
    let sync = first_sync(installed, row, key)?;
    let _ = link::exchange(&Request::SyncSoon(Box::new(sync)));
    Ok(())
}

/// What is fetched of a provider for whom this key is.
pub fn first_sync(
    installed: &Installed,
    row: ProviderRow,
    key: SealedKey,
) -> Result<FirstSync, Error> {
    let (platform_key, own_key) = match &key.binding.user_id {
        None => (Some(key), None),
        Some(_) => (saved_key(installed, &row.provider, None)?, Some(key)),
    };
    let fetch = CatalogueFetch {
        models_url: row.models_url,
        dialect: Dialect::parse(&row.catalogue_format),
        price_unit: row.price_unit,
        provider: row.provider,
        platform_key,
    };
    Ok(FirstSync { fetch, own_key })
}

/// A key that a header can carry.
fn checked(key: Option<&str>) -> Result<&str, Error> {
    let key = key.map(str::trim).filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| Error::bad_request("the key must not be empty"))?;
    if key.len() > LONGEST_KEY || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::bad_request(
            "the key must be printable ASCII without spaces, at most 4096 bytes",
        ));
    }
    Ok(key)
}

/// Seals a key with the newest master key of a rotation that is committed. The keyring is created with the
/// first key that is ever saved; where there are sealed keys already, a missing ring is an error, never a new one.
fn seal(
    installed: &Installed,
    provider: &Provider,
    user: Option<String>,
    key: &str,
) -> Result<SealedKey, Error> {
    let file = settings::keyring_file();
    let ring = match keyring::load(&file)? {
        Some(ring) if !ring.keys().is_empty() => ring,
        _ => match any_envelope(installed)? {
            Some(envelope) => {
                return Err(Error::MissingMasterKey { key_id: secret::key_id_of(&envelope) });
            }
            None => keyring::load_or_create(&file)?,
        },
    };
    let seal = || -> Result<SealedKey, SecretError> {
        let binding = Binding::new(user, provider.id, &provider.base_url)?;
        let envelope = ring.seal(key.as_bytes(), &binding)?;
        Ok(SealedKey { binding, envelope })
    };
    seal().map_err(|error| Error::from_secret(error, &provider.name))
}

fn any_envelope(installed: &Installed) -> Result<Option<Vec<u8>>, Error> {
    let sql = installed
        .sql("SELECT k.api_key_encrypted FROM @extschema@.user_api_providers AS k LIMIT 1");
    as_owner(installed, || {
        Spi::connect(|client| {
            let rows = client.select(sql.as_str(), Some(1), &[])?;
            rows.map(|row| row.get::<Vec<u8>>(1)).collect::<spi::Result<Vec<_>>>()
        })
    })
    .map(|rows| rows.into_iter().flatten().next())
    .map_err(failed("look for keys"))
}

fn check(row: &ProviderRow, key: SealedKey) -> Result<Verdict, Error> {
    let check = KeyCheck { provider: row.provider.clone(), url: row.key_check_url.clone(), key };
    match link::exchange(&Request::CheckKey(Box::new(check)))? {
        Reply::CheckKey(result) => result,
        _ => Err(link::unexpected()),
    }
}

/// `None`: the provider takes the key. Else that it refuses it, in its words.
fn validate(provider: Option<&str>, key: Option<&str>) -> Result<Option<Error>, Error> {
    writable::require("validate a key")?;
    let user = identity::acting_user(None, "validate a key")?;
    let installed = installed()?;
    let row = provider::find(&installed, provider)?;
    let Some(key) = key else {
        return validate_saved(&installed, row, user);
    };
    let sealed = seal(&installed, &row.provider, Some(user), checked(Some(key))?)?;
    refusal_of(&row, sealed)
}

fn refusal_of(row: &ProviderRow, key: SealedKey) -> Result<Option<Error>, Error> {
    Ok(match check(row, key)? {
        Verdict::Valid => None,
        Verdict::Refused(refusal) => {
            Some(Error::KeyRefused { provider: row.provider.name.clone(), refusal })
        }
    })
}

fn validate_saved(
    installed: &Installed,
    row: ProviderRow,
    user: String,
) -> Result<Option<Error>, Error> {
    let no_key = || Error::NoKey { provider: row.provider.name.clone() };
    let sealed = saved_key(installed, &row.provider, Some(&user))?.ok_or_else(no_key)?;
    if let Some(refused) = refusal_of(&row, sealed.clone())? {
        return Ok(Some(refused));
    }
    let sql = installed.sql(
        "UPDATE @extschema@.user_api_providers SET last_validated_at = now()
         WHERE user_id = $1 AND provider_id = $2",
    );
    as_owner_in_time(installed, "note that the key is valid", || {
        Spi::connect_mut(|client| {
            let arguments = [user.as_str().into(), pg_uuid(row.provider.id).into()];
            client.update(sql.as_str(), None, &arguments).map(|_| ())
        })
    })?;
    // A list of one's own may have changed.
    sync_soon(installed, row, sealed)?;
    Ok(None)
}

/// The active key of a user (`None`: the platform's) for a provider.
pub fn saved_key(
    installed: &Installed,
    provider: &Provider,
    user: Option<&str>,
) -> Result<Option<SealedKey>, Error> {
    let sql = "SELECT k.user_id, k.api_key_encrypted
               FROM @extschema@.user_api_providers AS k
               WHERE k.provider_id = $1 AND k.is_active AND k.user_id IS NOT DISTINCT FROM $2";
    one_key(installed, provider, sql, &[pg_uuid(provider.id).into(), user.into()])
}

fn one_key(
    installed: &Installed,
    provider: &Provider,
    sql: &str,
    arguments: &[pgrx::datum::DatumWithOid<'_>],
) -> Result<Option<SealedKey>, Error> {
    let sql = installed.sql(sql);
    let rows = as_owner(installed, || {
        Spi::connect(|client| {
            let rows = client.select(sql.as_str(), Some(1), arguments)?;
            rows.map(|row| Ok((row.get::<String>(1)?, row.get::<Vec<u8>>(2)?.unwrap_or_default())))
                .collect::<spi::Result<Vec<_>>>()
        })
    });
    let Some((user, envelope)) = rows.map_err(failed("read the key"))?.into_iter().next() else {
        return Ok(None);
    };
    let binding = Binding::new(user, provider.id, &provider.base_url)
        .map_err(|error| Error::from_secret(error, &provider.name))?;
    Ok(Some(SealedKey { binding, envelope }))
}

fn remove(provider: Option<&str>, user: Option<String>) -> Result<bool, Error> {
    writable::require("remove a key")?;
    gateways::require_own_configuration()?;
    let installed = installed()?;
    let wanted = provider.ok_or_else(|| Error::bad_request("a provider is needed"))?;
    // A provider that is not active any more still gives its keys back.
    let sql = installed.sql(
        "DELETE FROM @extschema@.user_api_providers
         WHERE provider_id = @extschema@.aggregator_provider_id($1)
           AND user_id IS NOT DISTINCT FROM $2
         RETURNING id",
    );
    let models = installed.sql(
        "DELETE FROM @extschema@.aggregator_user_models AS m
         WHERE m.provider_id = @extschema@.aggregator_provider_id($1) AND m.user_id = $2",
    );
    as_owner_in_time(&installed, "remove the key", || {
        Spi::connect_mut(|client| {
            let arguments = [wanted.into(), user.as_deref().into()];
            // What the key had shown goes with it.
            client.update(models.as_str(), None, &arguments)?;
            client.update(sql.as_str(), None, &arguments).map(|rows| !rows.is_empty())
        })
    })
}
