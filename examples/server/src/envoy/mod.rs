//! Rules in the form of Envoy ratelimit: domains, each with a tree of descriptors.
//!
//! `read` reads rules from a configuration, `rules` finds the rule of a descriptor, `limit` is the
//! limit of a rule, and `metadata` the dynamic metadata of a response.

mod limit;
mod metadata;
mod read;
mod rules;
mod wildcard;
mod word;

pub(crate) use limit::{Amount, Limit, PerUnit, Unit};
pub(crate) use metadata::merged;
pub(crate) use read::read_domain;
pub(crate) use rules::{Counted, Found, Label, Rules};
