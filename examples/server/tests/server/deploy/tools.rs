//! The files of `examples/server/deploy`, and the programs that check them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Returns the path of a file or directory in `deploy`.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name)
}

/// Reads a file in `deploy`.
pub(super) fn read(name: &str) -> String {
    let path = path(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns a command for a program that is installed on the system.
pub(super) fn program(name: &str) -> Command {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian installs HAProxy in /usr/sbin, which is not in every user's PATH.
    let directories = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let mut files = directories.map(|directory| directory.join(name));
    let found = files.find(|file| file.is_file());
    let found = found
        .unwrap_or_else(|| panic!("these tests need {name}: run ./tests/run, which installs it"));
    Command::new(found)
}

/// Returns the directory in which `./tests/run` installs tools that have no system packages.
fn tools() -> PathBuf {
    // This test is `target/<profile>/deps/<name>`, and the tools are in `target/tools`.
    let test = env::current_exe().expect("the path of this test");
    let target = test.ancestors().nth(3).expect("the target directory");
    let tools = target.join("tools");
    assert!(
        tools.join("complete").exists(),
        "these tests need kubectl, Helm and Kubernetes's schemas in {}: run ./tests/run, which \
         installs them",
        tools.display()
    );
    tools
}

/// Returns a command for `kubectl` or `helm`.
pub(super) fn tool(name: &str) -> Command {
    Command::new(tools().join("bin").join(name))
}

/// Returns a command for Python with the packages of [`tools`].
pub(super) fn python() -> Command {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", tools().join("python"));
    python
}

/// Runs a command, and returns its standard output. Panics if the command fails.
pub(super) fn run(command: &mut Command) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}\n{stdout}{stderr}");
    stdout
}

/// Returns the documents of a YAML text that are not empty.
pub(super) fn yaml(text: &str) -> Vec<Value> {
    const READ: &str = "import json, sys, yaml\n\
        documents = yaml.safe_load_all(open(sys.argv[1]))\n\
        print(json.dumps([document for document in documents if document]))";
    let file = crate::support::file(text);
    let json = run(python().args(["-c", READ]).arg(file.path()));
    serde_json::from_str(&json).unwrap()
}

/// Returns the only document of a YAML file in `deploy`.
pub(super) fn document(name: &str) -> Value {
    let mut documents = yaml(&read(name));
    assert_eq!(documents.len(), 1, "{name}");
    documents.remove(0)
}
