//! Where the extension lives in this database.

use pgrx::prelude::*;
use pgrx::spi::{self, Spi};
use std::cell::RefCell;

/// One installation: gone and made anew, it is another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    pub oid: pg_sys::Oid,
    pub owner: pg_sys::Oid,
    /// Quoted, ready for SQL text.
    pub schema: String,
    /// The type whose USAGE marks administrators.
    pub admin_type: pg_sys::Oid,
}

thread_local! {
    static KNOWN: RefCell<Option<Installed>> = const { RefCell::new(None) };
}

impl Installed {
    /// The installation as of now, in a transaction. `None`: there is none.
    pub fn find() -> Option<Self> {
        // SAFETY: a catalog look-up inside a transaction; the name is a constant C string.
        let oid = unsafe { pg_sys::get_extension_oid(c"aggregator".as_ptr(), true) };
        if oid == pg_sys::InvalidOid {
            return None;
        }
        let known = KNOWN.with_borrow(|known| known.clone().filter(|known| known.oid == oid));
        if known.is_some() {
            return known;
        }
        let found = Self::load(oid).ok().flatten();
        KNOWN.set(found.clone());
        found
    }

    fn load(oid: pg_sys::Oid) -> spi::Result<Option<Self>> {
        const SQL: &str = "
            SELECT e.extowner, pg_catalog.quote_ident(n.nspname), t.oid
            FROM pg_catalog.pg_extension AS e
            JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
            JOIN pg_catalog.pg_type AS t ON t.typnamespace OPERATOR(pg_catalog.=) n.oid
                AND t.typname OPERATOR(pg_catalog.=) 'aggregator_admin'
            WHERE e.oid OPERATOR(pg_catalog.=) $1";
        Spi::connect(|client| {
            let row = client.select(SQL, Some(1), &[oid.into()])?.first();
            let (owner, schema, admin_type) =
                row.get_three::<pg_sys::Oid, String, pg_sys::Oid>().unwrap_or((None, None, None));
            Ok(owner.zip(schema).zip(admin_type).map(|((owner, schema), admin_type)| Self {
                oid,
                owner,
                schema,
                admin_type,
            }))
        })
    }

    /// SQL text with the schema in the place of `@extschema@`.
    pub fn sql(&self, template: &str) -> String {
        template.replace("@extschema@", &self.schema)
    }
}
