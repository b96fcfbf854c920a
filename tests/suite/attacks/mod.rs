//! Attacks, each under the role of the attacker and over a real connection: what one tenant, one provider
//! or one object in the schema must not do to the others.

mod bounds;
mod floods;
mod fresh;
mod memory;
mod places;
mod queue;
mod worst;
