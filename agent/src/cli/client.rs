//! One GET over the agent's Unix socket.
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};

use crate::{admin::view, spelling::nearest};

/// How long the agent may take to answer. It reads some hundred thousand map entries for `sluice flows` at most.
const ANSWER: Duration = Duration::from_secs(20);

/// The agent gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing serves the socket.
    #[error("no agent answers at {socket}: {source}; is `sluice agent` running, with this --admin-socket?")]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The agent accepts, or does not, and says nothing.
    #[error("the agent at {socket} gave no answer within {} s: is it overloaded or stopped?", limit.as_secs())]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The connection broke.
    #[error("the agent's answer broke off: {0}")]
    Broken(#[from] hyper::Error),
    /// The agent refused.
    #[error("{reason}")]
    Refused {
        /// What the agent said.
        reason: String,
    },
    /// The answer is not what this version expects.
    #[error("unexpected answer to {path}: {source}; is the agent of another version?")]
    Unexpected {
        /// What was asked.
        path: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The Service's name has another form.
    #[error("Service {service:?}: want NAMESPACE/NAME, as default/web")]
    Service {
        /// What was given.
        service: String,
    },
    /// No Service or Gateway that is ours has this name.
    #[error("no Service or Gateway named {name} is ours{}; `sluice why service/{name}` may say why", meant(.name, .known))]
    NoService {
        /// What was given.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The object's name has another form.
    #[error(
        "object {object:?}: want KIND/NAMESPACE/NAME, as service/default/web, or KIND/NAME, as gatewayclass/sluice"
    )]
    Object {
        /// What was given.
        object: String,
    },
}

fn meant(name: &str, known: &[String]) -> String {
    let bare = known.iter().filter_map(|known| known.rsplit('/').next());
    let found = nearest(name, known.iter().map(String::as_str).chain(bare));
    found.map(|found| format!(", did you mean {found}?")).unwrap_or_default()
}

/// The body of a successful answer.
///
/// # Errors
/// The agent cannot be reached, does not answer in time, or answers with another status than 200.
pub async fn get(socket: &Path, path: &str) -> Result<Bytes, ClientError> {
    within(ANSWER, socket, path).await
}

async fn within(limit: Duration, socket: &Path, path: &str) -> Result<Bytes, ClientError> {
    let silent = |_| ClientError::Silent { socket: socket.to_owned(), limit };
    timeout(limit, ask(socket, path)).await.map_err(silent)?
}

async fn ask(socket: &Path, path: &str) -> Result<Bytes, ClientError> {
    let connect = |source| ClientError::Connect { socket: socket.to_owned(), source };
    let stream = UnixStream::connect(socket).await.map_err(connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path).header("host", "sluice").body(Empty::<Bytes>::new());
    let request = request.map_err(|_| ClientError::Object { object: path.to_owned() })?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    if status == StatusCode::OK {
        return Ok(body);
    }
    let reason = serde_json::from_slice::<view::Problem>(&body).map_or_else(|_| status.to_string(), |p| p.error);
    Err(ClientError::Refused { reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_that_says_nothing_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let error = within(Duration::from_millis(50), &socket, "/").await.unwrap_err();
        assert!(matches!(error, ClientError::Silent { .. }), "{error}");
    }
}
