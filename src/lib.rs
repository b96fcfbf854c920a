#![allow(dead_code)]
mod core;
mod error;
mod gateway;
mod keyring;
mod protocol;
::pgrx::pg_module_magic!(name, version);
