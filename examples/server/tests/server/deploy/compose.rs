//! The Compose file, as Compose reads it.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::tools::{document, path, program, run, yaml};

/// Returns `docker compose` if Docker has this command, or else `docker-compose`.
fn compose() -> Command {
    let mut docker = Command::new("docker");
    docker.arg("compose");
    let found = Command::new("docker").args(["compose", "version"]).output();
    match found {
        Ok(output) if output.status.success() => docker,
        _ => program("docker-compose"),
    }
}

/// Returns the file as Compose reads it, with the default values of its variables.
pub(super) fn read_by_compose() -> Value {
    let mut compose = compose();
    compose
        .env_remove("REDIS_PASSWORD")
        .env_remove("GRAFANA_PASSWORD");
    compose.arg("-f").arg(path("compose.yaml")).arg("config");
    yaml(&run(&mut compose)).remove(0)
}

/// Returns a field of a service that is a list, or an empty list.
fn list<'a>(service: &'a Value, field: &str) -> &'a [Value] {
    service[field].as_array().map_or(&[], Vec::as_slice)
}

#[test]
fn three_servers_are_behind_a_proxy() {
    let compose = read_by_compose();
    let services = &compose["services"];
    let names: Vec<_> = services.as_object().unwrap().keys().collect();
    assert_eq!(names, ["grafana", "prometheus", "proxy", "redis", "server"]);
    let server = &services["server"];
    assert_eq!(server["deploy"]["replicas"], json!(3));
    assert_eq!(
        server["environment"]["TOLLGATE__STORE__REPLICAS"],
        json!("3")
    );
    // Only the proxy publishes ports to clients.
    assert_eq!(list(server, "ports").len(), 0);
    assert_eq!(list(&services["redis"], "ports").len(), 0);
    let proxy = super::tools::read("compose/haproxy.cfg");
    for (name, port) in [("HTTP", "8080"), ("GRPC", "8081")] {
        let listens = super::image::variable(&format!("TOLLGATE__LISTEN__{name}"));
        assert_eq!(listens, format!("0.0.0.0:{port}"));
        assert!(proxy.contains(&format!("server:{port} ")));
        assert!(proxy.contains(&format!("bind :{port}")));
        let published = json!(format!("127.0.0.1:{port}:{port}"));
        let proxy = &document("compose.yaml")["services"]["proxy"];
        assert!(list(proxy, "ports").contains(&published));
    }
}

/// For a missing file, Docker would create a directory.
#[test]
fn mounted_files_exist() {
    let compose = read_by_compose();
    let mut files = 0;
    for service in compose["services"].as_object().unwrap().values() {
        for volume in list(service, "volumes") {
            // Some versions of Compose print a volume as a text, others as a table.
            let text = volume.as_str().or(volume["source"].as_str()).unwrap();
            let source = text.split(':').next().unwrap();
            if source.starts_with('/') {
                assert!(Path::new(source).exists(), "{source}");
                files += 1;
            } else {
                assert!(compose["volumes"].get(source).is_some(), "{source}");
            }
        }
    }
    assert!(files >= 7, "{files} files are mounted");
}

#[test]
fn ports_are_published_on_loopback_only() {
    let compose = document("compose.yaml");
    for (name, service) in compose["services"].as_object().unwrap() {
        for port in list(service, "ports") {
            assert!(
                port.as_str().unwrap().starts_with("127.0.0.1:"),
                "{name}: {port}"
            );
        }
    }
}
