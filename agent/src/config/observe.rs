//! What the proxy tells of requests: metrics by route, the access log.
use std::{io, path::PathBuf};

use clap::{Args, ValueEnum};

use crate::proxy::{
    Settings,
    access_log::{AccessLog, LineFormat, LogSettings, Writer},
};

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
    /// A line for each request that is over: `json` with all fields, `text` in the Combined Log Format
    #[arg(help_heading = "Proxy", long, value_name = "FORM", value_enum, default_value_t, env = "SLUICE_ACCESS_LOG")]
    pub access_log: AccessLogForm,
    /// Part of the requests that is logged, 0 to 1
    #[arg(help_heading = "Proxy", long, value_name = "PART", default_value_t = 1.0, env = "SLUICE_ACCESS_LOG_SAMPLE", value_parser = part)]
    pub access_log_sample: f64,
    /// Log requests that fail whatever the sample: 5xx, cut responses, failures of gRPC, clients that leave before an answer
    #[arg(help_heading = "Proxy", long, env = "SLUICE_ACCESS_LOG_ERRORS")]
    pub access_log_errors: bool,
    /// Log targets and referers with their query, which may have secrets
    #[arg(help_heading = "Proxy", long, env = "SLUICE_ACCESS_LOG_QUERY")]
    pub access_log_query: bool,
    /// File that the access log goes to; one that is renamed or removed is opened anew [default: standard output]
    #[arg(help_heading = "Proxy", long, value_name = "PATH", env = "SLUICE_ACCESS_LOG_FILE")]
    pub access_log_file: Option<PathBuf>,
}

/// Whether and how requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AccessLogForm {
    /// Not at all.
    #[default]
    Off,
    /// One JSON object a line.
    Json,
    /// The Combined Log Format.
    Text,
}

impl ObserveArgs {
    /// The settings of the proxy with these, and who writes the access log.
    ///
    /// # Errors
    /// The file of the access log cannot be opened.
    pub fn apply(&self, settings: Settings) -> io::Result<(Settings, Option<Writer>)> {
        let settings = Settings { max_series: self.max_metric_series, ..settings };
        let format = match self.access_log {
            AccessLogForm::Off => return Ok((settings, None)),
            AccessLogForm::Json => LineFormat::Json,
            AccessLogForm::Text => LineFormat::Text,
        };
        let (log, writer) = AccessLog::start(LogSettings {
            format,
            sample: self.access_log_sample,
            errors: self.access_log_errors,
            query: self.access_log_query,
            file: self.access_log_file.clone(),
        })?;
        Ok((Settings { access_log: Some(log), ..settings }, Some(writer)))
    }
}

/// A part of something.
fn part(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number.filter(|n| (0.0..=1.0).contains(n)).ok_or_else(|| format!("{text:?}, want a number from 0 to 1"))
}

#[cfg(test)]
mod tests {
    use super::part;

    #[test]
    fn a_part_is_between_none_and_all() {
        assert_eq!((part("0"), part("0.01"), part("1")), (Ok(0.0), Ok(0.01), Ok(1.0)));
        for bad in ["", "-0.1", "1.1", "NaN", "inf", "1%"] {
            assert!(part(bad).is_err(), "{bad:?}");
        }
    }
}
