//! Attacks, each under the role of the attacker and over a real connection: what one tenant, one provider
//! or one object in the schema must not do to the others.

mod bound;
mod bounds;
mod floods;
mod forgotten;
mod fresh;
mod identity;
mod key_checks;
mod keyring;
mod locks;
mod log;
mod memory;
mod money;
mod places;
mod planting;
mod queue;
mod roles;
mod standby;
mod user_models;
mod worst;
