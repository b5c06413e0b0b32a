//! Reads who may change limits while the server runs.

use super::authentication::add_tokens;
use super::reader::{Result, Table};
use crate::authentication::Tokens;

/// The tokens of those who may; none where nobody may.
pub(super) fn read(root: &Table<'_>) -> Result<Tokens<()>> {
    let mut tokens = Tokens::default();
    if let Some(field) = root.get("admin") {
        add_tokens(
            &field.table(&["tokens"])?.required("tokens")?,
            &(),
            &mut tokens,
        )?;
    }
    Ok(tokens)
}
