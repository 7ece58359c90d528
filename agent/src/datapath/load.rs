//! Loads the programs of the embedded object and checks the maps.

use std::path::Path;
use std::thread;
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, MapInfo};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use ringfence_ebpf::abi::{Kernel, Name};
use ringfence_hooks::PROGRAMS;

use super::btf::Running;
use super::catalog::{MapName, MapSpec};
use super::control::InForce;
use super::error::{DatapathError, chain};
use super::fields::AgentField;
use super::maps::{Hash, Maps, Raw, map_error};
use super::{buckets, kfunc};

/// The BPF object; empty in a build without one.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ringfence.o"));

/// Result of loading the object.
pub(super) struct Loaded {
    pub(super) maps: Maps,
    pub(super) events: Map,
    /// Owns all programs, loaded.
    pub(super) ebpf: Ebpf,
}

/// Loads the object and its programs, reusing every pinned map whose layout matches.
pub(super) fn load(folder: &Path, seen_mark: u32) -> Result<Loaded, DatapathError> {
    check_shapes(folder)?;
    let mut ebpf = over_pins(OBJECT, folder, seen_mark)?;
    let names: Hash<u32, Name> = pinned(folder, MapName::Names, || {
        // Not preallocated, so that it only takes memory for the entries it has.
        HashMap::create(MapName::Names.capacity(), 1)
    })?;
    let agent: Array<MapData, u64> = pinned(folder, MapName::Agent, || {
        Array::create(AgentField::COUNT, 0)
    })?;
    let in_force = InForce::map(folder)?;
    let mut maps = Maps::new(|map| take(&mut ebpf, map), names, agent, in_force)?;
    buckets::seed(&mut maps)?;
    let events = take(&mut ebpf, MapName::Events)?;
    load_programs(&mut ebpf)?;
    program(&mut ebpf, CLOCK)?
        .load()
        .map_err(|error| program_error(CLOCK, chain(&error)))?;
    drain_log(&mut ebpf);
    Ok(Loaded { maps, events, ebpf })
}

/// Loads the programs a second time, on the same pinned maps.
pub(super) fn twin(folder: &Path, seen_mark: u32) -> Result<Ebpf, DatapathError> {
    let mut ebpf = over_pins(OBJECT, folder, seen_mark)?;
    load_programs(&mut ebpf)?;
    Ok(ebpf)
}

/// Loads an object on the maps pinned in a folder: the agent's own object, or one that has
/// additional programs for measuring it. Its programs aren't loaded yet; the ingress programs will
/// set `seen_mark`.
///
/// # Errors
/// Fails if the running kernel's type information can't be read, or if it or the maps don't fit
/// the object.
pub fn over_pins(object: &[u8], folder: &Path, seen_mark: u32) -> Result<Ebpf, DatapathError> {
    let running = Running::read()?;
    let object = kfunc::complete(object, &running)?;
    let fields = Raw(Kernel {
        seen_mark,
        ..running.fields
    });
    EbpfLoader::new()
        .default_map_pin_directory(folder)
        .override_global("KERNEL", &fields, true)
        .load(&object)
        .map_err(|error| DatapathError::Program {
            operation: "loading the BPF object".to_owned(),
            message: chain(&error),
        })
}

fn load_programs(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    for name in PROGRAMS {
        program(ebpf, name)?
            .load()
            .map_err(|error| program_error(name, chain(&error)))?;
    }
    Ok(())
}

/// Forwards the log of a datapath built with `cargo xtask build-ebpf --debug-log` to the agent's
/// own log. The release datapath has no such map.
fn drain_log(ebpf: &mut Ebpf) {
    if ebpf.map("AYA_LOGS").is_none() {
        return;
    }
    match EbpfLogger::init(ebpf) {
        Ok(mut logger) => {
            let follow = move || loop {
                logger.flush();
                thread::sleep(LOG_INTERVAL);
            };
            if let Err(error) = thread::Builder::new()
                .name("bpf-log".to_owned())
                .spawn(follow)
            {
                tracing::warn!("the datapath's log isn't followed: {error}");
            }
        }
        Err(error) => tracing::warn!("the datapath's log isn't followed: {}", chain(&error)),
    }
}

/// Interval between reads of the datapath's log.
const LOG_INTERVAL: Duration = Duration::from_millis(100);

/// The program that reads the connections' clock; never attached.
pub(super) const CLOCK: &str = "clock";

fn take(ebpf: &mut Ebpf, map: MapName) -> Result<Map, DatapathError> {
    ebpf.take_map(map.as_str()).ok_or(DatapathError::Map {
        operation: "finding",
        map,
        message: "the BPF object doesn't hold it; rebuild with `cargo xtask build`".to_owned(),
    })
}

/// Returns one of the programs.
pub(super) fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| program_error(name, "the BPF object doesn't hold it".to_owned()))?;
    program
        .try_into()
        .map_err(|error: ProgramError| program_error(name, chain(&error)))
}

fn program_error(name: &str, message: String) -> DatapathError {
    DatapathError::Program {
        operation: format!("loading program {name}"),
        message,
    }
}

/// Opens a map that only the agent uses from its pin, or creates and pins it.
fn pinned<M>(
    folder: &Path,
    name: MapName,
    create: impl FnOnce() -> Result<M, aya::maps::MapError>,
) -> Result<M, DatapathError>
where
    M: TryFrom<Map, Error = aya::maps::MapError> + Pinnable,
{
    let path = folder.join(name.as_str());
    if !path.exists() {
        let map = create().map_err(|error| map_error("creating", name, &error))?;
        map.pin_at(&path).map_err(|error| DatapathError::Map {
            operation: "pinning",
            map: name,
            message: chain(&error),
        })?;
    }
    MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .and_then(M::try_from)
        .map_err(|error| map_error("opening pinned", name, &error))
}

trait Pinnable {
    fn pin_at(self, path: &Path) -> Result<(), aya::pin::PinError>;
}

impl Pinnable for Hash<u32, Name> {
    fn pin_at(self, path: &Path) -> Result<(), aya::pin::PinError> {
        self.pin(path)
    }
}

impl Pinnable for Array<MapData, u64> {
    fn pin_at(self, path: &Path) -> Result<(), aya::pin::PinError> {
        self.pin(path)
    }
}

/// Compares layouts first, since aya reuses any pin that has the right name.
fn check_shapes(folder: &Path) -> Result<(), DatapathError> {
    MapName::pinned().try_for_each(|map| check_shape(folder, map))
}

/// Rejects a pinned map whose layout differs from what this build requires. An absent pin is fine.
pub(super) fn check_shape(folder: &Path, map: MapName) -> Result<(), DatapathError> {
    let path = folder.join(map.as_str());
    if !path.exists() {
        return Ok(());
    }
    let read = |error| map_error("reading the shape of pinned", map, &error);
    let info = MapInfo::from_pin(&path).map_err(read)?;
    let wanted = map.spec();
    let found = MapSpec {
        kind: info.map_type().map_err(read)?,
        key: info.key_size() as usize,
        value: info.value_size() as usize,
        entries: info.max_entries(),
        ..wanted
    };
    if found == wanted {
        return Ok(());
    }
    Err(DatapathError::Shape {
        map,
        found: found.to_string(),
        wanted: wanted.to_string(),
        pin_dir: folder.parent().unwrap_or(folder).to_owned(),
    })
}
