//! Settings of a server that is one of several gateways.

use super::text;
use crate::core::lease;
use crate::gateway;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::CString;

static GATEWAY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static HUB: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

pub fn register() {
    for (name, description, more, setting) in [
        (
            c"aggregator.gateway",
            c"The name of this server among several gateways.",
            c"Small letters, digits, '_' and '-', at most 63. Empty: it is alone.",
            &GATEWAY,
        ),
        (
            c"aggregator.hub",
            c"Where the hub's HTTP endpoint is, of which this gateway leases budgets: 'https://hub.example.org:8787'.",
            c"Empty: this is the hub, or alone. The hub knows this gateway by aggregator.gateway.",
            &HUB,
        ),
    ] {
        let (context, flags) = (GucContext::Sighup, GucFlags::default());
        GucRegistry::define_string_guc(name, description, more, setting, context, flags);
    }
}

/// Its own name; `None`: it is alone.
pub fn name() -> Result<Option<String>, String> {
    let name = text(&GATEWAY).unwrap_or_default();
    match lease::name_problem(&name) {
        _ if name.is_empty() => Ok(None),
        None => Ok(Some(name)),
        Some(problem) => Err(format!("aggregator.gateway {problem}")),
    }
}

/// The name under which it rolls up its usage: of one that is alone, or whose name is none, empty.
pub fn own() -> String {
    name().ok().flatten().unwrap_or_default()
}

/// Where the hub is; `None`: this is the hub, or alone.
pub fn hub() -> Option<String> {
    text(&HUB).filter(|hub| !hub.is_empty())
}

/// What the gateway of a database knows of the others.
pub fn of() -> gateway::Gateways {
    gateway::Gateways { name: name(), hub: hub() }
}
