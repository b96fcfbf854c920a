//! The statements of the console: all that can be run for it.

use std::time::Duration;

/// For what only reads or writes tables, and for what asks providers.
const PATIENCE: Duration = Duration::from_secs(15);
const PATIENCE_WITH_PROVIDERS: Duration = Duration::from_secs(120);

/// How a statement is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// It reads, in a transaction that cannot write.
    Get,
    /// It writes, or asks providers.
    Post,
}

impl Method {
    #[cfg(test)]
    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }

    /// As the header `allow` has it.
    pub fn allow(self) -> &'static str {
        match self {
            Self::Get => "GET, HEAD",
            Self::Post => "POST",
        }
    }
}

/// A statement that takes its arguments as one `jsonb` and gives one row with one column: the answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Statement {
    pub name: &'static str,
    pub method: Method,
    pub parameters: &'static [&'static str],
    /// With `@extschema@` where the schema of the extension stands.
    pub sql: &'static str,
    /// It waits for providers, who may take their time.
    pub asks_providers: bool,
}

impl Statement {
    /// The longest that it may run.
    pub fn patience(&self) -> Duration {
        if self.asks_providers { PATIENCE_WITH_PROVIDERS } else { PATIENCE }
    }

    pub fn writes(&self) -> bool {
        self.method == Method::Post
    }
}

/// The statement of this name.
pub fn find(name: &str) -> Option<&'static Statement> {
    STATEMENTS.iter().find(|statement| statement.name == name)
}

macro_rules! statement {
    ($method:ident $name:literal $file:literal $parameters:expr) => {
        statement!($method $name $file $parameters, false)
    };
    ($method:ident $name:literal $file:literal $parameters:expr, $asks_providers:expr) => {
        Statement {
            name: $name,
            method: Method::$method,
            parameters: &$parameters,
            sql: include_str!(concat!("../../../../sql/console/", $file)),
            asks_providers: $asks_providers,
        }
    };
}

/// In the order of their names.
pub const STATEMENTS: &[Statement] = &[
    statement!(Post "cancel-job" "cancel_job.sql" ["id"]),
    statement!(Post "change-key" "change_key.sql" ["provider", "priority", "is_active"]),
    statement!(Post "check-key" "check_key.sql" ["provider", "key"], true),
    statement!(Post "create-gateway-key" "create_gateway_key.sql" [
        "name", "models", "expires_at", "limit_usd", "period", "requests_per_minute", "tokens_per_minute", "tags"
    ]),
    statement!(Get "gateway-keys" "gateway_keys.sql" []),
    statement!(Get "job" "job.sql" ["id"]),
    statement!(Get "jobs" "jobs.sql" ["before", "status"]),
    statement!(Get "limits" "limits.sql" []),
    statement!(Get "me" "me.sql" []),
    statement!(Get "models" "models.sql" []),
    statement!(Get "providers" "providers.sql" []),
    statement!(Post "remove-budget" "remove_budget.sql" ["id"]),
    statement!(Post "remove-key" "remove_key.sql" ["provider"]),
    statement!(Post "remove-platform-key" "remove_platform_key.sql" ["provider"]),
    statement!(Post "remove-rate-limit" "remove_rate_limit.sql" ["id"]),
    statement!(Get "request" "request.sql" ["id"]),
    statement!(Get "requests" "requests.sql" [
        "before", "limit", "status", "model", "provider", "key", "tag", "user_id"
    ]),
    statement!(Post "revoke-gateway-key" "revoke_gateway_key.sql" ["id"]),
    statement!(Post "rotate-gateway-key" "rotate_gateway_key.sql" ["id", "grace"]),
    statement!(Post "save-key" "save_key.sql" ["provider", "key", "unchecked"], true),
    statement!(Post "save-platform-key" "save_platform_key.sql" ["provider", "key"], true),
    statement!(Post "set-budget" "set_budget.sql" [
        "limit_usd", "limit_tokens", "limit_requests", "period", "user_id", "each_user", "provider", "model",
        "action", "keys", "tag"
    ]),
    statement!(Post "set-rate-limit" "set_rate_limit.sql" [
        "requests_per_minute", "tokens_per_minute", "user_id", "each_user", "provider", "model", "tag"
    ]),
    statement!(Post "sync" "sync.sql" ["provider"], true),
    statement!(Post "sync-own" "sync_own.sql" ["provider"], true),
    statement!(Get "usage" "usage.sql" ["range", "provider", "user_id"]),
    statement!(Get "usage-by-user" "usage_by_user.sql" ["range", "provider", "user_id"]),
    statement!(Get "users" "users.sql" []),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn each_file_is_one_statement_and_says_of_itself_what_the_table_says() {
        for statement in STATEMENTS {
            let Statement { name, method, parameters, sql, .. } = statement;
            let mut declared = format!("-- {} {name}", method.as_str());
            if !parameters.is_empty() {
                declared.push_str(&format!(": {}", parameters.join(", ")));
            }
            assert_eq!(sql.lines().next(), Some(declared.as_str()));
            assert_eq!(find(name), Some(statement));
            for name in parameters.iter() {
                let reads = ["->", "->>"].map(|reads| format!("$1 {reads} '{name}'"));
                assert!(
                    reads.iter().any(|reads| sql.contains(reads)),
                    "{}: {name}",
                    statement.name
                );
            }
            // One statement, which nothing else can follow, and which takes nothing but its one argument.
            let is_code = |line: &&str| !line.trim_start().starts_with("--");
            let code: String = sql.lines().filter(is_code).collect();
            assert!(!code.contains(';'), "{name}");
            assert!(!sql.contains("$2"), "{name}");
        }
    }

    #[test]
    fn the_table_has_every_file_and_each_once() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/console");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        let named: BTreeSet<String> =
            STATEMENTS.iter().map(|s| format!("{}.sql", s.name.replace('-', "_"))).collect();
        assert_eq!(files, named);
        assert!(STATEMENTS.is_sorted_by_key(|statement| statement.name));
        let texts: BTreeSet<&str> = STATEMENTS.iter().map(|statement| statement.sql).collect();
        assert_eq!(texts.len(), STATEMENTS.len());
    }

    #[test]
    fn nothing_else_is_found() {
        for name in ["", "Me", "me ", "me.sql", "../me", "check_key", "me\0", "usage; DROP TABLE x"]
        {
            assert_eq!(find(name), None, "{name}");
        }
    }
}
