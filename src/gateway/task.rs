//! What the gateway asks of the main thread, and what it is told.

use crate::core::bound::Hidden;
use crate::core::budget::{Amount, Budget, Keys, Rules, Scope};
use crate::core::catalogue::Columns;
use crate::core::front::gateway_key::{GatewayKey, KeyHash};
use crate::core::front::opaque::Hash;
use crate::core::front::session::Session;
use crate::core::health::{Change, Place};
use crate::core::secret::Print;
use crate::core::tags::Labels;
use crate::core::usage::Usage;
use crate::error::Error;
use crate::gateway::asked::{JobAsked, JobTold};
use crate::protocol::{Candidate, CatalogueFetch, Fetched, Known, Settled, Whose};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::oneshot;
use uuid::Uuid;

/// The key of a row in `aggregator_usage_logs`, fixed before it is written, so that writing it
/// twice changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RowKey {
    pub call_id: Uuid,
    pub attempt: i16,
    /// Microseconds since 1970.
    pub created_at: i64,
}

/// A pending row.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begin {
    pub key: RowKey,
    pub user_id: String,
    pub provider_id: Uuid,
    pub user_provider_id: Uuid,
    pub model_id: String,
    /// Whether the catalogue lists it.
    pub is_listed: bool,
    /// The platform pays, not the user.
    pub is_platform_key: bool,
    /// `None`: nothing limits what the attempt may cost.
    pub reserved: Option<Reserved>,
    /// Rows that were set aside by earlier versions have none.
    #[serde(default)]
    pub labels: Option<Arc<Labels>>,
    /// The generation by which it was routed: begun under another, it is refused. `None`: under any.
    #[serde(skip)]
    pub generation: Option<u64>,
}

/// Why a row was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotBegun {
    /// What the call was routed by has changed since.
    Stale,
    Failed(String),
}

/// The most that an attempt can cost and use, which counts against budgets while it is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// USD, decimal. `None`: it cannot be bounded.
    pub cost: Option<String>,
    pub tokens: i64,
}

/// The most that an attempt can come to by its request. What is reported beyond it is noted as it
/// came, and counts as this much.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// USD, decimal. `None`: the request has no bound, and what holds for all such holds.
    pub cost: Option<String>,
    pub tokens: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Outcome {
    Success,
    #[default]
    Error,
    Cancelled,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settle {
    /// The pending row; should it be missing, it is written now.
    pub begin: Begin,
    pub outcome: Outcome,
    pub served_model: Option<String>,
    pub usage: Usage,
    /// The usage is our guess, because the upstream's own never came.
    pub is_estimate: bool,
    /// The upstream refused, or nothing was sent: without usage, that costs nothing.
    pub is_free_of_charge: bool,
    pub limits: Limits,
    /// Prices of the requested model, for a served model that the catalogue does not know.
    pub pricing: Option<String>,
    pub latency_ms: i32,
    pub time_to_first_token_ms: Option<i32>,
    pub http_status: Option<i16>,
    pub error_code: Option<String>,
    pub request_id: Option<String>,
    pub finish_reason: Option<String>,
    /// The attempt answered a job, whose result is written in the same transaction.
    pub job: Option<JobAnswer>,
    /// The answer was there already: it cost nothing. Rows that were set aside by earlier versions have none.
    #[serde(default)]
    pub cached: Option<Saved>,
}

impl Settle {
    /// The key that answered: when it was last used is noted.
    pub fn used_key(&self) -> Option<Uuid> {
        let has_answered = matches!(self.outcome, Outcome::Success) && self.cached.is_none();
        has_answered.then_some(self.begin.user_provider_id)
    }
}

/// What an answer that was there already would have come to, as it did the first time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// USD, decimal. `None`: that was not known.
    pub cost: Option<String>,
    pub tokens: Option<i64>,
    /// How old it is.
    pub age_s: i64,
}

/// Which kept answer will do.
#[derive(Debug)]
pub struct AnswerAsked {
    /// Of those who may answer, best first.
    pub prints: Vec<Print>,
    /// The oldest that will do, in seconds.
    pub ttl_s: u32,
    /// As in [`Begin`].
    pub generation: Option<u64>,
}

/// A kept answer.
#[derive(Debug)]
pub struct AnswerFound {
    pub print: Print,
    /// Sealed.
    pub answer: Vec<u8>,
    pub age_s: i64,
}

/// An answer to keep.
#[derive(Debug)]
pub struct AnswerKept {
    pub print: Print,
    pub user_id: String,
    pub provider_id: Uuid,
    pub model_id: String,
    pub is_shared: bool,
    /// Sealed.
    pub answer: Vec<u8>,
    pub ttl_s: u32,
}

/// What a job came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobAnswer {
    pub response: String,
    pub provider: String,
    pub served_model: String,
}

/// How the run of a job ended, where it was not with the settling of an attempt.
#[derive(Debug, Clone)]
pub struct JobEnd {
    pub job: Uuid,
    pub outcome: Result<(JobAnswer, Settled), Error>,
}

