//! The Helm chart, made of `deploy/base` and `deploy/gateway`: the same text with some values taken out of it.
//!
//! Each substitution names what it replaces; one that no longer fits the base is an error, not a chart that says something else.
//! Defaults in `values.yaml` are what was taken out. `agent/tests/deploy.rs` renders the result and compares it with the base.
use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use super::Files;

const HEADER: &str = "# Written by `cargo xtask generate` from deploy/: edit there.\n";

/// A manifest on its way to a template, and the values that were taken out of it.
struct Template {
    text: String,
    values: String,
}

/// The files of the chart.
///
/// # Errors
/// A manifest cannot be read, or a substitution does not fit it.
pub fn generate(deploy: &Path) -> Result<Files> {
    let read = |file: &str| fs::read_to_string(deploy.join(file)).with_context(|| format!("read deploy/{file}"));
    let mut files = Files::new();
    let mut add = |name: &str, text: String| files.insert(name.into(), text);

    let mut daemon = Template { text: read("base/daemonset.yaml")?, values: String::new() };
    let image = daemon.image()?;
    daemon.field("imagePullPolicy", "image.pullPolicy", &image)?;
    daemon.port("              hostPort: ", 3, "metricsPort", "Where a node serves health and metrics.")?;
    let health = "            - --health-addr=127.0.0.1:";
    daemon.port(health, 4, "healthPort", "Where a node serves health on its loopback, for the kubelet's probes.")?;
    daemon.env("SLUICE_LOG_FORMAT", "logFormat", "`text`, or `json`: one object a line.")?;
    daemon.env("RUST_LOG", "logLevel", "`error`, `warn`, `info`, `debug` or `trace`, also by module.")?;
    daemon.more("            - --metrics-addr=", "extraArgs", "Further flags of `sluice agent`.")?;
    daemon.more("              value: {{ .Values.logLevel }}", "extraEnv", "Further environment of the agent.")?;
    daemon.block(
        "rollingUpdate",
        "rollingUpdate",
        "How many nodes may be updated at once: a number, or a share; 10% on hundreds of nodes.",
    )?;
    daemon.block("nodeSelector", "nodeSelector", "The nodes that it runs on.")?;
    daemon.block("tolerations", "tolerations", "The taints that it runs beside.")?;
    daemon.block("resources", "resources", "What the scheduler sets aside.")?;

    add("templates/daemonset.yaml", namespaced(&daemon.text)?);
    add("templates/service-account.yaml", namespaced(&read("base/service-account.yaml")?)?);
    add("templates/rbac.yaml", namespaced(&read("base/rbac.yaml")?)?);
    add("templates/rbac-tls.yaml", namespaced(&by_namespace(&read("base/rbac-tls.yaml")?)?)?);
    add("templates/admission.yaml", namespaced(&read("base/admission.yaml")?)?);
    let flow = namespaced(&read("base/flow-control.yaml")?)?;
    let flow = flow.strip_prefix(HEADER).context("a template without its header")?;
    add("templates/flow-control.yaml", format!("{HEADER}{{{{- if .Values.flowControl }}}}\n{flow}{{{{- end }}}}\n"));
    let class = read("gateway/gateway-class.yaml")?;
    add(
        "templates/gateway-class.yaml",
        format!(
            "{HEADER}{{{{- if .Capabilities.APIVersions.Has \"gateway.networking.k8s.io/v1/GatewayClass\" }}}}\n{class}{{{{- end }}}}\n"
        ),
    );
    let named = "# The namespaces in which Secrets and ConfigMaps may be read; empty: in all.\ntlsNamespaces: []\n";
    let flow = "# Whether the agents have seats of their own at the API server (FlowSchema, PriorityLevelConfiguration).\nflowControl: true\n";
    add("values.yaml", format!("{HEADER}{}{named}{flow}", daemon.values));
    add("Chart.yaml", chart());
    for entry in fs::read_dir(deploy.join("crds")).into_iter().flatten() {
        let path = entry.context("read deploy/crds")?.path();
        if let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|n| *n != "kustomization.yaml") {
            add(&format!("crds/{name}"), fs::read_to_string(&path).with_context(|| path.display().to_string())?);
        }
    }
    Ok(files)
}

