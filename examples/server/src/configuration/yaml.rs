//! Reads YAML into the same tree as TOML. Unquoted scalars stay texts: the field that reads one
//! decides its type.

use std::collections::{HashMap, HashSet};
use std::mem;

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::tree::{ConfigurationError, MAX_DEPTH, Node, Origin, Result, Value, too_deep};

/// How much anchors and aliases may copy, in values and bytes of text. It bounds the memory for lists
/// of aliases of lists of aliases.
const MAX_COPIED: usize = 1_000_000;

/// Reads a file of one document; `name` is the file's.
pub(crate) fn from_yaml(text: &str, name: &str) -> Result<Node> {
    let file = Origin::file(name, 1);
    let mut tree = Tree::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let problem = format!("this is no YAML: {}", error.info());
            ConfigurationError::new(file.line(error.marker().line()), "", problem)
        })?;
        let origin = file.line(span.start.line());
        match event {
            Event::DocumentStart(_) if tree.root.is_some() => {
                let problem = "the file has a second document: put it into a file of its own";
                return Err(ConfigurationError::new(origin, "", problem));
            }
            Event::Scalar(text, ScalarStyle::Plain, anchor, _) => {
                let value = Value::Plain(text.into_owned());
                tree.finish(Node { value, origin }, anchor)?;
            }
            Event::Scalar(text, _, anchor, _) => {
                let value = Value::Text(text.into_owned());
                tree.finish(Node { value, origin }, anchor)?;
            }
            Event::Alias(anchor) => tree.alias(anchor, origin)?,
            Event::SequenceStart(anchor, _) => {
                tree.open(Content::List(Vec::new()), anchor, origin)?;
            }
            Event::MappingStart(anchor, _) => {
                tree.open(Content::Table(Entries::default()), anchor, origin)?;
            }
            Event::SequenceEnd | Event::MappingEnd => tree.close()?,
            _ => {}
        }
    }
    let empty = || ConfigurationError::new(file.clone(), "", "the file is empty");
    tree.root.ok_or_else(empty)
}

/// A tree that grows by the parser's events. It needs no recursion, so that no file overflows the
/// stack.
#[derive(Default)]
struct Tree {
    root: Option<Node>,
    /// The open lists and tables, from the outermost to the innermost.
    open: Vec<Open>,
    /// The values of anchors, by the parser's number for each.
    anchors: HashMap<usize, Node>,
    copied: usize,
}

struct Open {
    content: Content,
    /// The number of the anchor, or 0.
    anchor: usize,
    origin: Origin,
}

enum Content {
    List(Vec<Node>),
    Table(Entries),
}

#[derive(Default)]
struct Entries {
    entries: Vec<(String, Node)>,
    names: HashSet<String>,
    /// The name whose value comes next.
    name: Option<(String, Origin)>,
    /// Whether that name is the merge key `<<`.
    is_merge: bool,
    /// The values of merge keys.
    merged: Vec<Node>,
}

