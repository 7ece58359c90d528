//! Real agents, queried by the real binary as a person runs it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use ringfence_tests::agent::{Agent, Ended, Shop, end_of};
use ringfence_tests::apiserver::{ApiServer, Exec, Fault};
use serde_json::{Value, json};

use crate::{agent_pod, node_object, shell};

/// How long immediate effects may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node with the shop's pods, another one without pods, and the API server. Commands
/// in the agents' pods run locally, over the socket of their agent.
pub(crate) struct Nodes {
    pub(crate) shop: Shop,
    pub(crate) other: Agent,
    pub(crate) server: ApiServer,
}

impl Nodes {
    pub(crate) fn start() -> Self {
        let mut shop = Shop::open().unwrap();
        let server = shop.on_cluster(([127, 0, 0, 1], 0).into()).unwrap();
        let mut other = shop.agent.beside("node-2");
        other.flags.push("--unknown-pods=allow".into());
        server.apply_value(node_object("node-2")).unwrap();
        for node in [Shop::NODE, "node-2"] {
            server.apply_value(agent_pod(node)).unwrap();
        }
        shop.start().unwrap();
        other.start(&mut shop.net, &[]).unwrap();
        let sockets = [&shop.agent, &other]
            .map(|agent| (format!("agent-{}", agent.node_name), agent.socket.clone()));
        let (sockets, binary) = (BTreeMap::from(sockets), shop.agent.binary.clone());
        server.on_exec(move |exec| in_pod(exec, &sockets, &binary));
        Self {
            shop,
            other,
            server,
        }
    }

    /// Returns `ringfence ARGS` on a machine that only reaches the API server.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.shop.net.node().command(&self.shop.agent.binary);
        let kubeconfig = self.shop.net.dir().join("kubeconfig");
        command.args(args).arg("--kubeconfig").arg(kubeconfig);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        end_of(&mut self.command(args), PATIENCE).unwrap()
    }

    /// Returns the rows of `-o json`; the command must succeed.
    fn rows(&self, args: &[&str]) -> Vec<Value> {
        let ended = self.run(&[args, &["-o", "json"]].concat());
        assert_eq!(ended.code, 0, "{ended:?}");
        serde_json::from_str(&ended.stdout).unwrap()
    }
}

/// Returns the local equivalent of the command in the pod's container.
fn in_pod(
    exec: &Exec,
    sockets: &BTreeMap<String, PathBuf>,
    binary: &Path,
) -> Result<Command, String> {
    let Some(socket) = sockets.get(&exec.pod) else {
        return Ok(shell("echo I am no agent"));
    };
    let [
        "/bin/ringfence",
        "--socket",
        "/run/ringfence/agent.sock",
        args @ ..,
    ] = &exec.command.iter().map(String::as_str).collect::<Vec<_>>()[..]
    else {
        return Err(format!("no such command: {exec:?}"));
    };
    let mut command = Command::new(binary);
    command.arg("--socket").arg(socket).args(args);
    Ok(command)
}

