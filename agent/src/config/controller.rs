//! Flags of `sluice controller`.
use clap::Args;

use super::{ApiArgs, ClusterArgs, ConfigError, ProcessArgs};
use crate::telemetry::LogFormat;

/// What `--help` says at the end.
pub(super) const HELP: &str = "\
The controller compiles the same objects as the agents and writes what comes of them, for agents that run with \
`--leader controller`: they then need no permission to write objects. It touches no kernel and needs no capabilities. Of \
several controllers one writes, and the others wait for its Lease `sluice-leader` to end. Flags that decide what becomes of \
objects must be those of the agents.

Example:
  kubectl apply -k deploy/overlays/controller";

/// Flags of `sluice controller`.
#[derive(Debug, Args)]
pub struct ControllerArgs {
    /// Where the API server and the agents are.
    #[command(flatten)]
    pub api: ApiArgs,
    /// Name of this process in the Lease, another one for each: its pod's [default: the host's name]
    #[arg(help_heading = "Source", long, value_name = "NAME", env = "POD_NAME")]
    pub name: Option<String>,
    /// What must be the same on all nodes.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// What concerns the process itself.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Log format
    #[arg(help_heading = "Logs", long, value_name = "FORMAT", value_enum, default_value_t, env = "SLUICE_LOG_FORMAT")]
    pub log_format: LogFormat,
}

impl ControllerArgs {
    /// The name of this process.
    ///
    /// # Errors
    /// None was given and the host has none.
    pub fn own_name(&self) -> Result<String, ConfigError> {
        super::given_or_host(self.name.as_deref(), "--name")
    }
}
