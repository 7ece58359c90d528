//! A real Prometheus that scrapes one agent.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{deploy, tool};
use crate::testnet::{Net, Ns};

/// The port of its API on the node's loopback device.
const PORT: u16 = 9090;
/// How long it may take to come up on a busy machine.
const START: Duration = Duration::from_secs(30);
/// Between two looks at something that is about to happen.
const TICK: Duration = Duration::from_millis(100);

/// A server on the node of a test network; it ends with the network.
#[derive(Debug)]
pub struct Prometheus {
    node: Ns,
}

impl Prometheus {
    /// Starts one that scrapes `target` each second and knows the alerts.
    /// Returns once it answers.
    pub fn start(net: &mut Net, target: &str) -> Result<Self> {
        let dir = net.dir().join("prometheus");
        fs::create_dir(&dir)?;
        let config = dir.join("prometheus.yml");
        fs::write(&config, configuration(target))?;
        let log = File::create(dir.join("log"))?;
        let mut command = net.node().command(tool("prometheus")?.get_program());
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{PORT}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        net.spawn(&mut command)?;
        let prometheus = Self {
            node: net.node().clone(),
        };
        let start = Instant::now();
        while let Err(error) = prometheus.ask("/-/ready") {
            if start.elapsed() > START {
                let log = fs::read_to_string(dir.join("log"))?;
                bail!("Prometheus isn't ready: {error:#}; it says:\n{log}");
            }
            thread::sleep(TICK);
        }
        Ok(prometheus)
    }

    /// What an expression is now: one element a series.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let data = self.data(&format!("query?query={}", escaped(expression)))?;
        let result = data["result"].as_array();
        Ok(result.context("no list of series")?.clone())
    }

    /// The alert rules that it has loaded.
    pub fn rules(&self) -> Result<Vec<Value>> {
        let data = self.data("rules")?;
        let groups = data["groups"].as_array().into_iter().flatten();
        let rules = groups.filter_map(|group| group["rules"].as_array());
        Ok(rules.flatten().cloned().collect())
    }

    /// Returns once an expression has a series.
    pub fn wait_for(&self, expression: &str, patience: Duration) -> Result<()> {
        let start = Instant::now();
        while self.query(expression)?.is_empty() {
            ensure!(start.elapsed() < patience, "no data for {expression}");
            thread::sleep(TICK);
        }
        Ok(())
    }

    fn data(&self, call: &str) -> Result<Value> {
        let answer = self.ask(&format!("/api/v1/{call}"))?;
        let mut answer: Value = serde_json::from_str(&answer)?;
        ensure!(answer["status"] == "success", "{call}: {answer}");
        Ok(answer["data"].take())
    }

    fn ask(&self, path: &str) -> Result<String> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let mut stream = self.node.run(|| TcpStream::connect(to))??;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("a torn answer")?;
        ensure!(head.contains(" 200 "), "{path}: {head}\n{body}");
        Ok(body.to_owned())
    }
}

fn configuration(target: &str) -> String {
    format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
         rule_files: [ {} ]\n\
         scrape_configs:\n\
         - job_name: ringfence\n  \
           static_configs: [ {{ targets: [ \"{target}\" ] }} ]\n",
        deploy("dashboards/alerts.yaml").display()
    )
}

/// As part of a URL's query.
fn escaped(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}
