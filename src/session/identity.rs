//! Who is asking, and for whom they may ask.

use crate::core::identity::{self, Caller};
use crate::database::{failed, no_row};
use crate::error::Error;
use crate::gateway::AnonymousUsers;
use crate::installed::Installed;
use crate::protocol::Whose;
use crate::session::json::JsonText;
use crate::session::owner::{as_owner, installed};
use crate::session::raise::or_raise;
use crate::{on_behalf, settings};
use pgrx::direct_function_call;
use pgrx::prelude::*;
use pgrx::spi::Spi;
use std::ffi::{CStr, CString};

/// The user id of the caller, or NULL for one who may not spend.
#[pg_extern(stable, parallel_safe)]
fn aggregator_user_id() -> Option<String> {
    current_user_id()
}

/// Whether the effective role may act for others: a superuser, or a role that was granted 'admin'.
#[pg_extern(stable, parallel_safe)]
fn aggregator_is_admin() -> bool {
    Installed::find().is_some_and(|installed| is_admin(&installed))
}

/// The user id for which a call with this `p_user_id` acts.
#[pg_extern(stable)]
fn aggregator_acting_user(p_user_id: default!(Option<&str>, "NULL")) -> Option<String> {
    let id = acting_user(p_user_id, "act for another user");
    Some(or_raise(id))
}

/// Providers that the user can spend at: with their own active key, or the platform's.
#[pg_extern(stable)]
fn aggregator_spendable_providers(p_user_id: default!(Option<&str>, "NULL")) -> Vec<pgrx::Uuid> {
    let providers = spendable_providers(p_user_id);
    or_raise(providers)
}

fn spendable_providers(p_user_id: Option<&str>) -> Result<Vec<pgrx::Uuid>, Error> {
    let whose = acting(p_user_id, "see the models of another user")?;
    let installed = installed()?;
    let sql = installed.sql(
        "SELECT DISTINCT k.provider_id FROM @extschema@.user_api_providers AS k
         WHERE k.is_active AND (k.user_id = $1 OR k.user_id IS NULL AND NOT $2)",
    );
    as_owner(&installed, || {
        Spi::connect(|client| {
            let arguments = [whose.user.as_str().into(), whose.own_keys_only.into()];
            let rows = client.select(sql.as_str(), None, &arguments)?;
            rows.filter_map(|row| row.get::<pgrx::Uuid>(1).transpose()).collect::<spi::Result<_>>()
        })
    })
    .map_err(failed("read the keys' providers"))
}

/// Of the providers at which only the platform's key pays for the user: the models that it serves, where
/// it has a list of them, by the provider's id.
#[pg_extern(stable)]
fn aggregator_platform_models(p_user_id: default!(Option<&str>, "NULL")) -> JsonText {
    let lists = platform_models(p_user_id);
    JsonText(or_raise(lists))
}

fn platform_models(p_user_id: Option<&str>) -> Result<String, Error> {
    const ACTION: &str = "read the platform keys' models";
    let user = acting_user(p_user_id, "see the models of another user")?;
    let installed = installed()?;
    let sql = installed.sql(
        "SELECT coalesce(jsonb_object_agg(k.provider_id, CASE
                WHEN jsonb_typeof(k.settings -> 'models') = 'array' THEN k.settings -> 'models'
                ELSE '[]'::jsonb END), '{}'::jsonb)::text
         FROM @extschema@.user_api_providers AS k
         WHERE k.is_active AND k.user_id IS NULL AND k.settings ? 'models'
           AND NOT EXISTS (
               SELECT FROM @extschema@.user_api_providers AS own
               WHERE own.provider_id = k.provider_id AND own.is_active AND own.user_id = $1)",
    );
    as_owner(&installed, || {
        Spi::connect(|client| {
            client
                .select(sql.as_str(), Some(1), &[user.as_str().into()])?
                .first()
                .get_one::<String>()
        })
    })
    .map_err(failed(ACTION))?
    .ok_or_else(|| no_row(ACTION))
}

/// The user id of the caller.
pub fn current_user_id() -> Option<String> {
    about_caller(identity::user_id)
}

/// The role that has logged in to this session.
pub fn login() -> pg_sys::Oid {
    // SAFETY: a look at a variable of the session.
    unsafe { pg_sys::GetSessionUserId() }
}

/// What is asked about the caller.
fn about_caller<T>(ask: impl FnOnce(Caller<'_>) -> T) -> T {
    // SAFETY: plain look-ups in a backend; the claims are copied before anything can change them.
    let (login_oid, is_superuser, outer_role, claims) = unsafe {
        let login = login();
        let claims = pg_sys::GetConfigOption(c"request.jwt.claims".as_ptr(), true, false);
        let claims =
            (!claims.is_null()).then(|| CStr::from_ptr(claims).to_string_lossy().into_owned());
        (login, pg_sys::superuser_arg(login), pg_sys::GetOuterUserId(), claims)
    };
    let forced = settings::user_id();
    let principal = on_behalf::principal();
    ask(Caller {
        vouched_for: principal.as_ref().map(|known| (known.user_id.as_str(), known.is_anonymous)),
        forced_user_id: forced.as_deref(),
        jwt_claims: claims.as_deref(),
        is_authenticator: is_authenticator(login_oid, &role_name(login_oid)),
        is_superuser,
        outer_role: &role_name(outer_role),
    })
}

/// Whether the claims of a login are believed: because the administrator names it, or, where nobody is
/// named, because it has the mark.
fn is_authenticator(login: pg_sys::Oid, name: &str) -> bool {
    let named = settings::trusted_authenticators();
    if !named.trim().is_empty() {
        return identity::is_listed(&named, name);
    }
    Installed::find().is_some_and(|known| is_granted(known.authenticator_type, login))
}

/// Whether a role has USAGE on a type: the role itself, not one that it is a member of, and not for
/// being a superuser.
fn is_granted(of_type: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: look-ups in the catalog inside a transaction. The tuple is held until it is released; the
    // list of roles that an access list names is palloc'd, as is the list itself where it was toasted.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::TYPEOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, of_type.into());
        if tuple.is_null() {
            return false;
        }
        let mut is_null = false;
        let attribute = pg_sys::Anum_pg_type_typacl as pg_sys::AttrNumber;
        let acl = pg_sys::SysCacheGetAttr(cache, tuple, attribute, &raw mut is_null);
        let mut is_granted = false;
        if !is_null {
            let acl: *const pg_sys::Acl = pg_sys::pg_detoast_datum(acl.cast_mut_ptr()).cast();
            let mut roles = std::ptr::null_mut();
            // Grantees and grantors: those are the owner, as whom nobody logs in, and superusers.
            let count = pg_sys::aclmembers(acl, &raw mut roles);
            is_granted = (0..count as usize).any(|index| *roles.add(index) == role);
        }
        pg_sys::ReleaseSysCache(tuple);
        is_granted
    }
}

