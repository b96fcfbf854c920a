//! Reading what is committed at this moment, whatever the transaction or the statement saw when it
//! began: rules, keys and providers are those of now, also in REPEATABLE READ, and in the last of
//! many calls of one statement. What the transaction itself has changed is seen, too.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::{self, Oid};
use pgrx::spi::{self, SpiClient, SpiError, SpiErrorCodes, SpiHeapTupleData};
use pgrx::{FromDatum, IntoDatum};
use std::ffi::{CString, c_int};
use uuid::Uuid;

/// A prepared statement that only reads, and is read with [`select`]. Kept until it is dropped.
pub struct Plan(pg_sys::SPIPlanPtr);

impl Plan {
    pub fn prepare(_client: &SpiClient, sql: &str, types: &[Oid]) -> spi::Result<Self> {
        let sql = CString::new(sql).map_err(|_| SpiError::SpiError(SpiErrorCodes::Argument))?;
        let mut types = types.to_vec();
        // SAFETY: inside a connection of SPI; the text and the types outlive the call, which copies
        // them. The plan is moved out of the connection's memory, or it would end with it.
        unsafe {
            let plan = pg_sys::SPI_prepare(sql.as_ptr(), types.len() as c_int, types.as_mut_ptr());
            if plan.is_null() || pg_sys::SPI_keepplan(plan) != 0 {
                return Err(SpiError::SpiError(SpiErrorCodes::Argument));
            }
            Ok(Self(plan))
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: the plan was kept, and nothing else frees it.
        unsafe { pg_sys::SPI_freeplan(self.0) };
    }
}

/// The rows of a statement, read by a snapshot of now.
pub fn select<'conn>(
    _client: &SpiClient<'conn>,
    plan: &Plan,
    arguments: &[DatumWithOid<'_>],
) -> spi::Result<Vec<SpiHeapTupleData<'conn>>> {
    let datums: Vec<_> = arguments.iter().map(|argument| argument.datum()).collect();
    let nulls: Vec<_> =
        datums.iter().map(|datum| if datum.is_some() { b' ' } else { b'n' } as _).collect();
    let mut datums: Vec<pg_sys::Datum> = datums
        .into_iter()
        .map(|datum| datum.map_or(pg_sys::Datum::from(0), |datum| datum.sans_lifetime()))
        .collect();
    // SAFETY: inside a connection of SPI, with a plan that lives on and as many values as it was
    // prepared for: the callers are next to their statements. SPI copies the snapshot, and pops it
    // again. The rows lie in the memory of the connection, which `'conn` stands for.
    unsafe {
        pg_sys::SPI_tuptable = std::ptr::null_mut();
        let status = pg_sys::SPI_execute_snapshot(
            plan.0,
            datums.as_mut_ptr(),
            nulls.as_ptr(),
            pg_sys::GetLatestSnapshot(),
            std::ptr::null_mut(),
            true,
            false,
            0,
        );
        let table = pg_sys::SPI_tuptable;
        if status != pg_sys::SPI_OK_SELECT as c_int || table.is_null() {
            return Err(SpiError::SpiError(SpiErrorCodes::Param));
        }
        let count = usize::try_from(pg_sys::SPI_processed).unwrap_or(0);
        let mut rows = Vec::with_capacity(count);
        for i in 0..count {
            rows.extend(SpiHeapTupleData::new((*table).tupdesc, *(*table).vals.add(i))?);
        }
        Ok(rows)
    }
}

/// A value that has to be there and is not, or is none that we know: the row is not to be used.
pub const UNREADABLE: SpiError = SpiError::SpiError(SpiErrorCodes::NoAttribute);

/// A column that is never NULL.
pub fn required<T: FromDatum + IntoDatum>(row: &SpiHeapTupleData, column: usize) -> spi::Result<T> {
    row.get(column)?.ok_or(UNREADABLE)
}

/// A column that is an id.
pub fn uuid(row: &SpiHeapTupleData, column: usize) -> spi::Result<Uuid> {
    Ok(Uuid::from_bytes(*required::<pgrx::Uuid>(row, column)?.as_bytes()))
}
