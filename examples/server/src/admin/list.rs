//! `GET /limits`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::limits::Item;
use super::parameters::{self, Pairs};
use super::router::Admin;
use crate::decide::Refusal;
use crate::http::Problem;
use crate::limits::Subject;

/// The size of a page, unless `limit` asks for a smaller one.
const LARGEST_PAGE: usize = 1_000;

/// The beginnings of all subjects.
const KINDS: [&str; 3] = ["keys/", "tenants/", "tiers/"];

/// A part of all limits in force, in the order of their subjects' text.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    limits: Vec<Item>,
    /// The parameter `after` of the next page; absent from the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Which limits a page contains.
struct Selection {
    prefix: String,
    after: Option<String>,
    count: usize,
}

/// Lists limits in force: overrides, and configured limits that have no override.
pub(super) async fn list(State(admin): State<Admin>, pairs: Pairs) -> Result<Json<Page>, Problem> {
    let selection = Selection::read(pairs)?;
    Ok(Json(selection.page(&admin)))
}

impl Selection {
    fn read(pairs: Pairs) -> Result<Self, Refusal> {
        let [prefix, limit, after] = parameters::read(pairs, ["prefix", "limit", "after"])?;
        let prefix = prefix.unwrap_or_default();
        let can_begin = |kind: &str| kind.starts_with(&prefix) || prefix.starts_with(kind);
        if !KINDS.into_iter().any(can_begin) {
            let kinds = KINDS.join(", ");
            let problem = format!("{prefix:?} begins no subject: subjects begin with {kinds}");
            return Err(Refusal::invalid("prefix", problem));
        }
        let count = match limit {
            None => LARGEST_PAGE,
            Some(limit) => {
                let count = limit.parse().ok();
                let count = count.filter(|count| (1..=LARGEST_PAGE).contains(count));
                count.ok_or_else(|| {
                    let problem = format!("must be an integer from 1 to {LARGEST_PAGE}");
                    Refusal::invalid("limit", problem)
                })?
            }
        };
        if let Some(after) = &after {
            let subject = after.parse::<Subject>();
            subject.map_err(|error| Refusal::invalid("after", error))?;
        }
        Ok(Self {
            prefix,
            after,
            count,
        })
    }

    fn contains(&self, subject: &str) -> bool {
        subject.starts_with(&self.prefix)
            && self.after.as_deref().is_none_or(|after| subject > after)
    }

    fn page(&self, admin: &Admin) -> Page {
        let rules = admin.gate.rules();
        let configured = rules.catalog.entries();
        let configured = configured.map(|(subject, limits)| (subject.to_string(), limits));
        let mut items: BTreeMap<_, _> = configured
            .filter(|(subject, _)| self.contains(subject))
            .map(|(subject, limits)| (subject.clone(), Item::configured(subject, limits)))
            .collect();
        // One more than the page holds tells whether there is a next page.
        let overrides = admin.gate.overrides();
        for (subject, entry) in overrides.page(&self.prefix, self.after.as_deref(), self.count + 1)
        {
            items.insert(subject.clone(), Item::at_run_time(subject, entry));
        }
        let has_next = items.len() > self.count;
        let limits: Vec<_> = items.into_values().take(self.count).collect();
        let last = limits.last().filter(|_| has_next);
        Page {
            next: last.map(|last| last.subject().to_owned()),
            limits,
        }
    }
}
