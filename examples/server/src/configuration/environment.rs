//! What the environment says instead of the file.
//!
//! The variable `TOLLGATE__STORE__URL` stands for the field `url` of the table `store`: names are
//! joined by two underscores, and may be in capitals. Its text is the value; lists and tables are TOML.

use super::error::ConfigurationError;
use super::tree::{Node, Origin, Value, from_variable};

pub(crate) const PREFIX: &str = "TOLLGATE__";

/// Sets the values that the variables name.
pub(crate) fn apply(
    root: &mut Node,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<(), ConfigurationError> {
    let mut variables: Vec<_> = variables
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    // In an order that does not depend on the environment's.
    variables.sort();
    for (name, text) in &variables {
        let origin = Origin::variable(name);
        let path: Vec<_> = name[PREFIX.len()..].split("__").collect();
        if path.contains(&"") {
            let problem = "names no field: write one as TOLLGATE__STORE__URL";
            return Err(ConfigurationError::new(origin, "", problem));
        }
        set(root, &path, from_variable(text, &origin))?;
    }
    Ok(())
}

fn set(node: &mut Node, path: &[&str], value: Node) -> Result<(), ConfigurationError> {
    let [name, rest @ ..] = path else {
        *node = value;
        return Ok(());
    };
    if matches!(node.value, Value::Nothing) {
        node.value = Value::Table(Vec::new());
    }
    if let Value::List(items) = &mut node.value {
        let count = items.len();
        let item = name
            .parse()
            .ok()
            .and_then(|index: usize| items.get_mut(index));
        let Some(item) = item else {
            let problem = format!("`{name}` is no place in a list of {count}, counted from 0");
            return Err(ConfigurationError::new(value.origin, "", problem));
        };
        return set(item, rest, value);
    }
    let Value::Table(entries) = &mut node.value else {
        let problem = format!("there is no `{name}` in {}", node.value.kind());
        return Err(ConfigurationError::new(value.origin, "", problem));
    };
    let known = entries.iter().position(|(known, _)| known == name);
    let known = known.or_else(|| {
        let mut names = entries.iter().map(|(known, _)| known);
        names.position(|known| known.eq_ignore_ascii_case(name))
    });
    let index = known.unwrap_or_else(|| {
        let missing = Node {
            value: Value::Nothing,
            origin: value.origin.clone(),
        };
        entries.push((name.to_ascii_lowercase(), missing));
        entries.len() - 1
    });
    set(&mut entries[index].1, rest, value)
}
