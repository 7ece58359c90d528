//! `ringfence agent`: starts in an order that leaves nothing half done, then makes a pass whenever
//! something may have changed.

mod early;
mod events;
mod scheduler;
mod watches;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use nix::sys::prctl;
use ringfence_api::{Scrapes, Status};
use ringfence_cni::{Mode, Node};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::api::remote::{self, Remote};
use crate::cli::{ApiListener, LogFormat};
use crate::datapath::{Datapath, Events, Options};
use crate::dataplane::Dataplane;
use crate::engine::{Engine, Pass};
use crate::failure::{Failure, Found, Outcome};
use crate::files::Files;
use crate::manifests::Watch;
use crate::metrics::Metrics;
use crate::runtime::plugin;
use crate::settings::{Origin, Settings};
use crate::state::Shared;
use crate::web::{Admission, CertificateError, Certificates};
use crate::{api, cni, web};
use early::Early;
pub use events::Stop;
use events::{Heard, watch_links};
use scheduler::{Order, PERIOD, Scheduler, Step};
use watches::{Watches, open};

/// Runs until told to stop. Enforcement stays in place afterwards.
pub fn run(settings: &Settings) -> Outcome {
    start_logging(settings.log_format);
    keep_pages_small();
    // All input is checked before the kernel is touched.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")
        .map_err(Failure::fault)?;
    let remote = remote(settings).map_err(Failure::input)?;
    let (source, watches) = open(settings, &runtime)?;
    api::refuse_second_agent(&settings.socket).map_err(Failure::fault)?;
    let engine = Engine::new(settings, source);
    runtime
        .block_on(serve(settings, engine, watches, remote))
        .map_err(Failure::fault)?;
    Ok(Found::Fine)
}

/// Disables huge pages for this process: its objects are small and long-lived, so a fifth of the
/// memory that huge pages keep resident would be unused (ARCHITECTURE.md).
fn keep_pages_small() {
    if let Err(errno) = prctl::set_thp_disable(true) {
        tracing::warn!("huge pages can't be switched off, which costs memory: {errno}");
    }
}

/// Returns where the API for programs is served, if it is, with the current certificates.
fn remote(settings: &Settings) -> Result<Option<Remote>, CertificateError> {
    let Some(ApiListener { address, files }) = settings.api.clone() else {
        return Ok(None);
    };
    Ok(Some(Remote {
        address,
        certificates: Arc::new(Certificates::read(files)?),
    }))
}

async fn serve(
    settings: &Settings,
    mut engine: Engine,
    mut watches: Watches,
    remote: Option<Remote>,
) -> anyhow::Result<()> {
    let mut stop = Stop::new()?;
    let files = Files::raise();
    let listen = |flag, addr: Option<_>| addr.map(|addr| web::bind(flag, addr)).transpose();
    let page = listen("--metrics-addr", settings.metrics_addr)?;
    let probes = listen("--health-addr", settings.health_addr)?;
    let programs = listen("--api-addr", remote.as_ref().map(|remote| remote.address))?;
    let mut datapath = Datapath::open(&Options {
        pin_dir: settings.pin_dir.clone(),
        audit: settings.audit,
        events_per_second: settings.events_per_second,
        pickup: settings.pickup,
        attach: settings.attach,
        seen_mark: settings.seen_mark,
        enters_namespaces: matches!(settings.origin, Origin::Manifests(_)),
    })?;
    if let Some(state) = &settings.cni_state {
        leave_word(settings, &datapath, state)?;
    }
    let early = Early::of(settings, &datapath);
    let (listener, socket) = api::bind(&settings.socket)?;
    engine.number_by(datapath.id_key());
    let events = datapath.take_events();
    let admission = Admission::new(settings.metrics_from.clone());
    admission.begin_with(datapath.quarantined());
    let status = Status {
        seen_mark: Dataplane::seen_mark(&datapath),
        took_over: datapath.takes_over_from(),
        ..first_status(settings)
    };
    if let Some(from) = &status.took_over {
        tracing::info!("takes over from {from}");
    }
    let shared = Shared::new(datapath, Metrics::new()?, status);
    let mut shared = shared.with_board(watches.board());
    shared.admission = Arc::new(admission);
    shared.barrier = watches.barrier();
    shared.plugin = settings.install.as_ref().map(|_| cni::Board::default());
    shared.emitter = settings.emit_events.then(Arc::default);
    shared.remote = remote;
    let shared = Arc::new(shared);
    if let Some(events) = events {
        tokio::spawn(forward(events, Arc::clone(&shared)));
    }
    if let Some(page) = page {
        web::serve_metrics(page, Arc::clone(&shared), files.bound(web::METRICS))?;
    }
    if let Some(probes) = probes {
        let bounds = files.bound(web::HEALTH);
        tokio::spawn(web::serve_health(probes, Arc::clone(&shared), bounds));
    }
    if let (Some(programs), Some(remote)) = (programs, &shared.remote) {
        let (certificates, bounds) = (remote.certificates.clone(), files.bound(remote::BOUNDS));
        remote::serve(programs, Arc::clone(&shared), certificates, bounds)?;
    }
    let bounds = files.bound(api::BOUNDS);
    tokio::spawn(api::serve(listener, Arc::clone(&shared), bounds));
    tracing::info!(
        node = settings.node_name,
        source = settings.origin.describe(),
        "agent started in mode {}",
        shared.status().mode,
    );
    watches.start(settings, &shared);
    // Not earlier, so that the pins and the socket on which the plugin waits exist.
    if let (Some(install), Some(board)) = (&settings.install, &shared.plugin) {
        tokio::spawn(cni::run(install.clone(), board.clone()));
    }
    let done = watch_and_pass(settings, engine, &shared, &watches.told, (&mut stop, early)).await;
    drop(socket);
    tracing::info!("agent stopped; enforcement stays in place");
    done
}

