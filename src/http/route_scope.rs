use sha2::{Digest, Sha256};

use crate::quota::{NameError, Scope};

/// The largest length of a scope's name.
const MAX_LENGTH: usize = 64;

/// Returns the scope of a route: `/users/{id}` is `users.-id-`, and in a layer of the scope `api` it is
/// `api..users.-id-`.
///
/// No two routes of one layer have the same scope, and no two layers of different scopes: a route that
/// cannot be read back from its name, or whose name is too long, gets a digest of its path.
pub(super) fn route_scope(layer: &Scope, path: &str) -> Result<Scope, NameError> {
    let prefix = match *layer == Scope::default() {
        true => String::new(),
        false => format!("{layer}.."),
    };
    let route = path.strip_prefix('/').unwrap_or(path);
    let readable: String = route.chars().map(readable_char).collect();
    let name = match path {
        "/" => format!("{prefix}."),
        _ => format!("{prefix}{readable}"),
    };
    let is_exact = path == "/" || (path.starts_with('/') && route.split('/').all(is_exact_segment));
    if is_exact && name.len() <= MAX_LENGTH && name != Scope::default().as_str() {
        return Scope::new(&name);
    }
    let digest = Sha256::digest(format!("{layer} {path}"));
    let digest: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // A readable name has ASCII characters only.
    let end = name.len().min(MAX_LENGTH - 1 - digest.len());
    Scope::new(&format!("{}-{digest}", &name[..end]))
}

fn readable_char(character: char) -> char {
    match character {
        '/' => '.',
        '{' | '}' => '-',
        '-' => '-',
        _ if character.is_ascii_alphanumeric() => character,
        _ => '_',
    }
}

/// Returns whether a segment of a path can be read back from its name.
fn is_exact_segment(segment: &str) -> bool {
    let is_word = |text: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        !text.is_empty() && text.bytes().all(is_plain)
    };
    let parameter = segment
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'));
    match parameter {
        Some(name) => is_word(name),
        None => segment.split('-').all(is_word),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn name(layer: &str, path: &str) -> String {
        let layer = Scope::new(layer).expect("a valid name");
        let scope = route_scope(&layer, path).expect("a valid name");
        scope.as_str().to_owned()
    }

    #[test]
    fn route_scopes_are_readable() {
        for (path, expected) in [
            ("/", "."),
            ("/users", "users"),
            ("/users/{id}", "users.-id-"),
            ("/users/{user_id}/sign-in", "users.-user_id-.sign-in"),
        ] {
            assert_eq!(name("default", path), expected);
            assert_eq!(name("api", path), format!("api..{expected}"));
        }
        assert!(name("default", "/files/{*path}").starts_with("files.-_path--"));
        let long = format!("/{}", "x".repeat(80));
        assert!(name("default", &long).starts_with(&"x".repeat(47)));
    }

    #[test]
    fn route_scopes_are_distinct() {
        let long = ["a", "b"].map(|end| format!("/{}{end}", "x".repeat(100)));
        let paths = [
            "", "/", "//", "/.", "/-", "/a", "a", "/a/", "//a", "/a/b", "/a.b", "/a-b", "/a_b",
            "/a b", "/{a}", "/-a-", "/{*a}", "/{_a}", "/_a", "/a{b}", "/a-b-", "/é", "/ê",
            "/default", "/v1/{a}", "/v1.-a-", &long[0], &long[1],
        ];
        let layers = ["default", "api", "a"];
        let names: HashSet<_> = layers
            .iter()
            .flat_map(|layer| paths.iter().map(|path| name(layer, path)))
            .collect();
        assert_eq!(names.len(), layers.len() * paths.len());
        assert!(!names.contains("default"));
    }
}
