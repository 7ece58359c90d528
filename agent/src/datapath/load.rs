//! From the embedded object to loaded programs and checked maps.

use std::path::Path;
use std::thread;
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, MapInfo, MapType};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use ringfence_ebpf::abi::{
    Addr, Bucket, Budget, CidrKey, Claim, Control, DropCount, DropKey, Endpoint, Flow, FlowKey,
    Grant, Identity, Kernel, Name, PortBlock, PortKey, Quota, RuleKey, Seed, ServiceKey,
};
use ringfence_hooks::PROGRAMS;

use super::btf::Running;
use super::control::InForce;
use super::error::{DatapathError, chain};
use super::fields::AgentField;
use super::maps::{Hash, Maps, Raw, map_error, max_entries};
use super::{buckets, kfunc};

/// The BPF object; empty in a build without one.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ringfence.o"));

/// What loading gives.
pub(super) struct Loaded {
    pub(super) maps: Maps,
    pub(super) events: Map,
    /// Holds all programs, loaded.
    pub(super) ebpf: Ebpf,
}

/// Loads object and programs, reusing every pinned map of the right shape.
pub(super) fn load(folder: &Path, seen_mark: u32) -> Result<Loaded, DatapathError> {
    check_shapes(folder)?;
    let mut ebpf = over_pins(OBJECT, folder, seen_mark)?;
    let names: Hash<u32, Name> = pinned(folder, "NAMES", || {
        // Not preallocated: it costs what it holds.
        HashMap::create(max_entries("NAMES"), 1)
    })?;
    let agent: Array<MapData, u64> =
        pinned(folder, "AGENT", || Array::create(AgentField::COUNT, 0))?;
    let in_force = InForce::map(folder)?;
    let mut maps = Maps::new(|name| take(&mut ebpf, name), names, agent, in_force)?;
    buckets::sow(&mut maps)?;
    let events = take(&mut ebpf, "EVENTS")?;
    load_programs(&mut ebpf)?;
    program(&mut ebpf, CLOCK)?
        .load()
        .map_err(|error| program_error(CLOCK, chain(&error)))?;
    follow_log(&mut ebpf);
    Ok(Loaded { maps, events, ebpf })
}

/// The programs once more, over the same pinned maps.
pub(super) fn twin(folder: &Path, seen_mark: u32) -> Result<Ebpf, DatapathError> {
    let mut ebpf = over_pins(OBJECT, folder, seen_mark)?;
    load_programs(&mut ebpf)?;
    Ok(ebpf)
}

/// An object over the maps that are pinned in a folder: the agent's own, or one with
/// more programs to measure it by. Its programs aren't loaded yet; those at ingress will
/// set `seen_mark`.
///
/// # Errors
/// If the running kernel's type information can't be read, or the object doesn't fit it
/// or the maps.
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

