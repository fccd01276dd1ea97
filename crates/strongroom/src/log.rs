//! The log, on standard error.

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::config::{Log, LogFormat};

/// Starts it. Of other crates only warnings are shown, at any level: what they trace may hold the
/// bytes of a request.
pub(crate) fn start(log: &Log) {
    let ours = LevelFilter::from(log.level);
    let targets = Targets::new().with_target("strongroom", ours).with_default(LevelFilter::WARN);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(targets);
    match log.format {
        LogFormat::Text => registry.with(layer.with_ansi(is_terminal())).init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
    }
}

fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}
