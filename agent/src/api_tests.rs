use std::os::unix::fs::symlink;

use ringfence_api::{Bound, EventLine, InForce, PolicyInForce, Status};

use super::*;
use crate::client::{self, ClientError};
use crate::engine::{Engine, Look};
use crate::source::Source;

use crate::testing::{FakeDataplane, nowhere, settings, shared};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.sock");
        let (listener, file) = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(SocketError::Taken(_))));
        assert!(refuse_second_agent(&path).is_err());
        drop(listener);
        std::mem::forget(file);
        assert!(path.exists());
        let (_listener, file) = bind(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        drop(file);
        assert!(!path.exists());
    });
}

#[test]
fn what_is_no_socket_is_left_alone_and_so_is_anothers_socket_at_the_end() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(SocketError::NotASocket(_))));
        fs::remove_file(&path).unwrap();
        symlink("elsewhere", &path).unwrap();
        assert!(matches!(bind(&path), Err(SocketError::NotASocket(_))));
        fs::remove_file(&path).unwrap();
        let (_listener, file) = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(file);
        assert!(path.exists());
    });
}

#[test]
fn only_root_and_the_agents_own_user_may_connect() {
    assert!(may_connect(0));
    assert!(may_connect(nix::unistd::geteuid().as_raw()));
    assert!(!may_connect(nix::unistd::geteuid().as_raw() + 1));
}

/// Returns an agent over a fake datapath that finds all its pods.
fn agent(dir: &Path, kernel: &FakeDataplane) -> (Arc<Shared>, Engine) {
    fs::write(
        dir.join("a.yaml"),
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: ns}\n\
         spec: {nodeName: n, containers: []}\nstatus: {podIP: 10.0.0.1}\n",
    )
    .unwrap();
    let finder = Box::new(
        |wanted: &[crate::discover::Sought], _: &[crate::datapath::Interface]| {
            let found = |wanted: &crate::discover::Sought| crate::datapath::Interface {
                pod: wanted.pod.clone(),
                ifindex: 7,
                name: "veth7".into(),
                mac: [2; 6],
                by: crate::runtime::FoundBy::Claim,
            };
            let interfaces = wanted.iter().map(found).collect();
            Ok(crate::discover::Discovery {
                interfaces,
                ..Default::default()
            })
        },
    );
    (
        Arc::new(shared(kernel)),
        Engine::with_finder(
            &settings(dir),
            Source::manifests(dir).unwrap(),
            finder,
            Box::new(nowhere),
        ),
    )
}

/// Serves the socket in a folder. The file is removed with the second value.
fn serving(dir: &Path, shared: &Arc<Shared>) -> (PathBuf, SocketFile) {
    let socket = dir.join("agent.sock");
    let (listener, file) = bind(&socket).unwrap();
    tokio::spawn(serve(listener, Arc::clone(shared), BOUNDS));
    (socket, file)
}

/// Makes a pass whenever somebody asks for one.
async fn passes(mut engine: Engine, shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.wake.notified() => {}
            () = shared.recorded.notified() => {}
        }
        let ticket = shared.ticket();
        engine.pass(&shared, None, Look::All);
        shared.complete(ticket);
    }
}

#[test]
fn the_socket_answers_with_lists_errors_and_whether_a_pod_is_in_force() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let kernel = FakeDataplane::default();
        let (shared, engine) = agent(dir.path(), &kernel);
        let (socket, _file) = serving(dir.path(), &shared);
        tokio::spawn(passes(engine, Arc::clone(&shared)));
        let there: InForce = client::get(&socket, "/v1/wait?pod=ns/a").await.unwrap();
        assert_eq!((there.in_force, there.reason, there.generation), (true, None, 1));
        let gone: InForce = client::get(&socket, "/v1/wait?pod=ns/b").await.unwrap();
        assert!(gone.reason.unwrap().contains("no such pod"));
        let rows: Vec<Endpoint> = client::get(&socket, "/v1/endpoints").await.unwrap();
        assert_eq!(rows[0].interface, "veth7");
        let status: Status = client::get(&socket, "/v1/status").await.unwrap();
        assert_eq!(status.passes, 2);
        let failed = client::get::<Vec<Connection>>(&socket, "/v1/connections").await.unwrap_err();
        assert!(matches!(&failed, ClientError::Refused { message, .. } if message == "connections: no such map"));
    });
}

