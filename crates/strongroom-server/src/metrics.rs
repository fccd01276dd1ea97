//! What an operator can count.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Seconds that separate a cached read, a sync, a busy disk, and trouble.
const SECONDS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0];

/// Counters of the requests. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter<u64, AtomicU64>>,
    seconds: Family<OperationLabels, Histogram>,
    in_flight: Gauge,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RequestLabels {
    operation: String,
    status: u16,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OperationLabels {
    operation: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            in_flight: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Makes the counters known under their names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests by operation and status", self.requests.clone());
        registry.register(
            "request_seconds",
            "Seconds until the answer began",
            self.seconds.clone(),
        );
        registry.register("requests_in_flight", "Requests being answered", self.in_flight.clone());
    }

    pub(crate) fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    pub(crate) fn end(&self, operation: &str, status: u16, time: Duration) {
        let operation = operation.to_owned();
        let labels = RequestLabels { operation: operation.clone(), status };
        self.requests.get_or_create(&labels).inc();
        let labels = OperationLabels { operation };
        self.seconds.get_or_create(&labels).observe(time.as_secs_f64());
    }
}

/// Counts a request as being answered until it is dropped, which a client that hangs up does too.
pub(crate) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
