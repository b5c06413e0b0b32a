//! Reads YAML into the same tree as TOML. What stands there without quotes is kept as it is: the
//! field that reads it says what it wants.

use saphyr::{MarkedYaml, ScalarStyle, ScanError, YamlData, YamlLoader};
use saphyr_parser::Parser;

use super::error::ConfigurationError;
use super::tree::{Node, Origin, Value};

/// Reads a file of one document; `name` is the file's.
pub(super) fn from_yaml(text: &str, name: &str) -> Result<Node, ConfigurationError> {
    let file = Origin::file(name, 1);
    let wrong = |line, problem: String| ConfigurationError::new(file.line(line), "", problem);
    let documents = load(text).map_err(|error| {
        let problem = format!("this is no YAML: {}", error.info());
        wrong(error.marker().line(), problem)
    })?;
    match documents.as_slice() {
        [document] => node(document, &file),
        [] => Err(wrong(1, "the file is empty".to_owned())),
        [_, second, ..] => {
            let problem = "the file has a second document: put it into a file of its own";
            Err(wrong(second.span.start.line(), problem.to_owned()))
        }
    }
}

fn load(text: &str) -> Result<Vec<MarkedYaml<'_>>, ScanError> {
    let mut loader = YamlLoader::default();
    loader.early_parse(false);
    Parser::new_from_str(text).load(&mut loader, true)?;
    match loader.error() {
        Some(error) => Err(error.clone()),
        None => Ok(loader.into_documents()),
    }
}

fn node(yaml: &MarkedYaml<'_>, file: &Origin) -> Result<Node, ConfigurationError> {
    let origin = file.line(yaml.span.start.line());
    let value = match &yaml.data {
        YamlData::Representation(text, style, _) => scalar(text, *style),
        YamlData::Sequence(items) => {
            let items = items.iter().map(|item| node(item, file));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        YamlData::Mapping(entries) => {
            let entries = entries.iter().map(|(name, value)| {
                let line = name.span.start.line();
                let YamlData::Representation(name, ..) = &name.data else {
                    let problem = "a name must be a text";
                    return Err(ConfigurationError::new(file.line(line), "", problem));
                };
                // At the line of the name, where that is not the value's.
                let node = Node {
                    origin: file.line(line),
                    ..node(value, file)?
                };
                Ok((name.to_string(), node))
            });
            Value::Table(entries.collect::<Result<_, _>>()?)
        }
        YamlData::Tagged(_, tagged) => return node(tagged, file),
        YamlData::Value(_) | YamlData::Alias(_) | YamlData::BadValue => {
            return Err(ConfigurationError::new(origin, "", "this cannot be read"));
        }
    };
    Ok(Node { value, origin })
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    match (style, text) {
        (ScalarStyle::Plain, "" | "~" | "null" | "Null" | "NULL") => Value::Nothing,
        (ScalarStyle::Plain, _) => Value::Plain(text.to_owned()),
        _ => Value::Text(text.to_owned()),
    }
}
