//! What an operator can count of connections.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Counters of the connections of one listener. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionMetrics {
    pub(super) open: Gauge,
    closed: Family<Closed, Counter<u64, AtomicU64>>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Closed {
    reason: &'static str,
}

/// Why it was us who closed a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reason {
    /// It was idle, and another one needed its place.
    MadePlace,
    /// Its address has all that it may have, with a request in flight on each.
    AddressHasAll,
    /// The header of a request did not come to its end.
    HeaderUnfinished,
}

impl ConnectionMetrics {
    /// Makes the counters known under their names.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("connections", "Open connections", self.open.clone());
        registry.register(
            "connections_closed",
            "Connections closed because of a limit, by the reason",
            self.closed.clone(),
        );
    }

    pub(super) fn closed(&self, reason: Reason) {
        let reason = match reason {
            Reason::MadePlace => "made_place",
            Reason::AddressHasAll => "address_has_all",
            Reason::HeaderUnfinished => "header_unfinished",
        };
        self.closed.get_or_create(&Closed { reason }).inc();
    }
}
