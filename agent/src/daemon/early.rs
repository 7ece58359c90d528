//! Closes pods' devices as they appear, ahead of the network plugin.
//!
//! Attaching a program by tcx waits for a grace period of RCU, 6 to 20 ms, twice per device and
//! under the kernel's lock of all devices. If it starts when the device appears, it is done before
//! the plugin's turn in the chain. If the plugin isn't in use, holding that lock while a pod
//! starts gains nothing: the next pass closes the device.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use ringfence_hooks::{Attach, Pinned};
use ringfence_netlink::{Link, Netlink};

use crate::datapath::Datapath;
use crate::runtime::plugin;
use crate::settings::{Origin, Settings};

/// What is needed to close a device outside of a pass.
pub(super) struct Early {
    /// The plugin's records.
    records: PathBuf,
    /// Folder of network namespaces, those of pods among them.
    netns_dir: PathBuf,
    /// Folder in which the programs are pinned.
    pins: PathBuf,
    attach: Attach,
    /// Whether the plugin has recorded a pod yet.
    in_use: AtomicBool,
}

impl Early {
    /// Returns none if devices of unknown pods may pass, or if no plugin is expected.
    pub(super) fn of(settings: &Settings, datapath: &Datapath) -> Option<Self> {
        let exempt = &settings.exempt;
        let closes = !exempt.all && exempt.namespaces.is_empty();
        let by_records = matches!(settings.origin, Origin::Kubernetes(_));
        let state = settings
            .cni_state
            .as_deref()
            .filter(|_| closes && by_records)?;
        let early = Self {
            records: plugin::folder(state),
            netns_dir: settings.netns_dir.clone(),
            pins: datapath.folder(),
            attach: settings.attach,
            in_use: AtomicBool::new(false),
        };
        early.look();
        Some(early)
    }

    /// Checks whether the plugin is in use.
    pub(super) fn look(&self) {
        if self.in_use.load(Ordering::Relaxed) {
            return;
        }
        let recorded = fs::read_dir(&self.records).is_ok_and(|mut all| all.next().is_some());
        self.in_use.store(recorded, Ordering::Relaxed);
    }

    /// Closes a new device if it leads into a pod. After a failure the plugin and the next pass
    /// try again, and report it.
    pub(super) fn close(&self, ifindex: u32) {
        if !self.in_use.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.try_to_close(ifindex) {
            tracing::debug!("closing device {ifindex} as it came: {error:#}");
        }
    }

    fn try_to_close(&self, ifindex: u32) -> anyhow::Result<()> {
        let mut netlink = Netlink::open()?;
        let links = netlink.links()?;
        let Some(device) = links.into_iter().find(|link| link.index == ifindex) else {
            return Ok(());
        };
        if !self.leads_into_a_pod(&mut netlink, &device)? {
            return Ok(());
        }
        let mut programs = Pinned::open(&self.pins)?.context("no programs are pinned")?;
        Ok(programs.attach(ifindex, &device.name, self.attach)?)
    }

    /// Reports whether the other end is in a namespace named by the pod runtime.
    fn leads_into_a_pod(&self, netlink: &mut Netlink, device: &Link) -> anyhow::Result<bool> {
        let Some(id) = device.peer_netns.filter(|_| device.kind == "veth") else {
            return Ok(false);
        };
        for entry in fs::read_dir(&self.netns_dir)? {
            let Ok(file) = File::open(entry?.path()) else {
                continue;
            };
            if netlink.namespace_id(file.as_fd())? == Some(id) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
