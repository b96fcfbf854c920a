//! What the ledger says about budgets and rate limits.

use crate::core::budget::{Amount, Scope};
use crate::core::tags::Label;
use crate::core::usage::decimal;
use crate::gateway::task::{BudgetWarning, Spending, SpendingQuery};
use crate::routing::pg_uuid;
use crate::settings;
use crate::time::timestamp;
use crate::worker::leases;
use crate::worker::process::{self, Failure};
use crate::worker::statements::Statements;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{self, Spi, SpiClient};

/// Answers a question of the gateway.
pub fn find(statements: &Statements, query: &SpendingQuery) -> Result<Spending, String> {
    let found = process::transaction(|_| {
        Spi::connect(|client| match query {
            SpendingQuery::Budget { budget: id, scope, keys, user, since } => {
                let leases = leases::of_budget(client, statements, *id, user.as_deref(), *since)?;
                let [since, user, provider, model] = arguments(scope, user.as_deref(), *since);
                let label = scope.label();
                let kind = label.as_ref().map(Label::kind).into();
                let label = label.as_ref().map(Label::name).into();
                let gateway = settings::own_gateway();
                let (keys, gateway) = (keys.as_str().into(), gateway.as_str().into());
                let arguments = [since, user, provider, model, keys, kind, label, gateway];
                let amount = budget(client, statements, &arguments)?;
                Ok(amount.map(|amount| Spending { amount, leases, ..Spending::default() }))
            }
            SpendingQuery::LastMinute { scope, user, since } => {
                let [since, user, provider, model] = arguments(scope, user.as_deref(), *since);
                let key = scope.gateway_key.map(pg_uuid).into();
                let arguments = [since, user, provider, model, key, scope.tag.as_deref().into()];
                last_minute(client, statements, &arguments)
            }
        })
    });
    match found {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err("what was spent cannot be read".to_owned()),
        Err(Failure::NotInstalled) => Err("the extension was dropped".to_owned()),
        Err(Failure::Database(cause) | Failure::Data(cause)) => Err(cause.to_string()),
    }
}

fn arguments<'a>(scope: &'a Scope, user: Option<&'a str>, since: i64) -> [DatumWithOid<'a>; 4] {
    [
        timestamp(since).into(),
        user.or(scope.user_id.as_deref()).into(),
        scope.provider_id.map(pg_uuid).into(),
        scope.model.as_deref().into(),
    ]
}

fn budget(
    client: &SpiClient,
    statements: &Statements,
    arguments: &[DatumWithOid<'_>],
) -> spi::Result<Option<Amount>> {
    let row = client.select(&statements.spent, Some(1), arguments)?.first();
    let (usd, tokens, requests) = row.get_three::<String, i64, i64>()?;
    // What cannot be read is not 0: the call is refused.
    Ok((|| {
        Some(Amount {
            usd: usd.as_deref().and_then(decimal)?,
            tokens: tokens?,
            requests: requests?,
        })
    })())
}

fn last_minute(
    client: &SpiClient,
    statements: &Statements,
    arguments: &[DatumWithOid<'_>],
) -> spi::Result<Option<Spending>> {
    let calls = client
        .select(&statements.last_minute, None, arguments)?
        .map(|row| Ok(row.get::<i64>(1)?.zip(row.get::<i64>(2)?)))
        .collect::<spi::Result<Option<Vec<_>>>>()?;
    Ok(calls.map(|calls| Spending { calls, ..Spending::default() }))
}

/// Notes that so much of a budget is spent.
pub fn warn(statements: &Statements, warning: &BudgetWarning) {
    let noted = process::transaction(|_| {
        Spi::connect_mut(|client| {
            let usd = warning.spent.usd.to_string();
            let arguments: [DatumWithOid<'_>; 7] = [
                pg_uuid(warning.budget).into(),
                warning.user.as_deref().into(),
                timestamp(warning.period_start).into(),
                warning.level.into(),
                usd.as_str().into(),
                warning.spent.tokens.into(),
                warning.spent.requests.into(),
            ];
            client.update(&statements.budget_warning, None, &arguments).map(|_| ())
        })
    });
    if let Err(failure) = noted {
        pgrx::warning!("aggregator: a budget's warning is not noted: {failure:?}");
    }
}
