//! What an administrator sets, as of the last reload.

use crate::core::front::gateway_key::GatewayKey;
use crate::core::front::place::Place;
use crate::core::front::proxies::Proxies;
use crate::core::front::token::Rules as TokenRules;
use crate::error::Error;
use std::path::PathBuf;
use std::time::Duration;

/// The settings that the gateway obeys, as of the last reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Wait for the pending row to be on disk before the request leaves.
    pub ledger_sync: bool,
    /// Bytes of one request.
    pub max_request_size: usize,
    /// Bytes of one answer.
    pub max_response_size: usize,
    /// Bytes of all calls in flight.
    pub max_memory: usize,
    pub allow_private_networks: bool,
    pub keyring_file: PathBuf,
    /// Silence of an upstream, once its stream has begun, after which it counts as stalled.
    pub stream_idle_timeout: Duration,
    /// Whether answers that are wanted whole are asked for as streams.
    pub stream_upstream: bool,
    pub limits: Limits,
    /// Seconds for which answers are kept where a call does not say. 0: they are not.
    pub cache_ttl_s: u32,
    /// Bytes of all answers that are kept. 0: none is.
    pub cache_size: usize,
    /// Of one user at one provider.
    pub key_checks_per_minute: i64,
    pub gateways: Gateways,
    pub http: Http,
}

/// What a gateway knows of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateways {
    /// Its own name, or why that is none. `None`: it is alone.
    pub name: Result<Option<String>, String>,
    /// Where the hub is of which it leases budgets. `None`: it is the hub, or alone.
    pub hub: Option<String>,
}

/// What the HTTP endpoint obeys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where this database is reached, or why it cannot be. `None`: nowhere.
    pub place: Option<Result<Place, String>>,
    /// Whether it may be reached from other machines.
    pub allow_remote: bool,
    /// Names under which it is reached, beside those of this machine.
    pub hosts: Vec<String>,
    /// Origins whose pages may call it.
    pub origins: Vec<String>,
    /// Who is believed for whom they ask, or why nobody is.
    pub proxies: Result<Proxies, String>,
    /// The files with which connections are encrypted. `None`: they are not.
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// Bytes of one body.
    pub max_body: usize,
    /// The keys of access tokens. `None`: no token is accepted.
    pub token_keys: Option<PathBuf>,
    pub token_rules: TokenRules,
    pub anonymous_users: AnonymousUsers,
    /// The values of OpenAI's `metadata` are tags.
    pub tags_from_metadata: bool,
    /// Whether the console is served.
    pub console: bool,
    /// Origins whose pages may have it in a frame or open it, as they are listed.
    pub console_origins: Vec<String>,
}

/// What users may do who have signed in without saying who they are, as Supabase's tokens tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnonymousUsers {
    /// Spend what anybody may.
    Allow,
    /// Spend with their own keys, and with none of the platform's.
    OwnKeys,
    /// Nothing.
    Refuse,
}

impl AnonymousUsers {
    /// Refuses a gateway key of somebody who had not signed in, unless they may what anybody may: whenever it was
    /// made, and whoever shows it.
    pub fn check_key(self, key: &GatewayKey) -> Result<(), Error> {
        match self {
            _ if !key.is_anonymous => Ok(()),
            Self::Allow => Ok(()),
            Self::OwnKeys | Self::Refuse => {
                Err(Error::NotSignedIn { action: "call with a gateway key".to_owned() })
            }
        }
    }
}

/// Chat requests at providers at one time; past a limit they wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub all: usize,
    pub per_user: usize,
    pub per_key: usize,
}
