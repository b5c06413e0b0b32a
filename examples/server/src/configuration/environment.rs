//! Puts the values of environment variables into the tree.
//!
//! The variable `TOLLGATE__STORE__URL` sets the field `url` of the table `store`: two underscores
//! separate the names, which are case-insensitive. The text of the variable is the value. Lists and
//! tables are TOML.

use std::collections::HashSet;

use super::toml::from_variable;
use super::tree::{ConfigurationError, MAX_DEPTH, Node, Origin, Result, Value, too_deep};

const PREFIX: &str = "TOLLGATE__";

/// The prefix of all variables of the project, including the variables of its command line.
const PROJECT_PREFIX: &str = "TOLLGATE_";

/// The variables of the command line that look like a misspelt variable of a table.
const COMMAND_LINE_VARIABLES: [&str; 2] = ["TOLLGATE_ADMIN", "TOLLGATE_ADMIN_TOKEN"];

/// Returns the project's variables of this process.
pub(super) fn variables() -> Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    // `env::vars` panics at a variable that is not UTF-8.
    for (name, text) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if !begins_with(&name, PROJECT_PREFIX) {
            continue;
        }
        let text = text.into_string().map_err(|_| {
            ConfigurationError::new(Origin::variable(&name), "", "must be in UTF-8")
        })?;
        variables.push((name, text));
    }
    Ok(variables)
}

/// Sets the values of the variables in the tree. `tables` are the names of the tables at the root.
pub(super) fn apply(
    root: &mut Node,
    mut variables: Vec<(String, String)>,
    tables: &[&str],
) -> Result<()> {
    // Sorted, so that the result does not depend on the order of the environment.
    variables.sort();
    let mut names = HashSet::new();
    for (name, text) in &variables {
        let origin = Origin::variable(name);
        let error = |problem: String| ConfigurationError::new(origin.clone(), "", problem);
        let Some(path) = name.strip_prefix(PREFIX) else {
            match intended_name(name, tables) {
                None => continue,
                Some(intended_name) => {
                    return Err(error(format!("is not read: write {intended_name}")));
                }
            }
        };
        let path: Vec<_> = path.split("__").collect();
        if path.contains(&"") {
            let problem = "names no field: write one as TOLLGATE__STORE__URL";
            return Err(error(problem.to_owned()));
        }
        if path.len() > MAX_DEPTH {
            return Err(too_deep(origin));
        }
        if !names.insert(name.to_ascii_uppercase()) {
            let problem = "another variable has the same name in other capitals: remove one";
            return Err(error(problem.to_owned()));
        }
        set(root, &path, from_variable(text, &origin)?)?;
    }
    Ok(())
}

/// Returns the correct name for a name without [`PREFIX`], such as `TOLLGATE_STORE_URL`, that
/// begins with the name of a table.
fn intended_name(name: &str, tables: &[&str]) -> Option<String> {
    let rest = name
        .get(PROJECT_PREFIX.len()..)
        .filter(|_| begins_with(name, PROJECT_PREFIX))?;
    let rest = rest.trim_start_matches('_');
    let (table, field) = rest.split_once('_').unwrap_or((rest, ""));
    let is_table = tables.iter().any(|known| known.eq_ignore_ascii_case(table));
    // For a Service `tollgate-admin`, Kubernetes sets variables such as TOLLGATE_ADMIN_SERVICE_HOST
    // and TOLLGATE_ADMIN_PORT_8082_TCP.
    let is_service = field
        .split('_')
        .any(|word| word == "SERVICE" || word == "PORT");
    if !is_table || is_service || COMMAND_LINE_VARIABLES.contains(&name) {
        return None;
    }
    let field = field.trim_start_matches('_');
    let separator = if field.is_empty() { "" } else { "__" };
    Some(format!("{PREFIX}{table}{separator}{field}"))
}

fn begins_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn set(node: &mut Node, path: &[&str], value: Node) -> Result<()> {
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
            let problem = format!("`{name}` is not an index of a list of {count}, counted from 0");
            return Err(ConfigurationError::new(value.origin, "", problem));
        };
        return set(item, rest, value);
    }
    let Value::Table(entries) = &mut node.value else {
        let problem = format!(
            "there is no `{name}` in {}: remove `__{}` from the variable's name",
            node.value.kind(),
            path.join("__")
        );
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
