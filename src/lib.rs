#[allow(dead_code)]
mod core;
mod error;
::pgrx::pg_module_magic!(name, version);
