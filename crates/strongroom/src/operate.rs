//! What only the operator sees: metrics, health, and the purge in the background.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use strongroom_store::{Store, Timestamp};
use tokio::time::Instant;

/// How often it is looked for what has outlived its retention.
const PURGE_INTERVAL: Duration = Duration::from_secs(60);

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

/// 200 if the store reads and takes writes, else 503; in a word, for people who look at it.
async fn health(State(store): State<Arc<dyn Store>>) -> Response {
    match store.check().await {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the store is not well");
            (StatusCode::SERVICE_UNAVAILABLE, "the store fails\n").into_response()
        }
    }
}

/// Removes for good what left the view longer than `retention` ago, for ever.
///
/// It rests for as long as each step took, and writers come in between.
pub(crate) async fn purge(store: Arc<dyn Store>, retention: Duration) {
    loop {
        let mut keys = 0;
        loop {
            let begin = Instant::now();
            match store.purge(Timestamp::now().minus(retention)).await {
                Ok(step) => {
                    keys += step.keys;
                    if step.is_done {
                        break;
                    }
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the purge failed");
                    break;
                }
            }
            tokio::time::sleep(begin.elapsed()).await;
        }
        if keys > 0 {
            tracing::info!(keys, "purged what had outlived its retention");
        }
        tokio::time::sleep(PURGE_INTERVAL).await;
    }
}
