//! Keeps metrics served where the configuration says. That they are not is a problem to tell, and no
//! reason to stop: the table does not need them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, task::JoinHandle};

use super::{Shared, engine::lock, exposition, watchdog::Terms};
use crate::metrics::{Asked, Page, Server};

/// Until an address that could not be listened on is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Pages that are made at the same time: those of metrics, and those about the daemon's health. More wait,
/// each kind for its own.
const AT_ONCE: usize = 2;

/// Where metrics are served.
#[derive(Debug, Default)]
pub(super) struct Listening {
    address: Option<SocketAddr>,
    task: Option<JoinHandle<()>>,
    /// Why they are not.
    pub(super) problem: Option<String>,
}

/// Serves on `address` from now on; `None`: nowhere.
pub(super) fn restart(shared: &Arc<Shared>, address: Option<SocketAddr>) {
    let mut listening = lock(&shared.listening);
    if listening.address == address {
        return;
    }
    if let Some(task) = listening.task.take() {
        task.abort();
    }
    listening.address = address;
    listening.problem = None;
    listening.task = address.map(|address| {
        let shared = Arc::clone(shared);
        tokio::spawn(async move { serve(shared, address).await })
    });
}

async fn serve(shared: Arc<Shared>, address: SocketAddr) {
    let server = loop {
        match Server::bind(address).await {
            Ok(server) => break server,
            Err(e) => tell(&shared, address, Some(e.to_string())),
        }
        tokio::time::sleep(AGAIN).await;
    };
    tell(&shared, address, None);
    tracing::info!("metrics are served on http://{address}/metrics");
    let pulse = shared.pulses.begin("the metrics server", Terms::METRICS);
    let places = [(); 2].map(|()| Arc::new(Semaphore::new(AT_ONCE)));
    let answer = move |asked: Asked| {
        let [health, all] = &places;
        let is_probe = ["/readyz", "/healthz"].contains(&asked.path.as_str());
        let places = Arc::clone(if is_probe { health } else { all });
        page(Arc::clone(&shared), asked, places)
    };
    server.serve(&pulse, answer).await;
}

/// Makes a page. The one for liveness takes no lock and waits for nobody.
async fn page(shared: Arc<Shared>, asked: Asked, places: Arc<Semaphore>) -> Page {
    if asked.path == "/livez" {
        return exposition::alive(&shared.pulses.late());
    }
    let place = places.acquire_owned().await;
    let work = move || {
        // Also when the client is gone by then: the work goes on.
        let _place = place;
        exposition::page(&shared, &asked)
    };
    let page = tokio::task::spawn_blocking(work).await;
    page.unwrap_or_else(|e| Page::text(500, format!("{e}\n")))
}

/// Keeps the problem for status; the log has it once.
fn tell(shared: &Shared, address: SocketAddr, problem: Option<String>) {
    let mut listening = lock(&shared.listening);
    // A reload may have chosen another address meanwhile.
    if listening.address != Some(address) {
        return;
    }
    if let Some(problem) = &problem
        && listening.problem.is_none()
    {
        tracing::error!("{problem}; it is tried again every {} s", AGAIN.as_secs());
    }
    listening.problem = problem;
}