/// Writes down for the network plugin where programs are pinned and how to treat pods that the
/// agent doesn't know. This is valid until another agent overwrites it.
fn leave_word(settings: &Settings, datapath: &Datapath, state: &Path) -> anyhow::Result<()> {
    let node = Node {
        pins: datapath.folder(),
        clsact: settings.attach.by_clsact(),
        mode: if settings.audit {
            Mode::Audit
        } else {
            Mode::Enforce
        },
        unknown_pass: settings.exempt.all,
        exempt: settings.exempt.namespaces.iter().cloned().collect(),
    };
    node.write(state)
        .with_context(|| format!("--cni-state {}", state.display()))
}

fn first_status(settings: &Settings) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        node: settings.node_name.clone(),
        mode: if settings.audit {
            ringfence_api::Mode::Audit
        } else {
            ringfence_api::Mode::Enforce
        },
        source: settings.origin.describe(),
        source_connected: true,
        pid: std::process::id(),
        metrics: settings.metrics_addr.map(|address| Scrapes {
            address: address.to_string(),
            last: None,
        }),
        ..Status::default()
    }
}

async fn watch_and_pass(
    settings: &Settings,
    mut engine: Engine,
    shared: &Arc<Shared>,
    told: &Notify,
    (stop, early): (&mut Stop, Option<Early>),
) -> anyhow::Result<()> {
    let early = early.map(Arc::new);
    let wake = &shared.wake;
    let mut watches = vec![Watch::folder(&settings.netns_dir, Arc::clone(wake))];
    let recorded = Arc::clone(&shared.recorded);
    if let Some(state) = &settings.cni_state {
        let records = plugin::folder(state);
        watches.push(Watch::folder(&records, Arc::clone(&recorded)));
    }
    watches.push(match &settings.origin {
        Origin::Manifests(path) => Watch::manifests(path, Arc::clone(wake)),
        Origin::Kubernetes(_) => Watch::folder(&settings.cni_cache, Arc::clone(&recorded)),
    });
    let linked = Arc::new(Notify::new());
    watch_links(Arc::clone(&linked), early.clone())?;
    let mut heard = Heard {
        stop,
        recorded: &recorded,
        linked: &linked,
        wake,
        told,
    };
    let mut scheduler = Scheduler::new(Instant::now());
    let mut step = scheduler.due(Instant::now());
    loop {
        step = match step {
            Step::Stop => return Ok(()),
            Step::Wait(until) => match heard.before(until).await {
                Some(event) => scheduler.hear(event, Instant::now()),
                None => scheduler.due(Instant::now()),
            },
            Step::Pass(order) => {
                if let Some(early) = early.as_ref().filter(|_| order.recorded) {
                    early.look();
                }
                let ticket = shared.ticket();
                let pass;
                (engine, pass) = blocking_pass(engine, shared, order).await?;
                if order.answers(pass) {
                    shared.complete(ticket);
                }
                watches.iter_mut().for_each(Watch::ensure);
                scheduler.ended(pass, Instant::now())
            }
        };
    }
}

/// Makes a pass on a thread that may block. A signal that arrives meanwhile waits: a pass is
/// short, and an interrupted one would have to be repeated anyway.
async fn blocking_pass(
    mut engine: Engine,
    shared: &Arc<Shared>,
    order: Order,
) -> anyhow::Result<(Engine, Pass)> {
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || {
        let pass = engine.pass(&shared, order.since, order.look);
        (engine, pass)
    })
    .await
    .context("a pass panicked")
}

/// Forwards events from the ring to all followers.
async fn forward(mut events: Events, shared: Arc<Shared>) {
    loop {
        match events.next().await {
            Ok(records) => {
                for record in records {
                    if let Some(emitter) = &shared.emitter {
                        emitter.note(&record, Instant::now());
                    }
                    match serde_json::to_string(&api::event(record)) {
                        // An error means that there are no followers.
                        Ok(line) => drop(shared.events.send(line.into())),
                        Err(error) => tracing::warn!("an event can't be printed: {error}"),
                    }
                }
            }
            Err(error) => {
                tracing::warn!("reading events: {error}");
                sleep(PERIOD).await;
            }
        }
    }
}

/// Libraries that log every failed request as an error; the watches report that once per outage.
const TOLD_BY_US: [&str; 2] = ["kube_client", "kube_runtime"];

/// Starts logging. Level and targets come from `RUST_LOG`, as in `debug` or
/// `info,ringfence=debug`.
fn start_logging(format: LogFormat) {
    use std::io::IsTerminal as _;
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    let filter = std::env::var("RUST_LOG")
        .ok()
        .and_then(|text| text.parse::<Targets>().ok())
        .unwrap_or_else(|| {
            let quiet = TOLD_BY_US.map(|target| (target, LevelFilter::OFF));
            Targets::new()
                .with_default(LevelFilter::INFO)
                .with_targets(quiet)
        });
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    // This fails only if a logger is already set, as in a test.
    let _ = match format {
        LogFormat::Text => registry.with(layer).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    };
}
