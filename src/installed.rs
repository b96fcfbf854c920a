//! Where the extension lives in this database, in which version, and as whom its privileged code runs.

use crate::error::Error;
use crate::route_cache;
use pgrx::prelude::*;
use pgrx::spi::{self, Spi, SpiClient};
use std::cell::RefCell;
use std::ffi::CStr;

/// The role that everything of the extension belongs to. No superuser, and nobody can log in as it.
const OWNER: &CStr = c"aggregator_owner";

/// One installation: gone and made anew, it is another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    pub oid: pg_sys::Oid,
    /// The schema's.
    pub namespace: pg_sys::Oid,
    /// Quoted, ready for SQL text.
    pub schema: String,
    /// The type whose USAGE marks administrators.
    pub admin_type: pg_sys::Oid,
    /// Whether the tables belong to the role as which privileged code runs. Before 0.3.0 they were a superuser's.
    is_handed_over: bool,
    /// The type whose USAGE marks logins whose claims are believed. Invalid: this version has none.
    pub authenticator_type: pg_sys::Oid,
}

thread_local! {
    /// And of which generation: whoever drops the extension or moves it to another schema changes its tables,
    /// and says so.
    static KNOWN: RefCell<Option<(Installed, u64)>> = const { RefCell::new(None) };
}

impl Installed {
    /// The role as which privileged code runs. Asked for each time, because a role can be changed: one that
    /// is missing, or has become a superuser, runs nothing.
    pub fn owner(&self) -> Result<pg_sys::Oid, Error> {
        let unusable = |what: &str| Error::GatewayDown {
            reason: format!("the role aggregator_owner {what}"),
            hint: "ALTER EXTENSION aggregator UPDATE; or ALTER ROLE aggregator_owner NOSUPERUSER;"
                .to_owned(),
        };
        if !self.is_handed_over {
            let version = Spi::connect(|client| self.version(client)).ok();
            if let Some(version) = version.filter(|version| version != LIBRARY) {
                return Err(wrong_version(&version));
            }
            return Err(unusable("does not own the extension's tables"));
        }
        // SAFETY: look-ups in a transaction; the name is a constant C string.
        let (role, is_superuser) = unsafe {
            let role = pg_sys::get_role_oid(OWNER.as_ptr(), true);
            (role, role != pg_sys::InvalidOid && pg_sys::superuser_arg(role))
        };
        match role {
            pg_sys::InvalidOid => Err(unusable("does not exist")),
            _ if is_superuser => Err(unusable("is a superuser, and nothing runs as one")),
            role => Ok(role),
        }
    }

    /// The installation as of now, in a transaction. `None`: there is none.
    pub fn find() -> Option<Self> {
        let generation = route_cache::generation();
        let known = KNOWN.with_borrow(|known| known.clone());
        if let Some((known, of)) = &known
            && *of == generation
        {
            return Some(known.clone());
        }
        // SAFETY: a catalog look-up inside a transaction; the name is a constant C string.
        let oid = unsafe { pg_sys::get_extension_oid(c"aggregator".as_ptr(), true) };
        if oid == pg_sys::InvalidOid {
            return None;
        }
        let found = Self::load(oid).ok().flatten()?;
        // An upgrade hands it over under the same oid. What cannot be watched is not kept.
        let is_kept = found.is_handed_over && route_cache::watch(&found);
        KNOWN.set(is_kept.then(|| (found.clone(), generation)));
        Some(found)
    }

    fn load(oid: pg_sys::Oid) -> spi::Result<Option<Self>> {
        const SQL: &str = "
            SELECT pg_catalog.quote_ident(n.nspname), t.oid,
                t.typowner OPERATOR(pg_catalog.=) pg_catalog.to_regrole('aggregator_owner')::pg_catalog.oid,
                a.oid, n.oid
            FROM pg_catalog.pg_extension AS e
            JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
            JOIN pg_catalog.pg_type AS t ON t.typnamespace OPERATOR(pg_catalog.=) n.oid
                AND t.typname OPERATOR(pg_catalog.=) 'aggregator_admin'
            LEFT JOIN pg_catalog.pg_type AS a ON a.typnamespace OPERATOR(pg_catalog.=) n.oid
                AND a.typname OPERATOR(pg_catalog.=) 'aggregator_authenticator'
            WHERE e.oid OPERATOR(pg_catalog.=) $1";
        Spi::connect(|client| {
            let row = client.select(SQL, Some(1), &[oid.into()])?.first();
            let (schema, admin_type, is_handed_over) =
                row.get_three::<String, pg_sys::Oid, bool>().unwrap_or((None, None, None));
            let is_handed_over = is_handed_over == Some(true);
            let authenticator_type = row.get::<pg_sys::Oid>(4).unwrap_or(None);
            let namespace = row.get::<pg_sys::Oid>(5).unwrap_or(None);
            let found = schema.zip(admin_type).zip(namespace);
            Ok(found.map(|((schema, admin_type), namespace)| Self {
                oid,
                namespace,
                schema,
                admin_type,
                is_handed_over,
                authenticator_type: authenticator_type.unwrap_or(pg_sys::InvalidOid),
            }))
        })
    }

    /// SQL text with the schema in the place of `@extschema@`.
    pub fn sql(&self, template: &str) -> String {
        template.replace("@extschema@", &self.schema)
    }

    /// The version that the database has. Not kept: ALTER EXTENSION changes it under the same oid.
    pub fn version(&self, client: &SpiClient<'_>) -> spi::Result<String> {
        let version = client.select(VERSION, Some(1), &[self.oid.into()])?.first().get_one()?;
        Ok(version.unwrap_or_default())
    }
}

/// The version of the extension $1.
pub const VERSION: &str =
    "SELECT extversion FROM pg_catalog.pg_extension WHERE oid OPERATOR(pg_catalog.=) $1";
/// The version of this library.
pub const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// Whether the database has a later version than this library.
pub fn is_library_older(version: &str) -> bool {
    let parts = |version: &str| -> Vec<u64> {
        version.split('.').map(|part| part.parse().unwrap_or_default()).collect()
    };
    parts(LIBRARY) < parts(version)
}

/// The error where the database has another version than this library: what the library needs may be
/// missing there.
pub fn wrong_version(version: &str) -> Error {
    let hint = if is_library_older(version) {
        "Start a new session. Where the library is preloaded, restart the server."
    } else {
        "ALTER EXTENSION aggregator UPDATE;"
    };
    Error::GatewayDown {
        reason: format!(
            "the library is version {LIBRARY}, the extension in this database version {version}"
        ),
        hint: hint.to_owned(),
    }
}