/// The role as which the caller acts, and its name: the one that makes up the user id, and not that of a function
/// which runs with its owner's rights.
pub fn acting_role() -> (pg_sys::Oid, String) {
    // SAFETY: look-ups in a backend; a name that holds a NUL is nobody's.
    unsafe {
        let role = match on_behalf::principal().map(|known| CString::new(known.role)) {
            None => pg_sys::GetOuterUserId(),
            Some(Ok(name)) => pg_sys::get_role_oid(name.as_ptr(), true),
            Some(Err(_)) => pg_sys::InvalidOid,
        };
        (role, role_name(role))
    }
}

/// The user for whom a function with an argument `p_user_id` acts. Another user than the caller
/// is only for administrators.
pub fn acting_user(p_user_id: Option<&str>, action: &str) -> Result<String, Error> {
    let own = current_user_id();
    match p_user_id {
        None => own.ok_or_else(|| Error::Anonymous { action: action.to_owned() }),
        Some(id) => {
            let id = checked_id(id)?;
            if own.as_deref() != Some(id) {
                require_admin(action)?;
            }
            Ok(id.to_owned())
        }
    }
}

/// For whom a call with this `p_user_id` acts, and with whose keys. One who has not signed in, and acts for
/// themselves, may do what `aggregator.anonymous_users` says.
pub fn acting(p_user_id: Option<&str>, action: &str) -> Result<Whose, Error> {
    let whose = Whose::of(acting_user(p_user_id, action)?, None);
    if !is_anonymous(&whose.user) {
        return Ok(whose);
    }
    match settings::anonymous_users() {
        AnonymousUsers::Allow => Ok(whose),
        AnonymousUsers::OwnKeys => Ok(Whose { own_keys_only: true, ..whose }),
        AnonymousUsers::Refuse => Err(Error::NotSignedIn { action: action.to_owned() }),
    }
}

/// Whether this user is the caller, and has not signed in.
pub fn is_anonymous(user: &str) -> bool {
    about_caller(identity::is_anonymous) && current_user_id().as_deref() == Some(user)
}

/// The id, if it can be a user's.
pub fn checked_id(id: &str) -> Result<&str, Error> {
    identity::checked_id(id).map_err(|problem| {
        Error::bad_request_hint(
            format!("p_user_id {problem}"),
            "An id has at most 255 bytes, and no control characters or invisible ones.",
        )
    })
}

/// Raises PT400 unless this can be a user's id; NULL is none, and passes.
#[pg_extern(immutable, parallel_safe)]
fn aggregator_check_user_id(p_user_id: Option<&str>) {
    let checked = p_user_id.map_or(Ok(""), checked_id);
    or_raise(checked);
}

/// Refuses all but administrators, by the role that is in effect, not by function ACLs alone.
pub fn require_admin(action: &str) -> Result<(), Error> {
    if is_admin(&installed()?) {
        return Ok(());
    }
    Err(Error::Forbidden { role: effective_role(), action: action.to_owned() })
}

/// Refuses all but superusers.
pub fn require_superuser(action: &str) -> Result<(), Error> {
    // SAFETY: a look-up in a backend.
    if unsafe { pg_sys::superuser() } {
        return Ok(());
    }
    Err(Error::Forbidden { role: effective_role(), action: action.to_owned() })
}

/// Whether the effective role may act for others.
pub fn is_admin(installed: &Installed) -> bool {
    // SAFETY: PostgreSQL's own function of two arguments, both given.
    let answer = unsafe {
        direct_function_call::<bool>(
            pg_sys::has_type_privilege_id,
            &[installed.admin_type.into_datum(), "USAGE".into_datum()],
        )
    };
    answer.unwrap_or(false)
}

/// Whether a role itself was granted 'admin'.
pub fn is_marked_admin(installed: &Installed, role: pg_sys::Oid) -> bool {
    is_granted(installed.admin_type, role)
}

/// Whether there is a role of this oid.
pub fn exists(role: pg_sys::Oid) -> bool {
    // SAFETY: a look-up in the catalog inside a transaction.
    unsafe { !pg_sys::GetUserNameFromId(role, true).is_null() }
}

/// The role whose rights are in effect.
pub fn effective_role() -> String {
    // SAFETY: a look-up in a backend.
    role_name(unsafe { pg_sys::GetUserId() })
}

fn role_name(role: pg_sys::Oid) -> String {
    // SAFETY: gives a palloc'd C string, or NULL for a role that was dropped meanwhile.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() {
            return u32::from(role).to_string();
        }
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}
