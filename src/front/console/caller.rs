//! Who has signed in to the console.

use uuid::Uuid;

/// Somebody who may use the console.
#[derive(Debug, Clone)]
pub struct ConsoleCaller {
    pub user_id: String,
    /// As which they act in the database.
    pub role: String,
    pub is_anonymous: bool,
    pub kind: Kind,
    pub is_admin: bool,
}

/// By what they are known.
#[derive(Debug, Clone)]
pub enum Kind {
    Session { id: Uuid, expires_at: i64 },
    Token,
    GatewayKey,
}
