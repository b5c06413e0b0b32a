//! The Kubernetes objects are valid, protect the servers, and are the same from Kustomize and Helm.

use std::collections::{BTreeMap, BTreeSet};

use hyper::StatusCode;
use serde_json::{Value, json};

use super::objects::{Objects, chart, kustomization};
use super::tools::{path, python, run, tool};
use crate::support::http::get;
use crate::support::{Server, file};

/// The Kubernetes version whose schemas are used.
const VERSION: &str = "1.36";

/// Values of the chart that add or remove objects.
const CHARTS: [&[&str]; 4] = [
    &[],
    &["autoscaling.enabled=false", "replicas=5"],
    &["redis.enabled=false", "redis.url.secret=mine"],
    &["monitoring.enabled=false", "redis.existingSecret=mine"],
];

/// Asserts that the objects of a YAML text are valid for the schemas, without unknown fields.
fn assert_valid(text: &str) {
    let file = file(text);
    let check = [
        "-m",
        "kubernetes_validate",
        "--strict",
        "--quiet",
        "-k",
        VERSION,
    ];
    run(python().args(check).arg(file.path()));
}

#[test]
fn kustomization_is_valid() {
    let objects = kustomization();
    assert_valid(&objects.text);
    assert!(objects.all.iter().all(|object| {
        object["kind"] == "Namespace" || object["metadata"]["namespace"] == "tollgate"
    }));
}

#[test]
fn chart_is_valid() {
    run(tool("helm").args(["lint", "--strict"]).arg(path("chart")));
    for values in CHARTS {
        assert_valid(&chart(values).text);
    }
    let without_autoscaler = chart(CHARTS[1]);
    let deployment = without_autoscaler.find("Deployment", "tollgate");
    assert_eq!(deployment["spec"]["replicas"], json!(5));
    let autoscalers = without_autoscaler.of_kind("HorizontalPodAutoscaler");
    assert_eq!(autoscalers.count(), 0);
    let without_redis = chart(CHARTS[2]);
    assert_eq!(without_redis.of_kind("StatefulSet").count(), 0);
}

/// Shows that the validator finds mistakes.
#[test]
#[should_panic(expected = "fewestReplicas")]
fn unknown_field_is_invalid() {
    let text = kustomization().text;
    assert_valid(&text.replace("minReplicas:", "fewestReplicas:"));
}

/// Returns the objects by kind and name, without the fields that differ between Kustomize and Helm.
fn comparable(objects: &Objects) -> BTreeMap<String, Value> {
    let redis = objects.find("ConfigMap", "tollgate-redis")["metadata"]["name"]
        .as_str()
        .unwrap();
    let mut comparable = BTreeMap::new();
    for object in &objects.all {
        let name = object["metadata"]["name"].as_str().unwrap();
        // Kustomize adds a hash of the content to the name. The chart puts one into an annotation.
        let name = if name == redis {
            "tollgate-redis"
        } else {
            name
        };
        let content = json!([object["spec"], object["data"]]).to_string();
        let mut content: Value =
            serde_json::from_str(&content.replace(redis, "tollgate-redis")).unwrap();
        if let Some(pod) = content.pointer_mut("/0/template") {
            if object["kind"] == "StatefulSet" {
                pod["metadata"]["annotations"].take();
            }
            pod["spec"]["containers"][0]["imagePullPolicy"].take();
        }
        if object["kind"] != "Namespace" && object["kind"] != "Secret" {
            comparable.insert(format!("{} {name}", object["kind"]), content);
        }
    }
    comparable
}

#[test]
fn chart_and_kustomization_have_the_same_objects() {
    let [kustomization, chart] = [comparable(&kustomization()), comparable(&chart(&[]))];
    assert_eq!(
        kustomization.keys().collect::<Vec<_>>(),
        chart.keys().collect::<Vec<_>>()
    );
    for (name, object) in kustomization {
        assert_eq!(object, chart[&name], "{name}");
    }
}

