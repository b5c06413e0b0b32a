//! The folders under `src` are layers: a file imports only from its own folder and from layers below it,
//! and no files import each other in a circle. CONTRIBUTING.md has the map.
//!
//! The imports are read from the source text: every path that starts with `crate`, `super` or `self`,
//! outside comments and unit tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The layers, from the top. Modules of one layer do not import each other.
const LAYERS: [&[&str]; 8] = [
    &["test_util"],
    &["http"],
    &["limiter"],
    &["store"],
    &["identity", "metrics"],
    &["quota"],
    &["clock"],
    &["excerpt", "random", "timeouts"],
];

/// A module's path below the crate, such as `["store", "redis", "batch"]`.
type Module = Vec<String>;

/// The source of each module, without comments and unit tests.
struct Sources(BTreeMap<Module, String>);

impl Sources {
    fn read() -> Self {
        let mut sources = BTreeMap::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut folders = vec![(Module::new(), root)];
        while let Some((module, folder)) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder of sources") {
                let path = entry.expect("an entry of the folder").path();
                let name = path.file_stem().expect("a name").to_string_lossy();
                let child = [&module[..], &[name.to_string()]].concat();
                if path.is_dir() {
                    folders.push((child, path));
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let module = match &*name {
                        "lib" | "mod" => module.clone(),
                        _ => child,
                    };
                    let text = fs::read_to_string(&path).expect("a source file");
                    if name != "tests" {
                        sources.insert(module, without_comments_and_tests(&text));
                    }
                }
            }
        }
        Self(sources)
    }

    /// Returns the module that defines the last part of a path. Follows the re-exports of a folder.
    fn definition(&self, path: &[String]) -> Option<Module> {
        let module = (0..=path.len())
            .rev()
            .map(|length| path[..length].to_vec())
            .find(|module| self.0.contains_key(module))?;
        let Some(name) = path.get(module.len()) else {
            return Some(module);
        };
        let reexports = paths(&module, &self.0[&module]);
        let mut reexported = reexports
            .into_iter()
            .filter(|reexport| reexport.last() == Some(name) && reexport.len() > module.len() + 1)
            .filter(|reexport| reexport.starts_with(&module));
        match reexported.next() {
            Some(reexport) => self.definition(&reexport),
            None => Some(module),
        }
    }

    /// Returns the modules that a module imports from.
    fn imports(&self, module: &Module) -> BTreeSet<Module> {
        let paths = paths(module, &self.0[module]);
        let definitions = paths.iter().filter_map(|path| self.definition(path));
        definitions.filter(|import| import != module).collect()
    }
}

fn without_comments_and_tests(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let code = lines.take_while(|line| {
        let is_test_module =
            line.starts_with("#[cfg(") && line.contains("test, not(tollgate_loom)");
        *line != "#[cfg(test)]" && !is_test_module
    });
    let code = code.map(|line| line.split("//").next().unwrap_or_default());
    // Every second part between quotation marks is a string.
    let code = code.flat_map(|line| line.split('"').step_by(2));
    code.collect::<Vec<_>>().join(" ")
}

/// Returns every path in a module's source, from the crate on. Import lists are expanded.
fn paths(module: &Module, code: &str) -> Vec<Module> {
    let mut paths = Vec::new();
    for keyword in ["crate::", "super::", "self::"] {
        for (start, _) in code.match_indices(keyword) {
            let before = &code[..start];
            let is_path_start =
                !before.ends_with(|c: char| c == ':' || c == '_' || c.is_alphanumeric());
            let is_visibility = before.ends_with("(in ");
            if is_path_start && !is_visibility {
                expand(module.clone(), &code[start..], &mut paths);
            }
        }
    }
    // A folder names its own files without a keyword.
    for (start, _) in code.match_indices("use ") {
        expand(module.clone(), &code[start + 4..], &mut paths);
    }
    paths
}

/// Reads one path or import list after `prefix`. Returns the rest of the text.
fn expand<'a>(mut prefix: Module, mut text: &'a str, paths: &mut Vec<Module>) -> &'a str {
    loop {
        text = text.trim_start();
        if let Some(mut list) = text.strip_prefix('{') {
            loop {
                list = expand(prefix.clone(), list, paths).trim_start();
                match list.strip_prefix(',') {
                    Some(rest) => list = rest,
                    None => return list.strip_prefix('}').unwrap_or(list),
                }
            }
        }
        let end = text
            .find(|character: char| character != '_' && !character.is_alphanumeric())
            .unwrap_or(text.len());
        match &text[..end] {
            "" => return text,
            "crate" => prefix.clear(),
            "super" => drop(prefix.pop()),
            "self" => {}
            name => prefix.push(name.to_owned()),
        }
        text = &text[end..];
        match text.strip_prefix("::") {
            Some(rest) => text = rest,
            None => {
                paths.push(prefix);
                let rest = text.trim_start().strip_prefix("as ");
                return rest.map_or(text, |rest| {
                    rest.trim_start_matches(|c: char| c != ',' && c != '}' && c != ';')
                });
            }
        }
    }
}

#[test]
fn folders_import_only_from_lower_layers() {
    let sources = Sources::read();
    let layer = |folder: &str| LAYERS.iter().position(|layer| layer.contains(&folder));
    let mut wrong = Vec::new();
    for module in sources.0.keys().filter(|module| !module.is_empty()) {
        for import in sources.imports(module) {
            let (Some(from), Some(to)) = (module.first(), import.first()) else {
                wrong.push(format!(
                    "{} imports from the crate's root",
                    module.join("::")
                ));
                continue;
            };
            let is_lower = layer(from) < layer(to) && layer(to).is_some();
            if from != to && !is_lower && from != "guide" {
                wrong.push(format!(
                    "{} imports {}",
                    module.join("::"),
                    import.join("::")
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that do not go down:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn files_do_not_import_each_other_in_circles() {
    let sources = Sources::read();
    let mut imports: BTreeMap<_, _> = sources
        .0
        .keys()
        .filter(|module| !module.is_empty())
        .map(|module| (module.clone(), sources.imports(module)))
        .collect();
    // Removes modules that import none of the others or that none of the others imports, until only circles
    // and the paths between them remain.
    loop {
        let before = imports.len();
        let known: BTreeSet<_> = imports.keys().cloned().collect();
        for imports in imports.values_mut() {
            imports.retain(|import| known.contains(import));
        }
        imports.retain(|_, imports| !imports.is_empty());
        let imported: BTreeSet<_> = imports.values().flatten().cloned().collect();
        imports.retain(|module, _| imported.contains(module));
        if imports.len() == before {
            break;
        }
    }
    let circles: Vec<_> = imports
        .iter()
        .map(|(module, imports)| {
            let imports: Vec<_> = imports.iter().map(|import| import.join("::")).collect();
            format!("{} imports {}", module.join("::"), imports.join(", "))
        })
        .collect();
    assert!(circles.is_empty(), "circles:\n{}", circles.join("\n"));
}

#[test]
fn reader_expands_import_lists() {
    let module = ["store".to_owned(), "check".to_owned()].to_vec();
    let code = "use super::verdict::{Step, PerPolicy as All}; use crate::{quota::{State}, random}; \
                fn f() { crate::clock::now(); my_crate::x(); }";
    let found: BTreeSet<_> = paths(&module, code)
        .iter()
        .map(|path| path.join("::"))
        .collect();
    for path in [
        "store::verdict::Step",
        "store::verdict::PerPolicy",
        "quota::State",
        "random",
        "clock::now",
    ] {
        assert!(found.contains(path), "{path} is missing in {found:?}");
    }
    assert!(!found.contains("x"));
}
