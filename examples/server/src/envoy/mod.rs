//! Rules in the form of Envoy ratelimit: domains, each with a tree of descriptors.
//!
//! - `rules`: the rules, and the lookup of a descriptor's rule.
//! - `limit`: the limit of a rule.

mod limit;
mod rules;

pub(crate) use limit::{Amount, Limit, PerUnit, Unit};
pub(crate) use rules::{CountKey, Level, MatchedRule, Rule, RuleLabel, Rules, Wildcard};
