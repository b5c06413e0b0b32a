//! Reads the tokens of the admin API.

use super::reader::{Result, Table};
use crate::authentication::Tokens;

/// Returns the tokens in `[admin.tokens]`, each with its name. Without tokens there is no admin API.
pub(super) fn read(root: &Table<'_>) -> Result<Tokens<String>> {
    let mut tokens = Tokens::default();
    if let Some(field) = root.get("admin") {
        for (name, field) in field.table(&["tokens"])?.required("tokens")?.entries()? {
            let added = tokens.add(field.secret()?.reveal(), name.to_owned());
            added.map_err(|_| field.wrong("after `sha256:` must come 64 hexadecimal digits"))?;
        }
    }
    Ok(tokens)
}
