//! The limits of tiers, tenants and keys: configured limits, and overrides.
//!
//! An *override* is a limit that an operator sets at run time. It replaces the configured limit of the
//! same subject.
//!
//! - `configured`: the limits of the configuration, and the subjects that limits are for.
//! - `override_table`: the overrides in memory, the lookup of a key's limits, and conditional writes.
//! - `overrides`: reads and writes overrides, in this process or through Redis.
//! - `redis`: the overrides that all replicas share; `write.lua` and `read.lua` are its scripts.

mod configured;
mod override_table;
mod overrides;
mod redis;

pub(crate) use configured::{Catalog, Subject, Tenant};
pub(crate) use override_table::{Condition, Override, WriteError};
pub(crate) use overrides::Overrides;
