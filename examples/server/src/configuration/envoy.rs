//! Reads the rules for Envoy, from the configuration and from files of their own.

use std::path::Path;

use super::reader::{Field, Result, Table};
use super::sources::Sources;
use super::tokens::TokenReader;
use super::yaml::from_yaml;
use crate::authentication::Tokens;
use crate::envoy::{Rules, read_domain};

/// The settings of the gRPC service for Envoy.
#[derive(Debug, Default)]
pub(crate) struct EnvoySettings {
    pub(crate) rules: Rules,
    /// Whether Envoy adds the headers of the rate limit to its responses.
    pub(crate) response_headers: bool,
    /// The tokens that Envoy may authenticate with.
    pub(crate) tokens: Tokens<()>,
}

/// Reads the table and the files that it names, whose paths are relative to `directory`.
pub(super) fn read(
    root: &Table<'_>,
    reader: &mut TokenReader,
    directory: &Path,
    sources: &mut Sources,
) -> Result<EnvoySettings> {
    let mut settings = EnvoySettings::default();
    let Some(field) = root.get("envoy") else {
        return Ok(settings);
    };
    let table = field.table(&["files", "domains", "response_headers", "tokens"])?;
    let headers = table.read("response_headers", Field::boolean)?;
    settings.response_headers = headers.unwrap_or_default();
    if let Some(field) = table.get("tokens") {
        reader.list(&field, &(), &mut settings.tokens)?;
    }
    if let Some(domains) = table.get("domains") {
        for domain in domains.list()? {
            read_domain(&domain, &mut settings.rules)?;
        }
    }
    if let Some(list) = table.get("files") {
        for field in list.list()? {
            let path = directory.join(field.text()?);
            let name = path.display().to_string();
            let text = sources
                .read(&path)
                .map_err(|error| field.wrong(format!("{name} cannot be read: {error}")))?;
            let tree = from_yaml(&text, &name)?;
            read_domain(&Field::root(&tree), &mut settings.rules)?;
        }
    }
    Ok(settings)
}
