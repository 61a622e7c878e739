//! The inspection commands: ask the agent over its admin socket, show a table or the JSON as it came.
pub mod client;
mod dispatch;
pub mod tables;

use client::ClientError;
pub use dispatch::dispatch;
use serde::de::DeserializeOwned;

use crate::{
    admin::view,
    config::{InspectArgs, Output},
    discovery::Filter,
    model::http::listing::RouteRow,
};

/// Runs one inspection command and returns what to print.
///
/// # Errors
/// The agent cannot be reached or has no answer.
pub async fn inspect(args: &InspectArgs, command: Inspect) -> Result<String, ClientError> {
    Ok(match command {
        Inspect::Status => show(args, "/api/v1/status", tables::status).await?,
        Inspect::Services => show::<Vec<view::Service>>(args, "/api/v1/services", |s| tables::services(s)).await?,
        Inspect::Backends => show::<Vec<view::Backend>>(args, "/api/v1/backends", |b| tables::backends(b)).await?,
        Inspect::Routes => show::<Vec<RouteRow>>(args, "/api/v1/routes", |r| tables::routes(r)).await?,
        Inspect::Flows { limit } => show(args, &format!("/api/v1/flows?limit={limit}"), tables::flows).await?,
        Inspect::Instances { service: Some(service), filter } => {
            let Some((ns, name)) = service.split_once('/') else {
                return Err(ClientError::Service { service });
            };
            let path = format!("/api/v1/services/{ns}/{name}/instances?{}", parameters(&filter));
            show(args, &path, tables::instances).await?
        }
        Inspect::Instances { service: None, filter } => {
            show(args, &format!("/api/v1/instances?{}", parameters(&filter)), tables::all_instances).await?
        }
        Inspect::Why { object } => {
            let [kind, ns, name] = object.split('/').collect::<Vec<_>>()[..] else {
                return Err(ClientError::Object { object });
            };
            show(args, &format!("/api/v1/objects/{}/{ns}/{name}", full_kind(kind)), tables::object).await?
        }
    })
}

/// An inspection command.
#[derive(Clone, Debug)]
pub enum Inspect {
    /// `sluice status`.
    Status,
    /// `sluice services`.
    Services,
    /// `sluice backends`.
    Backends,
    /// `sluice routes`.
    Routes,
    /// `sluice flows`.
    Flows {
        /// Flows at most.
        limit: usize,
    },
    /// `sluice instances`.
    Instances {
        /// `namespace/name`.
        service: Option<String>,
        /// Which of them.
        filter: Filter,
    },
    /// `sluice why`.
    Why {
        /// `kind/namespace/name`.
        object: String,
    },
}

/// A filter as the API takes it.
fn parameters(Filter { namespace, ready }: &Filter) -> String {
    let namespace = namespace.iter().map(|ns| format!("namespace={ns}"));
    let ready = ready.iter().map(|ready| format!("ready={ready}"));
    namespace.chain(ready).collect::<Vec<_>>().join("&")
}

async fn show<T: DeserializeOwned>(
    args: &InspectArgs,
    path: &str,
    table: fn(&T) -> String,
) -> Result<String, ClientError> {
    let body = client::get(&args.admin_socket, path).await?;
    let unexpected = |source| ClientError::Unexpected { path: path.to_owned(), source };
    match args.output {
        Output::Table => Ok(table(&serde_json::from_slice(&body).map_err(unexpected)?)),
        Output::Json => {
            let value: serde_json::Value = serde_json::from_slice(&body).map_err(unexpected)?;
            serde_json::to_string_pretty(&value).map_err(unexpected)
        }
    }
}

/// The short names that `kubectl` knows.
fn full_kind(kind: &str) -> &str {
    match kind {
        "svc" | "services" => "Service",
        "gtw" | "gateways" => "Gateway",
        "gc" | "gatewayclasses" => "GatewayClass",
        "httproutes" => "HTTPRoute",
        other => other,
    }
}
