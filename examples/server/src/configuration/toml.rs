//! Reads TOML into a tree.

use std::mem;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml_parser::lexer::Token;
use toml_parser::parser::{
    Event, EventKind, EventReceiver, RecursionGuard, parse_document, parse_value,
};
use toml_parser::{ErrorSink, Source};

use super::tree::{ConfigurationError, MAX_DEPTH, Node, Origin, Result, Value, too_deep};

/// Parses the text of the file `name`.
pub(crate) fn from_toml(text: &str, name: &str) -> Result<Node> {
    let lines = LineIndex::new(text, Origin::file(name, 1));
    if let Some(offset) = offset_too_deep(text, parse_document) {
        return Err(too_deep(lines.at(offset)));
    }
    match DeTable::parse(text) {
        Ok(table) => Ok(Node {
            value: lines.table(table.get_ref()),
            origin: lines.file,
        }),
        Err(error) => {
            let span = error.span().unwrap_or_default();
            let origin = lines.at(span.start);
            let problem = match (error.message(), text.get(span.clone())) {
                ("duplicate key", Some(name)) => {
                    let first = first_line(text, span.start, name);
                    let first = first.map(|line| format!(", first at {}", origin.at_line(line)));
                    let first = first.unwrap_or_default();
                    format!("invalid TOML: `{name}` is in this table twice{first}: remove one")
                }
                (message, _) if message.starts_with("key with no value") => format!(
                    "invalid TOML: {message}; the configuration is TOML, such as `name = \"value\"`, \
                     not YAML"
                ),
                (message, _) => format!("invalid TOML: {message}"),
            };
            Err(ConfigurationError::new(origin, "", problem))
        }
    }
}

/// Parses the text of an environment variable. Quoted strings, lists and tables are TOML. Any other
/// text is the value itself.
pub(super) fn from_variable(text: &str, origin: &Origin) -> Result<Node> {
    let plain = || Node {
        value: Value::Plain(text.to_owned()),
        origin: origin.clone(),
    };
    // TOML would read only the first line, for instance of a PEM key.
    if text.contains('\n') {
        return Ok(plain());
    }
    if offset_too_deep(text, parse_value).is_some() {
        return Err(too_deep(origin.clone()));
    }
    let mut node = match DeValue::parse(text) {
        Ok(value)
            if matches!(
                value.get_ref(),
                DeValue::String(_) | DeValue::Array(_) | DeValue::Table(_)
            ) =>
        {
            LineIndex::new(text, origin.clone()).node(&value)
        }
        _ => plain(),
    };
    set_origin(&mut node, origin);
    Ok(node)
}

/// Returns why a text that begins like a list or table of TOML is not TOML. The result shows no part
/// of the text, which may be a secret.
pub(super) fn syntax_error(text: &str) -> Option<String> {
    // The parser stops at the first line, and `from_variable` limits the depth of single lines only.
    if text.contains('\n') {
        return None;
    }
    let kind = match text.trim_start().chars().next()? {
        '{' => "table",
        '[' => "list",
        _ => return None,
    };
    let error = DeValue::parse(text).err()?;
    Some(format!(
        "the text begins like a TOML {kind} and cannot be parsed: {}",
        error.message()
    ))
}

/// Returns the line of the first definition of a name that is in a table twice, if it is found: an
/// equal table header, or a line with the name in the part below the last table header.
fn first_line(text: &str, duplicate: usize, name: &str) -> Option<usize> {
    let before = text.get(..duplicate)?;
    let line_start = before.rfind('\n').map_or(0, |offset| offset + 1);
    let line = text[line_start..].lines().next()?.trim();
    let mut earlier = text[..line_start].lines().enumerate();
    if line.starts_with('[') {
        let (index, _) = earlier.find(|(_, earlier)| earlier.trim() == line)?;
        return Some(index + 1);
    }
    // The name may be in an inline table.
    if !line.starts_with(name) {
        return None;
    }
    let mut first = None;
    for (index, earlier) in earlier {
        let earlier = earlier.trim_start();
        let rest = earlier.strip_prefix(name).map(str::trim_start);
        if earlier.starts_with('[') {
            first = None;
        } else if rest.is_some_and(|rest| rest.starts_with(['=', '.'])) {
            first = first.or(Some(index + 1));
        }
    }
    first
}

