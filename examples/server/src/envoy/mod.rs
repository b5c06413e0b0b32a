//! Rules as Envoy ratelimit has them: domains, and in each a tree of descriptors.
//!
//! `read` makes them of a configuration, `rules` finds the one that a descriptor means, `limit` says
//! what it allows, `metadata` what there is to tell of it.

mod limit;
mod metadata;
mod read;
mod rules;
mod wildcard;

pub(crate) use limit::{Amount, Limit, PerUnit, Unit};
pub(crate) use metadata::told;
pub(crate) use read::read_domain;
pub(crate) use rules::{Counted, Found, Rules};