/// Work for the main thread. A failed send back means that nobody waits any more.
#[derive(Debug)]
pub enum Task {
    /// Without a reply, it may be written a few milliseconds later, or together with its settlement.
    Begin(Begin, Option<oneshot::Sender<Result<(), NotBegun>>>),
    Settle(Box<Settle>, Option<oneshot::Sender<Settled>>),
    /// A catalogue that everybody sees. Whether it is stored.
    Catalogue(Box<CatalogueFetch>, Fetched, oneshot::Sender<bool>),
    /// A model list that is one user's. Likewise.
    UserModels(Box<UserModels>, oneshot::Sender<bool>),
    /// A key was checked, or a model list fetched.
    KeyChecked(Box<KeyChecked>),
    /// When a user's keys were checked at a provider since then (microseconds since 1970).
    RecentChecks {
        user: String,
        provider: Uuid,
        since: i64,
        reply: oneshot::Sender<Result<Vec<i64>, String>>,
    },
    /// Something cools down, or is well again.
    Health(Box<HealthNote>),
    /// A provider has counted more than the bound of a request.
    HiddenTokens(Box<HiddenTokens>),
    /// A transaction that wrote jobs, or rows of AI columns, has ended.
    JobsWritten,
    /// The work on an AI column has ended; what came meanwhile may be due.
    ColumnsDue,
    JobEnded(Box<JobEnd>),
    /// A call goes on as the job of this id.
    HandedOver(Uuid),
    /// The transaction that should have made rows of these calls was rolled back.
    HandOversUndone(Vec<Uuid>),
    /// What holds now for a call that has waited since it was resolved.
    Renew(Known, oneshot::Sender<Result<Renewed, Error>>),
    /// What is asked about jobs over HTTP.
    Job(Box<JobAsked>, oneshot::Sender<Result<JobTold, Error>>),
    /// Whether a role that an access token claims may spend.
    MaySpend(String, oneshot::Sender<Result<Vouched, Error>>),
    /// Whether it may see what all users together do.
    MayRead(String, oneshot::Sender<Result<bool, Error>>),
    /// What a role may do that has signed in to the console, or has made a gateway key.
    MayAct(String, oneshot::Sender<Result<Vouched, Error>>),
    /// Who shows a token of the console.
    Session(Hash, oneshot::Sender<Result<Found<Session>, Error>>),
    /// Exchange a code for a token, which passes until then (microseconds since 1970). `None`: the code does not.
    SignIn {
        code: Hash,
        token: Hash,
        reply: oneshot::Sender<Result<Option<i64>, Error>>,
    },
    /// End a session of the console.
    SignOut(Uuid, oneshot::Sender<Result<(), Error>>),
    /// Whose a gateway key is that a program shows.
    GatewayKey(KeyHash, oneshot::Sender<Result<Found<GatewayKey>, Error>>),
    /// Who may serve a call over HTTP.
    Route(Box<RouteAsked>, oneshot::Sender<Result<Routed, Error>>),
    /// What a user can call.
    Models(Whose, oneshot::Sender<Result<Vec<CallableModel>, Error>>),
    /// Of which generation routes and callers are now. `None`: that cannot be said.
    Generation(oneshot::Sender<Option<u64>>),
    /// Start a clerk, which comes to its socket by itself. False: there is no place for one.
    StartClerk(oneshot::Sender<bool>),
    /// Whether the database answers, and the extension is there.
    Ready(oneshot::Sender<bool>),
    /// Look for a kept answer.
    FindAnswer(Box<AnswerAsked>, oneshot::Sender<Result<Option<AnswerFound>, Error>>),
    /// Keep an answer. Nobody waits for it; who asks after it finds it.
    KeepAnswer(Box<AnswerKept>),
    /// What the ledger says was spent.
    Spending(SpendingQuery, oneshot::Sender<Result<Spending, String>>),
    /// What the leases of this hub need.
    Lend(Lending),
    /// Which other gateways there are.
    Gateways(oneshot::Sender<Result<Listed, String>>),
    /// So much of a budget is spent that somebody is told.
    BudgetWarning(Box<BudgetWarning>),
    /// A user is being forgotten. Whatever was in flight of theirs was sent before this.
    Forget {
        user: String,
        /// For rows that could not be written yet.
        anonymous: String,
        done: oneshot::Sender<()>,
    },
    /// A session came for another installation of the extension.
    Outdated,
    /// A line for the server log.
    Log(String),
}

/// What a role may do, as of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vouched {
    pub may_spend: bool,
    /// It may act for others.
    pub is_admin: bool,
    /// It can log in, or somebody can who is no superuser and may become it.
    pub is_reached: bool,
    pub generation: u64,
}

/// A gateway key or a session of the console, as of a generation.
#[derive(Debug, Clone)]
pub struct Found<T> {
    /// `None`: there is none that passes.
    pub found: Option<Arc<T>>,
    pub generation: u64,
}

/// What a call asks for, the wanted model first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteAsked {
    pub whose: Whose,
    pub models: Vec<String>,
    /// Name or id of the only provider that may serve it.
    pub provider: Option<String>,
}