/// A binding for the whole cluster, or one for each namespace that the values name.
fn by_namespace(binding: &str) -> Result<String> {
    let (_, binding) = binding.split_once('\n').context("a binding without a comment before it")?;
    let name = "  name: sluice-tls\n  labels:";
    if binding.matches(name).count() != 1 {
        bail!("the base's binding is not the one for TLS");
    }
    let one = binding.replace("kind: ClusterRoleBinding", "kind: RoleBinding");
    let one = one.replace(name, "  name: sluice-tls\n  namespace: {{ . }}\n  labels:");
    let one = one.replace("namespace: sluice-system", "namespace: {{ $.Release.Namespace }}");
    Ok(format!(
        "{{{{- if not .Values.tlsNamespaces }}}}\n{binding}{{{{- end }}}}\n\
         {{{{- range .Values.tlsNamespaces }}}}\n---\n{one}{{{{- end }}}}\n"
    ))
}

fn chart() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "{HEADER}apiVersion: v2\nname: sluice\ndescription: \"A load balancer for Kubernetes: addresses, eBPF forwarding and a \
         layer 7 proxy in one binary\"\ntype: application\nversion: {version}\nappVersion: \"{version}\"\n\
         kubeVersion: \">=1.30.0-0\"\n"
    )
}

/// The namespace becomes the release's.
fn namespaced(text: &str) -> Result<String> {
    // As a field, and in the name of the ServiceAccount as a user.
    let places = ["namespace: sluice-system", "serviceaccount:sluice-system:"];
    if !places.iter().any(|place| text.contains(place)) {
        bail!("a manifest of the base names no namespace");
    }
    let header = if text.starts_with("# Written by") { "" } else { HEADER };
    let released =
        |text: String, place: &str| text.replace(place, &place.replace("sluice-system", "{{ .Release.Namespace }}"));
    Ok(format!("{header}{}", places.into_iter().fold(text.to_owned(), released)))
}

impl Template {
    /// Takes `repository:tag` out; returns the name of the tag's line for what belongs to it.
    fn image(&mut self) -> Result<String> {
        let line = self.line("          image: ")?;
        let image = line.trim_start().trim_start_matches("image: ");
        let (repository, tag) = image.rsplit_once(':').context("the base's image has no tag")?;
        self.values
            .push_str(&format!("# The image of the agent.\nimage:\n  repository: {repository}\n  tag: \"{tag}\"\n"));
        self.replace(&line, "          image: \"{{ .Values.image.repository }}:{{ .Values.image.tag }}\"")?;
        Ok("  ".to_owned())
    }

    /// Takes the value of one line out, into the mapping that was opened last.
    fn field(&mut self, key: &str, value: &str, indent: &str) -> Result<()> {
        let line = self.line(&format!("          {key}: "))?;
        let (head, found) = line.split_once(": ").context("a line without a value")?;
        let name = value.rsplit('.').next().unwrap_or(value);
        self.values.push_str(&format!("{indent}{name}: {found}\n"));
        self.replace(&line, &format!("{head}: {{{{ .Values.{value} }}}}"))
    }

    /// Takes a port out that stands behind `start` and in so many `places` in all.
    fn port(&mut self, start: &str, places: usize, value: &str, why: &str) -> Result<()> {
        let port = self.line(start)?[start.len()..].to_owned();
        let found = self.text.matches(&port).count();
        if found != places {
            bail!("the base names port {port} in {found} places, want {places}");
        }
        self.values.push_str(&format!("# {why}\n{value}: {port}\n"));
        self.text = self.text.replace(&port, &format!("{{{{ .Values.{value} }}}}"));
        Ok(())
    }

    /// Takes the value of an environment variable out.
    fn env(&mut self, variable: &str, value: &str, why: &str) -> Result<()> {
        let head = format!("            - name: {variable}\n              value: ");
        let at = self.text.find(&head).with_context(|| format!("the base sets no {variable}"))? + head.len();
        let found = self.text[at..].lines().next().unwrap_or_default().to_owned();
        self.values.push_str(&format!("# {why}\n{value}: {found}\n"));
        self.text.replace_range(at..at + found.len(), &format!("{{{{ .Values.{value} }}}}"));
        Ok(())
    }

