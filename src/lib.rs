//! `aggregator`: a multi-tenant gateway to large language models inside PostgreSQL.
//!
//! Four rooms: `session` runs in the caller's backend, `worker` is the background worker's main
//! thread, `gateway` its asynchronous side, and `clerk` a process beside it that reads and writes for the console.
//! `core` holds the rules and knows none of them.

use pgrx::prelude::*;

mod answer;
mod clerk;
mod clock;
mod columns;
mod core;
mod database;
#[cfg(test)]
mod documented;
mod error;
mod frames;
mod fresh;
mod front;
mod gateway;
mod gateway_keys;
mod installed;
mod keyring;
mod on_behalf;
mod protocol;
mod queue;
mod route_cache;
mod routing;
mod session;
mod settings;
mod sqlstate;
mod time;
mod worker;

::pgrx::pg_module_magic!(name, version);

#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    frames::leave_out();
    let is_preloading = worker::is_preloading();
    settings::register(is_preloading);
    session::hush::install();
    // The only provider of cryptography there is; a second call says that it is set already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if is_preloading {
        settings::note_preloaded();
        worker::register_launcher();
    }
}

extension_sql_file!("../sql/bootstrap.sql", name = "bootstrap", bootstrap);
extension_sql_file!("../sql/tables.sql", name = "tables", requires = ["bootstrap"]);
extension_sql_file!("../sql/seed.sql", name = "seed", requires = ["tables"]);
extension_sql_file!("../sql/triggers.sql", name = "triggers", requires = ["seed"]);
extension_sql_file!("../sql/routing.sql", name = "routing", requires = ["triggers"]);
extension_sql_file!("../sql/cost.sql", name = "cost", requires = ["routing"]);
extension_sql_file!("../sql/prices.sql", name = "prices", requires = ["cost"]);
extension_sql_file!("../sql/catalogue.sql", name = "catalogue", requires = ["prices"]);
extension_sql_file!("../sql/user_models.sql", name = "user_models", requires = ["catalogue"]);
extension_sql_file!("../sql/references.sql", name = "references", requires = ["user_models"]);
extension_sql_file!("../sql/key_checks.sql", name = "key_checks", requires = ["references"]);
extension_sql_file!("../sql/jobs.sql", name = "jobs", requires = ["key_checks"]);
extension_sql_file!("../sql/health.sql", name = "health", requires = ["jobs"]);
extension_sql_file!("../sql/rollup.sql", name = "rollup", requires = ["health"]);
extension_sql_file!("../sql/labels.sql", name = "labels", requires = ["rollup"]);
extension_sql_file!("../sql/quarantine.sql", name = "quarantine", requires = ["labels"]);
extension_sql_file!("../sql/readers.sql", name = "readers", requires = ["quarantine"]);
extension_sql_file!("../sql/reports.sql", name = "reports", requires = ["readers"]);
extension_sql_file!("../sql/dashboard.sql", name = "dashboard", requires = ["reports"]);
extension_sql_file!("../sql/partitions.sql", name = "partitions", requires = ["dashboard"]);
extension_sql_file!("../sql/budgets.sql", name = "budgets", requires = ["partitions"]);
extension_sql_file!("../sql/gateways.sql", name = "gateways", requires = ["budgets"]);
extension_sql_file!("../sql/gateway_keys.sql", name = "gateway_keys", requires = ["gateways"]);
extension_sql_file!("../sql/console.sql", name = "console", requires = ["gateway_keys"]);
extension_sql_file!("../sql/cache.sql", name = "cache", requires = ["console"]);
extension_sql_file!("../sql/route_cache.sql", name = "route_cache", requires = ["cache"]);
extension_sql_file!("../sql/views.sql", name = "views", requires = ["route_cache"]);
extension_sql_file!("../sql/schedule.sql", name = "schedule", requires = ["views"]);
extension_sql_file!("../sql/ai.sql", name = "ai", requires = ["schedule"]);
extension_sql_file!("../sql/ai_columns.sql", name = "ai_columns", requires = ["ai"]);
extension_sql_file!(
    "../sql/ai_column_views.sql",
    name = "ai_column_views",
    requires = ["ai_columns"]
);
extension_sql_file!(
    "../sql/ai_column_status.sql",
    name = "ai_column_status",
    requires = ["ai_column_views"]
);
extension_sql_file!("../sql/comments.sql", name = "comments", requires = ["ai_column_status"]);
extension_sql_file!("../sql/grants.sql", name = "grants", requires = ["comments"]);
extension_sql_file!("../sql/script.sql", name = "script", requires = ["grants"]);
extension_sql_file!("../sql/guard.sql", name = "guard", requires = ["script"]);
extension_sql_file!("../sql/people.sql", name = "people", requires = ["guard"]);
extension_sql_file!("../sql/following.sql", name = "following", requires = ["people"]);
extension_sql_file!("../sql/citus.sql", name = "citus", requires = ["following"]);
extension_sql_file!("../sql/finish.sql", name = "finish", finalize);

/// What `#[pg_test]` looks for.
#[cfg(feature = "pg_test")]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![]
    }
}