/// Who may serve a call and by which rules, as of a generation.
#[derive(Debug, Clone)]
pub struct Routed {
    pub candidates: Arc<[Candidate]>,
    pub rules: Arc<Rules>,
    pub generation: u64,
}

/// A model that a user can call.
#[derive(Debug, Clone)]
pub struct CallableModel {
    pub provider: String,
    pub id: String,
    pub name: Option<String>,
    pub context_window: Option<i32>,
    pub max_output_tokens: Option<i32>,
    pub pricing: Option<String>,
    /// Seconds since 1970. `None`: nobody knows.
    pub first_seen: Option<i64>,
}

/// What holds for a call to a candidate.
#[derive(Debug, Clone)]
pub struct Renewed {
    pub rules: Arc<Rules>,
    /// `None`: it may not serve the call any longer.
    pub candidate: Option<Arc<Candidate>>,
}

/// The models that a provider lists to a user's key.
#[derive(Debug, Clone)]
pub struct UserModels {
    pub user_id: String,
    pub provider_id: Uuid,
    pub models: Columns,
}

/// What a provider was seen to count beyond the bound of a request for a model.
#[derive(Debug, Clone)]
pub struct HiddenTokens {
    pub provider: Uuid,
    /// As rules know it.
    pub model: String,
    pub hidden: Hidden,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyCheckKind {
    Check,
    Sync,
}

impl KeyCheckKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Sync => "sync",
        }
    }
}

/// How a request that cost nothing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckOutcome {
    Success,
    /// The provider does not take the key.
    Refused,
    Error,
}

impl CheckOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Refused => "refused",
            Self::Error => "error",
        }
    }
}

/// A request that cost nothing, and how it ended.
#[derive(Debug, Clone)]
pub struct KeyChecked {
    pub kind: KeyCheckKind,
    /// `None`: it was with the platform's key, or with none.
    pub user_id: Option<String>,
    pub provider_id: Uuid,
    /// Microseconds since 1970.
    pub created_at: i64,
    pub outcome: CheckOutcome,
    pub http_status: Option<u16>,
    pub error_code: Option<String>,
    pub latency_ms: u64,
}

impl JobEnd {
    /// About how many bytes it holds.
    pub fn size(&self) -> usize {
        self.outcome.as_ref().map_or(0, |(answer, _)| answer.response.len()) + size_of::<Self>()
    }
}

/// What another gateway may have spent in all, and has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leased {
    pub granted: Amount,
    pub used: Amount,
}

/// The other gateways.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    pub names: Vec<String>,
    /// How often what one had leased was settled without it.
    pub settlements: i64,
}

/// What each gateway has leased of a count.
pub type Lent = Vec<(String, Leased)>;

/// A count of a budget: whose, and of the period that began then (microseconds since 1970).
pub type Counted = (Uuid, Option<String>, i64);

/// What leasing needs of the database.
#[derive(Debug)]
pub enum Lending {
    /// Listen to another gateway, and find the budgets that it asks about. `None`: it is not known, or this is not its
    /// last message.
    Open {
        from: String,
        number: i64,
        budgets: Vec<Uuid>,
        reply: oneshot::Sender<Result<Option<Vec<Budget>>, String>>,
    },
    /// Read what all have leased of these counts.
    Read { counts: Vec<Counted>, reply: oneshot::Sender<Result<Vec<Lent>, String>> },
    /// Keep its leases.
    Keep { from: String, leases: Vec<LeaseKept>, reply: oneshot::Sender<Result<(), String>> },
}

/// A lease to be kept.
#[derive(Debug, Clone)]
pub struct LeaseKept {
    pub budget: Uuid,
    pub user: Option<String>,
    /// Microseconds since 1970.
    pub since: i64,
    pub lease: Leased,
}

/// A question to the ledger. `user`: only that user's rows, beyond the scope.
#[derive(Debug, Clone)]
pub enum SpendingQuery {
    /// What counts against a budget since then (microseconds since 1970), and what other gateways have leased of it.
    Budget { budget: Uuid, scope: Scope, keys: Keys, user: Option<String>, since: i64 },
    /// The requests since then.
    LastMinute { scope: Scope, user: Option<String>, since: i64 },
}

#[derive(Debug, Clone, Default)]
pub struct Spending {
    pub amount: Amount,
    /// By the other gateways' names.
    pub leases: Lent,
    /// When requests were made, oldest first, and their tokens.
    pub calls: Vec<(i64, i64)>,
}

/// A budget of which so much is spent.
#[derive(Debug, Clone)]
pub struct BudgetWarning {
    pub budget: Uuid,
    pub user: Option<String>,
    /// Microseconds since 1970.
    pub period_start: i64,
    /// 80 or 100 percent.
    pub level: i16,
    pub spent: Amount,
}

/// A change of health, and whose key it is about (`None`: the platform's, or no key's).
#[derive(Debug, Clone)]
pub struct HealthNote {
    pub change: Change,
    pub user_id: Option<String>,
}

impl HealthNote {
    /// Whether a key is meant, and not a provider with all of them.
    pub fn is_about_a_key(&self) -> bool {
        !matches!(self.change.0, Place::Provider(_))
    }
}
