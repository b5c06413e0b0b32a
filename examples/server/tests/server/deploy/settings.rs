//! The server accepts the configuration and the environment variables of each deployment, and no
//! file contains a password.

use serde_json::Value;

use super::objects::{Objects, chart, kustomization};
use super::tools::read;
use crate::support::file;
use crate::support::server::program;

/// Asserts that the server accepts a configuration with these environment variables.
fn assert_accepted(configuration: &str, variables: &[(String, String)]) {
    let file = file(configuration);
    let mut program = program();
    program.arg("validate").arg(file.path());
    program.envs(variables.iter().cloned());
    let output = program.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{variables:?}: {error}");
}

/// Returns the environment variables of the servers' pods, with other values in place of secrets.
fn variables(objects: &Objects) -> Vec<(String, String)> {
    let variables = objects.server()["containers"][0]["env"].as_array().unwrap();
    let value = |variable: &Value| match variable["value"].as_str() {
        Some(value) => value.replace("$(REDIS_PASSWORD)", "secret"),
        // The whole value comes from a secret.
        None => "redis://somewhere".to_owned(),
    };
    let variables = variables.iter();
    let variables = variables.map(|variable| {
        let name = variable["name"].as_str().unwrap();
        (name.to_owned(), value(variable))
    });
    variables.collect()
}

/// Returns the number of variables that are settings of the server.
fn count_settings(variables: &[(String, String)]) -> usize {
    let names = variables.iter().map(|(name, _)| name);
    names.filter(|name| name.starts_with("TOLLGATE__")).count()
}

#[test]
fn kubernetes_settings_are_accepted() {
    let other_redis = ["redis.enabled=false", "redis.url.secret=mine"];
    let other_setting = ["environment.TOLLGATE__STORE__DEADLINE=20ms"];
    for objects in [
        kustomization(),
        chart(&[]),
        chart(&other_redis),
        chart(&other_setting),
    ] {
        let variables = variables(&objects);
        assert!(count_settings(&variables) >= 5, "{variables:?}");
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
    let variables = compose["services"]["server"]["environment"].as_object();
    let variables = variables.unwrap().iter();
    let variables: Vec<_> = variables
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect();
    assert!(count_settings(&variables) >= 5, "{variables:?}");
    assert_accepted(&read("chart/files/tollgate.toml"), &variables);
}

/// Shows that a misspelt variable would fail the tests above.
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
fn no_file_contains_a_password() {
    let objects = kustomization();
    assert_eq!(objects.of_kind("Secret").count(), 0);
    // The chart generates a new password each time.
    let [first, second] = [(); 2].map(|()| {
        let objects = chart(&[]);
        objects.find("Secret", "tollgate-redis")["data"]["password"].clone()
    });
    assert!(first.as_str().unwrap().len() >= 32);
    assert_ne!(first, second);
    let with_secret = chart(&["redis.existingSecret=mine"]);
    assert_eq!(with_secret.of_kind("Secret").count(), 0);
    let text = &with_secret.text;
    assert!(text.contains("name: mine"), "{text}");
}
