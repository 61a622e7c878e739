//! The inspection commands: ask the agent over its admin socket, show a table or the JSON as it came.
pub mod client;
mod dispatch;
pub mod tables;

pub use crate::printable::printable;
use client::ClientError;
pub use dispatch::dispatch;
use serde::de::DeserializeOwned;

use crate::{
    admin::view,
    config::{InspectArgs, Output},
    discovery::Filter,
    model::http::listing::RouteRow,
    printable::printable_json,
};

/// Runs one inspection command and returns what to print.
///
/// # Errors
/// The agent cannot be reached or has no answer.
pub async fn inspect(args: &InspectArgs, command: Inspect) -> Result<Answer, ClientError> {
    let text = match command {
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

/// An answer in the form that was asked for, safe to print: it holds names and values that anybody may have written.
fn form<T: DeserializeOwned>(
    args: &InspectArgs,
    body: &[u8],
    table: fn(&T) -> String,
) -> Result<String, serde_json::Error> {
    match args.output {
        Output::Table => Ok(printable(&table(&serde_json::from_slice(body)?)).into_owned()),
        Output::Json => {
            let text = serde_json::to_string_pretty(&serde_json::from_slice::<serde_json::Value>(body)?)?;
            Ok(printable_json(&text).into_owned())
        }
    }
}
