//! Rules in the form of Envoy ratelimit: domains, each with a tree of descriptors.
//!
//! - `rules`: finds the rule of a descriptor.
//! - `limit`: the limit of a rule.

mod limit;
mod rules;

pub(crate) use limit::{Amount, Limit, PerUnit, Unit};
pub(crate) use rules::{Counted, Found, Label, Level, Rule, Rules, Wildcard};
