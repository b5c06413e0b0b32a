//! The Kubernetes objects that Kustomize and the chart render.

use serde_json::Value;

use super::tools::{path, run, tool, yaml};

/// Kubernetes objects, as JSON values and as the rendered YAML.
pub(super) struct Objects {
    pub(super) text: String,
    pub(super) all: Vec<Value>,
}

/// Renders the kustomization.
pub(super) fn kustomization() -> Objects {
    Objects::new(run(tool("kubectl").arg("kustomize").arg(path("kustomize"))))
}

/// Renders the chart, released as `tollgate`, with these values, such as `replicas=5`.
pub(super) fn chart(values: &[&str]) -> Objects {
    let mut helm = tool("helm");
    helm.args(["template", "tollgate"]).arg(path("chart"));
    for value in values {
        helm.args(["--set", value]);
    }
    Objects::new(run(&mut helm))
}

impl Objects {
    fn new(text: String) -> Self {
        let all = yaml(&text);
        Self { text, all }
    }

    /// Returns the objects of a kind, such as `Deployment`.
    pub(super) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.all.iter().filter(move |object| object["kind"] == kind)
    }

    /// Returns the object with this name, to which Kustomize may have added a hash.
    pub(super) fn find(&self, kind: &str, name: &str) -> &Value {
        let mut objects = self.of_kind(kind);
        let found = objects.find(|object| {
            let full_name = object["metadata"]["name"].as_str();
            let suffix = full_name.and_then(|full_name| full_name.strip_prefix(name));
            suffix.is_some_and(|suffix| suffix.is_empty() || is_hash(suffix))
        });
        found.unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// Returns the specification of the servers' pods.
    pub(super) fn server(&self) -> &Value {
        &self.find("Deployment", "tollgate")["spec"]["template"]["spec"]
    }

    /// Returns the specifications of the servers' pods and of Redis's pod.
    pub(super) fn pods(&self) -> [&Value; 2] {
        let redis = self.find("StatefulSet", "tollgate-redis");
        [self.server(), &redis["spec"]["template"]["spec"]]
    }
}

/// Returns whether the text is a hash that Kustomize adds to a name, such as `-674cdk6dft`.
fn is_hash(text: &str) -> bool {
    text.strip_prefix('-').is_some_and(|hash| {
        hash.len() == 10 && hash.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}
