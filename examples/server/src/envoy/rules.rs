//! Finds the rule of a descriptor.

use std::collections::HashMap;

use super::limit::Limit;

/// All domains.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) domains: HashMap<String, Level>,
}

/// The rules of one level of a domain, by the key of the entry that they are for.
#[derive(Debug, Default)]
pub(crate) struct Level(pub(crate) HashMap<String, Choices>);

/// The rules of one key, from the most to the least particular.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    pub(crate) exact: HashMap<String, Rule>,
    pub(crate) wildcards: Vec<(Wildcard, Rule)>,
    /// For every other value, each of which has a count of its own.
    pub(crate) any: Option<Box<Rule>>,
}

#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) limit: Option<Limit>,
    /// All values that match the wildcard have one count.
    pub(crate) share_threshold: bool,
    /// The metric's label has all values of the descriptor.
    pub(crate) detailed_metric: bool,
    /// The metric's label has the value of this entry.
    pub(crate) value_to_metric: bool,
    pub(crate) next: Level,
}

/// The limit of a descriptor.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) limit: &'a Limit,
    pub(crate) label: Label,
    /// The name of the count: see [`Counted`].
    pub(crate) counted: String,
}

/// How an entry matched its rule.
enum By<'a> {
    Value,
    Wildcard(&'a Wildcard),
    Key,
}

impl Rules {
    pub(crate) fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Whether the domain is configured.
    pub(crate) fn knows(&self, domain: &str) -> bool {
        self.domains.contains_key(domain)
    }

    /// The limit of the descriptor with these entries, if each entry has a rule, and the last rule a
    /// limit.
    pub(crate) fn find(&self, domain: &str, entries: &[(&str, &str)]) -> Option<Found<'_>> {
        let mut level = self.domains.get(domain)?;
        let mut labels = Labels::default();
        let mut counted = Counted::of(domain);
        let (&(last_key, last_value), before) = entries.split_last()?;
        for &(key, value) in before {
            let (rule, by) = level.choose(key, value)?;
            labels.add(key, value, rule, &by);
            counted.add(key, value, rule, &by);
            level = &rule.next;
        }
        let (rule, by) = level.choose(last_key, last_value)?;
        labels.add(last_key, last_value, rule, &by);
        counted.add(last_key, last_value, rule, &by);
        Some(Found {
            limit: rule.limit.as_ref()?,
            label: match rule.detailed_metric {
                true => labels.detailed,
                false => labels.plain,
            },
            counted: counted.into_string(),
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

/// The name of a rule in metrics: `key_value.key`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) text: String,
    /// Whether a value of the text is the request's own, so that there may be any number of labels.
    pub(crate) is_open: bool,
}

impl Label {
    fn add(&mut self, key: &str, value: Option<&str>, is_open: bool) {
        if !self.text.is_empty() {
            self.text.push('.');
        }
        self.text.push_str(key);
        if let Some(value) = value {
            self.text.push('_');
            self.text.push_str(value);
        }
        self.is_open |= is_open;
    }
}

/// Both names that a rule may have, as they grow entry by entry.
#[derive(Default)]
struct Labels {
    /// With values of the configuration, and with those for which `value_to_metric` is set.
    plain: Label,
    /// With all values.
    detailed: Label,
}

impl Labels {
    fn add(&mut self, key: &str, value: &str, rule: &Rule, by: &By<'_>) {
        let (plain, detailed) = match by {
            By::Value => (Some((value, false)), (value, false)),
            By::Wildcard(wildcard) => {
                let pattern = (wildcard.pattern(), false);
                match (rule.share_threshold, rule.value_to_metric) {
                    (true, _) => (Some(pattern), pattern),
                    (false, true) => (Some((value, true)), (value, true)),
                    (false, false) => (Some(pattern), (value, true)),
                }
            }
            By::Key => (rule.value_to_metric.then_some((value, true)), (value, true)),
        };
        let (value, is_open) = plain.unzip();
        self.plain.add(key, value, is_open.unwrap_or_default());
        self.detailed.add(key, Some(detailed.0), detailed.1);
    }
}

/// The name of a count: `domain;key=value;key=value`, with separators in keys and values escaped, so
/// that different descriptors have different names.
///
/// A client may send a long value, such as a header, and a refusal would let it escape its limit,
/// because Envoy lets requests through if there is an error. So a name may have any length:
/// [`tollgate::Identity`] keeps no more of a long one than its SHA-256.
pub(crate) struct Counted(String);

impl Counted {
    pub(crate) fn of(domain: &str) -> Self {
        let mut counted = Self(String::new());
        counted.push(domain);
        counted
    }

    fn add(&mut self, key: &str, value: &str, rule: &Rule, by: &By<'_>) {
        match by {
            By::Wildcard(wildcard) if rule.share_threshold => {
                self.add_plain(key, "");
                self.push(wildcard.pattern());
                // In a request's own value, every star is escaped.
                self.0.push('*');
            }
            _ => self.add_plain(key, value),
        }
    }

    /// Adds an entry whose value has a count of its own.
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

/// A pattern for values.
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
        // The first match of a part leaves the most text for the parts after it.
        for part in middle.split('*') {
            match value.find(part) {
                Some(place) => value = &value[place + part.len()..],
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
    fn matches() {
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
