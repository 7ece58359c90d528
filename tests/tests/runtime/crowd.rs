//! The rest of a large cluster: pods of other nodes, some of which change continuously.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use ringfence_tests::agent::Shop;
use ringfence_tests::apiserver::ApiServer;
use ringfence_tests::clusters::Cluster;
use serde_json::{Value, json};

/// The pause between two changes: twenty changes a second.
const PAUSE: Duration = Duration::from_millis(50);
/// One of this many pods changes.
const EACH: usize = 30;

/// Changes pods until it is dropped.
pub(crate) struct Crowd {
    goes_on: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
    since: Instant,
}

impl Crowd {
    /// Creates about thirty thousand pods, and starts to change some of them.
    pub(crate) fn gather(server: &Arc<ApiServer>) -> Self {
        let mut changing = Vec::new();
        let elsewhere = |object: &Value| object["spec"]["nodeName"] != Shop::NODE;
        let pods = Cluster::Dense.objects();
        let pods = pods.filter(|object| match object["kind"].as_str() {
            Some("Pod") => elsewhere(object),
            kind => kind == Some("Namespace"),
        });
        let mut count = 0;
        for object in pods {
            count += usize::from(object["kind"] == "Pod");
            if object["kind"] == "Pod" && count.is_multiple_of(EACH) {
                changing.push(object.clone());
            }
            server.apply_value(object).unwrap();
        }
        assert!(count > 29_000, "{count} pods");
        let goes_on = Arc::new(AtomicBool::new(true));
        let (flag, server) = (Arc::clone(&goes_on), Arc::clone(server));
        let thread = thread::spawn(move || {
            let mut made = 0;
            while flag.load(Ordering::Relaxed) {
                let at = made % changing.len();
                let pod = &mut changing[at];
                pod["metadata"]["labels"]["round"] = json!(made.to_string());
                server.apply_value(pod.clone()).unwrap();
                made += 1;
                sleep(PAUSE);
            }
            made
        });
        Self {
            goes_on,
            thread: Some(thread),
            since: Instant::now(),
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.goes_on.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let made = thread.join().unwrap();
            println!("{made} changes of other pods in {:?}", self.since.elapsed());
        }
    }
}
