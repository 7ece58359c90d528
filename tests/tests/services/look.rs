//! Inspects Ringfence's programs on the node's devices.

use std::fs;
use std::path::PathBuf;

use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramInfo, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use nix::net::if_::if_nametoindex;

use crate::cluster::Cluster;

const WAYS: [TcAttachType; 2] = [TcAttachType::Ingress, TcAttachType::Egress];

impl Cluster {
    /// Returns a device's index on the node.
    pub(crate) fn index(&self, device: &str) -> u32 {
        let found = self.net.node().run(|| if_nametoindex(device));
        found.unwrap().unwrap()
    }

    fn links(&self) -> PathBuf {
        let pins = fs::read_dir(&self.agent.pin_dir).unwrap();
        let version = pins.map(|pin| pin.unwrap().path()).next();
        version.unwrap().join("links")
    }

    /// Returns the names of the programs pinned for a device, in order.
    pub(crate) fn hooks(&self, device: &str) -> Vec<String> {
        self.hooks_of(self.index(device))
    }

    /// Does the same for a device that may be gone.
    pub(crate) fn hooks_of(&self, index: u32) -> Vec<String> {
        let of = format!("{index}-");
        let files = fs::read_dir(self.links()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut hooks: Vec<String> = names
            .filter_map(|name| name.strip_prefix(&of).map(str::to_owned))
            .collect();
        hooks.sort();
        hooks
    }

    /// Removes a hook.
    pub(crate) fn unpin(&self, index: u32, program: &str) {
        fs::remove_file(self.links().join(format!("{index}-{program}"))).unwrap();
    }

    /// Returns the ids of the tcx programs attached to a device, as the kernel lists them.
    pub(crate) fn programs(&self, device: &str) -> Vec<u32> {
        self.listed(device).concat()
    }

    /// Returns the id of the first program in each direction.
    pub(crate) fn first(&self, device: &str) -> [u32; 2] {
        self.listed(device).map(|programs| programs[0])
    }

    fn listed(&self, device: &str) -> [Vec<u32>; 2] {
        let list = |way| {
            let (_, programs) = SchedClassifier::query_tcx(device, way).unwrap();
            programs.iter().map(ProgramInfo::id).collect()
        };
        self.net.node().run(|| WAYS.map(list)).unwrap()
    }

    /// Attaches a foreign program in front of all others on a device, in both
    /// directions. It is detached when the result is dropped.
    pub(crate) fn rival(&self, device: &str) -> Ebpf {
        let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/ringfence.o");
        let mut object = fs::read(object).unwrap();
        // A program that lets all packets pass, under a name that the agent doesn't use.
        let (name, other) = (b"from_network", b"some_network");
        for at in 0..object.len() - name.len() {
            if object[at..].starts_with(name) {
                object[at..at + name.len()].copy_from_slice(other);
            }
        }
        let pins = self.agent.pin_dir.with_file_name("rival");
        fs::create_dir_all(&pins).unwrap();
        let mut loader = EbpfLoader::new();
        let mut rival = loader
            .default_map_pin_directory(&pins)
            .load(&object)
            .unwrap();
        let program = rival.program_mut("some_network").unwrap();
        let program: &mut SchedClassifier = program.try_into().unwrap();
        program.load().unwrap();
        let attach = || {
            for way in WAYS {
                let first = TcAttachOptions::TcxOrder(LinkOrder::first());
                program.attach_with_options(device, way, first).unwrap();
            }
        };
        self.net.node().run(attach).unwrap();
        rival
    }
}
