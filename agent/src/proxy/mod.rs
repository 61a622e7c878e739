//! stub
use crate::model::Model;
use std::{io, net::TcpListener, sync::Arc};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
/// s
pub struct Proxy(TcpListener);
/// s
#[derive(Default)]
pub struct Stats;
impl Proxy {
    /// s
    pub fn bind() -> io::Result<Self> {
        Ok(Self(TcpListener::bind("[::]:0")?))
    }
    /// s
    pub fn socket(&self) -> &TcpListener {
        &self.0
    }
    /// s
    pub fn stats(&self) -> Arc<Stats> {
        Arc::default()
    }
    /// s
    pub async fn run(self, _m: watch::Receiver<Arc<Model>>, c: CancellationToken) {
        c.cancelled().await
    }
}
