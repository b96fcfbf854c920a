//! What cools down, between one life of the worker and the next.

use crate::core::health::{Cold, Health, Place};
use crate::gateway::ledger::HealthNote;
use crate::routing::{pg_uuid, uuid};
use crate::time::timestamp;
use crate::worker::process;
use crate::worker::statements::Statements;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{self, Spi, SpiClient};

/// What is cool still. Nothing, if it cannot be read: then it will show again.
pub fn load(statements: &Statements) -> Health {
    let rows = process::transaction(|_| {
        Spi::connect(|client| {
            client
                .select(&statements.cooling, None, &[])?
                .map(|row| {
                    let provider = uuid(row.get(1)?);
                    let key = row.get::<pgrx::Uuid>(2)?.map(|key| uuid(Some(key)));
                    let place = match (key, row.get::<String>(3)?) {
                        (Some(key), Some(model)) => Place::Model(provider, key, model),
                        (Some(key), None) => Place::Key(provider, key),
                        (None, _) => Place::Provider(provider),
                    };
                    let cold = Cold {
                        until: row.get(4)?,
                        key_print: row.get(5)?.unwrap_or_default(),
                        failures: row.get(6)?.unwrap_or_default(),
                        reason: row.get(7)?.unwrap_or_default(),
                    };
                    Ok((place, cold))
                })
                .collect::<spi::Result<Vec<_>>>()
        })
    });
    Health::restored(rows.unwrap_or_default())
}

/// Writes changes, in a transaction of their own. Says whether that was possible.
pub fn keep<'a>(
    statements: &Statements,
    notes: impl Iterator<Item = &'a HealthNote> + std::panic::UnwindSafe,
) -> bool {
    process::transaction(|_| {
        Spi::connect_mut(|client| {
            for note in notes {
                write(client, statements, note)?;
            }
            Ok(())
        })
    })
    .is_ok()
}

fn write(client: &mut SpiClient, statements: &Statements, note: &HealthNote) -> spi::Result<()> {
    let (place, cold) = &note.change;
    let (provider, key, model) = match place {
        Place::Provider(provider) => (provider, None, None),
        Place::Key(provider, key) => (provider, Some(key), None),
        Place::Model(provider, key, model) => (provider, Some(key), Some(model.as_str())),
    };
    let place: [DatumWithOid<'_>; 3] =
        [pg_uuid(*provider).into(), key.map(|key| pg_uuid(*key)).into(), model.into()];
    let Some(cold) = cold else {
        return client.update(&statements.warm, None, &place).map(|_| ());
    };
    let [provider, key, model] = place;
    let arguments: [DatumWithOid<'_>; 8] = [
        provider,
        key,
        model,
        note.user_id.as_deref().filter(|_| note.is_about_a_key()).into(),
        cold.until.map(timestamp).into(),
        cold.key_print.into(),
        cold.failures.into(),
        cold.reason.as_str().into(),
    ];
    client.update(&statements.cool, None, &arguments).map(|_| ())
}