fn set_origin(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| set_origin(item, origin)),
        Value::Table(entries) => entries
            .iter_mut()
            .for_each(|(_, entry)| set_origin(entry, origin)),
        _ => {}
    }
}

/// A function of `toml_parser` that parses tokens into events.
type ParseFn = fn(&[Token], &mut dyn EventReceiver, &mut dyn ErrorSink);

/// Returns the first offset, in bytes, at which the tree of a text exceeds [`MAX_DEPTH`]. The
/// `toml` crate limits the depth of brackets and the parts of a key separately, and their product
/// is large enough to overflow the stack.
fn offset_too_deep(text: &str, parse: ParseFn) -> Option<usize> {
    let mut offset = None;
    let mut depth = 0;
    // The depths of the enclosing lists and tables.
    let mut outer = Vec::new();
    let (mut key_parts, mut is_dotted) = (0, false);
    let mut receive = |event: Event| {
        match event.kind() {
            EventKind::StdTableOpen | EventKind::ArrayTableOpen => (depth, key_parts) = (0, 0),
            // Each part of the name may be a list of tables, which has two levels.
            EventKind::StdTableClose | EventKind::ArrayTableClose => {
                depth = 2 * mem::take(&mut key_parts);
            }
            EventKind::InlineTableOpen | EventKind::ArrayOpen => {
                outer.push(depth);
                depth += mem::take(&mut key_parts).max(1);
            }
            EventKind::InlineTableClose | EventKind::ArrayClose => {
                depth = outer.pop().unwrap_or_default();
            }
            EventKind::SimpleKey => {
                key_parts = if is_dotted { key_parts + 1 } else { 1 };
                is_dotted = false;
            }
            EventKind::KeySep => is_dotted = true,
            EventKind::Scalar => key_parts = 0,
            _ => {}
        }
        if depth + key_parts > MAX_DEPTH {
            offset.get_or_insert(event.span().start());
        }
    };
    // Limits the recursion of the parser.
    let mut receive = RecursionGuard::new(&mut receive, MAX_DEPTH as u32);
    parse(&Source::new(text).lex().into_vec(), &mut receive, &mut ());
    offset
}

/// Finds the lines of offsets in a text.
struct LineIndex {
    /// The offsets, in bytes, at which the lines after the first start.
    line_starts: Vec<usize>,
    file: Origin,
}

impl LineIndex {
    fn new(text: &str, file: Origin) -> Self {
        let breaks = text.match_indices('\n');
        Self {
            line_starts: breaks.map(|(offset, _)| offset + 1).collect(),
            file,
        }
    }

    fn at(&self, offset: usize) -> Origin {
        let line_breaks = self.line_starts.partition_point(|start| *start <= offset);
        self.file.at_line(1 + line_breaks)
    }

    fn node(&self, value: &Spanned<DeValue<'_>>) -> Node {
        let origin = self.at(value.span().start);
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(integer) => {
                let number = i64::from_str_radix(integer.as_str(), integer.radix());
                number.map_or(Value::Other("a number that is too large"), Value::Integer)
            }
            DeValue::Float(_) => Value::Other("a number with a fraction"),
            DeValue::Boolean(boolean) => Value::Boolean(*boolean),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| self.node(item)).collect())
            }
            DeValue::Table(table) => self.table(table),
        };
        Node { value, origin }
    }

    /// Returns the entries in the order of the file. The origin of each is the line of its name.
    fn table(&self, table: &DeTable<'_>) -> Value {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let entries = entries.into_iter().map(|(name, value)| {
            let node = self.node(value);
            let origin = self.at(name.span().start);
            (name.get_ref().to_string(), Node { origin, ..node })
        });
        Value::Table(entries.collect())
    }
}
