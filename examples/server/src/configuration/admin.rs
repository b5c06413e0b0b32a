//! Reads the tokens of the admin API.

use super::limits::check_name;
use super::reader::{Result, Table};
use super::tokens::TokenReader;
use super::tree::Value;
use crate::authentication::Tokens;

/// Returns the names of the administrators by their tokens. Without `[admin]` the table is empty, and
/// the server has no admin API.
pub(super) fn read(root: &Table<'_>, reader: &mut TokenReader) -> Result<Tokens<String>> {
    let mut tokens = Tokens::default();
    let Some(admin) = root.get("admin") else {
        return Ok(tokens);
    };
    let field = admin.table(&["tokens"])?.required("tokens")?;
    if let Value::List(_) = field.value() {
        let problem = "must be a table of names and tokens, not a list: write `[admin.tokens]`, and \
                       below it a line such as `alice = \"sha256:…\"` for each token";
        return Err(field.wrong(problem));
    }
    let entries = field.entries()?;
    if entries.is_empty() {
        return Err(field.wrong("the table is empty: add a name and its token, or remove [admin]"));
    }
    for (name, field) in entries {
        check_name(name, &field)?;
        tokens.add(reader.token(&field)?, name.to_owned());
    }
    Ok(tokens)
}