impl Tree {
    fn open(&mut self, content: Content, anchor: usize, origin: Origin) -> Result<()> {
        if self.open.len() == MAX_DEPTH {
            return Err(too_deep(origin));
        }
        self.open.push(Open {
            content,
            anchor,
            origin,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        // The parser closes only open lists and tables.
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.content {
            Content::List(items) => Value::List(items),
            Content::Table(table) => Value::Table(table.merge()?),
        };
        let origin = open.origin;
        self.finish(Node { value, origin }, open.anchor)
    }

    /// Adds a complete value, and keeps a copy for the aliases of its anchor.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<()> {
        if anchor != 0 {
            self.count_copy(&node)?;
            self.anchors.insert(anchor, node.clone());
        }
        self.add(node)
    }

    fn alias(&mut self, anchor: usize, origin: Origin) -> Result<()> {
        let Some(node) = self.anchors.get(&anchor) else {
            let problem = "an alias cannot be inside the value of its own anchor";
            return Err(ConfigurationError::new(origin, "", problem));
        };
        let value = node.value.clone();
        let node = Node { value, origin };
        self.count_copy(&node)?;
        self.add(node)
    }

    /// Refuses a copy that is too deep here, or too large together with all copies before it.
    fn count_copy(&mut self, node: &Node) -> Result<()> {
        let (size, depth) = measure(node);
        if self.open.len() + depth > MAX_DEPTH {
            return Err(too_deep(node.origin.clone()));
        }
        self.copied = self.copied.saturating_add(size);
        if self.copied > MAX_COPIED {
            let problem = format!(
                "anchors and aliases copy more than {MAX_COPIED} values and bytes of text: write \
                 fewer of them"
            );
            return Err(ConfigurationError::new(node.origin.clone(), "", problem));
        }
        Ok(())
    }

    /// Adds a complete value to the innermost list or table: there, every other one is a name.
    fn add(&mut self, node: Node) -> Result<()> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(typed(node));
            return Ok(());
        };
        let table = match &mut open.content {
            Content::List(items) => {
                items.push(typed(node));
                return Ok(());
            }
            Content::Table(table) => table,
        };
        if let Some((name, origin)) = table.name.take() {
            if table.is_merge {
                table.merged.push(node);
                return Ok(());
            }
            // At the line of the name, where that is not the value's.
            table.entries.push((
                name,
                Node {
                    origin,
                    ..typed(node)
                },
            ));
            return Ok(());
        }
        let is_merge = matches!(&node.value, Value::Plain(name) if name == "<<");
        let (Value::Text(name) | Value::Plain(name)) = node.value else {
            let problem = "a name must be a text";
            return Err(ConfigurationError::new(node.origin, "", problem));
        };
        if !table.names.insert(name.clone()) {
            let problem = format!("{name:?} is in this table twice");
            return Err(ConfigurationError::new(node.origin, "", problem));
        }
        table.name = Some((name, node.origin));
        table.is_merge = is_merge;
        Ok(())
    }
}

impl Entries {
    /// The entries, with those of merged tables whose names are not taken, as in YAML 1.1's merge key
    /// (<https://yaml.org/type/merge.html>). Rules of Envoy ratelimit use it.
    fn merge(mut self) -> Result<Vec<(String, Node)>> {
        for node in mem::take(&mut self.merged) {
            let tables = match node.value {
                Value::List(items) => items,
                _ => vec![node],
            };
            for table in tables {
                let Value::Table(entries) = table.value else {
                    let problem = "the value of `<<` must be a table or a list of tables";
                    return Err(ConfigurationError::new(table.origin, "", problem));
                };
                for (name, node) in entries {
                    if self.names.insert(name.clone()) {
                        self.entries.push((name, node));
                    }
                }
            }
        }
        Ok(self.entries)
    }
}

/// The scalars of YAML that stand for no value, as such.
fn typed(mut node: Node) -> Node {
    if let Value::Plain(word) = &node.value
        && matches!(word.as_str(), "" | "~" | "null" | "Null" | "NULL")
    {
        node.value = Value::Nothing;
    }
    node
}

/// The number of values and bytes of text in a value, and its depth.
fn measure(node: &Node) -> (usize, usize) {
    match &node.value {
        Value::Text(text) | Value::Plain(text) => (1 + text.len(), 0),
        Value::List(items) => sum(items.iter().map(measure)),
        Value::Table(entries) => sum(entries.iter().map(|(name, node)| {
            let (size, depth) = measure(node);
            (size + name.len(), depth)
        })),
        _ => (1, 0),
    }
}

fn sum(parts: impl Iterator<Item = (usize, usize)>) -> (usize, usize) {
    parts.fold((1, 1), |(size, depth), (more, inner)| {
        (size + more, depth.max(1 + inner))
    })
}

/// A scalar without quotes, as `gopkg.in/yaml.v2` reads it, with which Envoy ratelimit loads its rules:
/// YAML 1.1, in which `yes` is a boolean and `010` is 8.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Word {
    Boolean(bool),
    Integer(i128),
    Number(f64),
    Text,
}

