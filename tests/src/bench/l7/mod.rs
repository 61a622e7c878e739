//! The layer 7 benchmark: what a request costs here and in nginx and HAProxy, in one run.
//!
//! All stand in one network namespace at once, and are visited in turn, in short slices: A B A B. A figure is the median of the
//! ratios of neighbouring slices, since absolute rates of a machine move more from minute to minute than two programs differ.
//! What counts is the processor time of the proxy for a unit of work; rates and waits are printed beside it. A wrong answer
//! fails the benchmark, a slow one does not.
//!
//! ```text
//!   CPU 0   load (wrk, h2load) and the endpoint (an nginx that serves files)
//!   CPU 1   the proxies: one is busy, the others are idle
//! ```
//!
//! With two workers the second one shares CPU 0 with load and endpoint. Rates say nothing then. The processor time of the busiest
//! worker for each request of both does: it is what bounds the rate where each has a processor of its own.
mod config;
mod load;
mod proxies;
mod rows;

use std::path::PathBuf;

use super::figures::Figures;
use rows::ROWS;

/// What is measured.
#[derive(Clone, Debug)]
pub struct L7Options {
    /// Rows by name; empty for all.
    pub rows: Vec<String>,
    /// Slices of each proxy and row.
    pub rounds: usize,
    /// The length of a slice, in seconds.
    pub seconds: u32,
    /// Where the figures go besides standard output.
    pub json: Option<PathBuf>,
}

/// The names of the rows, in their order.
#[must_use]
pub fn l7_rows() -> Vec<&'static str> {
    ROWS.iter().map(|row| row.name).collect()
}

/// Measures, prints a table, writes the file.
///
/// # Errors
/// Not root, a proxy fails, an answer is wrong, or there is no such row.
pub fn l7(options: &L7Options) -> anyhow::Result<()> {
    for name in &options.rows {
        anyhow::ensure!(ROWS.iter().any(|r| r.name == name), "row {name:?}: want one of {}", l7_rows().join(", "));
    }
    anyhow::ensure!(
        std::thread::available_parallelism()?.get() >= 2,
        "the benchmark needs two processors: one for the proxies, one for load and endpoints"
    );
    let mut figures = Figures::default();
    let wanted = ROWS.iter().filter(|row| options.rows.is_empty() || options.rows.iter().any(|n| n == row.name));
    for row in wanted {
        println!("{}: {}", row.name, row.what);
        rows::measure(row, options, &mut figures)?;
    }
    options.json.as_ref().map_or(Ok(()), |path| figures.write(path))
}
