//! Writing what providers list, and the rows of requests that cost nothing.

use crate::columns;
use crate::gateway::task::{KeyChecked, UserModels};
use crate::protocol::{CatalogueFetch, Fetched};
use crate::route_cache;
use crate::routing::pg_uuid;
use crate::time::timestamp;
use crate::worker::process::{self, Failure};
use crate::worker::statements::Statements;
use pgrx::spi::{self, Spi};
use uuid::Uuid;

/// Stores the catalogue that everybody sees. Whether that came about.
pub fn store(statements: &Statements, fetch: &CatalogueFetch, fetched: &Fetched) -> bool {
    let stored = process::transaction(|installed| {
        Spi::connect_mut(|client| {
            let provider = [pg_uuid(fetch.provider.id).into(), fetched.is_inferred.into()];
            let arguments: Vec<_> =
                provider.into_iter().chain(columns::arguments(&fetched.models)).collect();
            client.update(&statements.store, None, &arguments)?;
            route_cache::changed(installed);
            Ok(())
        })
    });
    if let Err(failure) = &stored {
        pgrx::warning!("aggregator: models of '{}' not stored: {failure:?}", fetch.provider.name);
    }
    stored.is_ok()
}

/// Stores the list that a user's key gave. Likewise.
pub fn store_own(statements: &Statements, own: &UserModels) -> bool {
    let stored = process::transaction(|installed| {
        Spi::connect_mut(|client| {
            let whose = [own.user_id.as_str().into(), pg_uuid(own.provider_id).into()];
            let arguments: Vec<_> =
                whose.into_iter().chain(columns::arguments(&own.models)).collect();
            let stored = client.update(&statements.store_own, Some(1), &arguments)?.first();
            // A list as it was tells nobody's session to look anew.
            if stored.get_one::<bool>()? != Some(false) {
                route_cache::changed(installed);
            }
            Ok(())
        })
    });
    if let Err(failure) = &stored {
        pgrx::warning!("aggregator: models of a user's key not stored: {failure:?}");
    }
    stored.is_ok()
}

/// Writes the row of a key check or a sync.
pub fn note_check(statements: &Statements, checked: &KeyChecked) {
    let noted = process::transaction(|_| {
        Spi::connect_mut(|client| {
            let arguments = [
                timestamp(checked.created_at).into(),
                checked.kind.as_str().into(),
                checked.user_id.as_deref().into(),
                pg_uuid(checked.provider_id).into(),
                checked.outcome.as_str().into(),
                checked.error_code.as_deref().into(),
                checked.http_status.and_then(|status| i16::try_from(status).ok()).into(),
                i32::try_from(checked.latency_ms).unwrap_or(i32::MAX).into(),
            ];
            client.update(&statements.note_check, None, &arguments).map(|_| ())
        })
    });
    if let Err(failure) = noted {
        pgrx::warning!("aggregator: a key check is not noted: {failure:?}");
    }
}

/// When a user's keys were checked at a provider since then, oldest first.
pub fn recent_checks(
    statements: &Statements,
    user: &str,
    provider: Uuid,
    since: i64,
) -> Result<Vec<i64>, String> {
    let read = process::transaction(|_| {
        Spi::connect(|client| {
            let arguments = [user.into(), pg_uuid(provider).into(), timestamp(since).into()];
            client
                .select(&statements.recent_checks, None, &arguments)?
                .filter_map(|row| row.get::<i64>(1).transpose())
                .collect::<spi::Result<Vec<_>>>()
        })
    });
    read.map_err(|failure| match failure {
        Failure::NotInstalled => "the extension was dropped".to_owned(),
        Failure::Database(cause) | Failure::Data(cause) => cause.to_string(),
    })
}
