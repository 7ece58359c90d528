//! The records of the chained network plugin, which are made before a pod has a process.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ringfence_cni::{ENDPOINTS, Record};

use super::cache::mac;
use super::files::Files;
use super::{FoundBy, Sandbox};

/// The folder of records; each file is read once.
#[derive(Debug)]
pub struct Records(Files<Record>);

impl Records {
    /// Creates a reader for the records in a state folder, which needn't exist yet.
    pub fn new(state: &Path) -> Self {
        Self(Files::new(folder(state), parse))
    }

    /// Reads new and changed files.
    ///
    /// # Errors
    /// Fails if the folder can't be listed.
    pub fn look(&mut self) -> io::Result<Vec<Sandbox>> {
        self.0.look()?;
        Ok(self.0.said().map(sandbox).collect())
    }

    /// Returns the files that can't be used: name and reason.
    pub fn faults(&self) -> impl Iterator<Item = String> {
        self.0.faults()
    }
}

/// Returns the folder of the records.
pub fn folder(state: &Path) -> PathBuf {
    state.join(ENDPOINTS)
}

fn parse(text: &[u8]) -> Result<Option<Record>, String> {
    serde_json::from_slice(text)
        .map(Some)
        .map_err(|error| error.to_string())
}

fn sandbox((record, recorded): (&Record, SystemTime)) -> Sandbox {
    Sandbox {
        id: record.container.clone(),
        namespace: record.namespace.clone(),
        name: record.name.clone(),
        uid: record.uid.clone(),
        netns: Some(record.netns.clone()),
        devices: vec![record.device.clone()],
        others: Vec::new(),
        mac: record.mac.as_deref().and_then(mac),
        addresses: record.addresses.clone(),
        recorded,
        by: FoundBy::CniPlugin,
        open: record.open,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_record_is_a_sandbox_and_a_file_that_is_being_written_is_none() {
        let state = tempfile::tempdir().unwrap();
        let mut records = Records::new(state.path());
        assert_eq!(records.look().unwrap(), []);
        fs::create_dir(folder(state.path())).unwrap();
        let record = Record {
            container: "c1".to_owned(),
            interface: "eth0".to_owned(),
            namespace: "shop".to_owned(),
            name: "a".to_owned(),
            uid: Some("u1".to_owned()),
            netns: "/var/run/netns/cni-1".into(),
            device: "veth1".to_owned(),
            mac: Some("02:00:00:00:00:0a".to_owned()),
            addresses: vec!["10.0.0.2".parse().unwrap()],
            open: true,
        };
        record.write(state.path()).unwrap();
        fs::write(folder(state.path()).join(".new-x"), "{").unwrap();
        let found = records.look().unwrap();
        let [one] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(one.mac, Some([2, 0, 0, 0, 0, 10]));
        assert_eq!((one.by, one.open), (FoundBy::CniPlugin, true));
        assert_eq!(records.faults().count(), 0);
        fs::write(folder(state.path()).join("c2-eth0.json"), "{}").unwrap();
        assert_eq!(records.look().unwrap().len(), 1);
        let faults: Vec<String> = records.faults().collect();
        assert!(
            faults[0].starts_with("c2-eth0.json: missing field"),
            "{faults:?}"
        );
        Record::remove(state.path(), "c1", "eth0").unwrap();
        assert_eq!(records.look().unwrap(), []);
    }
}
