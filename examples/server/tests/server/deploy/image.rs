//! The image, as far as it can be checked without building it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::tools::{path, read, run};
use crate::support::Server;
use crate::support::server::program;

/// Returns the value of an environment variable of the image.
pub(super) fn variable(name: &str) -> String {
    let file = read("Dockerfile");
    let mut words = file.split_whitespace();
    let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value
        .unwrap_or_else(|| panic!("the image does not set {name}"))
        .to_owned()
}

/// Returns the arguments of the Dockerfile's last instruction of this name.
fn instruction(name: &str) -> String {
    let file = read("Dockerfile");
    let lines = file.lines().map(str::trim_start);
    let mut found = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.next_back().unwrap().to_owned()
}

#[test]
fn image_user_is_not_root() {
    let user = instruction("USER");
    let number = user.split(':').next().unwrap();
    assert!(number.parse::<u32>().unwrap() > 0, "{user}");
}

/// The command of the health check needs no variables but those of the image.
#[test]
fn health_check_finds_the_server() {
    let file = read("Dockerfile");
    let (_, check) = file.split_once("HEALTHCHECK").unwrap();
    let (_, command) = check.split_once("CMD ").unwrap();
    let words: Value = serde_json::from_str(command.lines().next().unwrap()).unwrap();
    let words: Vec<_> = words
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(words[0], "tollgate-server");
    const NAME: &str = "TOLLGATE__LISTEN__HTTP";
    // The image's port may be in use, so the server gets a free port.
    let image = variable(NAME);
    let (host, _) = image.rsplit_once(':').unwrap();
    let server = Server::start(&[("LISTEN__HTTP", &*format!("{host}:0"))]);
    let address = server.http().to_string();
    let health = || {
        let mut health = program();
        health.args(&words[1..]).env(NAME, &address);
        health.output().unwrap().status.code()
    };
    assert_eq!(health(), Some(0));
    drop(server);
    assert_eq!(health(), Some(1));
}

/// Copies a file or a directory, except for the excluded paths.
fn copy(from: &Path, to: &Path, excluded: &[PathBuf]) {
    if excluded.iter().any(|path| path == from) {
        return;
    }
    if from.is_file() {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
        return;
    }
    for entry in fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name();
        copy(&from.join(&name), &to.join(&name), excluded);
    }
}

/// Cargo can read the package only if the context has every file that its manifest names.
#[test]
fn build_context_is_complete() {
    let root = path("../../..").canonicalize().unwrap();
    let ignore = read("Dockerfile.dockerignore");
    let lines = || {
        ignore
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
    };
    assert_eq!(lines().next(), Some("*"), "by default, a file is excluded");
    let excluded = lines().skip(1).filter(|line| !line.starts_with('!'));
    let excluded: Vec<_> = excluded.map(|line| root.join(line)).collect();
    let context = TempDir::with_prefix("tollgate-image-").unwrap();
    for name in lines().filter_map(|line| line.strip_prefix('!')) {
        copy(&root.join(name), &context.path().join(name), &excluded);
    }
    assert!(context.path().join("Cargo.lock").exists());
    assert!(!context.path().join("examples/server/deploy").exists());
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
    ]);
    let metadata = run(cargo
        .arg("--manifest-path")
        .arg(context.path().join("Cargo.toml")));
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(
        packages
            .iter()
            .any(|package| package["name"] == "tollgate-server")
    );
    // Files that only the build itself reads.
    assert!(context.path().join("README.md").exists());
    assert!(context.path().join("examples/server/proto").exists());
}
