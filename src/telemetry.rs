//! The log and the metrics of a process.
//!
//! Metric names carry the prefix `tidegate_`, base units and, for counters, the suffix `_total`, which the encoder
//! adds; labels come from small closed sets (a type, a result), never from node ids. The text is OpenMetrics.

use std::{
    fmt,
    io::{self, IsTerminal},
    sync::{Mutex, PoisonError},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry,
};
use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::cli::{LogFormat, LogOptions};

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter makes no sense.
    #[error("the log filter {0:?}: {1}")]
    Filter(String, ParseError),
    /// The process has a log already.
    #[error("the log is set up already: {0}")]
    Twice(String),
}

/// Sends the process's log to stderr. To be called once, by `main`.
///
/// # Errors
/// [`LogError`] when the filter makes no sense, or on the second call.
pub fn init(options: &LogOptions) -> Result<(), LogError> {
    let text = options.filter.clone().or_else(|| std::env::var("RUST_LOG").ok()).unwrap_or_else(|| "info".to_owned());
    let filter = filter(&text)?;
    let terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let set = match options.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json }) {
        LogFormat::Text => builder.with_ansi(terminal && std::env::var_os("NO_COLOR").is_none()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    set.map_err(|error| LogError::Twice(error.to_string()))
}

fn filter(text: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(text).map_err(|error| LogError::Filter(text.to_owned(), error))
}

/// The metrics of a process. Parts register what they count once, at their start, and keep the returned handle; it
/// is cheap to clone and to bump.
pub struct Registry(Mutex<registry::Registry>);

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// A registry that holds `tidegate_build_info` and nothing else.
    pub fn new() -> Self {
        let mut registry = registry::Registry::with_prefix("tidegate");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The build that runs", build);
        Self(Mutex::new(registry))
    }

    /// A counter, written as `tidegate_<name>_total`.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// A gauge, written as `tidegate_<name>`.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// Counters that differ in `L`, written as `tidegate_<name>_total{…}`.
    pub fn counters<L>(&self, name: &str, help: &str) -> Family<L, Counter>
    where
        L: Labels,
    {
        self.register(name, help, Family::default())
    }

    /// Gauges that differ in `L`, written as `tidegate_<name>{…}`.
    pub fn gauges<L>(&self, name: &str, help: &str) -> Family<L, Gauge>
    where
        L: Labels,
    {
        self.register(name, help, Family::default())
    }

    /// A histogram of seconds with buckets from 1 ms to 65 s, each twice the one before; `name` ends in `_seconds`.
    pub fn seconds(&self, name: &str, help: &str) -> Histogram {
        self.register(name, help, Histogram::new((0..17).map(|n| 0.001 * f64::from(1_u32 << n))))
    }

    /// Registers any other metric of prometheus-client and gives it back.
    pub fn register<M>(&self, name: &str, help: &str, metric: M) -> M
    where
        M: registry::Metric + Clone,
    {
        // The encoder ends each help text with a full stop of its own.
        let help = help.trim_end_matches('.');
        self.0.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric.clone());
        metric
    }

    /// The OpenMetrics text of all metrics, to be served as [`Registry::CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut page = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail; a metric that gives up leaves what came before it.
        let _ = text::encode(&mut page, &registry);
        page
    }

    /// The media type of [`Registry::encode`].
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}

/// What a set of labels must be: hashable, comparable, encodable (`#[derive(EncodeLabelSet)]`).
pub trait Labels: EncodeLabelSet + Clone + Eq + std::hash::Hash + fmt::Debug + Send + Sync + 'static {}

impl<T> Labels for T where T: EncodeLabelSet + Clone + Eq + std::hash::Hash + fmt::Debug + Send + Sync + 'static {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_carry_the_prefix_and_their_suffix() {
        let registry = Registry::new();
        registry.counter("xds_nacks", "Refusals of proxies.").inc();
        registry.gauge("xds_streams", "Open streams").set(3);
        registry
            .counters::<Vec<(String, String)>>("pushes", "Responses")
            .get_or_create(&vec![("type".into(), "CDS".into())])
            .inc_by(2);
        registry.seconds("convergence_seconds", "From commit to the last ACK").observe(0.0015);
        let page = registry.encode();
        for line in [
            "# HELP tidegate_xds_nacks Refusals of proxies.",
            "tidegate_xds_nacks_total 1",
            "tidegate_xds_streams 3",
            "tidegate_pushes_total{type=\"CDS\"} 2",
            "tidegate_convergence_seconds_bucket{le=\"0.002\"} 1",
            "tidegate_convergence_seconds_bucket{le=\"0.001\"} 0",
            concat!("tidegate_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(page.lines().any(|l| l == line), "{line:?} is missing from\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn a_wrong_log_filter_is_named() {
        let error = filter("tidegate=loud,,=").expect_err("no such level");
        assert!(error.to_string().contains("tidegate=loud"), "{error}");
    }
}
