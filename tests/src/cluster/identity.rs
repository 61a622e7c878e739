//! Who asks the API server, and the kubeconfig that says so.
use std::path::Path;

use serde_json::{Value, json};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// May do everything.
    Admin,
    /// May do what is bound to this name and this group by RBAC. Known by a certificate.
    User {
        /// The name, as in a binding's `subjects`.
        name: String,
        /// The group; `system:authenticated` comes by itself.
        group: Option<String>,
    },
    /// May do what is bound to this ServiceAccount by RBAC. Known by a token.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl Identity {
    /// A user without a group.
    #[must_use]
    pub fn user(name: &str) -> Self {
        Self::User { name: name.to_owned(), group: None }
    }

    /// A ServiceAccount.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// What its files are called.
    #[must_use]
    pub fn file(&self) -> String {
        let name = match self {
            Self::Admin => "admin".to_owned(),
            Self::User { name, group: None } => format!("user-{name}"),
            Self::User { name, group: Some(group) } => format!("user-{name}-{group}"),
            Self::ServiceAccount { namespace, name } => format!("sa-{namespace}-{name}"),
        };
        name.replace([':', '/'], "-")
    }
}

/// A kubeconfig for one server and one user; the certificates by the paths of their files.
#[must_use]
pub(super) fn kubeconfig(server: &str, authority: Option<&Path>, user: &Value) -> Value {
    let mut cluster = json!({ "server": server });
    if let Some(authority) = authority {
        cluster["certificate-authority"] = json!(authority);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "test", "cluster": cluster }],
        "users": [{ "name": "test", "user": user }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        "current-context": "test",
    })
}