    /// Appends what the user adds behind the line that begins with `after`.
    fn more(&mut self, after: &str, value: &str, why: &str) -> Result<()> {
        let line = self.line(after)?;
        self.values.push_str(&format!("# {why}\n{value}: []\n"));
        let added = format!(
            "{line}\n            {{{{- with .Values.{value} }}}}\n            {{{{- toYaml . | nindent 12 }}}}\n            {{{{- end }}}}"
        );
        self.replace(&line, &added)
    }

    /// Takes out everything below `key`.
    fn block(&mut self, key: &str, value: &str, why: &str) -> Result<()> {
        let head = format!("{key}:");
        let lines: Vec<&str> = self.text.lines().collect();
        let mut found = lines.iter().enumerate().filter(|(_, line)| line.trim_start() == head);
        let (Some((first, line)), None) = (found.next(), found.next()) else {
            bail!("the base has not exactly one {key}");
        };
        let indent = line.len() - head.len();
        let inside = |line: &&&str| line.len() > indent && line.starts_with(&" ".repeat(indent + 1));
        let body: Vec<&str> = lines[first + 1..].iter().take_while(inside).copied().collect();
        let least = body.first().map_or(0, |line| line.len() - line.trim_start().len());
        self.values.push_str(&format!("# {why}\n{value}:\n"));
        for line in &body {
            self.values.push_str(&format!("  {}\n", line.get(least..).unwrap_or_default()));
        }
        let old = lines[first..=first + body.len()].join("\n");
        self.replace(&old, &format!("{line}\n{}{{{{- toYaml .Values.{value} | nindent {least} }}}}", " ".repeat(least)))
    }

    /// The one line that begins so.
    fn line(&self, start: &str) -> Result<String> {
        let mut found = self.text.lines().filter(|line| line.starts_with(start));
        match (found.next(), found.next()) {
            (Some(line), None) => Ok(line.to_owned()),
            _ => bail!("the base has not exactly one line that begins with {start:?}"),
        }
    }

    fn replace(&mut self, old: &str, new: &str) -> Result<()> {
        if self.text.matches(old).count() != 1 {
            bail!("the base has not exactly one {old:?}");
        }
        self.text = self.text.replace(old, new);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_of_deploy_is_fresh() {
        let deploy = crate::root().join("deploy");
        let wanted = generate(&deploy).unwrap();
        for (file, text) in &wanted {
            let found = fs::read_to_string(deploy.join("chart").join(file)).unwrap_or_default();
            assert!(found == *text, "deploy/chart/{} is stale: run `cargo xtask generate`", file.display());
        }
        let templates = fs::read_dir(deploy.join("chart/templates")).unwrap();
        for file in templates.map(|entry| entry.unwrap().file_name()) {
            assert!(wanted.contains_key(&Path::new("templates").join(&file)), "{} is nobody's", file.display());
        }
    }

    #[test]
    fn a_base_that_a_substitution_does_not_fit_is_an_error() {
        let mut template =
            Template { text: "a: 1\nresources:\n  x: 1\nresources:\n  y: 2\n".into(), values: String::new() };
        assert!(template.block("resources", "resources", "why").is_err());
        assert!(template.image().is_err());
        assert!(template.env("RUST_LOG", "logLevel", "why").is_err());
    }

    #[test]
    fn what_is_taken_out_is_the_default() {
        let text = "spec:\n  limits:\n    cpu: 1\n    deep:\n      - a\n  after: 1\n".to_owned();
        let mut template = Template { text, values: String::new() };
        template.block("limits", "limits", "Why.").unwrap();
        assert_eq!(template.values, "# Why.\nlimits:\n  cpu: 1\n  deep:\n    - a\n");
        assert_eq!(template.text, "spec:\n  limits:\n    {{- toYaml .Values.limits | nindent 4 }}\n  after: 1\n");
    }
}
