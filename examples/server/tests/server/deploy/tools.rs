//! The validators, and the files of `deploy/`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The path of a file or directory of `deploy/`.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name)
}

pub(super) fn read(name: &str) -> String {
    let path = path(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A program of the system.
pub(super) fn program(name: &str) -> Command {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian has HAProxy there, which is not in every user's PATH.
    let directories = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = directories
        .map(|place| place.join(name))
        .find(|file| file.is_file());
    let found = found
        .unwrap_or_else(|| panic!("these tests need {name}: run ./tests/run, which installs it"));
    Command::new(found)
}

/// The directory into which `./tests/run` installs tools that systems have no packages of.
fn tools() -> PathBuf {
    // Next to the directory of this test's profile.
    let test = env::current_exe().expect("a test has a path");
    let tools = test
        .ancestors()
        .nth(3)
        .expect("a test is in a target")
        .join("tools");
    assert!(
        tools.join("complete").exists(),
        "these tests need kubectl, Helm and Kubernetes's schemas in {}: run ./tests/run, which \
         installs them",
        tools.display()
    );
    tools
}

/// `kubectl` or `helm`.
pub(super) fn tool(name: &str) -> Command {
    Command::new(tools().join("bin").join(name))
}

/// Python, with the installed packages.
pub(super) fn python() -> Command {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", tools().join("python"));
    python
}

/// Runs a command that succeeds, and returns its output.
pub(super) fn run(command: &mut Command) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}\n{printed}{said}");
    printed
}

/// The documents of a YAML text.
pub(super) fn yaml(text: &str) -> Vec<Value> {
    const READ: &str = "import json, sys, yaml\n\
        print(json.dumps([one for one in yaml.safe_load_all(open(sys.argv[1])) if one]))";
    let file = crate::support::file(text);
    let json = run(python().args(["-c", READ]).arg(file.path()));
    serde_json::from_str(&json).unwrap()
}

/// The only document of a file.
pub(super) fn document(name: &str) -> Value {
    let mut documents = yaml(&read(name));
    assert_eq!(documents.len(), 1, "{name}");
    documents.remove(0)
}
