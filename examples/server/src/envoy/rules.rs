//! The rules of all domains, and the lookup of a descriptor's rule.

use std::collections::HashMap;

use super::limit::Limit;

/// The rules of all domains.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) domains: HashMap<String, Level>,
}

/// The rules of one level of a domain, by the key of the descriptor entry that they match.
#[derive(Debug, Default)]
pub(crate) struct Level(pub(crate) HashMap<String, KeyRules>);

/// The rules of one key, from the most to the least specific.
#[derive(Debug, Default)]
pub(crate) struct KeyRules {
    pub(crate) exact: HashMap<String, Rule>,
    pub(crate) wildcards: Vec<(Wildcard, Rule)>,
    /// Matches every other value, and counts each value separately.
    pub(crate) any: Option<Box<Rule>>,
}

#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) limit: Option<Limit>,
    /// Whether all values that match the wildcard share one count.
    pub(crate) share_threshold: bool,
    /// Whether the metric's label contains all values of the descriptor.
    pub(crate) detailed_metric: bool,
    /// Whether the metric's label contains the value of this entry.
    pub(crate) value_to_metric: bool,
    pub(crate) next: Level,
}

/// The rule that matches a descriptor.
#[derive(Debug)]
pub(crate) struct MatchedRule<'a> {
    pub(crate) limit: &'a Limit,
    pub(crate) label: RuleLabel,
    /// See [`CountKey`].
    pub(crate) count_key: String,
}

/// The part of a rule that matched an entry.
enum MatchedBy<'a> {
    Value,
    Wildcard(&'a Wildcard),
    Key,
}

impl Rules {
    pub(crate) fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Returns whether the domain is configured.
    pub(crate) fn contains(&self, domain: &str) -> bool {
        self.domains.contains_key(domain)
    }

    /// Returns the rule of a descriptor, if a rule matches each entry, and the last rule has a
    /// limit.
    pub(crate) fn find(&self, domain: &str, entries: &[(&str, &str)]) -> Option<MatchedRule<'_>> {
        let mut level = self.domains.get(domain)?;
        let mut labels = Labels::default();
        let mut count_key = CountKey::of(domain);
        let (&(last_key, last_value), before) = entries.split_last()?;
        for &(key, value) in before {
            let (rule, matched_by) = level.find(key, value)?;
            labels.add(key, value, rule, &matched_by);
            count_key.add(key, value, rule, &matched_by);
            level = &rule.next;
        }
        let (rule, matched_by) = level.find(last_key, last_value)?;
        labels.add(last_key, last_value, rule, &matched_by);
        count_key.add(last_key, last_value, rule, &matched_by);
        Some(MatchedRule {
            limit: rule.limit.as_ref()?,
            label: match rule.detailed_metric {
                true => labels.detailed,
                false => labels.plain,
            },
            count_key: count_key.into_string(),
        })
    }
}

impl Level {
    fn find(&self, key: &str, value: &str) -> Option<(&Rule, MatchedBy<'_>)> {
        let rules = self.0.get(key)?;
        if let Some(rule) = rules.exact.get(value) {
            return Some((rule, MatchedBy::Value));
        }
        let mut wildcards = rules.wildcards.iter();
        if let Some((wildcard, rule)) = wildcards.find(|(wildcard, _)| wildcard.matches(value)) {
            return Some((rule, MatchedBy::Wildcard(wildcard)));
        }
        rules.any.as_deref().map(|rule| (rule, MatchedBy::Key))
    }
}

/// The label of a rule in metrics, such as `key_value.key`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuleLabel {
    pub(crate) text: String,
    /// Whether the text contains a value of the request, so that the number of labels is unbounded.
    pub(crate) is_unbounded: bool,
}

impl RuleLabel {
    fn add(&mut self, key: &str, value: Option<&str>, is_unbounded: bool) {
        if !self.text.is_empty() {
            self.text.push('.');
        }
        self.text.push_str(key);
        if let Some(value) = value {
            self.text.push('_');
            self.text.push_str(value);
        }
        self.is_unbounded |= is_unbounded;
    }
}

