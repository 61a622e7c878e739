//! What the proxy tells of requests: metrics by route.
use clap::Args;

use crate::proxy::Settings;

/// Flags of `sluice agent` about that.
#[derive(Debug, Args)]
pub struct ObserveArgs {
    /// How many rules of routes, and how many ports of Services, have metrics of their own, from their first request on; those
    /// beyond are counted together; 0: none is counted
    #[arg(
        help_heading = "Proxy",
        long,
        value_name = "N",
        env = "SLUICE_MAX_METRIC_SERIES",
        default_value_t = Settings::default().max_series
    )]
    pub max_metric_series: usize,
}

impl ObserveArgs {
    /// The settings of the proxy with these.
    #[must_use]
    pub fn apply(&self, settings: Settings) -> Settings {
        Settings { max_series: self.max_metric_series, ..settings }
    }
}
