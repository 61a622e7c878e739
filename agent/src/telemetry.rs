//! Log format, and how metrics are written: names carry their unit, labels are bounded.
//!
//! Metrics are read from the stages when they are asked for: nothing is counted twice, nothing is kept here. Which there
//! are, with their help texts, is in `admin/metrics.rs`.
use std::{error::Error, fmt, io::IsTerminal};

use clap::ValueEnum;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use tracing::field::Field;
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt,
    fmt::{FormatFields, format, format::Writer},
};

use crate::printable::printable_line;

/// How logs are written. The level comes from `RUST_LOG`, `info` where it is not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error; `RUST_LOG` selects, `info` where it does not.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::new(directives(&std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default()));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second call in one process is a test's; the first subscriber stays.
    let _ = match format {
        LogFormat::Text => builder.with_target(false).fmt_fields(safe_fields()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// What `RUST_LOG` asks for. A level alone is meant for Sluice: below `info` libraries tell of every relocation and every
/// poll, and are shown when they are named.
fn directives(wanted: &str) -> String {
    let mut filter = match wanted.trim() {
        "" => "info".to_owned(),
        level if ["debug", "trace"].contains(&level.to_lowercase().as_str()) => format!("info,sluice={level}"),
        named => named.to_owned(),
    };
    // What fails is told by who has asked, once; the client would tell each attempt.
    if !filter.contains("kube_client") {
        filter.push_str(",kube_client=off");
    }
    filter
}

/// Fields as `name=value`, the message bare, each on one line and without control characters: values are what others wrote.
fn safe_fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    let write = |out: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        let text = format!("{value:?}");
        match field.name() {
            "message" => write!(out, "{}", printable_line(&text)),
            name => write!(out, "{name}={}", printable_line(&text)),
        }
    };
    format::debug_fn(write).delimited(" ")
}

/// An error with its causes, each once: some texts hold their cause's already.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = next.source();
    }
    text
}

/// One metric with all its samples, as read at one moment.
#[derive(Debug)]
pub struct Family {
    /// Its name without the suffix `_total`.
    pub name: &'static str,
    /// Whether it only grows.
    pub kind: Kind,
    /// One sentence without its full stop: desired or observed, and in which unit.
    pub help: &'static str,
    /// Labels and value of each sample.
    pub samples: Vec<(Labels, f64)>,
}

/// Names and values that tell samples of one family apart.
pub type Labels = Vec<(&'static str, String)>;

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes both ways.
    Gauge,
}

/// A family of histograms, as read at one moment.
#[derive(Debug)]
pub struct HistogramFamily {
    /// Its name.
    pub name: &'static str,
    /// One sentence without its full stop: desired or observed, and in which unit.
    pub help: &'static str,
    /// Labels and value of each sample.
    pub samples: Vec<(Labels, Histogram)>,
}

/// What is in a histogram.
#[derive(Debug)]
pub struct Histogram {
    /// The upper bound of each bucket, and what is in it and in none before; the last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// All values together.
    pub sum: f64,
}

/// All that is known at one moment.
#[derive(Debug, Default)]
pub struct Families {
    /// Counters and gauges.
    pub plain: Vec<Family>,
    /// Histograms.
    pub histograms: Vec<HistogramFamily>,
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.plain {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            if let [(labels, value)] = &family.samples[..]
                && labels.is_empty()
            {
                encode(family.kind, *value, metric)?;
                continue;
            }
            for (labels, value) in &family.samples {
                encode(family.kind, *value, metric.encode_family(labels)?)?;
            }
        }
        for family in &self.histograms {
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, MetricType::Histogram)?;
            for (labels, Histogram { buckets, sum }) in &family.samples {
                let count = buckets.iter().map(|(_, n)| n).sum();
                metric.encode_family(labels)?.encode_histogram::<Labels>(*sum, count, buckets, None)?;
            }
        }
        Ok(())
    }
}

fn encode(kind: Kind, value: f64, to: MetricEncoder<'_>) -> fmt::Result {
    match kind {
        Kind::Counter => ConstCounter::new(value).encode(to),
        Kind::Gauge => ConstGauge::new(value).encode(to),
    }
}

/// The text that a scrape gets, in the OpenMetrics format.
///
/// # Errors
/// A name or a label cannot be written.
pub fn exposition(families: Families) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(families));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_help_type_suffix_and_escaped_labels() {
        let samples = vec![(vec![("name", "a\"b".to_owned())], 3.0)];
        let plain = vec![Family { name: "sluice_x", kind: Kind::Counter, help: "Things", samples }];
        let text = exposition(Families { plain, ..Families::default() });
        let expected = "# HELP sluice_x Things\n# TYPE sluice_x counter\nsluice_x_total{name=\"a\\\"b\"} 3.0\n# EOF\n";
        assert_eq!(text.unwrap(), expected);
    }

    #[test]
    fn a_histogram_has_buckets_that_add_up_a_sum_and_a_count() {
        let histogram = Histogram { buckets: vec![(0.5, 2), (1.0, 0), (f64::INFINITY, 1)], sum: 7.25 };
        let samples = vec![(vec![("a", "b".to_owned())], histogram)];
        let histograms = vec![HistogramFamily { name: "sluice_z_seconds", help: "Things", samples }];
        let text = exposition(Families { histograms, ..Families::default() }).unwrap();
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "# TYPE sluice_z_seconds histogram",
                "sluice_z_seconds_sum{a=\"b\"} 7.25",
                "sluice_z_seconds_count{a=\"b\"} 3",
                "sluice_z_seconds_bucket{le=\"0.5\",a=\"b\"} 2",
                "sluice_z_seconds_bucket{le=\"1.0\",a=\"b\"} 2",
                "sluice_z_seconds_bucket{le=\"+Inf\",a=\"b\"} 3",
                "# EOF"
            ]
        );
    }

    #[test]
    fn a_level_alone_is_that_of_sluice() {
        for (wanted, expected) in [
            ("", "info,kube_client=off"),
            ("debug", "info,sluice=debug,kube_client=off"),
            ("TRACE", "info,sluice=TRACE,kube_client=off"),
            ("warn", "warn,kube_client=off"),
            ("aya=debug,kube_client=warn", "aya=debug,kube_client=warn"),
        ] {
            assert_eq!(directives(wanted), expected);
        }
    }

    #[test]
    fn a_log_line_holds_no_control_characters_of_others() {
        #[derive(Clone, Default)]
        struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        let lines = Lines::default();
        let writer = lines.clone();
        let builder = tracing_subscriber::fmt().with_ansi(false).with_target(false).without_time();
        let subscriber = builder.fmt_fields(safe_fields()).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let pattern = "a\u{1b}]0;owned\u{7}\nWARN forged\u{9b}0m";
            tracing::warn!(kind = "Service", name = %pattern, line = Some(3), "not \u{1b} read");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let expected =
            " WARN not \\u{1b} read kind=\"Service\" name=a\\u{1b}]0;owned\\u{7}\\nWARN forged\\u{9b}0m line=3\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_family_without_labels_has_one_plain_sample() {
        let samples = vec![(vec![], 7.0)];
        let plain = vec![Family { name: "sluice_y", kind: Kind::Gauge, help: "Things", samples }];
        let text = exposition(Families { plain, ..Families::default() });
        assert!(text.unwrap().contains("\nsluice_y 7.0\n"));
    }
}
