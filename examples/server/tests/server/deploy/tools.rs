//! The checkers, and the files that they check.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A file, or a directory, of `deploy/`.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name)
}

pub(super) fn read(name: &str) -> String {
    let path = path(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A program of the system's.
pub(super) fn program(name: &str) -> Command {
    let path = env::var_os("PATH").unwrap_or_default();
    // Where Debian has HAProxy, and not everybody looks.
    let directories = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = directories
        .map(|place| place.join(name))
        .find(|file| file.is_file());
    let found = found
        .unwrap_or_else(|| panic!("these tests need {name}: install it; ./tests/run sees to it"));
    Command::new(found)
}

/// Where `./tests/run` puts what no system has packages of.
fn tools() -> PathBuf {
    // Beside the profile that this test was built in.
    let test = env::current_exe().expect("a test has a path");
    let tools = test
        .ancestors()
        .nth(3)
        .expect("a test is in a target")
        .join("tools");
    assert!(
        tools.join("complete").exists(),
        "these tests need kubectl, Helm and Kubernetes's schemas in {}: ./tests/run sees to it",
        tools.display()
    );
    tools
}

/// `kubectl` or `helm`.
pub(super) fn tool(name: &str) -> Command {
    Command::new(tools().join("bin").join(name))
}

/// Python, with what is installed for it.
pub(super) fn python() -> Command {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", tools().join("python"));
    python
}

/// What it prints; it has to succeed.
pub(super) fn run(command: &mut Command) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}\n{printed}{said}");
    printed
}

/// The documents of a file of YAML.
pub(super) fn yaml(text: &str) -> Vec<Value> {
    const READ: &str = "import json, sys, yaml\n\
        print(json.dumps([one for one in yaml.safe_load_all(open(sys.argv[1])) if one]))";
    let file = crate::support::file(text);
    let json = run(python().args(["-c", READ]).arg(file.path()));
    serde_json::from_str(&json).unwrap()
}

/// A file's only document.
pub(super) fn document(name: &str) -> Value {
    let mut documents = yaml(&read(name));
    assert_eq!(documents.len(), 1, "{name}");
    documents.remove(0)
}
