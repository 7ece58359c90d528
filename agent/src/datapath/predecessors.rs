//! What agents of another ABI version have pinned, and the migration to this version.
//!
//! Their programs keep deciding by their tables until this agent's own tables are complete: the
//! first policy is in force and every endpoint has its slot. Only then is the program of each hook
//! replaced atomically and in place, and their pins are removed. If the agent ends on the way, the
//! next agent, of this version or the other, continues from there.
//!
//! Agent numbers and workload names have the same layout in all versions. Connections and counters
//! have versions of their own: if these agree, both sides use the same maps, so nothing has to be
//! copied and nothing is lost in between. Otherwise this agent's maps start empty, and endpoints
//! pick up open connections for a while.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, MapInfo};
use nix::fcntl::{Flock, FlockArg};
use ringfence_ebpf::abi::{CONNECTIONS_VERSION, COUNTERS_VERSION, Control};
use ringfence_hooks::tcx;

use super::catalog::MapName;
use super::error::{DatapathError, chain};
use super::fields::AgentField;
use super::links::Links;
use super::load;
use super::lock::Lock;
use super::maps::{Maps, map_error};

/// Maps that have the same layout in all versions.
const ALWAYS: [MapName; 1] = [MapName::Names];
/// Maps of connections: none of them is of use without the others.
const CONNECTIONS: [MapName; 7] = [
    MapName::Seed,
    MapName::Connections,
    MapName::ConnOverflow,
    MapName::Opening,
    MapName::Claims,
    MapName::Quota,
    MapName::Gone,
];
/// Maps of counters, likewise.
const COUNTERS: [MapName; 4] = [
    MapName::Drops,
    MapName::DropsOther,
    MapName::Sources,
    MapName::Stats,
];

/// The folder of another version.
struct Predecessor {
    folder: PathBuf,
    version: u32,
    /// Contents of its map `AGENT`.
    fields: [u64; AgentField::COUNT as usize],
    _lock: Lock,
}

/// All predecessors; the one that this agent takes over from comes first.
#[derive(Default)]
pub(super) struct Predecessors {
    all: Vec<Predecessor>,
    /// Whether this agent uses the same connection maps.
    pub(super) shares_connections: bool,
    shares_counters: bool,
    /// Whether this agent starts the migration, rather than continuing an earlier one.
    begins: bool,
}

impl Predecessors {
    /// Locks the folders of all other versions, and shares maps with the new `folder` that can be
    /// taken over unchanged.
    pub(super) fn find(pin_dir: &Path, folder: &Path) -> Result<Self, DatapathError> {
        let mut all = Vec::new();
        for (version, other) in versions(pin_dir)? {
            if other != folder {
                all.push(Predecessor {
                    fields: fields(&other)?,
                    version,
                    _lock: Lock::take(&other)?,
                    folder: other,
                });
            }
        }
        let hooks = |one: &Predecessor| hooked(&one.folder).map(|hooked| hooked.len());
        let counted: Result<Vec<usize>, _> = all.iter().map(hooks).collect();
        let mut counted: Vec<_> = counted?.into_iter().zip(all).collect();
        counted.sort_by_key(|(hooks, one)| std::cmp::Reverse((*hooks, one.version)));
        let all: Vec<Predecessor> = counted.into_iter().map(|(_, one)| one).collect();
        let mut predecessors = Self {
            all,
            ..Self::default()
        };
        predecessors.share(folder)?;
        Ok(predecessors)
    }

    /// Pins maps of the first predecessor in the new folder.
    fn share(&mut self, folder: &Path) -> Result<(), DatapathError> {
        let Some(first) = self.all.first() else {
            return Ok(());
        };
        self.begins = hooked(folder)?.is_empty();
        if self.begins {
            // No program uses the maps in this folder: an earlier start was never finished.
            clear(folder)?;
            share(&ALWAYS, &first.folder, folder)?;
            let same = |field: AgentField, version: u32| {
                first.fields[field as usize] == u64::from(version)
            };
            if same(AgentField::Connections, CONNECTIONS_VERSION)
                && fit(&CONNECTIONS, &first.folder)
            {
                share(&CONNECTIONS, &first.folder, folder)?;
            }
            if same(AgentField::Counters, COUNTERS_VERSION) && fit(&COUNTERS, &first.folder) {
                share(&COUNTERS, &first.folder, folder)?;
            }
        }
        let shares = |maps: &[MapName]| are_shared(maps, &first.folder, folder);
        self.shares_connections = shares(&CONNECTIONS)?;
        self.shares_counters = shares(&COUNTERS)?;
        Ok(())
    }

