//! Running SQL as the extension's owner, for the few things that row-level security hides from
//! the caller on purpose.

use crate::error::Error;
use crate::installed::Installed;
use crate::session::raise::raise;
use crate::sqlstate;
use pgrx::pg_sys;

/// The installation, with an owner as whom something may run, or the error that there is none.
pub fn installed() -> Result<Installed, Error> {
    let installed = find()?;
    installed.owner()?;
    Ok(installed)
}

/// The installation, whoever owns it: in the middle of a script nobody may yet.
pub fn find() -> Result<Installed, Error> {
    Installed::find().ok_or_else(|| {
        Error::bad_request_hint(
            "the extension aggregator is not installed in this database",
            "CREATE EXTENSION aggregator;",
        )
    })
}

/// Runs `work` as the extension's owner, with a search_path that no caller can bend. Every
/// statement inside must name the user whose rows it means. Whatever else it may set off (a trigger
/// that a superuser has put on a table) can neither become another role nor leave something behind in
/// the session.
pub fn as_owner<T>(installed: &Installed, work: impl FnOnce() -> T) -> T {
    // `installed()` has looked already; the role was changed since.
    let owner = installed.owner().unwrap_or_else(|error| raise(error));
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: the pattern of a security definer function in fmgr.c: the user, the context and a
    // GUC nesting level are saved, and put back after the work. If the work raises, the abort of
    // the (sub)transaction puts all three back, and this frame only unwinds.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context);
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            c"search_path".as_ptr(),
            c"pg_catalog, pg_temp".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        pg_sys::SetUserIdAndSecContext(
            owner,
            context
                | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32
                | pg_sys::SECURITY_RESTRICTED_OPERATION as i32,
        );
        let result = sqlstate::keeping(work);
        pg_sys::SetUserIdAndSecContext(user, context);
        pg_sys::AtEOXact_GUC(false, level);
        result
    }
}
