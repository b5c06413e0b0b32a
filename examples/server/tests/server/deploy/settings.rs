//! What a deployment sets, the server accepts.

use serde_json::Value;

use super::objects::{Objects, chart, kustomization};
use super::tools::read;
use crate::support::file;
use crate::support::replica::program;

/// The server reads this, with these variables over it, and finds nothing wrong.
fn accepted(configuration: &str, variables: &[(String, String)]) {
    let file = file(configuration);
    let mut program = program();
    program.arg("validate").arg(file.path());
    program.envs(variables.iter().cloned());
    let output = program.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{variables:?}: {said}");
}

/// The server's variables, where a password is one.
fn variables(objects: &Objects) -> Vec<(String, String)> {
    let set = objects.server()["containers"][0]["env"].as_array().unwrap();
    let text = |value: &Value| match value.as_str() {
        Some(text) => text.replace("$(REDIS_PASSWORD)", "secret"),
        // From a secret.
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

/// Those that the server reads: the others are for what they are made of.
fn known(variables: &[(String, String)]) -> usize {
    let names = variables.iter().map(|(name, _)| name);
    names.filter(|name| name.starts_with("TOLLGATE__")).count()
}

#[test]
fn of_kubernetes() {
    let own = ["redis.enabled=false", "redis.url.secret=mine"];
    let more = ["environment.TOLLGATE__STORE__DEADLINE=20ms"];
    for objects in [kustomization(), chart(&[]), chart(&own), chart(&more)] {
        let variables = variables(&objects);
        assert!(known(&variables) >= 5, "{variables:?}");
        let configuration = objects.find("ConfigMap", "tollgate");
        accepted(
            configuration["data"]["tollgate.toml"].as_str().unwrap(),
            &variables,
        );
    }
    let given = chart(&["configuration=[default]\nlimit = \"7/1s\"\n"]);
    let configuration = &given.find("ConfigMap", "tollgate")["data"]["tollgate.toml"];
    assert!(configuration.as_str().unwrap().contains("7/1s"));
    accepted(configuration.as_str().unwrap(), &[]);
}

#[test]
fn of_compose() {
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
    accepted(&read("chart/files/tollgate.toml"), &set);
}

/// Where there is one that it does not know, the server says so: else this would prove nothing.
#[test]
#[should_panic(expected = "STORE__ULR")]
fn unknown_ones_are_refused() {
    let unknown = (
        "TOLLGATE__STORE__ULR".to_owned(),
        "redis://redis".to_owned(),
    );
    accepted(&read("chart/files/tollgate.toml"), &[unknown]);
}

/// Redis's password is in none of these files.
#[test]
fn no_secret_is_written_down() {
    let objects = kustomization();
    assert_eq!(objects.of_kind("Secret").count(), 0);
    // The chart makes one up.
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
