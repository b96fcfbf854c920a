//! What other gateways have leased of this hub's budgets, as the database keeps it.

use crate::core::budget::{Amount, Budget, Keys, Period, Scope};
use crate::core::usage::decimal;
use crate::fresh::{self, required};
use crate::gateway::task::{Counted, LeaseKept, Leased, Lending, Lent, Listed};
use crate::routing::pg_uuid;
use crate::time::timestamp;
use crate::worker::process::{self, Failure};
use crate::worker::statements::Statements;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{self, Spi, SpiClient, SpiHeapTupleData};
use uuid::Uuid;

/// More gateways than this are not listed.
const MOST_GATEWAYS: usize = 1000;

/// Does what leasing needs.
pub fn lend(statements: &Statements, lending: Lending) {
    match lending {
        Lending::Open { from, number, budgets, reply } => {
            // Whoever has gone asks anew, with another number.
            if !reply.is_closed() {
                let _ = reply.send(open(statements, &from, number, &budgets));
            }
        }
        Lending::Read { counts, reply } => {
            let _ = reply.send(read(statements, &counts));
        }
        Lending::Keep { from, leases, reply } => {
            let _ = reply.send(keep(statements, &from, &leases));
        }
    }
}

/// The other gateways.
pub fn gateways(statements: &Statements) -> Result<Listed, String> {
    let listed = process::transaction(|_| {
        Spi::connect(|client| {
            let settlements = client.select(&statements.settlements, Some(1), &[])?.first();
            let settlements = settlements.get_one()?.ok_or(fresh::UNREADABLE)?;
            let rows = client.select(&statements.gateways, None, &[])?;
            let names = rows.map(|row| required(&row, 1)).collect::<spi::Result<Vec<String>>>()?;
            Ok(Listed { names, settlements })
        })
    });
    match told(listed)? {
        listed if listed.names.len() > MOST_GATEWAYS => {
            Err(format!("there are more than {MOST_GATEWAYS} gateways"))
        }
        listed => Ok(listed),
    }
}

fn open(
    statements: &Statements,
    from: &str,
    number: i64,
    budgets: &[Uuid],
) -> Result<Option<Vec<Budget>>, String> {
    told(process::transaction(|_| {
        Spi::connect_mut(|client| {
            let arguments = [from.into(), number.into()];
            if client.update(&statements.listen_to_gateway, Some(1), &arguments)?.is_empty() {
                return Ok(None);
            }
            let ids: Vec<pgrx::Uuid> = budgets.iter().map(|id| pg_uuid(*id)).collect();
            let rows = client.select(&statements.budgets_to_lease, None, &[ids.into()])?;
            rows.map(|row| budget(&row)).collect::<spi::Result<Vec<_>>>().map(Some)
        })
    }))
}

/// One that cannot be read is not left out.
fn budget(row: &SpiHeapTupleData) -> spi::Result<Budget> {
    let known = |column| required::<String>(row, column);
    let id = |column| {
        let id = row.get::<pgrx::Uuid>(column)?;
        Ok::<_, spi::SpiError>(id.map(|id| Uuid::from_bytes(*id.as_bytes())))
    };
    Ok(Budget {
        id: fresh::uuid(row, 1)?,
        scope: Scope {
            user_id: row.get(2)?,
            is_each_user: required(row, 3)?,
            provider_id: id(4)?,
            model: row.get(5)?,
            gateway_key: id(12)?,
            tag: row.get(13)?,
        },
        keys: Keys::parse(&known(11)?).ok_or(fresh::UNREADABLE)?,
        period: Period::parse(&known(6)?).ok_or(fresh::UNREADABLE)?,
        limit_usd: row.get(7)?,
        limit_tokens: row.get(8)?,
        limit_requests: row.get(9)?,
        blocks: required(row, 10)?,
    })
}

fn keep(statements: &Statements, from: &str, leases: &[LeaseKept]) -> Result<(), String> {
    let of = |amount: fn(&Leased) -> Amount| {
        let amounts = leases.iter().map(|kept| amount(&kept.lease));
        let usd: Vec<String> = amounts.clone().map(|amount| amount.usd.to_string()).collect();
        let tokens: Vec<i64> = amounts.clone().map(|amount| amount.tokens).collect();
        let requests: Vec<i64> = amounts.map(|amount| amount.requests).collect();
        (usd, tokens, requests)
    };
    let granted = of(|lease| lease.granted);
    let used = of(|lease| lease.used);
    told(process::transaction(|_| {
        let budgets: Vec<pgrx::Uuid> = leases.iter().map(|kept| pg_uuid(kept.budget)).collect();
        let users: Vec<Option<&str>> = leases.iter().map(|kept| kept.user.as_deref()).collect();
        let since: Vec<_> = leases.iter().map(|kept| timestamp(kept.since)).collect();
        let arguments: [DatumWithOid<'_>; 10] = [
            from.into(),
            budgets.into(),
            users.into(),
            since.into(),
            granted.0.into(),
            granted.1.into(),
            granted.2.into(),
            used.0.into(),
            used.1.into(),
            used.2.into(),
        ];
        Spi::connect_mut(|client| {
            client.update(&statements.keep_leases, None, &arguments).map(|_| ())
        })
    }))
}

fn read(statements: &Statements, counts: &[Counted]) -> Result<Vec<Lent>, String> {
    told(process::transaction(|_| {
        Spi::connect(|client| {
            let of = |(budget, user, since): &Counted| {
                of_budget(client, statements, *budget, user.as_deref(), *since)
            };
            counts.iter().map(of).collect()
        })
    }))
}

/// What the other gateways have leased of a budget, by their names.
pub fn of_budget(
    client: &SpiClient<'_>,
    statements: &Statements,
    budget: Uuid,
    user: Option<&str>,
    since: i64,
) -> spi::Result<Lent> {
    let arguments = [pg_uuid(budget).into(), user.into(), timestamp(since).into()];
    let rows = client.select(&statements.leases, None, &arguments)?;
    rows.map(|row| {
        let amount = |first: usize| {
            let usd = required::<String>(&row, first)?;
            Ok::<_, spi::SpiError>(Amount {
                usd: decimal(&usd).ok_or(fresh::UNREADABLE)?,
                tokens: required(&row, first + 1)?,
                requests: required(&row, first + 2)?,
            })
        };
        Ok((required(&row, 1)?, Leased { granted: amount(2)?, used: amount(5)? }))
    })
    .collect()
}

/// In words for another gateway, or for the caller.
fn told<T>(done: Result<T, Failure>) -> Result<T, String> {
    done.map_err(|failure| match failure {
        Failure::NotInstalled => "the extension was dropped".to_owned(),
        Failure::Database(cause) | Failure::Data(cause) => cause.to_string(),
    })
}
