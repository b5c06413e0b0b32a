//! Which rule a descriptor means.

use std::collections::HashMap;

use super::limit::Limit;
use super::wildcard::Wildcard;

/// All domains.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(super) domains: HashMap<String, Level>,
}

/// The rules among which the next entry of a descriptor chooses, by its key.
#[derive(Debug, Default)]
pub(super) struct Level(pub(super) HashMap<String, Choices>);

/// The rules of one key, from the most to the least particular.
#[derive(Debug, Default)]
pub(super) struct Choices {
    pub(super) exact: HashMap<String, Rule>,
    pub(super) wildcards: Vec<(Wildcard, Rule)>,
    /// For every other value, each by itself.
    pub(super) any: Option<Box<Rule>>,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) limit: Option<Limit>,
    /// Values that match the wildcard count together.
    pub(super) share_threshold: bool,
    /// The rule's metric has all values of the descriptor.
    pub(super) detailed_metric: bool,
    /// The rule's metric has this entry's value.
    pub(super) value_to_metric: bool,
    pub(super) next: Level,
}

/// What there is for a descriptor.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) limit: &'a Limit,
    /// The rule, in metrics.
    pub(crate) label: String,
    /// Whose count it is.
    pub(crate) counted: String,
}

/// How the rule of an entry was found.
enum By<'a> {
    Value,
    Wildcard(&'a Wildcard),
    Key,
}

impl Rules {
    pub(crate) fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Whether there are rules for this domain.
    pub(crate) fn knows(&self, domain: &str) -> bool {
        self.domains.contains_key(domain)
    }

    /// The limit for the descriptor with these entries. Every one of them must have led to a rule,
    /// and the last one's rule must have a limit.
    pub(crate) fn find(&self, domain: &str, entries: &[(&str, &str)]) -> Option<Found<'_>> {
        let mut level = self.domains.get(domain)?;
        let mut label = Label::default();
        let mut counted = Counted::of(domain);
        let (&(last_key, last_value), before) = entries.split_last()?;
        for &(key, value) in before {
            let (rule, by) = level.choose(key, value)?;
            label.add(key, value, rule, &by);
            counted.add(key, value, rule, &by);
            level = &rule.next;
        }
        let (rule, by) = level.choose(last_key, last_value)?;
        label.add(last_key, last_value, rule, &by);
        counted.add(last_key, last_value, rule, &by);
        Some(Found {
            limit: rule.limit.as_ref()?,
            label: match rule.detailed_metric {
                true => label.detailed,
                false => label.plain,
            },
            counted: counted.0,
        })
    }
}

impl Level {
    fn choose(&self, key: &str, value: &str) -> Option<(&Rule, By<'_>)> {
        let choices = self.0.get(key)?;
        if let Some(rule) = choices.exact.get(value) {
            return Some((rule, By::Value));
        }
        let mut wildcards = choices.wildcards.iter();
        if let Some((wildcard, rule)) = wildcards.find(|(wildcard, _)| wildcard.matches(value)) {
            return Some((rule, By::Wildcard(wildcard)));
        }
        choices.any.as_deref().map(|rule| (rule, By::Key))
    }
}

/// A rule's name in metrics, as it grows entry by entry: `key_value.key`.
#[derive(Default)]
struct Label {
    /// With the values that the configuration names, or wants to see.
    plain: String,
    /// With all values.
    detailed: String,
}

impl Label {
    fn add(&mut self, key: &str, value: &str, rule: &Rule, by: &By<'_>) {
        let (plain, detailed) = match by {
            By::Value => (Some(value), value),
            By::Wildcard(wildcard) if rule.share_threshold => {
                (Some(wildcard.pattern()), wildcard.pattern())
            }
            By::Wildcard(_) if rule.value_to_metric => (Some(value), value),
            By::Wildcard(wildcard) => (Some(wildcard.pattern()), value),
            By::Key => (rule.value_to_metric.then_some(value), value),
        };
        append(&mut self.plain, key, plain);
        append(&mut self.detailed, key, Some(detailed));
    }
}

fn append(label: &mut String, key: &str, value: Option<&str>) {
    if !label.is_empty() {
        label.push('.');
    }
    label.push_str(key);
    if let Some(value) = value {
        label.push('_');
        label.push_str(value);
    }
}

/// Whose count it is: `domain;key=value;key=value`. What has a meaning in it is escaped, so that no
/// value can pass for something else.
pub(crate) struct Counted(String);

impl Counted {
    pub(crate) fn of(domain: &str) -> Self {
        let mut counted = Self(String::new());
        counted.push(domain);
        counted
    }

    fn add(&mut self, key: &str, value: &str, rule: &Rule, by: &By<'_>) {
        match by {
            // An escaped value has no such star.
            By::Wildcard(wildcard) if rule.share_threshold => {
                self.add_plain(key, "");
                self.push(wildcard.pattern());
                self.0.push('*');
            }
            _ => self.add_plain(key, value),
        }
    }

    /// Adds an entry that counts by itself.
    pub(crate) fn add_plain(&mut self, key: &str, value: &str) {
        self.0.push(';');
        self.push(key);
        self.0.push('=');
        self.push(value);
    }

    fn push(&mut self, text: &str) {
        for character in text.chars() {
            if matches!(character, ';' | '=' | '*' | '\\') {
                self.0.push('\\');
            }
            self.0.push(character);
        }
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}
