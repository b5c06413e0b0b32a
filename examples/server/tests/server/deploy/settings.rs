//! The server accepts the configurations and environment variables of all deployments.

use serde_json::Value;

use super::objects::{Objects, chart, kustomization};
use super::tools::read;
use crate::support::file;
use crate::support::replica::program;

/// Asserts that the server accepts a configuration, with these variables over it.
fn assert_accepted(configuration: &str, variables: &[(String, String)]) {
    let file = file(configuration);
    let mut program = program();
    program.arg("validate").arg(file.path());
    program.envs(variables.iter().cloned());
    let output = program.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{variables:?}: {said}");
}

/// The server's variables, with values in place of secrets.
fn variables(objects: &Objects) -> Vec<(String, String)> {
    let set = objects.server()["containers"][0]["env"].as_array().unwrap();
    let text = |value: &Value| match value.as_str() {
        Some(text) => text.replace("$(REDIS_PASSWORD)", "secret"),
        // The value of a secret.
        None => "redis://somewhere".to_owned(),
    };
    let set = set.iter();
    let set = set.map(|one| {
        (
            one["name"].as_str().unwrap().to_owned(),
            text(&one["value"]),
        )
    });
    set.collect()
}

/// The number of variables that the server reads.
fn known(variables: &[(String, String)]) -> usize {
    let names = variables.iter().map(|(name, _)| name);
    names.filter(|name| name.starts_with("TOLLGATE__")).count()
}

#[test]
fn kubernetes_settings_are_accepted() {
    let own = ["redis.enabled=false", "redis.url.secret=mine"];
    let more = ["environment.TOLLGATE__STORE__DEADLINE=20ms"];
    for objects in [kustomization(), chart(&[]), chart(&own), chart(&more)] {
        let variables = variables(&objects);
        assert!(known(&variables) >= 5, "{variables:?}");
        let configuration = objects.find("ConfigMap", "tollgate");
        assert_accepted(
            configuration["data"]["tollgate.toml"].as_str().unwrap(),
            &variables,
        );
    }
    let given = chart(&["configuration=[default]\nlimit = \"7/1s\"\n"]);
    let configuration = &given.find("ConfigMap", "tollgate")["data"]["tollgate.toml"];
    assert!(configuration.as_str().unwrap().contains("7/1s"));
    assert_accepted(configuration.as_str().unwrap(), &[]);
}

#[test]
fn compose_settings_are_accepted() {
    let compose = super::compose::read_by_compose();
    let set = compose["services"]["server"]["environment"]
        .as_object()
        .unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let set: Vec<_> = set
        .iter()
        .map(|(name, value)| (name.clone(), text(value)))
        .collect();
    assert!(known(&set) >= 5, "{set:?}");
    assert_accepted(&read("chart/files/tollgate.toml"), &set);
}

/// A misspelt variable would fail the tests above.
#[test]
#[should_panic(expected = "STORE__ULR")]
fn unknown_variable_is_refused() {
    let unknown = (
        "TOLLGATE__STORE__ULR".to_owned(),
        "redis://redis".to_owned(),
    );
    assert_accepted(&read("chart/files/tollgate.toml"), &[unknown]);
}

#[test]
fn no_file_has_a_password() {
    let objects = kustomization();
    assert_eq!(objects.of_kind("Secret").count(), 0);
    // The chart generates a password.
    let [one, other] = [(); 2].map(|()| {
        let objects = chart(&[]);
        objects.find("Secret", "tollgate-redis")["data"]["password"].clone()
    });
    assert!(one.as_str().unwrap().len() >= 32);
    assert_ne!(one, other);
    let given = chart(&["redis.existingSecret=mine"]);
    assert_eq!(given.of_kind("Secret").count(), 0);
    assert!(given.text.contains("name: mine"), "{}", given.text);
}
