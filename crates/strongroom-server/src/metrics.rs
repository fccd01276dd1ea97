//! What an operator can count.

use std::{fmt, sync::atomic::AtomicU64, time::Duration};

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
    requests: Family<Answered, Counter<u64, AtomicU64>>,
    seconds: Family<Operation, Histogram>,
    in_flight: Gauge,
    refusals: Family<Refused, Counter<u64, AtomicU64>>,
    limited: Family<Limited, Counter<u64, AtomicU64>>,
}

/// What was asked, without what only the one request has: the template of its path, not the path.
#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(crate) struct Operation {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Answered {
    method: &'static str,
    path: &'static str,
    status: u16,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Refused {
    errcode: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Limited {
    limit: &'static str,
}

/// What held somebody off.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    User,
    Address,
    AddressFailures,
    WrongTokens,
    QuestionsWaiting,
    BodiesInFlight,
}

impl Limit {
    /// As the options are called.
    const fn name(self) -> &'static str {
        match self {
            Self::User => "user_requests",
            Self::Address => "address_requests",
            Self::AddressFailures => "address_failures",
            Self::WrongTokens => "wrong_tokens",
            Self::QuestionsWaiting => "questions_waiting",
            Self::BodiesInFlight => "bodies_in_flight",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            in_flight: Gauge::default(),
            refusals: Family::default(),
            limited: Family::default(),
        }
    }
}

impl Metrics {
    /// Makes the counters known under their names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests by method, path and status", self.requests.clone());
        registry.register(
            "request_seconds",
            "Seconds until the answer began",
            self.seconds.clone(),
        );
        registry.register("requests_in_flight", "Requests being answered", self.in_flight.clone());
        registry.register("refusals", "Errors answered, by errcode", self.refusals.clone());
        registry.register("limited", "Requests held off, by the limit", self.limited.clone());
    }

    pub(crate) fn begin(&self) {
        self.in_flight.inc();
    }

    pub(crate) fn refused(&self, errcode: &'static str) {
        self.refusals.get_or_create(&Refused { errcode }).inc();
    }

    pub(crate) fn limited(&self, limit: Limit) {
        self.limited.get_or_create(&Limited { limit: limit.name() }).inc();
    }

    /// Without a status the client hung up before there was one.
    pub(crate) fn end(&self, operation: Operation, status: Option<u16>, time: Duration) {
        self.in_flight.dec();
        let Some(status) = status else { return };
        let Operation { method, path } = operation;
        self.requests.get_or_create(&Answered { method, path, status }).inc();
        self.seconds.get_or_create(&operation).observe(time.as_secs_f64());
    }
}
