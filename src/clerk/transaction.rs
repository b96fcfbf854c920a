//! One statement in a transaction of its own, as the role of whom it is for.

use super::signals;
use crate::core::front::console::statements::{self, Statement};
use crate::core::front::console::told::Raised;
use crate::database;
use crate::error::Error;
use crate::installed::{self, Installed, LIBRARY};
use crate::protocol::clerk::{Answer, Principal, Question};
use crate::session::json::JsonText;
use crate::sqlstate;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use pgrx::spi::{self, Spi, SpiTupleTable};
use std::ffi::CString;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// Runs the statement that is asked for. Whatever becomes of it, what it changed is committed or undone, and the
/// process is nobody's again.
pub fn run(question: &Question) -> Answer {
    let Some(statement) = statements::find(&question.statement) else {
        return failed(&Error::bad_request("there is no such statement"));
    };
    report(Some(&format!("console: {}", statement.name)));
    let answer = match given(question, statement) {
        Ok(text) => Answer::Given(text),
        Err(raised) => Answer::Failed(raised),
    };
    report(None);
    answer
}

/// That an answer is larger than what can be sent.
pub fn too_large() -> Raised {
    Raised {
        // program_limit_exceeded
        sqlstate: "54000".to_owned(),
        message: "the answer is too large".to_owned(),
        hint: Some("Ask for less: with a filter, or of a shorter range.".to_owned()),
        detail: None,
    }
}

fn given(question: &Question, statement: &Statement) -> Result<String, Raised> {
    bracket(statement.writes(), statement.patience(), |context| {
        let (installed, role) = admitted(question).map_err(|error| raised_by(&error))?;
        // SAFETY: in a transaction, whose end puts the user back. In this context nothing that runs can become another
        // role, or leave anything behind in the session.
        unsafe {
            pg_sys::SetUserIdAndSecContext(
                role,
                context
                    | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32
                    | pg_sys::SECURITY_RESTRICTED_OPERATION as i32,
            );
        }
        execute(&installed, statement, &question.arguments).map_err(|error| raised_by(&error))
    })
}

/// Runs `work` in a transaction of its own, for so long at the most. It is told the process's security context, and
/// commits as the role that it leaves; an error undoes everything.
pub(super) fn bracket<T>(
    writes: bool,
    patience: Duration,
    work: impl FnOnce(i32) -> Result<T, Raised>,
) -> Result<T, Raised> {
    let caught = PgTryBuilder::new(AssertUnwindSafe(|| {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: a connected worker, outside any transaction. A transaction that only reads cannot be made one that
        // writes once it has a snapshot.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::XactReadOnly = !writes;
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context);
        }
        signals::begin(patience);
        let result = sqlstate::keeping(|| work(context));
        signals::end();
        // SAFETY: as above. The user is put back after the commit; an abort puts it back by itself.
        unsafe {
            if result.is_ok() {
                pg_sys::PopActiveSnapshot();
                // Still as the role: what was put off until now runs in here.
                pg_sys::CommitTransactionCommand();
                pg_sys::SetUserIdAndSecContext(user, context);
            } else {
                pg_sys::AbortCurrentTransaction();
            }
            pg_sys::pgstat_report_stat(false);
        }
        result
    }))
    .catch_others(|caught| {
        signals::end();
        // SAFETY: PostgreSQL's own way out of a failed transaction.
        unsafe { pg_sys::AbortCurrentTransaction() };
        Err(raised(&caught))
    });
    sqlstate::catching(|| caught.execute())
}

/// The installation that is meant, if it is there still.
pub(super) fn served(extension: u32) -> Result<Installed, Error> {
    let gone = || Error::Ledger { reason: "the extension was dropped".to_owned() };
    let installed = Installed::find().ok_or_else(gone)?;
    if u32::from(installed.oid) != extension {
        return Err(gone());
    }
    let version = Spi::connect(|client| installed.version(client));
    let version = version.map_err(database::failed("read the extension's version"))?;
    if version != LIBRARY {
        return Err(installed::wrong_version(&version));
    }
    Ok(installed)
}

/// Where the statement runs, and as which role: as none but that of the principal.
fn admitted(question: &Question) -> Result<(Installed, pg_sys::Oid), Error> {
    let installed = served(question.extension)?;
    let Principal { role, .. } = &question.principal;
    let missing = || Error::Forbidden { role: role.clone(), action: "use the console".to_owned() };
    let name = CString::new(role.as_str()).map_err(|_| missing())?;
    // SAFETY: a look-up in the catalog inside a transaction.
    match unsafe { pg_sys::get_role_oid(name.as_ptr(), true) } {
        pg_sys::InvalidOid => Err(missing()),
        role => Ok((installed, role)),
    }
}

/// The one value of the one row that it gives.
fn execute(installed: &Installed, statement: &Statement, arguments: &str) -> Result<String, Error> {
    const ACTION: &str = "answer the console";
    let sql = installed.sql(statement.sql);
    let arguments = [JsonText(arguments.to_owned()).into()];
    let one = |rows: SpiTupleTable<'_>| -> spi::Result<Option<String>> {
        match (rows.len(), rows.columns()?) {
            (1, 1) => Ok(rows.first().get_one::<JsonText>()?.map(|JsonText(text)| text)),
            _ => Ok(None),
        }
    };
    let text = match statement.writes() {
        true => Spi::connect_mut(|client| one(client.update(sql.as_str(), None, &arguments)?)),
        false => Spi::connect(|client| one(client.select(sql.as_str(), None, &arguments)?)),
    };
    text.map_err(database::failed(ACTION))?.ok_or_else(|| database::no_row(ACTION))
}

/// Tells `pg_stat_activity` what runs, without its arguments.
pub(super) fn report(work: Option<&str>) {
    let state = match work {
        Some(_) => pg_sys::BackendState::STATE_RUNNING,
        None => pg_sys::BackendState::STATE_IDLE,
    };
    let text = CString::new(work.unwrap_or_default()).unwrap_or_default();
    // SAFETY: the text is a C string, which is copied.
    unsafe { pg_sys::pgstat_report_activity(state, text.as_ptr()) };
}

fn failed(error: &Error) -> Answer {
    Answer::Failed(raised_by(error))
}

pub(super) fn raised_by(error: &Error) -> Raised {
    Raised {
        sqlstate: error.sqlstate().to_owned(),
        message: error.to_string(),
        hint: error.hint(),
        detail: Some(error.coded_detail()),
    }
    .bounded()
}

/// What PostgreSQL has thrown.
pub(super) fn raised(caught: &CaughtError) -> Raised {
    let report = match caught {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
        // Its words may hold anything that the code was about.
        CaughtError::RustPanic { .. } => return raised_by(&Error::panicked()),
    };
    let code = match report.sql_error_code() {
        PgSqlErrorCode::ERRCODE_INTERNAL_ERROR => sqlstate::of_unknown(report.message()),
        known => Some(known as i32),
    };
    Raised {
        sqlstate: database::unpack(code.unwrap_or(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR as i32)),
        message: report.message().to_owned(),
        hint: report.hint().map(str::to_owned),
        detail: report.detail().map(str::to_owned),
    }
    .bounded()
}