#[test]
fn servers_survive_the_loss_of_a_node() {
    let objects = kustomization();
    let autoscaler = objects.of_kind("HorizontalPodAutoscaler").next().unwrap();
    assert_eq!(autoscaler["spec"]["minReplicas"], json!(3));
    assert_eq!(
        autoscaler["spec"]["scaleTargetRef"]["name"],
        json!("tollgate")
    );
    let budget = objects.of_kind("PodDisruptionBudget").next().unwrap();
    assert_eq!(budget["spec"]["maxUnavailable"], json!(1));
    let deployment = &objects.find("Deployment", "tollgate")["spec"];
    assert_eq!(budget["spec"]["selector"], deployment["selector"]);
    // Kubernetes kills a pod only after the longest possible shutdown of a server.
    let pod = &deployment["template"]["spec"];
    let variables = pod["containers"][0]["env"].as_array().unwrap();
    let seconds = |name: &str| -> u64 {
        let variable = variables
            .iter()
            .find(|variable| variable["name"] == name)
            .unwrap();
        let text = variable["value"].as_str().unwrap();
        text.strip_suffix('s').unwrap().parse().unwrap()
    };
    let needed = seconds("TOLLGATE__SHUTDOWN__DELAY") + seconds("TOLLGATE__SHUTDOWN__DEADLINE");
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > needed);
}

#[test]
fn pods_have_minimal_rights() {
    for objects in [kustomization(), chart(&[])] {
        for pod in objects.pods() {
            assert_eq!(pod["automountServiceAccountToken"], json!(false));
            assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true));
            let profile = &pod["securityContext"]["seccompProfile"]["type"];
            assert_eq!(*profile, json!("RuntimeDefault"));
            let container = &pod["containers"][0]["securityContext"];
            assert_eq!(container["readOnlyRootFilesystem"], json!(true));
            assert_eq!(container["allowPrivilegeEscalation"], json!(false));
            assert_eq!(container["capabilities"]["drop"], json!(["ALL"]));
        }
        for kind in ["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"] {
            assert_eq!(objects.of_kind(kind).count(), 0);
        }
        // Only servers can connect to Redis.
        let network = &objects.find("NetworkPolicy", "tollgate-redis")["spec"];
        let from = &network["ingress"][0]["from"][0]["podSelector"]["matchLabels"];
        assert_eq!(from["app.kubernetes.io/component"], json!("server"));
    }
}

#[test]
fn ports_of_pods_services_and_image_agree() {
    let objects = kustomization();
    for pod in objects.pods() {
        let container = &pod["containers"][0];
        let ports = container["ports"].as_array().unwrap();
        let names: BTreeSet<_> = ports
            .iter()
            .map(|port| port["name"].as_str().unwrap())
            .collect();
        let name = match container["name"].as_str().unwrap() {
            "server" => "tollgate",
            _ => "tollgate-redis",
        };
        let service = objects.find("Service", name);
        for port in service["spec"]["ports"].as_array().unwrap() {
            let target = port["targetPort"].as_str().unwrap();
            assert!(names.contains(target), "{name} has no port {target}");
            let number = ports.iter().find(|port| port["name"] == target).unwrap();
            assert_eq!(port["port"], number["containerPort"]);
        }
    }
    let server = objects.server();
    let numbers = ["http", "grpc"].map(|name| {
        let ports = server["containers"][0]["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["name"] == name).unwrap();
        port["containerPort"].as_u64().unwrap()
    });
    let [http, grpc] = numbers.map(|number| format!("0.0.0.0:{number}"));
    assert_eq!(super::image::variable("TOLLGATE__LISTEN__HTTP"), http);
    assert_eq!(super::image::variable("TOLLGATE__LISTEN__GRPC"), grpc);
    let template = &objects.find("Deployment", "tollgate")["spec"]["template"];
    let scraped = &template["metadata"]["annotations"]["prometheus.io/port"];
    assert_eq!(scraped.as_str(), Some(numbers[0].to_string().as_str()));
}

#[tokio::test]
async fn probes_of_the_pods_succeed() {
    let server = Server::start(&[]);
    let objects = kustomization();
    let pod = objects.server();
    for probe in ["livenessProbe", "readinessProbe"] {
        let request = &pod["containers"][0][probe]["httpGet"];
        assert_eq!(request["port"], json!("http"));
        let response = get(server.http(), request["path"].as_str().unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK, "{probe}");
    }
}
