//! The inspection commands: ask the agent over its admin socket, show a table or the JSON as it came.
pub mod client;
mod dispatch;
mod offline;
pub mod tables;

pub use crate::printable::printable;
use client::ClientError;
pub use dispatch::dispatch;
use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};
use tables::Columns;

use crate::{
    admin::{flows::FlowQuery, view},
    api::crd::yaml,
    config::{InspectArgs, Output},
    datapath::{maps::TableError, pins::pin_dir},
    discovery::Filter,
    model::http::listing::RouteRow,
    printable::printable_json,
    proxy::explain::{Asked, Explanation},
};

/// Runs one inspection command and returns what to print.
///
/// # Errors
/// The agent cannot be reached or has no answer.
pub async fn inspect(args: &InspectArgs, command: Inspect) -> Result<Answer, ClientError> {
    let text = match command {
        Inspect::Status => show(args, "/api/v1/status", tables::status).await?,
        Inspect::Services { name } => {
            let body = ask(args, "/api/v1/services", offline::services).await?;
            let unexpected = |source| ClientError::Unexpected { path: "/api/v1/services".to_owned(), source };
            let mut all: Vec<view::Service> = serde_json::from_slice(&body).map_err(unexpected)?;
            if let Some(name) = name {
                let known = all.iter().map(|s| s.object.name.clone()).collect::<Vec<_>>();
                all.retain(|s| s.object.name == name || s.object.name.rsplit('/').next() == Some(name.as_str()));
                if all.is_empty() {
                    return Err(ClientError::NoService { name, known });
                }
            }
            let body = serde_json::to_vec(&all).map_err(unexpected)?;
            let wide = |s: &Vec<view::Service>| tables::services(s, Columns::All);
            let narrow = |s: &Vec<view::Service>| tables::services(s, Columns::Main);
            form(args, &body, if args.output == Output::Wide { wide } else { narrow }).map_err(unexpected)?
        }
        Inspect::Backends => {
            let body = ask(args, "/api/v1/backends", offline::backends).await?;
            let unexpected = |source| ClientError::Unexpected { path: "/api/v1/backends".to_owned(), source };
            form(args, &body, |b: &Vec<view::Backend>| tables::backends(b)).map_err(unexpected)?
        }
        Inspect::Routes => show::<Vec<RouteRow>>(args, "/api/v1/routes", |r| tables::routes(r)).await?,
        Inspect::Explain(asked) => {
            let path = format!("/api/v1/explain?{asked}");
            let body = client::get(&args.admin_socket, &path).await?;
            let unexpected = |source| ClientError::Unexpected { path: path.clone(), source };
            let found: Vec<Explanation> = serde_json::from_slice(&body).map_err(unexpected)?;
            let is_refused = found
                .iter()
                .all(|one| one.status.is_some_and(|status| status >= 400) || one.grpc_status.is_some() || one.ends);
            let text = form(args, &body, |e: &Vec<Explanation>| tables::explanations(e)).map_err(unexpected)?;
            return Ok(Answer { text, is_refused });
        }
        // Without an agent nobody knows which flows are a Service's.
        Inspect::Flows(query) if query.service.is_some() => {
            show(args, &format!("/api/v1/flows?{query}"), tables::flows).await?
        }
        Inspect::Flows(query) => {
            let path = format!("/api/v1/flows?{query}");
            let body = ask(args, &path, |pins| offline::flows(pins, &query)).await?;
            form(args, &body, tables::flows).map_err(|source| ClientError::Unexpected { path, source })?
        }
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
            let is_name =
                |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && !b"?#%".contains(&b));
            if !object.contains('/') || !object.split('/').all(is_name) {
                return Err(ClientError::Object { object });
            }
            let body = client::get(&args.admin_socket, &format!("/api/v1/objects/{object}")).await?;
            let unexpected = |source| ClientError::Unexpected { path: object.clone(), source };
            let found: view::Object = serde_json::from_slice(&body).map_err(unexpected)?;
            let is_refused = found.outcome == "refused";
            return Ok(Answer { text: form(args, &body, tables::object).map_err(unexpected)?, is_refused });
        }
    };
    Ok(Answer { text, is_refused: false })
}

/// What is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The table, or the JSON.
    pub text: String,
    /// The object that was asked for is refused.
    pub is_refused: bool,
}

/// An inspection command.
#[derive(Clone, Debug)]
pub enum Inspect {
    /// `sluice status`.
    Status,
    /// `sluice services`.
    Services {
        /// One of them: its name, with or without namespace.
        name: Option<String>,
    },
    /// `sluice backends`.
    Backends,
    /// `sluice routes`.
    Routes,
    /// `sluice explain`.
    Explain(Asked),
    /// `sluice flows`.
    Flows(FlowQuery),
    /// `sluice instances`.
    Instances {
        /// `namespace/name`.
        service: Option<String>,
        /// Which of them.
        filter: Filter,
    },
    /// `sluice why`.
    Why {
        /// `kind/namespace/name`, or `kind/name`.
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
    form(args, &body, table).map_err(unexpected)
}

/// The agent's answer; where no agent runs, what the pinned maps say, and a sentence that says so.
async fn ask<T: Serialize>(
    args: &InspectArgs,
    path: &str,
    read: impl FnOnce(&Path) -> Result<T, TableError>,
) -> Result<Vec<u8>, ClientError> {
    let absent = match client::get(&args.admin_socket, path).await {
        Ok(body) => return Ok(body.to_vec()),
        Err(absent @ ClientError::Connect { .. }) => absent,
        Err(other) => return Err(other),
    };
    let pins = pin_dir(&args.bpf_dir);
    let Ok(found) = read(&pins) else { return Err(absent) };
    eprintln!("sluice: {}", printable(&format!("no agent runs: this is what the maps in {} say", pins.display())));
    serde_json::to_vec(&found).map_err(|source| ClientError::Unexpected { path: path.to_owned(), source })
}

/// An answer in the form that was asked for, safe to print: it holds names and values that anybody may have written.
fn form<T: DeserializeOwned>(
    args: &InspectArgs,
    body: &[u8],
    table: fn(&T) -> String,
) -> Result<String, serde_json::Error> {
    match args.output {
        Output::Table | Output::Wide => Ok(printable(&table(&serde_json::from_slice(body)?)).into_owned()),
        Output::Json => {
            let text = serde_json::to_string_pretty(&serde_json::from_slice::<serde_json::Value>(body)?)?;
            Ok(printable_json(&text).into_owned())
        }
        // Its strings are those of JSON.
        Output::Yaml => Ok(printable_json(yaml(&serde_json::from_slice(body)?).trim_end()).into_owned()),
    }
}
