//! Metrics, health and readiness over HTTP. Owns the routes and their formats; never decides what healthy or ready
//! means (the node does), and never renders on a thread that serves records.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::future::BoxFuture;
use metrics_exporter_prometheus::PrometheusHandle;
use protocol::runtime::{TaskKind, Tasks};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// How often histograms are tidied up, which bounds what a scrape has to do.
const UPKEEP: Duration = Duration::from_secs(1);
/// How long a scrape waits for the figures that are counted when asked.
const EXTRA_DEADLINE: Duration = Duration::from_secs(5);

/// What the routes answer with.
pub struct Admin {
    /// Where metrics are collected.
    pub metrics: PrometheusHandle,
    /// More metrics, in exposition format, counted when asked: consumer lag.
    pub extra: Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>,
    /// What keeps the node from being healthy; nothing if it is.
    pub ailments: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// What the node still waits for; nothing if it is ready.
    pub obstacles: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// The configuration: path to value and source.
    pub config: BTreeMap<String, ConfigValue>,
}

/// A configured value.
#[derive(Debug, Clone, Serialize)]
pub struct ConfigValue {
    /// The value.
    pub value: String,
    /// Where it comes from.
    pub source: String,
}

/// The answer of `/health` and `/ready`.
#[derive(Debug, Serialize)]
struct Verdict {
    ok: bool,
    reasons: Vec<String>,
}

impl Admin {
    /// Serves on `listener` until `tasks` stop.
    pub fn serve(self, listener: TcpListener, tasks: &Tasks) {
        let (stopping, handle) = (tasks.stopping(), self.metrics.clone());
        tasks.spawn(TaskKind::Background, "metrics upkeep", async move {
            let mut tick = tokio::time::interval(UPKEEP);
            loop {
                tokio::select! {
                    _ = tick.tick() => handle.run_upkeep(),
                    () = stopping.cancelled() => return Ok(()),
                }
            }
        });
        let stopping = tasks.stopping();
        let routes = routes(Arc::new(self));
        tasks.spawn(TaskKind::Background, "admin http", async move {
            // A connection that is kept alive would hold a graceful end for ever, so the end is not graceful.
            tokio::select! {
                served = async { axum::serve(listener, routes).await } => served.map_err(|e| e.to_string()),
                () = stopping.cancelled() => Ok(()),
            }
        });
    }
}

fn routes(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/config", get(config))
        .with_state(admin)
}

async fn index() -> &'static str {
    "Magnetar\n/metrics  figures, for Prometheus\n/health   whether this process works\n/ready    whether it serves clients\n/config   what is configured, and where\n"
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let extra = tokio::time::timeout(EXTRA_DEADLINE, (admin.extra)()).await.unwrap_or_default();
    let handle = admin.metrics.clone();
    match tokio::task::spawn_blocking(move || handle.render()).await {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text + &extra).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn health(State(admin): State<Arc<Admin>>) -> Response {
    verdict((admin.ailments)())
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    verdict((admin.obstacles)())
}

async fn config(State(admin): State<Arc<Admin>>) -> Response {
    Json(&admin.config).into_response()
}

fn verdict(reasons: Vec<String>) -> Response {
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Verdict { ok: reasons.is_empty(), reasons })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::{Key, Level, Metadata, Recorder};
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("listening");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn routes_answer_and_stop() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let about = Metadata::new("test", Level::INFO, None);
        recorder.register_counter(&Key::from_name("magnetar_test_total"), &about).increment(3);
        let admin = Admin {
            metrics: recorder.handle(),
            extra: Arc::new(|| Box::pin(async { "extra_total 1\n".to_string() })),
            ailments: Arc::new(Vec::new),
            obstacles: Arc::new(|| vec!["the bookie is starting".into()]),
            config: BTreeMap::from([(
                "node.id".into(),
                ConfigValue { value: "1".into(), source: "the defaults".into() },
            )]),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let tasks = Tasks::default();
        admin.serve(listener, &tasks);
        let metrics = get(address, "/metrics").await;
        assert!(metrics.contains("magnetar_test_total 3") && metrics.contains("extra_total 1"), "{metrics}");
        assert!(get(address, "/health").await.starts_with("HTTP/1.1 200"));
        let ready = get(address, "/ready").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("the bookie is starting"), "{ready}");
        assert!(get(address, "/config").await.contains("\"node.id\":{\"value\":\"1\""));
        assert!(get(address, "/nothing").await.starts_with("HTTP/1.1 404"));
        assert!(tasks.stop(Duration::from_secs(10)).await, "nothing holds the shutdown");
    }
}
