//! Leases between gateways: the hub grants them, one message at a time, and the others tell it from time to time what
//! they have used.

use crate::core::lease::{Answer, Ask, MOST_ASKS, Message, name_problem};
use crate::error::Error;
use crate::gateway::hub::Part;
use crate::gateway::shared::Shared;
use crate::gateway::task::{Lending, Task};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How often the hub is told, and the list of gateways read.
const BEAT: Duration = Duration::from_secs(5);

/// Whether others may lease here.
pub fn is_hub(shared: &Shared) -> Result<(), Error> {
    let settings = shared.settings();
    match shared.lender(&settings).part()? {
        Part::Hub => Ok(()),
        Part::Alone | Part::Follower => Err(Error::bad_request(
            "this gateway is no hub: aggregator.gateway is not set, or aggregator.hub is",
        )),
    }
}

/// On the hub: answers another gateway.
pub async fn answer(shared: &Shared, body: &str) -> Result<Bytes, Error> {
    let settings = shared.settings();
    let lender = shared.lender(&settings);
    let Message { from, number, asks } = lender.read(body)?;
    if name_problem(&from).is_some() || asks.len() > MOST_ASKS {
        return Err(Error::bad_request("the message is none that this version knows"));
    }
    // Two messages must not be granted the same.
    let _turn = lender.line().await;
    let (reply, opened) = oneshot::channel();
    // What was counted of a user who was forgotten since then is nobody's.
    let is_nobodys = |ask: &Ask| {
        let user = ask.user.as_deref();
        user.is_some_and(|user| shared.forgotten.is_after(user, ask.counted_since))
    };
    let is_nobodys: Vec<bool> = asks.iter().map(is_nobodys).collect();
    let budgets = asks.iter().map(|ask| ask.budget).collect();
    shared.ledger.send(Task::Lend(Lending::Open { from: from.clone(), number, budgets, reply }));
    let opened = opened.await.map_err(|_| Error::stopping())?;
    let Some(budgets) = opened.map_err(|reason| Error::Ledger { reason })? else {
        return Err(Error::bad_request(format!(
            "no gateway '{from}' is known here (add_gateway), or a later message of it has come"
        )));
    };
    let gateways = lender.gateways().await?;
    let asks: Vec<Option<Ask>> = asks
        .into_iter()
        .zip(is_nobodys)
        .map(|(ask, is_nobodys)| (!is_nobodys).then_some(ask))
        .collect();
    let leases = shared.spending.grant(&shared.ledger, &from, &asks, budgets, gateways).await?;
    lender.write(&Answer { number, leases })
}

/// Whether nothing is to be told to a hub that listens.
pub fn is_over(shared: &Shared) -> bool {
    shared.spending.has_told_all() || shared.hub.is_down()
}

/// Reads from time to time which gateways there are, and what was settled; and tells the hub what is used of its leases.
pub async fn beat(shared: Arc<Shared>) {
    let mut was_down = false;
    loop {
        tokio::time::sleep(BEAT).await;
        let settings = shared.settings();
        let lender = shared.lender(&settings);
        let told = match lender.part() {
            Ok(Part::Alone) => Ok(()),
            Ok(part) => {
                let read = lender.read_list().await;
                match part {
                    Part::Follower => {
                        if lender.is_removed() {
                            shared.spending.let_go(lender).await;
                        }
                        read.and(shared.spending.tell_hub(lender).await)
                    }
                    _ => read.and(shared.spending.read_settled(lender).await),
                }
            }
            Err(error) => Err(error),
        };
        // Once for each time that it begins.
        if let Err(error) = &told
            && !was_down
        {
            shared.ledger.send(Task::Log(error.in_full()));
        }
        was_down = told.is_err();
    }
}
