//! The manifests of `deploy/`: what they give the agent is what it takes, and the chart says the same as the base.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use clap::{CommandFactory, Parser};
use serde_json::{Value, json};
use sluice::config::{Cli, Command};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The documents of a YAML text.
fn documents(text: &str) -> Vec<Value> {
    let parse = |part: &str| serde_saphyr::from_str::<Value>(part).unwrap_or_else(|e| panic!("{e}\n{part}"));
    let parts = text.split("\n---\n").map(|part| part.trim_start_matches("---\n"));
    parts.map(parse).filter(serde_json::Value::is_object).collect()
}

fn read(file: &str) -> Vec<Value> {
    documents(&fs::read_to_string(deploy().join(file)).unwrap_or_else(|e| panic!("{file}: {e}")))
}

fn daemon_set() -> Value {
    read("base/daemonset.yaml").remove(0)
}

fn container() -> Value {
    daemon_set()["spec"]["template"]["spec"]["containers"][0].clone()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_agent_takes_the_arguments_of_the_daemon_set() {
    for address in ["192.0.2.1", "2001:db8::1"] {
        let arguments = strings(&container()["args"]).into_iter().map(|a| a.replace("$(NODE_IP)", address));
        let cli = Cli::try_parse_from(["sluice".to_owned()].into_iter().chain(arguments)).unwrap();
        let Command::Agent(args) = cli.command else { panic!("want the agent") };
        assert_eq!(args.manifests, None, "it follows the API server");
        let port = container()["ports"][0]["containerPort"].clone();
        assert_eq!(json!(args.metrics_addr.unwrap().port()), port);
        assert_eq!(args.metrics_addr.unwrap().ip().to_string(), address);
        // The probes ask the listener that is for them, on the node's loopback.
        let health = args.health_addr.unwrap();
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let get = &container()[probe]["httpGet"];
            assert_eq!((&get["host"], &get["port"]), (&json!(health.ip()), &json!(health.port())), "{probe}");
        }
        assert_eq!(args.api.namespace, read("base/namespace.yaml")[0]["metadata"]["name"]);
    }
}

#[test]
fn the_agent_reads_every_variable_of_the_daemon_set() {
    let cli = Cli::command();
    let agent = cli.find_subcommand("agent").unwrap();
    let known: Vec<_> = agent.get_arguments().filter_map(|a| Some(a.get_env()?.to_str()?.to_owned())).collect();
    for variable in container()["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        // The one is used in an argument above, the other is read by the logger.
        assert!(["NODE_IP", "RUST_LOG"].contains(&name) || known.iter().any(|k| k == name), "{name}");
    }
}

#[test]
fn the_agent_has_three_capabilities_and_cannot_get_more() {
    let security = &container()["securityContext"];
    assert_eq!(security["capabilities"], json!({ "drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON"] }));
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["privileged"], Value::Null);
    let pod = &daemon_set()["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let host: Vec<_> =
        pod["volumes"].as_array().unwrap().iter().filter_map(|v| v["hostPath"]["path"].as_str()).collect();
    assert_eq!(host, ["/sys/fs/bpf/sluice"], "the one path of the node that it sees: no pins of other programs");
}

#[test]
fn the_directories_that_the_agent_writes_are_mounted() {
    let Command::Agent(args) = Cli::try_parse_from(["sluice", "agent"]).unwrap().command else {
        panic!("want the agent")
    };
    let env = container()["env"].clone();
    let bpf_dir = env.as_array().unwrap().iter().find(|v| v["name"] == "SLUICE_BPF_DIR").unwrap();
    let bpf_dir = PathBuf::from(bpf_dir["value"].as_str().unwrap());
    let mounts = container()["volumeMounts"].clone();
    let mounts: Vec<&str> = mounts.as_array().unwrap().iter().map(|m| m["mountPath"].as_str().unwrap()).collect();
    for path in [&bpf_dir, &args.state_dir, &args.admin_socket] {
        assert!(mounts.iter().any(|mount| path.starts_with(mount)), "{} in {mounts:?}", path.display());
    }
}