    /// Reports whether there are no predecessors.
    pub(super) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns their versions and folders.
    pub(super) fn folders(&self) -> impl Iterator<Item = (u32, &Path)> {
        self.all
            .iter()
            .map(|one| (one.version, one.folder.as_path()))
    }

    /// Continues with their numbers, so that no id is assigned twice and losses stay counted.
    /// Records which layouts this agent's own tables have.
    pub(super) fn number(&self, maps: &mut Maps, mark: u32) -> Result<(), DatapathError> {
        let taken = |field: AgentField| {
            let theirs = self.all.iter().map(|one| one.fields[field as usize]);
            theirs.max().unwrap_or_default()
        };
        for field in [
            AgentField::NextEndpoint,
            AgentField::NextWorkload,
            AgentField::ConnectionsLost,
            AgentField::CountsLost,
        ] {
            let own = maps.agent(field)?;
            if taken(field) > own {
                maps.set_agent(field, taken(field))?;
            }
        }
        if self.begins {
            self.count_losses(maps)?;
            let first = self.all.first();
            let asked = first.map_or(0, |one| one.fields[AgentField::SeenMark as usize]);
            if asked == u64::from(mark) {
                // Their hooks set the same mark, so packets can be required to have it without a
                // gap.
                maps.set_control(Control {
                    seen_mark: mark,
                    ..Control::default()
                })?;
            }
        }
        maps.set_agent(AgentField::Connections, CONNECTIONS_VERSION.into())?;
        maps.set_agent(AgentField::Counters, COUNTERS_VERSION.into())
    }

    /// Counts what is left behind.
    fn count_losses(&self, maps: &mut Maps) -> Result<(), DatapathError> {
        let lost = [
            (
                AgentField::ConnectionsLost,
                self.shares_connections,
                "open connections aren't known, and are picked up for a while",
            ),
            (
                AgentField::CountsLost,
                self.shares_counters,
                "counters begin anew",
            ),
        ];
        for (field, shared, what) in lost {
            if !shared {
                tracing::warn!("the tables before are laid out otherwise: {what}");
                let before = maps.agent(field)?;
                maps.set_agent(field, before + 1)?;
            }
        }
        Ok(())
    }

    /// Returns a description of which versions are taken over and what is kept.
    pub(super) fn words(&self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let fate = |shared| if shared { "kept" } else { "lost" };
        let versions = self.all.iter().map(|one| format!("v{}", one.version));
        Some(format!(
            "{}: connections {}, counters {}",
            versions.collect::<Vec<_>>().join(", "),
            fate(self.shares_connections),
            fate(self.shares_counters),
        ))
    }

    /// Returns the devices guarded by programs of another version.
    pub(super) fn devices(&self) -> Result<BTreeSet<u32>, DatapathError> {
        let mut devices = BTreeSet::new();
        for one in &self.all {
            devices.extend(hooked(&one.folder)?);
        }
        Ok(devices)
    }

    /// Replaces their programs by the new ones on these devices, or on all. Continues after an
    /// error.
    pub(super) fn move_over(
        &self,
        links: &mut Links,
        only: Option<&BTreeSet<u32>>,
    ) -> Result<(), DatapathError> {
        let mut moved = Ok(());
        for one in &self.all {
            let of_these = |ifindex| only.is_none_or(|devices| devices.contains(&ifindex));
            moved = moved.and(links.take_over(&one.folder, &of_these));
        }
        links.leave(self.devices()?);
        moved
    }

    /// Removes their pins, once they guard no device.
    pub(super) fn finish(&mut self, links: &mut Links) -> Result<(), DatapathError> {
        while let Some(one) = self.all.last() {
            let folder = one.folder.join("links");
            // Anything that attaches their programs holds this lock.
            let _lock = folder.exists().then(|| wait_for(&folder)).transpose()?;
            links.take_over(&one.folder, &|_| true)?;
            fs::remove_dir_all(&one.folder).map_err(file("removing", &one.folder))?;
            tracing::info!(
                "{} is gone: everything has moved over",
                one.folder.display()
            );
            self.all.pop();
        }
        Ok(())
    }
}

