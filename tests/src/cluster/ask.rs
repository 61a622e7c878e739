//! What tests ask of a control plane: kubeconfigs, `kubectl`, objects, namespaces of their own.
use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{ControlPlane, Identity, api::Api, faults::Proxy};
use crate::netns::Namespace;

/// How long a controller may take to do its part.
const DONE: Duration = Duration::from_secs(90);

impl ControlPlane {
    /// The API server, as the admin.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.admin
    }

    /// The API server, as somebody else. A ServiceAccount must exist.
    ///
    /// # Errors
    /// There is no such ServiceAccount.
    pub fn api_as(&self, identity: &Identity) -> anyhow::Result<Api> {
        let (tls, token) = match identity {
            Identity::Admin => (self.authority.issue("admin", "admin", Some("system:masters"), &[])?.tls, None),
            Identity::User { name, group } => {
                (self.authority.issue(&identity.file(), name, group.as_deref(), &[])?.tls, None)
            }
            Identity::ServiceAccount { namespace, name } => {
                (self.authority.anonymous()?, Some(self.token(namespace, name)?))
            }
        };
        Ok(Api::new(Namespace::open(self.space.name())?, self.socket(), tls, token))
    }

    /// The API server, as a pod of a ServiceAccount on a node, and the pod's name: its token names both, as the kubelet asks for
    /// it. The pod is an object that nobody runs.
    ///
    /// # Errors
    /// There is no such ServiceAccount.
    pub fn api_as_pod(&self, namespace: &str, account: &str, node: &str) -> anyhow::Result<(Api, String)> {
        let pod = json!({
            "metadata": { "generateName": format!("{account}-") },
            "spec": {
                "nodeName": node, "serviceAccountName": account, "containers": [{ "name": "c", "image": "none" }],
            },
        });
        let pod = self.admin.create(&format!("/api/v1/namespaces/{namespace}/pods"), &pod)?;
        let name = pod["metadata"]["name"].as_str().context("the pod has no name")?.to_owned();
        let bound = json!({ "apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"] });
        let spec = json!({ "expirationSeconds": 86_400, "boundObjectRef": bound });
        let token = self.token_of(namespace, account, &spec)?;
        let api =
            Api::new(Namespace::open(self.space.name())?, self.socket(), self.authority.anonymous()?, Some(token));
        Ok((api, name))
    }

    /// A way to the API server from another namespace for whoever `api` is.
    ///
    /// # Errors
    /// No socket can be had there.
    pub fn proxy_of(&self, space: &Namespace, api: Api) -> anyhow::Result<Proxy> {
        Proxy::start(space, api, &self.run().dir())
    }

    /// A kubeconfig for `identity`. It leads to the API server from the control plane's own namespace
    /// ([`ControlPlane::space`]); from another one, go through [`ControlPlane::proxy`].
    ///
    /// # Errors
    /// There is no such ServiceAccount.
    pub fn kubeconfig(&self, identity: &Identity) -> anyhow::Result<PathBuf> {
        let user = match identity {
            Identity::Admin => self.authority.existing("admin"),
            Identity::User { name, group } => {
                self.authority.issue(&identity.file(), name, group.as_deref(), &[])?.user()
            }
            Identity::ServiceAccount { namespace, name } => json!({ "token": self.token(namespace, name)? }),
        };
        self.write_kubeconfig(&identity.file(), &user)
    }

    /// A way to the API server from another namespace, on which faults can be made: see [`Proxy`]. Whoever comes this way
    /// is `identity`.
    ///
    /// # Errors
    /// There is no such ServiceAccount.
    pub fn proxy(&self, space: &Namespace, identity: &Identity) -> anyhow::Result<Proxy> {
        self.proxy_of(space, self.api_as(identity)?)
    }

    /// Runs `kubectl` as the admin, with `stdin`; returns its standard output. It must end well.
    ///
    /// # Errors
    /// It does not end well; the error holds what it said.
    pub fn kubectl(&self, arguments: &[&str], stdin: &str) -> anyhow::Result<String> {
        let Output { status, stdout, stderr } = self.kubectl_output(arguments, stdin)?;
        let said = String::from_utf8_lossy(&stderr);
        anyhow::ensure!(status.success(), "kubectl {} ended with {status}: {said}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// The same, ending as it may.
    ///
    /// # Errors
    /// There is no `kubectl`.
    pub fn kubectl_output(&self, arguments: &[&str], stdin: &str) -> anyhow::Result<Output> {
        let mut command = self.kubectl_command()?;
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.space.enter(|| command.spawn()).context("start kubectl")?;
        let mut input = child.stdin.take().context("kubectl has no stdin")?;
        let output = std::thread::scope(|s| {
            // It may end without reading.
            s.spawn(move || drop(input.write_all(stdin.as_bytes())));
            child.wait_with_output()
        });
        output.context("wait for kubectl")
    }

    /// `kubectl`, to be started in [`ControlPlane::space`]: for what runs long or talks to a terminal.
    ///
    /// # Errors
    /// There is no kubeconfig.
    pub fn kubectl_command(&self) -> anyhow::Result<Command> {
        let dir = self.run().dir();
        let mut command = self.assets.command("kubectl");
        command.env("KUBECONFIG", dir.join("admin.kubeconfig")).env("KUBECACHEDIR", dir.join("kubectl-cache"));
        Ok(command)
    }

    /// `kubectl apply --server-side`, of YAML or JSON.
    ///
    /// # Errors
    /// Something is refused.
    pub fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifest)
    }

    /// Installs the standard channel of Gateway API and waits until it is served. Once is enough; more is harmless.
    ///
    /// # Errors
    /// It is refused, or not served in time.
    pub fn install_gateway_api(&self) -> anyhow::Result<()> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock();
        let dir = xtask::kubernetes::gateway_crds()?;
        let dir = dir.to_str().context("the cache's path is no text")?;
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", dir], "")?;
        let timeout = format!("--timeout={}s", DONE.as_secs());
        let crds = self.kubectl(&["get", "-k", dir, "-o", "name"], "")?;
        let crds = crds.lines().filter(|name| name.starts_with("customresourcedefinition"));
        let wait = ["wait", "--for=condition=Established", &timeout];
        self.kubectl(&wait.into_iter().chain(crds).collect::<Vec<_>>(), "").map(drop)
    }

    /// A namespace for one test, called `<prefix>-<number>`; deleted when dropped.
    ///
    /// # Panics
    /// The API server does not answer.
    #[must_use]
    pub fn namespace(&self, prefix: &str) -> TestNamespace<'_> {
        let object = json!({ "metadata": { "generateName": format!("{prefix}-") } });
        let made = self.admin.create("/api/v1/namespaces", &object).expect("a namespace");
        let name = made["metadata"]["name"].as_str().expect("a name").to_owned();
        let namespace = TestNamespace { plane: self, name };
        if self.has_controllers() {
            let account = namespace.path("", "serviceaccounts/default");
            self.until(&format!("{account} exists"), |api| api.get(&account).map(drop));
        }
        namespace
    }

    /// Waits until `look` is `Ok`, and returns its value; generous, because a busy machine is no reason to fail.
    ///
    /// # Panics
    /// With `what` and the last error, after a minute and a half.
    pub fn until<T>(&self, what: &str, mut look: impl FnMut(&Api) -> anyhow::Result<T>) -> T {
        let began = Instant::now();
        loop {
            match look(&self.admin) {
                Ok(value) => return value,
                Err(error) if began.elapsed() > DONE => panic!("{what}: not within {DONE:?}: {error:#}"),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// A token of a ServiceAccount.
    ///
    /// # Errors
    /// There is no such ServiceAccount.
    pub fn token(&self, namespace: &str, name: &str) -> anyhow::Result<String> {
        self.token_of(namespace, name, &json!({ "expirationSeconds": 86_400 }))
    }

    fn token_of(&self, namespace: &str, name: &str, spec: &Value) -> anyhow::Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let answer = self.admin.create(&path, &json!({ "spec": spec }))?;
        Ok(answer["status"]["token"].as_str().context("the answer holds no token")?.to_owned())
    }

    /// The log of every part, for a test that fails.
    #[must_use]
    pub fn logs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.run().dir()).into_iter().flatten().flatten();
        let mut logs: Vec<PathBuf> = entries.map(|e| e.path()).collect();
        logs.retain(|path| path.extension().is_some_and(|e| e == "log"));
        logs.sort();
        logs
    }
}

/// A namespace of Kubernetes that one test has for itself.
pub struct TestNamespace<'a> {
    plane: &'a ControlPlane,
    name: String,
}

impl TestNamespace<'_> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of something in it: of `"services/web"` in the group `""`, or in `"apps/v1"`.
    #[must_use]
    pub fn path(&self, group: &str, rest: &str) -> String {
        let prefix = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}") };
        format!("{prefix}/namespaces/{}/{rest}", self.name)
    }

    /// Applies an object in it, by server-side apply; `rest` as in [`TestNamespace::path`], with the object's name.
    ///
    /// # Panics
    /// It is refused.
    pub fn apply(&self, group: &str, rest: &str, object: &Value) -> Value {
        let mut object = object.clone();
        object["apiVersion"] = json!(if group.is_empty() { "v1" } else { group });
        object["metadata"]["name"] = json!(rest.split('/').nth(1));
        let path = self.path(group, rest);
        self.plane.api().patch(&path, super::api::Patch::Apply, &object).expect("the object is accepted")
    }
}

impl Drop for TestNamespace<'_> {
    fn drop(&mut self) {
        // Where the API server is gone, so is the namespace soon.
        let _ = self.plane.api().delete(&format!("/api/v1/namespaces/{}", self.name));
    }
}
