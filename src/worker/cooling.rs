//! What cools down, between one life of the worker and the next.

use crate::core::health::{Cold, Health, Place};
use crate::fresh::{self, required};
use crate::gateway::task::HealthNote;
use crate::routing::{pg_uuid, uuid};
use crate::time::timestamp;
use crate::worker::process::{self, Failure};
use crate::worker::statements::Statements;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{self, Spi, SpiClient, SpiHeapTupleData};
use std::collections::HashMap;

/// What is cool still. What cannot be read is left out: it will show again.
pub fn load(statements: &Statements) -> Health {
    let rows = process::transaction(|_| {
        Spi::connect(|client| {
            let rows = client.select(&statements.cooling, None, &[])?;
            Ok(rows.filter_map(|row| read(&row).ok()).collect::<Vec<_>>())
        })
    });
    if let Err(failure) = &rows {
        pgrx::warning!("aggregator: cooldowns cannot be read: {failure:?}");
    }
    Health::restored(rows.into_iter().flatten())
}

fn read(row: &SpiHeapTupleData) -> spi::Result<(Place, Cold)> {
    let provider = fresh::uuid(row, 1)?;
    let key = row.get::<pgrx::Uuid>(2)?.map(|key| uuid(Some(key)));
    let place = match (key, row.get::<String>(3)?) {
        (Some(key), Some(model)) => Place::Model(provider, key, model),
        (Some(key), None) => Place::Key(provider, key),
        (None, _) => Place::Provider(provider),
    };
    let cold = Cold {
        until: row.get(4)?,
        key_print: required(row, 5)?,
        failures: required(row, 6)?,
        reason: required(row, 7)?,
    };
    Ok((place, cold))
}

/// Writes changes, in a transaction of their own, and leaves what could not be written now. What can
/// never be is dropped.
pub fn keep(statements: &Statements, notes: &mut HashMap<Place, HealthNote>) {
    match write_all(statements, notes.values()) {
        Ok(()) => notes.clear(),
        Err(Failure::Data(_)) => notes.retain(|_, note| {
            let written = write_all(statements, std::iter::once(&*note));
            if let Err(Failure::Data(reason)) = &written {
                pgrx::warning!("aggregator: cooldowns are not noted: {reason}");
            }
            !matches!(written, Ok(()) | Err(Failure::Data(_)))
        }),
        Err(_) => {}
    }
}

fn write_all<'a>(
    statements: &Statements,
    notes: impl Iterator<Item = &'a HealthNote>,
) -> Result<(), Failure> {
    process::transaction(|_| {
        Spi::connect_mut(|client| {
            for note in notes {
                write(client, statements, note)?;
            }
            Ok(())
        })
    })
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