/// Both labels that a rule may have, built entry by entry.
#[derive(Default)]
struct Labels {
    /// Contains the values of the configuration, and the values of entries with `value_to_metric`.
    plain: RuleLabel,
    /// Contains all values.
    detailed: RuleLabel,
}

impl Labels {
    fn add(&mut self, key: &str, value: &str, rule: &Rule, matched_by: &MatchedBy<'_>) {
        let (plain, detailed) = match matched_by {
            MatchedBy::Value => (Some((value, false)), (value, false)),
            MatchedBy::Wildcard(wildcard) => {
                let pattern = (wildcard.pattern(), false);
                match (rule.share_threshold, rule.value_to_metric) {
                    (true, _) => (Some(pattern), pattern),
                    (false, true) => (Some((value, true)), (value, true)),
                    (false, false) => (Some(pattern), (value, true)),
                }
            }
            MatchedBy::Key => (rule.value_to_metric.then_some((value, true)), (value, true)),
        };
        let (value, is_unbounded) = plain.unzip();
        self.plain.add(key, value, is_unbounded.unwrap_or_default());
        self.detailed.add(key, Some(detailed.0), detailed.1);
    }
}

/// The identity of a descriptor's count: `domain;key=value;key=value`. Separators in keys and
/// values are escaped, so that different descriptors have different keys.
///
/// A key has no maximum length. A client may send a long value, such as a header, and an error for
/// it would let the client escape its limit, because Envoy forwards requests on an error.
/// [`tollgate::Identity`] replaces a long key by its SHA-256.
pub(crate) struct CountKey(String);

impl CountKey {
    pub(crate) fn of(domain: &str) -> Self {
        let mut count_key = Self(String::new());
        count_key.push(domain);
        count_key
    }

    fn add(&mut self, key: &str, value: &str, rule: &Rule, matched_by: &MatchedBy<'_>) {
        match matched_by {
            MatchedBy::Wildcard(wildcard) if rule.share_threshold => {
                self.add_value(key, "");
                self.push(wildcard.pattern());
                // An unescaped star tells the pattern from a value, in which stars are escaped.
                self.0.push('*');
            }
            _ => self.add_value(key, value),
        }
    }

    /// Adds an entry whose values are counted separately.
    pub(crate) fn add_value(&mut self, key: &str, value: &str) {
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

/// A pattern for values, in which each `*` stands for any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wildcard {
    pattern: String,
}

impl Wildcard {
    /// Returns `None` if the value has no `*`.
    pub(crate) fn new(value: &str) -> Option<Self> {
        value.contains('*').then(|| Self {
            pattern: value.to_owned(),
        })
    }

    pub(crate) fn pattern(&self) -> &str {
        &self.pattern
    }

    pub(crate) fn matches(&self, value: &str) -> bool {
        let Some((start, rest)) = self.pattern.split_once('*') else {
            return self.pattern == value;
        };
        let Some(mut value) = value.strip_prefix(start) else {
            return false;
        };
        let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
        // The first match of a part leaves the most text for the later parts.
        for part in middle.split('*') {
            match value.find(part) {
                Some(start) => value = &value[start + part.len()..],
                None => return false,
            }
        }
        value.ends_with(end)
    }
}

#[cfg(test)]
mod tests {
    use super::Wildcard;

    #[test]
    fn wildcard_matches_any_text() {
        let cases = [
            ("value*", "value", true),
            ("value*", "valueXYZ", true),
            ("value*", "valu", false),
            ("*", "", true),
            ("*.pdf", "a.pdf", true),
            ("*.pdf", "a.pdf2", false),
            ("/api/*/action", "/api/123/action", true),
            ("/api/*/action", "/api/123/other", false),
            ("/api/*/action", "/api/action", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("a**c", "abc", true),
            ("a*bc*c", "abcc", true),
            ("a*bc*c", "abc", false),
        ];
        for (pattern, value, expected) in cases {
            let wildcard = Wildcard::new(pattern).expect("it has a star");
            assert_eq!(wildcard.matches(value), expected, "{pattern} {value}");
        }
        assert_eq!(Wildcard::new("plain"), None);
    }
}
