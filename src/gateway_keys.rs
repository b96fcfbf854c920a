//! Gateway keys as the database has them: whose they are and what they may, as of now.

use crate::core::front::gateway_key::{GatewayKey, KeyHash, Models};
use crate::core::tags;
use crate::database::{self, failed};
use crate::error::Error;
use crate::fresh::{self, required};
use crate::installed::Installed;
use crate::{routing, settings};
use pgrx::spi::{self, SpiClient, SpiHeapTupleData};
use std::sync::LazyLock;
use uuid::Uuid;

const ACTION: &str = "read the gateway key";
static FIND: LazyLock<String> = LazyLock::new(|| {
    include_str!("../sql/statements/gateway_key.sql").replace("{SET}", database::SET)
});

/// By what a key is looked for.
#[derive(Debug, Clone, Copy)]
pub enum By {
    /// What a program shows.
    Hash(KeyHash),
    /// What a call came with, that has waited since.
    Id(Uuid),
}

/// The key, if it passes now. Changes of keys are told as those of routes are (`route_cache`), so that an answer
/// may be kept until then, or until its time is over.
pub fn find(
    client: &SpiClient<'_>,
    installed: &Installed,
    by: By,
) -> Result<Option<GatewayKey>, Error> {
    let rows = || -> spi::Result<Vec<_>> {
        let plan = routing::plan(client, installed, FIND.as_str(), 2)?;
        let (hash, id) = match by {
            By::Hash(hash) => (Some(hex(&hash.0)), None),
            By::Id(id) => (None, Some(id.to_string())),
        };
        fresh::select(client, &plan, &[hash.into(), id.into()])?.iter().map(read).collect()
    };
    let mut rows = rows().map_err(failed(ACTION))?.into_iter();
    // Two rows with one hash can only have been copied: which of them is meant, nobody knows.
    match (rows.next(), rows.next()) {
        (None, _) => Ok(None),
        (Some(row), None) => row.key().map(Some),
        (Some(_), Some(_)) => Err(database::error(ACTION, "two rows have it", None)),
    }
}

/// Refuses a call that came with a key that does not pass any more, or may not.
pub fn require(
    client: &SpiClient<'_>,
    installed: &Installed,
    id: Option<Uuid>,
) -> Result<Option<GatewayKey>, Error> {
    let Some(id) = id else { return Ok(None) };
    let key = find(client, installed, By::Id(id))?.ok_or(Error::NoGatewayKey)?;
    settings::anonymous_users().check_key(&key)?;
    Ok(Some(key))
}

struct Row {
    id: Uuid,
    user_id: String,
    models: Option<Vec<Option<String>>>,
    tags: Option<Vec<Option<String>>>,
    until: Option<i64>,
    is_anonymous: bool,
    role: Option<String>,
}

fn read(row: &SpiHeapTupleData<'_>) -> spi::Result<Row> {
    Ok(Row {
        id: fresh::uuid(row, 1)?,
        user_id: required(row, 2)?,
        models: row.get(3)?,
        tags: row.get(4)?,
        until: row.get(5)?,
        is_anonymous: required(row, 6)?,
        role: row.get(7)?,
    })
}

impl Row {
    /// What cannot be read opens nothing.
    fn key(self) -> Result<GatewayKey, Error> {
        let unreadable = |what: &str| database::error(ACTION, what, None);
        let whole = |list: Vec<Option<String>>| list.into_iter().collect::<Option<Vec<_>>>();
        let models = match self.models {
            None => None,
            Some(list) => Some(whole(list).ok_or_else(|| unreadable("its models hold NULL"))?),
        };
        let models =
            Models::read(models.as_deref()).map_err(|error| unreadable(&error.to_string()))?;
        let tags = whole(self.tags.unwrap_or_default()).and_then(tags::checked);
        let tags = tags.ok_or_else(|| unreadable("its tags are none"))?;
        let Self { id, user_id, until, is_anonymous, role, .. } = self;
        Ok(GatewayKey { id, user_id, models, tags, until, is_anonymous, role })
    }
}

/// As `decode(…, 'hex')` takes them.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
