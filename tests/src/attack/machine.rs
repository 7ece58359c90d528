//! A machine behind a tun or tap device, as a hypervisor or a VPN in a pod has it.

use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::testnet::Ns;

/// Between two looks for a packet, or for a device.
const LOOK: Duration = Duration::from_millis(1);
/// How long a device may be another machine's.
const PATIENCE: Duration = Duration::from_secs(3);

/// The machine's end of the device, which goes with it.
pub struct Machine {
    device: SyncDevice,
}

impl Machine {
    /// One that speaks Ethernet: a tap device.
    pub fn with_frames(ns: &Ns, device: &str) -> Result<Self> {
        Self::open(ns, device, Layer::L2)
    }

    /// One that speaks IP alone: a tun device.
    pub fn with_packets(ns: &Ns, device: &str) -> Result<Self> {
        Self::open(ns, device, Layer::L3)
    }

    fn open(ns: &Ns, device: &str, layer: Layer) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let built = ns.run(|| {
            loop {
                let built = DeviceBuilder::new().name(device).layer(layer).build_sync();
                match built {
                    // Its last one may live on in a process that is being started.
                    Err(error) if busy(&error) && Instant::now() < deadline => thread::sleep(LOOK),
                    built => return built.with_context(|| format!("no {device}")),
                }
            }
        })??;
        built.set_nonblocking(true)?;
        Ok(Self { device: built })
    }

    /// Sends what comes in by the device then.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        let sent = self.device.send(packet).context("write to a tun device")?;
        ensure!(sent == packet.len(), "sent {sent} of {}", packet.len());
        Ok(())
    }

    /// The next packet that leaves by the device and that `wanted` wants, if one comes
    /// in time.
    pub fn receive(
        &self,
        timeout: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + timeout;
        let mut buffer = vec![0; 65_536];
        while Instant::now() < deadline {
            match self.device.recv(&mut buffer) {
                Ok(length) if wanted(&buffer[..length]) => {
                    return Ok(Some(buffer[..length].to_vec()));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(LOOK),
                Err(error) => return Err(error).context("read from a tun device"),
            }
        }
        Ok(None)
    }
}

fn busy(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::ResourceBusy
}
