//! Reads YAML into the same tree as TOML. Plain (unquoted) scalars stay text, since the field that
//! reads one determines its type.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem;

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::tree::{ConfigurationError, MAX_DEPTH, Node, Origin, Result, Value, too_deep};

/// The maximum that anchors and aliases may copy, in values and bytes of text. It bounds the memory
/// of nested aliases, whose size grows exponentially.
const MAX_COPIED: usize = 1_000_000;

/// Parses the text of the file `name`, which is one document.
pub(crate) fn from_yaml(text: &str, name: &str) -> Result<Node> {
    let file = Origin::file(name, 1);
    let mut tree = Tree::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let problem = format!("invalid YAML: {}", error.info());
            ConfigurationError::new(file.at_line(error.marker().line()), "", problem)
        })?;
        let origin = file.at_line(span.start.line());
        match event {
            Event::DocumentStart(_) if tree.root.is_some() => {
                let problem = "the file has a second document: put it into a file of its own";
                return Err(ConfigurationError::new(origin, "", problem));
            }
            Event::Scalar(text, ScalarStyle::Plain, anchor, _) => {
                let value = Value::Plain(text.into_owned());
                tree.add_value(Node { value, origin }, anchor)?;
            }
            Event::Scalar(text, _, anchor, _) => {
                let value = Value::Text(text.into_owned());
                tree.add_value(Node { value, origin }, anchor)?;
            }
            Event::Alias(anchor) => tree.alias(anchor, origin)?,
            Event::SequenceStart(anchor, _) => {
                tree.start(Collection::List(Vec::new()), anchor, origin)?;
            }
            Event::MappingStart(anchor, _) => {
                tree.start(Collection::Table(TableEntries::default()), anchor, origin)?;
            }
            Event::SequenceEnd | Event::MappingEnd => tree.end()?,
            _ => {}
        }
    }
    let empty = || {
        ConfigurationError::new(
            file.clone(),
            "",
            "the file is empty: write `domain: …`, or remove the file from envoy.files",
        )
    };
    tree.root.ok_or_else(empty)
}

/// Builds a tree from the parser's events, without recursion, so that no file overflows the stack.
#[derive(Default)]
struct Tree {
    root: Option<Node>,
    /// The open lists and tables, from the outermost to the innermost.
    open: Vec<OpenCollection>,
    /// The values of anchors, by the parser's number of the anchor.
    anchors: HashMap<usize, Node>,
    copied: usize,
}

struct OpenCollection {
    content: Collection,
    /// The number of the anchor, or 0 without one.
    anchor: usize,
    origin: Origin,
}

enum Collection {
    List(Vec<Node>),
    Table(TableEntries),
}

#[derive(Default)]
struct TableEntries {
    entries: Vec<(String, Node)>,
    /// The names, with the origin of each.
    names: HashMap<String, Origin>,
    /// The name whose value is the next node.
    name: Option<(String, Origin)>,
    /// Whether that name is the merge key `<<`.
    is_merge: bool,
    /// The values of merge keys.
    merged: Vec<Node>,
}

