//! An API server for tests: it answers each request with the next of what it was told, and keeps what it was asked.
use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::{Client, client::Body};
use serde_json::{Value, json};

/// What it says to one request.
pub(super) enum Answer {
    /// Events; then it ends the watch.
    Watch(Vec<Value>),
    /// Events; then it has forgotten the watch.
    Forgotten(Vec<Value>),
    /// One document with a status code.
    Document(u16, Value),
    /// One document with an ETag.
    Tagged(&'static str, Value),
}

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Server {
    asked: Arc<Mutex<Vec<String>>>,
    if_not: Arc<Mutex<Vec<String>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

impl Server {
    /// One that gives these answers, and none to what is asked after them.
    pub(super) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let server = Self::default();
        server.say(answers);
        server
    }

    /// It gives these answers too.
    pub(super) fn say(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().unwrap().extend(answers);
    }

    /// The query of each request so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The `If-None-Match` of each request so far; `-` where there was none.
    pub(super) fn asked_if_not(&self) -> Vec<String> {
        self.if_not.lock().unwrap().clone()
    }

    /// A parameter of each request so far; `-` where there was none.
    pub(super) fn asked_for(&self, parameter: &str) -> Vec<String> {
        let of = |query: String| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(name, _)| *name == parameter).map_or("-".to_owned(), |(_, value)| value.to_owned())
        };
        self.asked().into_iter().map(of).collect()
    }

    /// A client of it.
    pub(super) fn client(&self) -> Client {
        let Self { asked, if_not, answers } = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            asked.lock().unwrap().push(request.uri().query().unwrap_or_default().to_owned());
            let tag = request.headers().get(header::IF_NONE_MATCH).map_or("-", |tag| tag.to_str().unwrap());
            if_not.lock().unwrap().push(tag.to_owned());
            let answer = answers.lock().unwrap().pop_front();
            async move {
                let Some(answer) = answer else { return std::future::pending().await };
                Ok::<_, Infallible>(answered(answer))
            }
        });
        Client::new(service, "default")
    }
}

fn answered(answer: Answer) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let lines = |events: Vec<Value>| {
        stream::iter(events).map(|event| Ok::<_, Infallible>(Frame::data(Bytes::from(format!("{event}\n")))))
    };
    match answer {
        Answer::Watch(events) => Response::new(StreamBody::new(lines(events)).boxed_unsync()),
        Answer::Forgotten(events) => {
            Response::new(StreamBody::new(lines(events).chain(stream::pending())).boxed_unsync())
        }
        Answer::Document(code, document) => {
            let mut response = Response::new(Full::from(document.to_string()).boxed_unsync());
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            response
        }
        Answer::Tagged(tag, document) => {
            let mut response = answered(Answer::Document(200, document));
            response.headers_mut().insert(header::ETAG, HeaderValue::from_static(tag));
            response
        }
    }
}

/// An event of a watch.
pub(super) fn event(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

/// A bookmark at a revision.
pub(super) fn bookmark(revision: u64) -> Value {
    let metadata = json!({"resourceVersion": revision.to_string()});
    event("BOOKMARK", &json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata}))
}

/// The bookmark that ends a streamed list.
pub(super) fn listed(revision: u64) -> Value {
    let annotations = json!({"k8s.io/initial-events-end": "true"});
    let metadata = json!({"resourceVersion": revision.to_string(), "annotations": annotations});
    event("BOOKMARK", &json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata}))
}

/// What says that an API call failed.
pub(super) fn status(code: u16, reason: &str, message: &str, cause: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": message, "details": {"causes": [{"reason": cause}]}})
}
