//! What the reader of an error can do about it.

use super::{Error, Refusal, upstream_sqlstate};
use crate::core::refusal::About;

impl Error {
    /// Whether it is about a request that costs nothing, a model list or the check of a key: those
    /// have no model, and are in a log of their own.
    fn is_errand(&self) -> bool {
        self.target().is_some_and(|target| target.model.is_empty())
    }

    /// What the reader can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::BadRequest { hint, .. } => return hint.clone(),
            Self::NotSignedIn { .. } => {
                "Its token says is_anonymous; aggregator.anonymous_users says what that may."
            }
            Self::Anonymous { .. } => "Sign in: the request needs a JWT with a 'sub'.",
            Self::Forbidden { .. } => {
                "An administrator can run: SELECT aggregator_grant('role', 'user' or 'admin')."
            }
            Self::UnknownProvider { .. } => "SELECT name FROM api_providers WHERE is_active;",
            Self::UnknownModel { similar, .. } if !similar.is_empty() => {
                return Some(format!("Did you mean {}?", similar.join(" or ")));
            }
            Self::UnknownModel { .. } => {
                "SELECT model_id FROM get_user_available_models(); an administrator fills the \
                 catalogue with sync_models(). With 'provider' given, any model id is sent."
            }
            Self::NoKeyForModel { .. } => {
                "SELECT save_provider_key('provider', 'key'); with 'provider' given, that one is \
                 asked for the model as it is named."
            }
            Self::NoKey { .. } => "SELECT save_provider_key('provider', 'key');",
            Self::NoPlatformKey { .. } => {
                "An administrator saves one: SELECT save_platform_key('provider', 'key');"
            }
            Self::NotServed { .. } => {
                "It pays for models of the catalogue, and of its list where it has one (see \
                 set_platform_models). With a key of one's own any model id is sent."
            }
            Self::Unsupported { .. } => {
                "An aggregator such as openrouter offers the same models in OpenAI's format."
            }
            Self::Upstream { refusal, .. } => return upstream_hint(refusal, self.is_errand()),
            Self::Deadline { .. } if self.is_errand() => {
                "Nothing was paid. The attempt is in aggregator_key_checks; try again later."
            }
            Self::Deadline { .. } => {
                "Raise options.timeout_ms, or statement_timeout if that was the shorter one. The \
                 attempt is in aggregator_usage_logs."
            }
            Self::Stalled { .. } => {
                "What had arrived is in aggregator_usage_logs. A superuser sets \
                 aggregator.stream_idle_timeout."
            }
            Self::BudgetExceeded { shortfall, .. } if shortfall.is_set_aside => {
                "Calls in flight have set the rest aside; what they do not use comes back when they \
                 end."
            }
            Self::BudgetExceeded { .. } => {
                "See aggregator_budget_status. A lower max_tokens needs less."
            }
            Self::NoCostBound { .. } => {
                "Leave that out, or choose a model with known prices (an administrator sets one \
                 with set_model_price)."
            }
            Self::RateLimited { wait_ms, .. } => {
                return Some(format!("Retry after {} seconds.", wait_ms.div_ceil(1000)));
            }
            Self::NoTurn { .. } => {
                "Nothing was sent. Try again, or see aggregator.max_in_flight and its like."
            }
            Self::RequestTooLarge { limit, .. } => {
                return Some(format!("A job takes {limit} bytes; chat_complete takes more."));
            }
            Self::RequestBeyond { .. } => {
                "Send less at once. A superuser sets aggregator.max_request_size."
            }
            Self::QueueFull { .. } => {
                "Submit more once some have run, or cancel some. A superuser sets \
                 aggregator.max_queued_jobs_per_user and aggregator.max_queued_size_per_user."
            }
            Self::BadProvider { .. } => {
                "headers must be an object of texts; an administrator mends api_providers."
            }
            Self::NoRoute { .. } => "Check the user's keys and the model's availability.",
            Self::UnknownJob { .. } => "Jobs are seen by their user, once they are committed.",
            Self::UnknownGatewayKey { .. } => {
                "SELECT id, name FROM aggregator_gateway_keys WHERE revoked_at IS NULL;"
            }
            Self::NoGatewayKey => {
                "Nothing was sent. SELECT create_gateway_key('name') makes another."
            }
            Self::NoSession => "Nothing was sent. SELECT console_url() signs in again.",
            Self::NotForKey { .. } => {
                "SELECT models FROM aggregator_gateway_keys; create_gateway_key makes one for others."
            }
            Self::TooManyKeys { .. } => "SELECT revoke_gateway_key(id) for one that is not used.",
            Self::KeyReused { .. } => "Use a fresh key for each request.",
            Self::NoTime { .. } => "Raise statement_timeout for this statement.",
            Self::Unreachable { .. } => {
                "Check api_providers.base_url, DNS and the network. Nothing was sent."
            }
            Self::Disconnected { .. } if self.is_errand() => {
                "Nothing was paid. The attempt is in aggregator_key_checks; try again later."
            }
            Self::ErrandLost => "Nothing was paid. Try again; the server log may say more.",
            Self::Disconnected { .. } | Self::GatewayLost | Self::Internal { .. } => {
                "The call may have been paid for: see aggregator_usage_logs. The server log may \
                 say more."
            }
            Self::AddressRefused { .. } => {
                "Private and local addresses need aggregator.allow_private_networks = on (a \
                 superuser sets it with ALTER SYSTEM)."
            }
            Self::BrokenAnswer { .. } if self.is_errand() => {
                "Check base_url, models_url and key_check_url in api_providers. The attempt is in \
                 aggregator_key_checks."
            }
            Self::BrokenAnswer { .. } => {
                "Check that api_providers.base_url is the root of an API. The attempt is in \
                 aggregator_usage_logs."
            }
            Self::SchemaViolation { .. } => {
                "The attempts are in aggregator_usage_logs. Describe the members of the schema, raise \
                 options.max_repairs, or choose another model."
            }
            Self::AnswerTooLarge { .. } if self.is_errand() => {
                "A model list may have 16 MiB, and no more than aggregator.max_response_size."
            }
            Self::AnswerTooLarge { .. } => "Raise aggregator.max_response_size.",
            Self::OutOfMemory { may_pass: false, .. } => {
                "Nothing was sent: no user's share is so large. Raise aggregator.max_memory."
            }
            Self::OutOfMemory { .. } => {
                "Nothing was sent. Try again later, or raise aggregator.max_memory."
            }
            Self::AnswerOutOfMemory { .. } if self.is_errand() => {
                "The attempt is in aggregator_key_checks. Try again later, or raise \
                 aggregator.max_memory."
            }
            Self::AnswerOutOfMemory { .. } => {
                "The attempt is in aggregator_usage_logs. Ask for less at one time, or raise \
                 aggregator.max_memory."
            }
            Self::Ledger { .. } => "See the server log.",
            Self::KeyRefused { .. } => {
                "Nothing was saved. Check the key, or save it with p_validate => false."
            }
            Self::KeyUnreadable { .. } => {
                "Save the key again with save_provider_key(): a key opens only for the user, \
                 provider and host for which it was saved."
            }
            Self::MissingMasterKey { .. } => {
                "Put the keyring file of the server on which the keys were saved at \
                 aggregator.keyring_file; a dump does not carry it."
            }
            Self::Keyring { .. } => "Check the file at aggregator.keyring_file and its owner.",
            Self::GatewayDown { hint, .. } | Self::ClerkDown { hint, .. } => {
                return Some(hint.clone());
            }
            Self::HubDown { .. } => {
                "Nothing was sent. See aggregator.hub and aggregator.gateway, and on the hub its HTTP \
                 endpoint and add_gateway()."
            }
            Self::ConsoleBusy { .. } => "Try again when some are answered.",
            Self::Recovery | Self::ReadOnly { .. } => "Connect to the primary.",
            Self::Follows { hub } => return Some(format!("Change it on the hub, {hub}.")),
            Self::Locked { .. } => {
                "Try again, or end the transaction: SELECT pid, usename, xact_start, query FROM \
                 pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE locktype = \
                 'transactionid') ORDER BY xact_start; then pg_terminate_backend(pid)."
            }
            Self::Database { .. } => "The server log may say more.",
            Self::Stale => "Send it again: nothing was sent to a provider.",
            Self::Forgotten => "What was in flight has been cancelled. A new call is a new user's.",
            Self::ClientGone => return None,
        };
        Some(hint.to_owned())
    }
}

