//! The control plane's benchmark: what many Services cost, and how long from a change to changed maps (S150, and S41 at a
//! rate).
//!
//! A real agent follows N Services of ten endpoints, from a real API server or from a directory of manifests. A wrong
//! answer fails the benchmark; a slow one does not: each figure is printed with its goal beside it.
mod cluster;
mod cost;
mod expose;
mod feed;
mod figures;
mod heads;
mod l7;
mod manifests;
mod objects;
mod routes;
mod scale;
mod wire;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::netns::{Maps, maps};
use figures::Figures;
pub use heads::heads;
pub use l7::{L7Options, l7, l7_rows};
pub use scale::{ScaleOptions, scale};

/// How long a change may take to arrive.
const LIMIT: Duration = Duration::from_secs(60);

/// Where the objects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A real API server.
    Cluster,
    /// A directory.
    Manifests,
    /// A directory of HTTPRoutes; a change is one of a route.
    Routes,
}

/// How often the maps are looked at for one change.
const LOOK: Duration = Duration::from_micros(100);

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the objects come from.
    pub source: Source,
    /// Services that are loaded, or routes.
    pub services: usize,
    /// Single changes that are measured.
    pub changes: usize,
    /// Changes a second, of many; of a cluster alone.
    pub rate: f64,
    /// For how many seconds.
    pub seconds: u64,
    /// Where the figures go besides standard output.
    pub json: Option<PathBuf>,
}

/// The program `bench NAME`: prints how it is used where it is asked to, else runs, and says why where it fails.
pub fn command(name: &str, usage: &str, run: impl FnOnce(&[String]) -> anyhow::Result<()>) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        print!("{usage}");
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nbench {name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, prints a table, writes the file.
///
/// # Errors
/// Not root, the agent fails, or the maps do not come to hold what they should.
pub fn control(options: &Options) -> anyhow::Result<()> {
    let (services, endpoints) = (options.services, options.services * objects::ENDPOINTS as usize);
    if options.source == Source::Routes {
        println!("{services} HTTPRoutes");
    } else {
        println!("{services} Services, {services} EndpointSlices, {endpoints} endpoints");
    }
    let mut figures = Figures::default();
    control_beside(options, &mut figures)?;
    options.json.as_ref().map_or(Ok(()), |path| figures.write(path))
}

/// The same, among other figures.
fn control_beside(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    match options.source {
        Source::Cluster => cluster::run(options, figures),
        Source::Manifests => manifests::run(options, figures),
        Source::Routes => routes::run(options, figures),
    }
}

/// Waits until the maps lead to what a Service has in this generation, looking every so often; when that was.
fn until_changed(maps: &Maps, service: usize, generation: u32, every: Duration) -> anyhow::Result<Instant> {
    let key = maps::key(objects::vip(service), sluice_ebpf::TCP);
    let (wanted, began) = (objects::endpoints(service, generation), Instant::now());
    let mut seen = None;
    loop {
        let row = maps.frontend(&key)?;
        // The whole table is read only when the row has changed: one system call per look otherwise.
        if row != seen {
            let at = Instant::now();
            // A backend that is gone by now belonged to a table that is, too.
            if row.and_then(|r| maps.backends(&r).ok()).as_ref() == Some(&wanted) {
                return Ok(at);
            }
            seen = row;
        }
        ensure!(began.elapsed() < LIMIT, "Service {service} is not in the maps as it should be: {row:?}");
        std::thread::sleep(every);
    }
}