/// Returns the rows of a node.
fn of<'r>(rows: &'r [Value], node: &str) -> Vec<&'r Value> {
    rows.iter().filter(|row| row["node"] == node).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn agents_of_all_nodes_answer_in_one_table_that_says_whose_each_row_is() {
    let nodes = Nodes::start();
    nodes.shop.is_guarded("at first").unwrap();

    let rows = nodes.rows(&["status", "--all-nodes"]);
    assert_eq!(rows.len(), 2, "{rows:?}");
    let (one, two) = (of(&rows, "node-1")[0], of(&rows, "node-2")[0]);
    assert_eq!(
        (&one["endpoints"], &two["endpoints"]),
        (&json!(3), &json!(0))
    );
    let table = nodes.run(&["status", "--all-nodes"]);
    assert_eq!((table.code, table.stderr.as_str()), (0, ""), "{table:?}");
    let lines: Vec<Vec<&str>> = table
        .stdout
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let columns = [
        "NODE",
        "VERSION",
        "MODE",
        "ENDPOINTS",
        "UNGUARDED",
        "GENERATION",
        "HEALTH",
    ];
    assert_eq!(lines[0], columns);
    let line = |n: usize| (lines[n][0], lines[n][2], lines[n][3], lines[n][6]);
    assert_eq!(
        line(1),
        ("node-1", "enforce", "3", "healthy"),
        "{}",
        table.stdout
    );
    assert_eq!(
        line(2),
        ("node-2", "enforce", "0", "healthy"),
        "{}",
        table.stdout
    );

    let rows = nodes.rows(&["endpoints", "--all-nodes"]);
    let pod = |row: &&Value| row["pod"].as_str().unwrap_or_default().to_owned();
    let pods: Vec<String> = of(&rows, "node-1").iter().map(pod).collect();
    for expected in [
        "shop/server",
        "shop/client",
        "shop/rogue",
        "ringfence/agent-node-1",
    ] {
        assert!(
            pods.iter().any(|pod| pod == expected),
            "{expected}: {pods:?}"
        );
    }
    // The agent's own pod is on the host network, and there is no other pod.
    let pods: Vec<String> = of(&rows, "node-2").iter().map(pod).collect();
    assert_eq!(pods, ["ringfence/agent-node-2"]);

    let own = nodes.shop.agent.json(&["drops"]).unwrap();
    let rows = nodes.rows(&["drops", "--node", "node-1"]);
    assert!(
        !rows.is_empty() && rows.len() == own.as_array().unwrap().len(),
        "{rows:?}"
    );
    assert_eq!(of(&rows, "node-1").len(), rows.len());
    assert_eq!(nodes.rows(&["drops", "--node", "node-2"]), [json!(null); 0]);
    let rows = nodes.rows(&["connections", "--all-nodes"]);
    assert!(
        !rows.is_empty() && of(&rows, "node-2").is_empty(),
        "{rows:?}"
    );
    let none = nodes.run(&["connections", "--node", "node-2"]);
    assert_eq!((none.code, none.stderr.as_str()), (0, "none\n"), "{none:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn whoever_gives_no_answer_is_named_and_the_others_are_shown() {
    let mut nodes = Nodes::start();
    nodes.other.kill(&mut nodes.shop.net).unwrap();
    // A node without an agent, and one whose agent's pod doesn't run an agent.
    for node in ["node-3", "node-4"] {
        nodes.server.apply_value(node_object(node)).unwrap();
    }
    nodes.server.apply_value(agent_pod("node-4")).unwrap();
    for command in ["status", "endpoints", "connections", "drops"] {
        let ended = nodes.run(&[command, "--all-nodes"]);
        assert_eq!(ended.code, 3, "{ended:?}");
        for expected in [
            "ringfence: node-2: its agent says: no agent answers on ",
            "ringfence: node-3: no agent runs there: no pod with labels",
            "ringfence: node-4: can't parse its answer",
            "ringfence: no answer from 3 of 4 nodes\n",
        ] {
            assert!(ended.stderr.contains(expected), "{command}: {ended:?}");
        }
        assert!(!ended.stderr.contains("node-1"), "{ended:?}");
        let is_shown = ended.stdout.contains("\nnode-1 ");
        assert_eq!(
            is_shown,
            matches!(command, "status" | "endpoints"),
            "{ended:?}"
        );
    }
    let ended = nodes.run(&[
        "status", "--node", "node-1", "--node", "nowhere", "-o", "json",
    ]);
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(
        ended
            .stderr
            .starts_with("ringfence: nowhere: no agent runs there"),
        "{ended:?}"
    );
    let rows: Vec<Value> = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(of(&rows, "node-1").len(), 1, "{rows:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pods_policy_is_waited_for_on_its_node() {
    let nodes = Nodes::start();
    let wait = |node: &str| {
        let flags = ["--timeout", "2", "--node", node];
        nodes.run(&[&["status", "--wait", "shop/server"], &flags[..]].concat())
    };
    let ended = wait("node-1");
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.stdout.starts_with("node-1: shop/server is in force"),
        "{ended:?}"
    );
    let ended = wait("node-2");
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("node-2: its agent says: shop/server is not in force"),
        "{ended:?}"
    );
    let ended = wait("node-3");
    assert_eq!(ended.code, 3, "{ended:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn drops_of_several_nodes_are_followed_and_nothing_stays_in_their_pods() {
    let nodes = Nodes::start();
    let mut follow = nodes.command(&["drops", "--follow", "--all-nodes"]);
    let mut follow = follow
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let running = || running(&nodes.shop.agent.socket) + running(&nodes.other.socket);
    until("both are followed", || running() == 2);
    // The commands in the pods may not be listening yet: retried until an event is reported.
    let out = follow.stdout.take().unwrap();
    let line = std::thread::scope(|scope| {
        let line = scope.spawn(|| BufReader::new(out).lines().next().unwrap().unwrap());
        until("a drop is told of", || {
            assert!(!nodes.shop.calls("rogue", "server", false).unwrap());
            line.is_finished()
        });
        line.join().unwrap()
    });
    assert!(line.starts_with("node-1  DROPPED shop/rogue ("), "{line}");
    follow.kill().unwrap();
    follow.wait().unwrap();
    until("nothing is left", || running() == 0);
}

/// Returns the number of commands that follow the agent of a socket.
fn running(socket: &Path) -> usize {
    let processes = fs::read_dir("/proc").unwrap();
    let lines = processes.filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    let words = format!("\0--socket\0{}\0drops\0--follow\0", socket.display());
    let follows = |line: &Vec<u8>| String::from_utf8_lossy(line).contains(&words);
    lines.filter(follows).count()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_the_api_server_refuses_is_said_with_the_right_exit_code() {
    let nodes = Nodes::start();
    let forbidden = Fault::status(403);
    nodes.server.inject("pods/exec", forbidden, 2);
    let ended = nodes.run(&["drops", "--all-nodes"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (3, ""), "{ended:?}");
    let expected = "ringfence: node-1: you may not exec in its pod: this requires the verbs get \
                    and create on pods/exec in namespace ringfence";
    assert!(ended.stderr.starts_with(expected), "{ended:?}");
    // The agents' own watches may receive an injected fault instead.
    nodes.server.inject("nodes", Fault::status(403), usize::MAX);
    let ended = nodes.run(&["connections", "--all-nodes"]);
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(
        ended
            .stderr
            .starts_with("ringfence: you may not list nodes"),
        "{ended:?}"
    );
    let ended = nodes.run(&["connections", "--node", "node-1"]);
    assert_eq!(ended.code, 0, "{ended:?}");

    let mut nowhere = Command::new(&nodes.shop.agent.binary);
    nowhere
        .args(["connections", "--all-nodes"])
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent");
    nowhere.env_remove("KUBERNETES_SERVICE_HOST");
    let ended = end_of(&mut nowhere, PATIENCE).unwrap();
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(
        ended.stderr.contains("neither --kubeconfig nor KUBECONFIG"),
        "{ended:?}"
    );
}