/// `is_errand`: it is about a model list, which is asked for with the platform's key.
fn upstream_hint(refusal: &Refusal, is_errand: bool) -> Option<String> {
    let hint = match (refusal.about, upstream_sqlstate(refusal)) {
        (About::Key, _) if is_errand => {
            "The provider refuses the key: an administrator saves a valid one with \
             save_platform_key()."
        }
        (About::Key, _) => {
            "The provider refuses the key: save a valid one with save_provider_key()."
        }
        (About::Permission, _) => {
            "The key itself was not refused: the provider does not allow this to its account, or \
             from this place."
        }
        (About::TooLong, _) => {
            "The prompt is too long for this model: send less, or name a longer one in \
             options.models."
        }
        (_, "PT402") => "The account at the provider has no credit left.",
        (_, "PT404") if is_errand => {
            "The provider does not know this path: check models_url and key_check_url in \
             api_providers."
        }
        (_, "PT404") => "The provider does not know this model or path.",
        (_, "PT429") => {
            return Some(match refusal.retry_after_s {
                Some(seconds) => format!("Retry after {seconds} seconds."),
                None => "Retry later.".to_owned(),
            });
        }
        (_, "PT502" | "PT504" | "PT408") => "The provider is in trouble; try again later.",
        _ => return None,
    };
    Some(hint.to_owned())
}
