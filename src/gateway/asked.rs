//! What HTTP asks the main thread about jobs.

use uuid::Uuid;

/// What is asked about jobs over HTTP, and by whom.
#[derive(Debug)]
pub enum JobAsked {
    Submit(NewJob),
    Look(Uuid, JobUser),
    Cancel(Uuid, JobUser),
}

/// Whose jobs somebody may see and cancel.
#[derive(Debug, Clone)]
pub struct JobUser {
    pub id: String,
    /// All jobs.
    pub is_admin: bool,
    /// With a gateway key: those alone that came with it.
    pub gateway_key: Option<Uuid>,
}

/// A job to be written.
#[derive(Debug)]
pub struct NewJob {
    pub user: String,
    pub model: String,
    pub provider: Option<String>,
    /// The whole request, our own options included.
    pub request: String,
    pub idempotency_key: Option<String>,
    /// The gateway key that it comes with: it has to pass still when the job is run.
    pub gateway_key: Option<Uuid>,
}

#[derive(Debug)]
pub enum JobTold {
    /// Its id, or that of the job that was submitted by the same key before.
    Submitted(Uuid),
    Seen(Box<JobSeen>),
    /// Whether it had not ended.
    Cancelled(bool),
}

/// A job as its row says.
#[derive(Debug)]
pub struct JobSeen {
    pub id: Uuid,
    pub status: String,
    /// JSON, as the next.
    pub response: Option<String>,
    pub error: Option<String>,
    /// USD, as `numeric` prints it.
    pub cost: Option<String>,
    pub cost_source: Option<String>,
    pub provider: Option<String>,
    pub served_model: Option<String>,
    pub attempts: i32,
    /// Seconds since 1970, as the next.
    pub created_at: Option<i64>,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
    pub latency_ms: Option<i64>,
}
