//! One network namespace: created, entered by threads, named under `/run/netns` so that `ip netns exec` finds it.
//!
//! A namespace is a property of a thread. Work is therefore done by short-lived threads that enter it and end, or by
//! long-lived ones that a [`Task`] owns; the calling thread never changes its own.
use std::{
    fs::File,
    future::Future,
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use anyhow::Context as _;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use tokio::sync::oneshot;

/// Where named namespaces live, as `ip netns` has it.
pub const NAMES: &str = "/run/netns";

/// A network namespace that exists while this value does.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// Creates a namespace called `name`, with its loopback up.
    ///
    /// # Errors
    /// No permission, or the name is taken.
    pub fn create(name: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(NAMES).with_context(|| format!("create {NAMES}"))?;
        let path = Self::path_of(name);
        File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        let made = std::thread::scope(|s| {
            s.spawn(|| -> anyhow::Result<()> {
                unshare(CloneFlags::CLONE_NEWNET).context("unshare a network namespace")?;
                let none: Option<&str> = None;
                mount(Some("/proc/thread-self/ns/net"), &path, none, MsFlags::MS_BIND, none)
                    .with_context(|| format!("bind the namespace to {}", path.display()))
            })
            .join()
            .expect("the thread does not panic")
        });
        if let Err(error) = made {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        let this = Self::open(name)?;
        this.keep_flows_in_order()?;
        this.net(async |net| net.up("lo").await)?;
        Ok(this)
    }

    /// The packets of a flow come to one CPU, one after the other, as a card with several queues has it.
    ///
    /// Through a veth pair a segment is received on the CPU that has sent it. The ACK that ends a handshake and the first data
    /// are often sent by two, and Linux then looks for the server's socket while it becomes another, finds none, and resets
    /// the connection (seen with 6.18 in one of 100,000, where the segments had come to the pod in order).
    fn keep_flows_in_order(&self) -> anyhow::Result<()> {
        let key = "net/core/rps_default_mask";
        let cpus = std::thread::available_parallelism().map_or(1, usize::from).min(32);
        let mask = format!("{:x}", u32::MAX >> (32 - cpus));
        // A kernel before 6.3 does not have it.
        if Path::new("/proc/sys").join(key).exists() { self.sysctl(key, &mask) } else { Ok(()) }
    }

    /// Opens a namespace that exists. It is not removed with this value; a [`super::Run`] does that.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        let path = Self::path_of(name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { name: name.to_owned(), file })
    }

    /// Its name under [`NAMES`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that names it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Self::path_of(&self.name)
    }

    /// Runs `f` on a thread in this namespace and returns its value.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let run = || {
            self.join();
            f()
        };
        match std::thread::scope(|s| s.spawn(run).join()) {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs a future on a thread in this namespace, with a runtime of its own, and returns its value.
    ///
    /// The future is made on that thread and stays there, so it need not be `Send`.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, make: impl FnOnce() -> F + Send) -> T {
        self.enter(|| runtime().block_on(make()))
    }

    /// Starts a future on a thread in this namespace. It is dropped, with all it has spawned, when the task is.
    ///
    /// # Panics
    /// When the system refuses a thread.
    pub fn spawn<F: Future<Output = ()>>(&self, name: &str, make: impl FnOnce() -> F + Send + 'static) -> Task {
        let this = Self { name: self.name.clone(), file: self.file.try_clone().expect("an open file can be cloned") };
        let (stop, stopped) = oneshot::channel::<()>();
        let body = move || {
            this.join();
            let work = make();
            runtime().block_on(async {
                tokio::select! {
                    () = work => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body).expect("a thread");
        Task { stop: Some(stop), thread: Some(thread) }
    }

    /// Sets a sysctl in this namespace; the key as a path below `/proc/sys`.
    ///
    /// # Errors
    /// The kernel does not have it, or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.enter(|| std::fs::write(&path, value)).with_context(|| format!("set {key} to {value}"))
    }

    /// Removes the name; the namespace ends with its last thread and process.
    pub(crate) fn unname(name: &str) {
        let path = Self::path_of(name);
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_file(&path);
    }

    fn path_of(name: &str) -> PathBuf {
        Path::new(NAMES).join(name)
    }

    fn join(&self) {
        setns(&self.file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace that is open");
    }
}

/// A runtime for one thread.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A thread in a namespace; ends when dropped.
#[derive(Debug)]
pub struct Task {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Task {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