/// Returns the folders below a pin directory that agents created: `v` and a number.
pub(super) fn versions(pin_dir: &Path) -> Result<Vec<(u32, PathBuf)>, DatapathError> {
    let mut versions = Vec::new();
    for entry in fs::read_dir(pin_dir).map_err(file("listing", pin_dir))? {
        let path = entry.map_err(file("listing", pin_dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix('v'));
        if let Some(number) = number.and_then(|number| number.parse().ok())
            && path.is_dir()
        {
            versions.push((number, path));
        }
    }
    Ok(versions)
}

/// Returns the devices that have a hook according to a folder.
fn hooked(folder: &Path) -> Result<BTreeSet<u32>, DatapathError> {
    let mut hooked = ringfence_hooks::recorded(folder)?;
    let pins = tcx::pins(&tcx::links(folder))?;
    hooked.extend(pins.into_iter().map(|(ifindex, ..)| ifindex));
    Ok(hooked)
}

/// Removes everything but the subfolders, which hold pins.
fn clear(folder: &Path) -> Result<(), DatapathError> {
    for entry in fs::read_dir(folder).map_err(file("listing", folder))? {
        let path = entry.map_err(file("listing", folder))?.path();
        if !path.is_dir() {
            fs::remove_file(&path).map_err(file("removing", &path))?;
        }
    }
    Ok(())
}

/// Pins maps of one folder in another one too.
fn share(maps: &[MapName], from: &Path, to: &Path) -> Result<(), DatapathError> {
    for map in maps {
        let path = from.join(map.as_str());
        if path.exists() {
            let data = MapData::from_pin(&path);
            let data = data.map_err(|error| map_error("opening pinned", *map, &error))?;
            data.pin(to.join(map.as_str()))
                .map_err(|error| DatapathError::Map {
                    operation: "pinning",
                    map: *map,
                    message: chain(&error),
                })?;
        }
    }
    Ok(())
}

/// Reports whether all these maps exist and have the layout that this build requires.
fn fit(maps: &[MapName], folder: &Path) -> bool {
    let fits = |map: &MapName| {
        folder.join(map.as_str()).exists() && load::check_shape(folder, *map).is_ok()
    };
    maps.iter().all(fits)
}

/// Reports whether the maps pinned in two folders are the same.
fn are_shared(maps: &[MapName], a: &Path, b: &Path) -> Result<bool, DatapathError> {
    for map in maps {
        let paths = [a, b].map(|folder| folder.join(map.as_str()));
        if !paths.iter().all(|path| path.exists()) {
            return Ok(false);
        }
        let id = |path: &Path| {
            let info = MapInfo::from_pin(path);
            info.map(|info| info.id())
                .map_err(|error| map_error("looking at pinned", *map, &error))
        };
        if id(&paths[0])? != id(&paths[1])? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the contents of a folder's map `AGENT`; zeros if there is none.
fn fields(folder: &Path) -> Result<[u64; AgentField::COUNT as usize], DatapathError> {
    let mut fields = [0; AgentField::COUNT as usize];
    let path = folder.join(MapName::Agent.as_str());
    if !path.exists() {
        return Ok(fields);
    }
    load::check_shape(folder, MapName::Agent)?;
    let failed = |error| map_error("reading pinned", MapName::Agent, &error);
    let map = MapData::from_pin(path).and_then(Map::from_map_data);
    let map: Array<MapData, u64> = map.and_then(TryInto::try_into).map_err(failed)?;
    for (index, field) in (0..).zip(&mut fields) {
        *field = map.get(&index, 0).map_err(failed)?;
    }
    Ok(fields)
}

fn wait_for(folder: &Path) -> Result<Flock<File>, DatapathError> {
    let open = File::open(folder).map_err(file("opening", folder))?;
    Flock::lock(open, FlockArg::LockExclusive)
        .map_err(|(_, errno)| file("locking", folder)(errno.into()))
}

fn file<'p>(
    operation: &'static str,
    path: &'p Path,
) -> impl FnOnce(std::io::Error) -> DatapathError + use<'p> {
    move |source| DatapathError::File {
        operation,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_with_the_name_of_a_version_are_an_agents() {
        let dir = tempfile::tempdir().expect("tempdir");
        for folder in ["v5", "v1006", "v", "vx", "5", "v-1"] {
            fs::create_dir(dir.path().join(folder)).expect("a folder");
        }
        fs::write(dir.path().join("v7"), "").expect("a file");
        let mut found = versions(dir.path()).expect("a list");
        found.sort();
        let wanted = [5, 1006].map(|number| (number, dir.path().join(format!("v{number}"))));
        assert_eq!(found, wanted);
    }
}
