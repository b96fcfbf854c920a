//! Whether a text is one SQL expression, by PostgreSQL's own grammar: what is put into parentheses then stays in them.

use crate::error::Error;
use crate::session::raise::or_raise;
use pgrx::prelude::*;
use std::ffi::CString;

/// Raises PT400 unless a text is one expression. Where it is none by the grammar, PostgreSQL's words say where.
#[pg_extern(immutable)]
fn aggregator_ai_check_expression(p_input: &str) {
    let checked = check(p_input);
    or_raise(checked);
}

fn check(input: &str) -> Result<(), Error> {
    let text = CString::new(input).map_err(Error::internal)?;
    // SAFETY: the parser reads a C string that outlives the call, or raises. It gives a list of one raw statement,
    // which in this mode is a SELECT without its word (gram.y), in the memory of the caller.
    let is_one = unsafe {
        let mode = pg_sys::RawParseMode::RAW_PARSE_PLPGSQL_EXPR;
        let statements = pg_sys::raw_parser(text.as_ptr(), mode);
        let statement = pg_sys::list_nth(statements, 0).cast::<pg_sys::RawStmt>();
        let select = (*statement).stmt.cast::<pg_sys::SelectStmt>();
        (*select).type_ == pg_sys::NodeTag::T_SelectStmt && is_bare(&*select) && is_one(&*select)
    };
    match is_one {
        true => Ok(()),
        false => Err(Error::bad_request_hint(
            "p_input must be one SQL expression, without a name, a FROM or a WHERE",
            "For example: title || ' ' || body. Or a template: {title} {body}",
        )),
    }
}

/// Whether nothing follows the values of a SELECT.
fn is_bare(select: &pg_sys::SelectStmt) -> bool {
    let lists = [
        select.distinctClause,
        select.fromClause,
        select.groupClause,
        select.windowClause,
        select.sortClause,
        select.lockingClause,
        select.valuesLists,
    ];
    let nodes = [select.whereClause, select.havingClause, select.limitOffset, select.limitCount];
    lists.iter().all(|list| list.is_null())
        && nodes.iter().all(|node| node.is_null())
        && select.intoClause.is_null()
        && select.withClause.is_null()
        && select.op == pg_sys::SetOperation::SETOP_NONE
}

/// Whether it has one value, and that has no name.
///
/// # Safety
/// A SELECT that the parser has given.
unsafe fn is_one(select: &pg_sys::SelectStmt) -> bool {
    let targets = select.targetList;
    // SAFETY: a list of targets; a NULL list is an empty one.
    unsafe {
        if targets.is_null() || (*targets).length != 1 {
            return false;
        }
        let target = pg_sys::list_nth(targets, 0).cast::<pg_sys::ResTarget>();
        (*target).name.is_null() && (*target).indirection.is_null()
    }
}