#[test]
fn the_pod_is_killed_only_after_the_agent_has_given_up_waiting() {
    let grace = daemon_set()["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace > sluice::STOP.as_secs() + 5, "{grace} s");
}

/// F5 of issue 8: a policy that judges another name judges nobody.
#[test]
fn the_policies_judge_the_agents_and_cover_what_rbac_lets_them_write() {
    let account = |file: &str| {
        let account = read(file).into_iter().find(|d| d["kind"] == "ServiceAccount").unwrap()["metadata"].clone();
        let (ns, name) = (account["namespace"].as_str().unwrap(), account["name"].as_str().unwrap());
        format!("'system:serviceaccount:{ns}:{name}'")
    };
    let (agent, controller) = (account("base/service-account.yaml"), account("overlays/controller/rbac.yaml"));
    let (both, agents) = (
        format!("request.userInfo.username in [{agent}, {controller}]"),
        format!("request.userInfo.username == {agent}"),
    );
    let (bindings, policies): (Vec<Value>, Vec<Value>) =
        read("base/admission.yaml").into_iter().partition(|d| d["kind"] == "ValidatingAdmissionPolicyBinding");
    let mut covered = Vec::new();
    for policy in &policies {
        // The Lease of a node is its agent's; who else may lead is judged by the overlay's own policy.
        let judged = if policy["metadata"]["name"] == "sluice-leases" { &agents } else { &both };
        assert_eq!(policy["spec"]["matchConditions"][0]["expression"], json!(judged));
        assert_eq!(policy["spec"]["failurePolicy"], "Fail");
        let bound = bindings.iter().find(|b| b["spec"]["policyName"] == policy["metadata"]["name"]).unwrap();
        assert_eq!(bound["spec"]["validationActions"], json!(["Deny"]));
        for rule in policy["spec"]["matchConstraints"]["resourceRules"].as_array().unwrap() {
            let group = strings(&rule["apiGroups"]).remove(0);
            covered.extend(strings(&rule["resources"]).into_iter().map(|resource| (group.clone(), resource)));
        }
    }
    let read_only = ["get", "list", "watch"];
    for access in sluice::source::access::ACCESS.iter().filter(|a| !a.verbs.iter().all(|v| read_only.contains(v))) {
        // Events are told about anything; the two others let what is judged be written at all.
        if ["events", "endpointslices/restricted", "routes/custom-host"].contains(&access.resource) {
            continue;
        }
        let wanted = (access.group.to_owned(), access.resource.to_owned());
        assert!(covered.contains(&wanted), "{wanted:?} may be written and is not judged");
    }
}

#[test]
fn everything_that_a_kustomization_names_is_there() {
    let mut checked = 0;
    let overlays = fs::read_dir(deploy().join("overlays")).unwrap().map(|entry| entry.unwrap().path());
    let components = ["components/tls-namespaces", "components/without-flow-control"].map(|name| deploy().join(name));
    for dir in overlays.chain(components).chain([deploy(), deploy().join("base"), deploy().join("gateway")]) {
        let text = fs::read_to_string(dir.join("kustomization.yaml")).unwrap();
        let kustomization = documents(&text).remove(0);
        let patches = kustomization["patches"].as_array().into_iter().flatten().map(|p| &p["path"]);
        for name in kustomization["resources"].as_array().into_iter().flatten().chain(patches) {
            let path = dir.join(name.as_str().unwrap());
            let file = if path.is_dir() { path.join("kustomization.yaml") } else { path };
            assert!(file.is_file(), "{} names {}", dir.display(), file.display());
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked}");
}

#[test]
fn the_overlay_of_the_tests_runs_the_image_that_xtask_names() {
    let overlay = &read("overlays/test/kustomization.yaml")[0]["images"][0];
    let base = container()["image"].as_str().unwrap().rsplit_once(':').unwrap().0.to_owned();
    assert_eq!(*overlay, json!({ "name": base, "newName": "test.local/sluice", "newTag": "1" }));
}

/// What Helm would make of the chart, as far as the chart uses it: substitutions, `toYaml`, `with` and `if`.
fn render(values: &Value, namespace: &str, has_gateway_api: bool) -> String {
    let mut all = String::new();
    let mut files: Vec<_> =
        fs::read_dir(deploy().join("chart/templates")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        all.push_str("\n---\n");
        // `with` and `if` that are open: whether their lines are kept, and what `.` is.
        let mut open: Vec<(bool, Value)> = Vec::new();
        for line in unrolled(&text, values).lines() {
            let word = line.trim();
            if let Some(path) = word.strip_prefix("{{- with .Values.").and_then(|w| w.strip_suffix(" }}")) {
                let value = lookup(values, path);
                open.push((value.as_array().is_some_and(|a| !a.is_empty()), value));
            } else if let Some(path) = word.strip_prefix("{{- if not .Values.").and_then(|w| w.strip_suffix(" }}")) {
                open.push((lookup(values, path).as_array().is_some_and(Vec::is_empty), Value::Null));
            } else if let Some(path) = word.strip_prefix("{{- if .Values.").and_then(|w| w.strip_suffix(" }}")) {
                open.push((lookup(values, path) == true, Value::Null));
            } else if word.starts_with("{{- if ") {
                assert_eq!(
                    word,
                    "{{- if .Capabilities.APIVersions.Has \"gateway.networking.k8s.io/v1/GatewayClass\" }}"
                );
                open.push((has_gateway_api, Value::Null));
            } else if word == "{{- end }}" {
                open.pop().unwrap();
            } else if open.iter().all(|(is_kept, _)| *is_kept) {
                all.push_str(&render_line(line, values, namespace, open.last().map(|(_, dot)| dot)));
                all.push('\n');
            }
        }
        assert!(open.is_empty(), "{}", file.display());
    }
    all
}

/// The lines of each `range` once for each of its values, which stands for `.`.
fn unrolled(text: &str, values: &Value) -> String {
    let Some((before, rest)) = text.split_once("{{- range .Values.") else { return text.to_owned() };
    let (path, rest) = rest.split_once(" }}\n").unwrap();
    let (body, after) = rest.split_once("{{- end }}\n").unwrap();
    let each = strings(&lookup(values, path)).into_iter().map(|value| body.replace("{{ . }}", &value));
    format!("{before}{}{after}", each.collect::<String>())
}

fn render_line(line: &str, values: &Value, namespace: &str, dot: Option<&Value>) -> String {
    if let Some((_, rest)) = line.split_once("{{- toYaml ") {
        let (what, indent) = rest.strip_suffix(" }}").unwrap().split_once(" | nindent ").unwrap();
        let value = match what {
            "." => dot.unwrap().clone(),
            path => lookup(values, path.strip_prefix(".Values.").unwrap()),
        };
        let indent = " ".repeat(indent.parse().unwrap());
        // JSON is YAML; an entry a line where they follow others.
        return match value {
            Value::Array(entries) => entries.iter().map(|e| format!("{indent}- {e}")).collect::<Vec<_>>().join("\n"),
            other => format!("{indent}{other}"),
        };
    }
    let mut rest = line;
    let mut out = String::new();
    while let Some((before, after)) = rest.split_once("{{ ") {
        let (name, tail) = after.split_once(" }}").unwrap();
        out.push_str(before);
        match name.strip_prefix(".Values.") {
            Some(path) => match lookup(values, path) {
                Value::String(text) => out.push_str(&text),
                other => out.push_str(&other.to_string()),
            },
            None => {
                assert!([".Release.Namespace", "$.Release.Namespace"].contains(&name), "{line}");
                out.push_str(namespace);
            }
        }
        rest = tail;
    }
    assert!(!rest.contains("{{"), "{line}");
    out + rest
}

fn lookup(values: &Value, path: &str) -> Value {
    let found = path.split('.').fold(values, |value, key| &value[key]);
    assert!(!found.is_null(), "values.yaml has no {path}");
    found.clone()
}

fn by_name(documents: Vec<Value>) -> BTreeMap<String, Value> {
    let name = |d: &Value| format!("{} {}", d["kind"], d["metadata"]["name"]);
    documents.into_iter().map(|d| (name(&d), d)).collect()
}

#[test]
fn the_chart_with_its_own_values_is_the_base() {
    let files = [
        "base/service-account.yaml",
        "base/rbac.yaml",
        "base/rbac-tls.yaml",
        "base/admission.yaml",
        "base/flow-control.yaml",
        "base/daemonset.yaml",
        "gateway/gateway-class.yaml",
    ];
    let base = by_name(files.into_iter().flat_map(read).collect());
    assert_eq!(base.len(), 23);
    let values = read("chart/values.yaml").remove(0);
    let rendered = by_name(documents(&render(&values, "sluice-system", true)));
    assert_eq!(rendered, base);
}

#[test]
fn the_chart_takes_values_and_the_namespace_of_the_release() {
    let mut values = read("chart/values.yaml").remove(0);
    values["image"] = json!({ "repository": "example.org/sluice", "tag": "2", "pullPolicy": "Always" });
    values["metricsPort"] = json!(19640);
    values["healthPort"] = json!(19641);
    values["extraArgs"] = json!(["--interface=eth1", "--datapath=tc"]);
    values["extraEnv"] = json!([{ "name": "NODE_ZONE", "value": "a" }]);
    values["tolerations"] = json!([]);
    let text = render(&values, "lb", true);
    assert!(
        !text.contains("sluice-system")
            && !text.contains(" 9640")
            && !text.contains(":9641")
            && !text.contains(" 9641")
            && text.matches("19641").count() == 4,
        "{text}"
    );
    let rendered = by_name(documents(&text));
    let pod = &rendered["\"DaemonSet\" \"sluice\""]["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "example.org/sluice:2");
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(
        container["ports"][0],
        json!({ "name": "metrics", "containerPort": 19640, "hostPort": 19640, "protocol": "TCP" })
    );
    let arguments = [
        "agent",
        "--health-addr=127.0.0.1:19641",
        "--metrics-addr=$(NODE_IP):19640",
        "--interface=eth1",
        "--datapath=tc",
    ];
    assert_eq!(strings(&container["args"]), arguments);
    assert!(container["env"].as_array().unwrap().contains(&json!({ "name": "NODE_ZONE", "value": "a" })));
    let subject = &rendered["\"ClusterRoleBinding\" \"sluice\""]["subjects"][0];
    assert_eq!(subject["namespace"], "lb");
}

#[test]
fn the_chart_lets_certificates_be_read_everywhere_or_in_the_namespaces_that_are_named() {
    let mut values = read("chart/values.yaml").remove(0);
    let bindings = |values: &Value| {
        let of_tls =
            documents(&render(values, "lb", true)).into_iter().filter(|d| d["roleRef"]["name"] == "sluice-tls");
        of_tls.map(|d| (d["kind"].clone(), d["metadata"]["namespace"].clone(), d["subjects"][0]["namespace"].clone()))
    };
    assert_eq!(bindings(&values).collect::<Vec<_>>(), [(json!("ClusterRoleBinding"), Value::Null, json!("lb"))]);
    values["tlsNamespaces"] = json!(["shop", "infra"]);
    let named = ["shop", "infra"].map(|ns| (json!("RoleBinding"), json!(ns), json!("lb")));
    assert_eq!(bindings(&values).collect::<Vec<_>>(), named);
}

#[test]
fn the_component_limits_certificates_to_namespaces() {
    let role_of = |file: &str| read(file).remove(0)["roleRef"].clone();
    assert_eq!(role_of("components/tls-namespaces/role-bindings.yaml"), role_of("base/rbac-tls.yaml"));
    let deleted = read("components/tls-namespaces/cluster-wide.yaml").remove(0);
    let base = read("base/rbac-tls.yaml").remove(0);
    assert_eq!((&deleted["kind"], &deleted["metadata"]["name"]), (&base["kind"], &base["metadata"]["name"]));
    assert_eq!(deleted["$patch"], "delete");
}

#[test]
fn the_chart_has_no_gateway_class_where_gateway_api_is_missing() {
    let values = read("chart/values.yaml").remove(0);
    let kinds: Vec<_> = documents(&render(&values, "lb", false)).iter().map(|d| d["kind"].clone()).collect();
    assert!(!kinds.contains(&json!("GatewayClass")), "{kinds:?}");
    assert_eq!(kinds.len(), 22);
}

#[test]
fn the_agents_have_seats_of_their_own_and_leases_apart_from_the_rest() {
    let flow = by_name(read("base/flow-control.yaml"));
    assert_eq!(flow.len(), 4);
    let account = read("base/service-account.yaml").remove(0)["metadata"].clone();
    let leader = read("overlays/controller/rbac.yaml").remove(0)["metadata"].clone();
    let mut precedences = Vec::new();
    for name in ["sluice-leases", "sluice"] {
        let schema = &flow[&format!("\"FlowSchema\" \"{name}\"")]["spec"];
        let level = schema["priorityLevelConfiguration"]["name"].as_str().unwrap();
        let level = &flow[&format!("\"PriorityLevelConfiguration\" \"{level}\"")]["spec"];
        assert_eq!(
            (level["type"].as_str(), level["limited"]["limitResponse"]["type"].as_str()),
            (Some("Limited"), Some("Queue"))
        );
        let subjects = schema["rules"][0]["subjects"].as_array().unwrap();
        let named = |of: &Value| json!({ "name": of["name"], "namespace": of["namespace"] });
        let subjects: Vec<&Value> = subjects.iter().map(|subject| &subject["serviceAccount"]).collect();
        assert_eq!(subjects, [&named(&account), &named(&leader)], "{name}");
        precedences.push(schema["matchingPrecedence"].as_u64().unwrap());
    }
    assert!(precedences[0] < precedences[1] && precedences[1] < 9000, "{precedences:?}");
    let leases = &flow["\"FlowSchema\" \"sluice-leases\""]["spec"]["rules"][0]["resourceRules"][0];
    assert_eq!(leases["resources"], json!(["leases"]));
    assert!(!strings(&leases["verbs"]).iter().any(|verb| ["list", "watch", "*"].contains(&verb.as_str())));
}

#[test]
fn seats_of_their_own_can_be_done_without() {
    let mut values = read("chart/values.yaml").remove(0);
    let of_flow = |documents: Vec<Value>| -> Vec<(Value, Value)> {
        let is = |d: &Value| d["apiVersion"] == "flowcontrol.apiserver.k8s.io/v1";
        documents.into_iter().filter(is).map(|d| (d["kind"].clone(), d["metadata"]["name"].clone())).collect()
    };
    assert_eq!(of_flow(documents(&render(&values, "lb", true))).len(), 4);
    values["flowControl"] = json!(false);
    assert_eq!(of_flow(documents(&render(&values, "lb", true))), []);
    let deleted = read("components/without-flow-control/deleted.yaml");
    assert!(deleted.iter().all(|d| d["$patch"] == "delete"));
    let sorted = |mut all: Vec<(Value, Value)>| {
        all.sort_by_key(|(kind, name)| (kind.to_string(), name.to_string()));
        all
    };
    assert_eq!(sorted(of_flow(deleted)), sorted(of_flow(read("base/flow-control.yaml"))));
}
