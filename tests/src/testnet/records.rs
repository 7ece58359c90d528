//! What libcni leaves on a node for each pod that it has attached.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Net, Pod, layout};

impl Net {
    /// The folder of results, for `--cni-cache`.
    pub fn cni_cache(&self) -> PathBuf {
        self.dir().join("cni")
    }

    /// Records a pod's interface as the network plugin `ptp` has it recorded. `pod` is
    /// the pod's name in this network; `namespace`, `name` and `uid` are the API's.
    pub fn record(&self, pod: &str, namespace: &str, name: &str, uid: Option<&str>) -> Result<()> {
        let pod = self.pod(pod)?;
        let mut args = vec![
            ["IgnoreUnknown", "1"],
            ["K8S_POD_NAMESPACE", namespace],
            ["K8S_POD_NAME", name],
            ["K8S_POD_INFRA_CONTAINER_ID", &pod.name],
        ];
        args.extend(uid.map(|uid| ["K8S_POD_UID", uid]));
        let ips = pod.addresses().map(|ip| {
            let length = if ip.is_ipv4() { 32 } else { 128 };
            json!({"interface": 1, "address": format!("{ip}/{length}")})
        });
        let cached = json!({
            "kind": "cniCacheV1",
            "containerId": pod.name,
            "ifName": "eth0",
            "networkName": "pods",
            "cniArgs": args,
            "result": {
                "cniVersion": "1.0.0",
                "interfaces": [
                    {"name": pod.host_device, "mac": layout::mac(pod.host_mac)},
                    {"name": "eth0", "mac": layout::mac(pod.mac), "sandbox": pod.ns.path()},
                ],
                "ips": ips.collect::<Vec<_>>(),
            },
        });
        fs::create_dir_all(self.cni_cache())?;
        let file = self.record_of(pod);
        fs::write(&file, cached.to_string())
            .with_context(|| format!("can't write {}", file.display()))
    }

    /// Takes the record of a pod away, if there is one.
    pub fn forget(&self, pod: &str) -> Result<()> {
        match fs::remove_file(self.record_of(self.pod(pod)?)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn record_of(&self, pod: &Pod) -> PathBuf {
        self.cni_cache().join(format!("pods-{}-eth0", pod.name))
    }
}
