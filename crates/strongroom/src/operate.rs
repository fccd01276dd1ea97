//! What only the operator sees: metrics, health, and the purge in the background.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use strongroom_store::{self as store, Outlook, Result, Retention, Store, Tick};
use tokio::time::{Instant, timeout};

/// How often it is looked for what has outlived its retention: a thousand times in that time, but
/// not more often, and at least as often.
const TICK_MIN: Duration = Duration::from_secs(1);
const TICK_MAX: Duration = Duration::from_secs(60);
/// How often the metrics follow a purge that takes long.
const SHOW_INTERVAL: Duration = Duration::from_secs(10);

/// How long the store may take to say how it is: what asks us gives up after some seconds itself.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// `/metrics` and `/health`.
pub(crate) fn router(registry: Registry, store: Arc<dyn Store>) -> Router {
    Router::new()
        .route("/metrics", get(metrics).with_state(Arc::new(registry)))
        .route("/health", get(health).with_state(store))
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// 200 if the store reads and takes writes, else 503; in words, for people who look at it.
async fn health(State(store): State<Arc<dyn Store>>) -> Response {
    let unwell = |words: String| (StatusCode::SERVICE_UNAVAILABLE, words).into_response();
    match timeout(HEALTH_TIMEOUT, store.check()).await {
        Ok(Ok(())) => (StatusCode::OK, "ok\n").into_response(),
        // The store has logged it when it began.
        Ok(Err(store::Error::Unavailable(trouble))) => {
            unwell(format!("{trouble}\nhelp: {}\n", trouble.help()))
        }
        Ok(Err(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the store is not well");
            unwell("the store fails\nhelp: see the log\n".to_owned())
        }
        Err(_) => unwell("the store does not answer\nhelp: is its disk stuck?\n".to_owned()),
    }
}

/// What an operator can see of what is kept and purged.
#[derive(Clone, Default)]
pub(crate) struct PurgeMetrics {
    purged: Counter,
    kept_keys: Gauge,
    kept_bytes: Gauge,
    due_keys: Gauge,
    next_seconds: Gauge,
}

impl PurgeMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("purged_keys", "Keys removed for good", self.purged.clone());
        registry.register("kept_keys", "Deleted and replaced keys", self.kept_keys.clone());
        registry.register("kept_bytes", "What is kept out of view", self.kept_bytes.clone());
        registry.register("purge_due_keys", "Keys to be removed now", self.due_keys.clone());
        registry.register(
            "purge_next_seconds",
            "Until something is to be removed; -1: nothing is kept",
            self.next_seconds.clone(),
        );
    }

    fn show(&self, outlook: Outlook) {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.kept_keys.set(number(outlook.kept_keys));
        self.kept_bytes.set(number(outlook.kept_bytes));
        self.due_keys.set(number(outlook.due_keys));
        self.next_seconds.set(outlook.next_in.map_or(-1, |next_in| number(next_in.as_secs())));
    }
}

/// Lets time pass for the store, and removes for good what has outlived its retention, for ever.
pub(crate) async fn purge(store: Arc<dyn Store>, retention: Retention, metrics: PurgeMetrics) {
    let interval = (retention.kept / 1000).clamp(TICK_MIN, TICK_MAX);
    let mut last = Instant::now();
    loop {
        let now = Instant::now();
        // Announced with room for a purge that takes long; what takes longer does not count.
        let tick = Tick { served: now - last, next: 2 * interval, retention };
        last = now;
        match purge_once(&*store, tick, &metrics).await {
            Ok(0) => {}
            Ok(keys) => tracing::info!(keys, "purged what had outlived its retention"),
            // The store has logged it when it began.
            Err(store::Error::Unavailable(_)) => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the purge failed");
            }
        }
        tokio::time::sleep(interval).await;
    }
}

/// Removes what is due. It rests for as long as each step took, and writers come in between.
async fn purge_once(store: &dyn Store, tick: Tick, metrics: &PurgeMetrics) -> Result<u64> {
    store.tick(tick).await?;
    metrics.show(store.outlook().await?);
    let (mut keys, mut shown) = (0, Instant::now());
    loop {
        let begin = Instant::now();
        let step = store.purge().await?;
        if step.is_done {
            break;
        }
        keys += step.keys;
        metrics.purged.inc_by(step.keys);
        if shown.elapsed() > SHOW_INTERVAL {
            metrics.show(store.outlook().await?);
            shown = Instant::now();
        }
        tokio::time::sleep(begin.elapsed()).await;
    }
    if keys > 0 {
        metrics.show(store.outlook().await?);
    }
    Ok(keys)
}
