//! Ctrl-C: what is under way is given up between two steps, and the first thing is to say what that means.

use std::sync::{Arc, atomic::AtomicBool};

use anyhow::Context as _;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};
use strongroom_store::{OperatorError, SqliteOperator};

/// As shells have it for what a signal has ended.
const EXIT_KILLED: i32 = 130;

/// From now on a signal makes the operator stop at the next step, and a second one ends the process.
pub(super) fn on_signals(operator: &mut SqliteOperator) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order: the first signal finds the flag still false.
        flag::register_conditional_shutdown(signal, EXIT_KILLED, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .context("can't listen for signals")?;
    }
    Ok(operator.stop_when(stop)?)
}

/// Says what it means that it was interrupted, if it was.
pub(super) fn explain<T>(
    outcome: Result<T, OperatorError>,
    meaning: &'static str,
) -> anyhow::Result<T> {
    match outcome {
        Err(OperatorError::Interrupted) => {
            Err(anyhow::Error::new(OperatorError::Interrupted).context(meaning))
        }
        Ok(done) => Ok(done),
        Err(error) => Err(error.into()),
    }
}