impl Word {
    pub(super) fn new(word: &str) -> Self {
        match word {
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                return Self::Boolean(true);
            }
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off"
            | "OFF" => return Self::Boolean(false),
            _ => {}
        }
        if !word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
            return Self::Text;
        }
        let plain = word.replace('_', "");
        if let Some(integer) = integer(&plain) {
            return Self::Integer(integer);
        }
        // Rust reads `+inf` and `-nan` as numbers too.
        let is_decimal = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
        match plain.parse::<f64>() {
            Ok(number) if number.is_finite() && plain.chars().all(is_decimal) => {
                Self::Number(number)
            }
            _ => Self::Text,
        }
    }
}

fn integer(word: &str) -> Option<i128> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // A second sign, which Rust would accept.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    Some(sign * i128::from_str_radix(digits, radix).ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::tree::Value;
    use super::Word::{self, Boolean, Integer, Number, Text};
    use super::from_yaml;

    /// The entries of the table `c`, or the error.
    fn merged(text: &str) -> Result<Vec<(String, String)>, String> {
        let tree = from_yaml(text, "rules.yaml").map_err(|error| error.to_string())?;
        let Value::Table(root) = tree.value else {
            panic!("{text} is a table");
        };
        let (_, node) = root.into_iter().find(|(name, _)| name == "c").expect("c");
        let Value::Table(entries) = node.value else {
            panic!("c is a table");
        };
        let text = |value| match value {
            Value::Plain(text) | Value::Text(text) => text,
            other => other.kind().to_owned(),
        };
        let entries = entries.into_iter();
        Ok(entries
            .map(|(name, node)| (name, text(node.value)))
            .collect())
    }

    fn entries(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |&(name, text): &(&str, &str)| (name.to_owned(), text.to_owned());
        expected.iter().map(owned).collect()
    }

    #[test]
    fn merge_key_adds_missing_names_only() {
        let tables = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\n";
        let cases: [(&str, &[_]); 4] = [
            ("c: {<<: *a, x: 3}", &[("x", "3"), ("y", "1")]),
            ("c: {x: 3, <<: *a}", &[("x", "3"), ("y", "1")]),
            ("c: {<<: [*a, *b]}", &[("x", "1"), ("y", "1"), ("z", "2")]),
            ("c: {\"<<\": 3}", &[("<<", "3")]),
        ];
        for (text, expected) in cases {
            let entries = entries(expected);
            assert_eq!(merged(&format!("{tables}{text}\n")), Ok(entries), "{text}");
        }
    }

    #[test]
    fn merge_key_without_table_is_refused() {
        for text in ["c:\n  <<: 1\n", "c:\n  <<: [{}, 1]\n", "c:\n  <<:\n"] {
            let error = merged(text).expect_err(text);
            let expected = "rules.yaml:2: the value of `<<` must be a table or a list of tables";
            assert_eq!(error, expected, "{text}");
        }
    }

    #[test]
    fn words_are_read_as_by_yaml_v2() {
        let cases = [
            ("yes", Boolean(true)),
            ("Off", Boolean(false)),
            ("yEs", Text),
            ("0", Integer(0)),
            ("+5", Integer(5)),
            ("-5", Integer(-5)),
            ("--5", Text),
            ("1_000", Integer(1000)),
            ("_1", Text),
            ("010", Integer(8)),
            ("08", Number(8.0)),
            ("0x1F", Integer(31)),
            ("0x-1", Text),
            ("-0o17", Integer(-15)),
            ("0b101", Integer(5)),
            ("0x", Text),
            ("4294967296", Integer(4_294_967_296)),
            ("1.5", Number(1.5)),
            (".5", Number(0.5)),
            ("1e3", Number(1000.0)),
            ("1e999", Text),
            ("+inf", Text),
            ("-nan", Text),
            ("1.2.3.4", Text),
            ("5m", Text),
            ("", Text),
        ];
        for (word, expected) in cases {
            assert_eq!(Word::new(word), expected, "{word}");
        }
    }
}