/// A datapath built with `cargo xtask build-ebpf --debug-log` writes a log;
/// its lines join the agent's own. The release datapath has no such map.
fn follow_log(ebpf: &mut Ebpf) {
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

/// How often the datapath's log is read.
const LOG_INTERVAL: Duration = Duration::from_millis(100);

/// The program that reads the flows' clock; never attached.
pub(super) const CLOCK: &str = "clock";

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, DatapathError> {
    ebpf.take_map(name).ok_or(DatapathError::Map {
        operation: "finding",
        map: name,
        message: "the BPF object doesn't hold it; rebuild with `cargo xtask build`".to_owned(),
    })
}

/// One of the programs.
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

/// A map that only the agent uses: from its pin, or made and pinned.
fn pinned<M>(
    folder: &Path,
    name: &'static str,
    create: impl FnOnce() -> Result<M, aya::maps::MapError>,
) -> Result<M, DatapathError>
where
    M: TryFrom<Map, Error = aya::maps::MapError> + Pinnable,
{
    let path = folder.join(name);
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

/// Kind, key size and value size of a map.
type Shape = (MapType, usize, usize);

/// aya reuses a pin of that name whatever it is, so shapes are compared first.
fn check_shapes(folder: &Path) -> Result<(), DatapathError> {
    for name in shapes().map(|(name, _)| name) {
        check_shape(folder, name)?;
    }
    Ok(())
}

/// The maps that are pinned.
const fn shapes() -> [(&'static str, Shape); 24] {
    const LPM: usize = 4 + size_of::<CidrKey>();
    [
        ("CONTROL", (MapType::Array, 4, size_of::<Control>())),
        ("ENDPOINTS", (MapType::Array, 4, size_of::<Endpoint>())),
        ("CIDRS", (MapType::LpmTrie, LPM, 4)),
        (
            "RULES",
            (MapType::Hash, size_of::<RuleKey>(), size_of::<Grant>()),
        ),
        (
            "PORTS",
            (MapType::Hash, size_of::<PortKey>(), size_of::<PortBlock>()),
        ),
        (
            "ADDRESSES",
            (MapType::Hash, size_of::<Addr>(), size_of::<Identity>()),
        ),
        ("SERVICES", (MapType::Hash, size_of::<ServiceKey>(), 4)),
        ("TUNNELS", (MapType::Array, 4, 8)),
        ("FLOWS", (MapType::Array, 4, size_of::<Bucket>())),
        (
            "FLOWS_MORE",
            (MapType::Hash, size_of::<FlowKey>(), size_of::<Flow>()),
        ),
        ("OPENING", (MapType::Array, 4, size_of::<Bucket>())),
        ("SEED", (MapType::Array, 4, size_of::<Seed>())),
        ("QUOTA", (MapType::Array, 4, size_of::<Quota>())),
        ("GONE", (MapType::Array, 4, 4)),
        (
            "CLAIMS",
            (MapType::Hash, size_of::<Addr>(), size_of::<Claim>()),
        ),
        ("LOCALS", (MapType::Hash, size_of::<Addr>(), 4)),
        ("SOURCES", (MapType::Hash, 4, 4)),
        (
            "DROPS",
            (
                MapType::PerCpuHash,
                size_of::<DropKey>(),
                size_of::<DropCount>(),
            ),
        ),
        (
            "DROPS_OTHER",
            (MapType::PerCpuArray, 4, size_of::<DropCount>()),
        ),
        ("STATS", (MapType::PerCpuArray, 4, 8)),
        ("BUDGET", (MapType::Array, 4, size_of::<Budget>())),
        ("EVENTS", (MapType::RingBuf, 0, 0)),
        ("NAMES", (MapType::Hash, 4, size_of::<Name>())),
        ("AGENT", (MapType::Array, 4, 8)),
    ]
}

/// Refuses a pinned map of another shape than this build wants. One that isn't there, or
/// isn't known, is fine.
pub(super) fn check_shape(folder: &Path, map: &'static str) -> Result<(), DatapathError> {
    let path = folder.join(map);
    let known = shapes().into_iter().find(|(name, _)| *name == map);
    let Some((_, wanted)) = known.filter(|_| path.exists()) else {
        return Ok(());
    };
    let read = |error| map_error("reading the shape of pinned", map, &error);
    let info = MapInfo::from_pin(&path).map_err(read)?;
    let found: Shape = (
        info.map_type().map_err(read)?,
        info.key_size() as usize,
        info.value_size() as usize,
    );
    let entries = info.max_entries();
    if found == wanted && entries == max_entries(map) {
        return Ok(());
    }
    let text = |(kind, key, value): Shape, entries: u32| {
        format!("{kind:?} with keys of {key} and values of {value} bytes, {entries} entries")
    };
    Err(DatapathError::Shape {
        map,
        found: text(found, entries),
        wanted: text(wanted, max_entries(map)),
        pin_dir: folder.parent().unwrap_or(folder).to_owned(),
    })
}