#[test]
fn followers_get_each_event_on_a_line_of_its_own() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (shared, _) = agent(dir.path(), &FakeDataplane::default());
        let (socket, _file) = serving(dir.path(), &shared);
        let sender = Arc::clone(&shared);
        tokio::spawn(async move {
            while sender.events.receiver_count() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            for n in 0..3 {
                sender.events.send(format!("{{\"n\":{n}}}").into()).unwrap();
            }
        });
        let mut lines = Vec::new();
        let ended = client::follow(&socket, "/v1/events", |line| {
            lines.push(String::from_utf8(line.to_vec()).unwrap());
            if lines.len() == 3 {
                Err(io::ErrorKind::BrokenPipe.into())
            } else {
                Ok(())
            }
        });
        assert!(ended.await.is_err());
        assert_eq!(lines, ["{\"n\":0}", "{\"n\":1}", "{\"n\":2}"]);
    });
}

#[test]
fn nobody_on_the_socket_is_said_with_the_remedy() {
    let error = runtime().block_on(client::get::<Status>(Path::new("/nowhere"), "/v1/status"));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("no agent answers on /nowhere"), "{error}");
}

/// Parses the agent's answer into a type of the API, and returns it. The type says exactly what
/// the agent said.
async fn reads_back<T>(socket: &Path, what: &str) -> T
where
    T: serde::de::DeserializeOwned + Serialize,
{
    let raw: Box<serde_json::value::RawValue> = client::get(socket, what).await.unwrap();
    let read: T = serde_json::from_str(raw.get()).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), raw.get(), "{what}");
    read
}

#[test]
fn each_answer_reads_back_as_the_apis_type_and_says_the_same() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let kernel = FakeDataplane::default();
        let (shared, mut engine) = agent(dir.path(), &kernel);
        engine.pass(&shared, None, Look::All);
        let (socket, _file) = serving(dir.path(), &shared);
        tokio::spawn(passes(engine, Arc::clone(&shared)));
        let status: Status = reads_back(&socket, "/v1/status").await;
        assert_eq!(status, shared.status());
        let endpoints: Vec<Endpoint> = reads_back(&socket, "/v1/endpoints").await;
        assert_eq!(endpoints.len(), 1);
        let drops: Vec<DropSeries> = reads_back(&socket, "/v1/drops").await;
        assert_eq!(drops, []);
        let there: InForce = reads_back(&socket, "/v1/wait?pod=ns/a").await;
        assert!(there.in_force);
        let gone: InForce = reads_back(&socket, "/v1/wait?pod=ns/b").await;
        assert!(!gone.in_force);
        let policy: PolicyInForce = reads_back(&socket, "/v1/policy?policy=ns/none").await;
        assert!(!policy.in_force);
        let bound = "/v1/bound?pod=ns/a&device=7&milliseconds=5000";
        let bound: Bound = reads_back(&socket, bound).await;
        assert!(bound.in_force);
    });
}

#[test]
fn a_line_of_events_is_a_packet_or_a_number_of_lost_ones() {
    let record = crate::datapath::EventRecord {
        time: 1,
        source: "bank/rogue".into(),
        destination: "bank/ledger".into(),
        source_address: [10, 0, 0, 1].into(),
        destination_address: [10, 0, 0, 2].into(),
        source_port: 4000,
        destination_port: 8080,
        protocol: "tcp",
        direction: "ingress",
        reason: "policy",
        audited: false,
        len: 74,
        detail: 2,
    };
    let event = event(record);
    let line = serde_json::to_string(&event).unwrap();
    let expected = concat!(
        r#"{"time":1,"source":"bank/rogue","destination":"bank/ledger","#,
        r#""source_address":"10.0.0.1","destination_address":"10.0.0.2","source_port":4000,"#,
        r#""destination_port":8080,"protocol":"tcp","direction":"ingress","reason":"policy","#,
        r#""audited":false,"len":74,"detail":2}"#,
    );
    assert_eq!(line, expected);
    let read: EventLine = serde_json::from_str(&line).unwrap();
    assert_eq!(read, EventLine::Packet(event.into()));
    assert_eq!(lost_line(7), "{\"lost\":7}\n");
    let read: EventLine = serde_json::from_str(&lost_line(7)).unwrap();
    assert_eq!(read, EventLine::Lost(Lost { lost: 7 }));
}