impl Tree {
    fn start(&mut self, content: Collection, anchor: usize, origin: Origin) -> Result<()> {
        if self.open.len() == MAX_DEPTH {
            return Err(too_deep(origin));
        }
        self.open.push(OpenCollection {
            content,
            anchor,
            origin,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        // The parser closes only open lists and tables.
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.content {
            Collection::List(items) => Value::List(items),
            Collection::Table(table) => Value::Table(table.merge()?),
        };
        let origin = open.origin;
        self.add_value(Node { value, origin }, open.anchor)
    }

    /// Adds a complete value, and keeps a copy for the aliases of its anchor.
    fn add_value(&mut self, node: Node, anchor: usize) -> Result<()> {
        if anchor != 0 {
            self.check_copy(&node)?;
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
        self.check_copy(&node)?;
        self.add(node)
    }

    /// Returns an error for a copy that is too deep here, or that exceeds [`MAX_COPIED`] together
    /// with all earlier copies.
    fn check_copy(&mut self, node: &Node) -> Result<()> {
        let (size, depth) = size_and_depth(node);
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

    /// Adds a complete node to the innermost list or table. In a table, names and values alternate.
    fn add(&mut self, node: Node) -> Result<()> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(null_as_nothing(node));
            return Ok(());
        };
        let table = match &mut open.content {
            Collection::List(items) => {
                items.push(null_as_nothing(node));
                return Ok(());
            }
            Collection::Table(table) => table,
        };
        if let Some((name, origin)) = table.name.take() {
            if table.is_merge {
                table.merged.push(node);
                return Ok(());
            }
            // The origin of an entry is the line of its name.
            table.entries.push((
                name,
                Node {
                    origin,
                    ..null_as_nothing(node)
                },
            ));
            return Ok(());
        }
        let is_merge = matches!(&node.value, Value::Plain(name) if name == "<<");
        let (Value::Text(name) | Value::Plain(name)) = node.value else {
            let problem = "a name must be a string";
            return Err(ConfigurationError::new(node.origin, "", problem));
        };
        if let Some(first) = table.names.insert(name.clone(), node.origin.clone()) {
            let problem = format!("{name:?} is in this table twice, first at {first}: remove one");
            return Err(ConfigurationError::new(node.origin, "", problem));
        }
        table.name = Some((name, node.origin));
        table.is_merge = is_merge;
        Ok(())
    }
}

impl TableEntries {
    /// Returns the entries, and the entries of merged tables whose names are not present, like the
    /// merge key of YAML 1.1 (<https://yaml.org/type/merge.html>), which rules of Envoy ratelimit
    /// use.
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
                    if let Entry::Vacant(vacant) = self.names.entry(name.clone()) {
                        vacant.insert(node.origin.clone());
                        self.entries.push((name, node));
                    }
                }
            }
        }
        Ok(self.entries)
    }
}

/// Converts the plain scalars for null.
fn null_as_nothing(mut node: Node) -> Node {
    if let Value::Plain(word) = &node.value
        && matches!(word.as_str(), "" | "~" | "null" | "Null" | "NULL")
    {
        node.value = Value::Nothing;
    }
    node
}

/// Returns the number of values and bytes of text in a value, and its depth.
fn size_and_depth(node: &Node) -> (usize, usize) {
    match &node.value {
        Value::Text(text) | Value::Plain(text) => (1 + text.len(), 0),
        Value::List(items) => sum_sizes(items.iter().map(size_and_depth)),
        Value::Table(entries) => sum_sizes(entries.iter().map(|(name, node)| {
            let (size, depth) = size_and_depth(node);
            (size + name.len(), depth)
        })),
        _ => (1, 0),
    }
}

fn sum_sizes(parts: impl Iterator<Item = (usize, usize)>) -> (usize, usize) {
    parts.fold((1, 1), |(size, depth), (more, inner)| {
        (size + more, depth.max(1 + inner))
    })
}

/// The value of a plain scalar as in `gopkg.in/yaml.v2`, with which Envoy ratelimit loads its
/// rules. It follows YAML 1.1, in which `yes` is a boolean and `010` is 8.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum PlainScalar {
    Boolean(bool),
    Integer(i128),
    Number(f64),
    Text,
}

impl PlainScalar {
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
        if let Some(parse_integer) = parse_integer(&plain) {
            return Self::Integer(parse_integer);
        }
        // Rust would also parse `+inf` and `-nan`.
        let is_decimal = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
        match plain.parse::<f64>() {
            Ok(number) if number.is_finite() && plain.chars().all(is_decimal) => {
                Self::Number(number)
            }
            _ => Self::Text,
        }
    }
}

fn parse_integer(word: &str) -> Option<i128> {
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
    // Rust would accept a second sign.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    Some(sign * i128::from_str_radix(digits, radix).ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::tree::Value;
    use super::PlainScalar::{self, Boolean, Integer, Number, Text};
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
    fn plain_scalars_are_read_like_yaml_v2() {
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
            assert_eq!(PlainScalar::new(word), expected, "{word}");
        }
    }
}
