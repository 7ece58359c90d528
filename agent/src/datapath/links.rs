//! Pinned tcx links: attach first, keep the place, replace programs under them.
//! Where there are none, [`Filters`] on clsact qdiscs do the same.

mod take_over;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::SchedClassifier;
use aya::programs::links::FdLink;
use ringfence_hooks::{
    Filters, Hook, HookError, PROGRAMS, Pinned, Programs as _, Turn, query, tcx,
};

use super::error::DatapathError;
use super::load;

/// All links of this agent.
pub(super) struct Links {
    folder: PathBuf,
    ebpf: Ebpf,
    /// What the programs mark packets with, the twin's as well.
    seen_mark: u32,
    /// The same programs once more, loaded when they are needed: the kernel takes
    /// a program once a hook, so one that somebody got ahead of can't be put in
    /// front of itself.
    twin: Option<Ebpf>,
    /// Program ids, to check who stands first.
    ids: BTreeMap<&'static str, u32>,
    /// Those of the twin.
    twin_ids: BTreeMap<&'static str, u32>,
    /// Held open beside the pin, so that a lost pin doesn't detach.
    links: BTreeMap<(u32, Hook), FdLink>,
    /// The other way to be attached.
    filters: Filters,
    /// Whether it is the one to take. What an agent that took the other one has
    /// left is adopted, and goes when the new way guards.
    by_clsact: bool,
    /// Filters of others, by interface, when they were last looked at.
    foreign: BTreeMap<u32, Vec<String>>,
    /// Interfaces on which the last attach failed.
    failed: BTreeSet<u32>,
    /// Interfaces that programs of another version guard, for now.
    left: BTreeSet<u32>,
}

impl Links {
    /// Puts the new programs under every pinned link, atomically; pins of
    /// vanished interfaces are removed.
    pub(super) fn adopt(
        folder: &Path,
        mut ebpf: Ebpf,
        by_clsact: bool,
        seen_mark: u32,
    ) -> Result<Self, DatapathError> {
        let ids = ids(&mut ebpf)?;
        let filters = Filters::adopt(folder, &mut ebpf)?;
        let mut links = Self {
            folder: folder.join("links"),
            ebpf,
            seen_mark,
            twin: None,
            ids,
            twin_ids: BTreeMap::new(),
            links: BTreeMap::new(),
            filters,
            by_clsact,
            foreign: BTreeMap::new(),
            failed: BTreeSet::new(),
            left: BTreeSet::new(),
        };
        let _turn = Turn::take(folder)?;
        tcx::remove_leftovers(&links.folder)?;
        for (ifindex, hook, path) in tcx::pins(&links.folder)? {
            links.adopt_one(ifindex, hook, &path)?;
        }
        // Before this the network plugin attached those of the last agent, which are under
        // the new ones now.
        Pinned::pin(folder, &mut links.ebpf)?;
        Ok(links)
    }

    fn adopt_one(&mut self, ifindex: u32, hook: Hook, path: &Path) -> Result<(), DatapathError> {
        let program = self.ebpf.of_hook(hook)?;
        if let Some(link) = tcx::replace(program, path, hook)? {
            self.links.insert((ifindex, hook), link);
        }
        Ok(())
    }

    /// The loaded object.
    pub(super) const fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Whether both hooks of a pod's interface are attached, and the last look at
    /// their place found nothing wrong.
    pub(super) fn attached(&self, ifindex: u32) -> bool {
        !self.failed.contains(&ifindex)
            && Hook::POD.iter().all(|hook| {
                self.links.contains_key(&(ifindex, *hook)) || self.filters.holds(ifindex, *hook)
            })
    }

    /// The clsact filters of others that run after ours on an interface.
    pub(super) fn foreign(&self, ifindex: u32) -> Vec<String> {
        self.foreign.get(&ifindex).cloned().unwrap_or_default()
    }

    /// Attaches these programs first in their chains, or sees to it that they
    /// still stand there; then those of other hooks go, so that a device that has
    /// become a pod's is never without any.
    pub(super) fn attach(
        &mut self,
        ifindex: u32,
        name: &str,
        hooks: &[Hook],
    ) -> Result<(), DatapathError> {
        if self.left.contains(&ifindex) {
            return Ok(());
        }
        let attached = self
            .attach_all(ifindex, name, hooks)
            .and_then(|()| self.detach_all_but(ifindex, hooks));
        if attached.is_ok() {
            self.failed.remove(&ifindex);
        } else {
            self.failed.insert(ifindex);
        }
        attached
    }

    fn attach_all(
        &mut self,
        ifindex: u32,
        name: &str,
        hooks: &[Hook],
    ) -> Result<(), DatapathError> {
        // The network plugin attaches too.
        let version = self.folder.parent().unwrap_or(&self.folder);
        let _turn = Turn::take(version)?;
        for &hook in hooks {
            if self.by_clsact {
                self.filters.attach(ifindex, name, hook, &mut self.ebpf)?;
                self.unlink(ifindex, hook)?;
                continue;
            }
            let pin = self.folder.join(hook.file(ifindex));
            if !self.links.contains_key(&(ifindex, hook)) && pin.exists() {
                self.adopt_one(ifindex, hook, &pin)?;
            }
            let held = self.links.contains_key(&(ifindex, hook));
            match held.then(|| self.place(ifindex, name, hook)).transpose()? {
                Some(Place::Ahead) => {}
                Some(Place::Behind) => self.attach_first(ifindex, name, hook, true)?,
                Some(Place::Absent) | None => self.attach_first(ifindex, name, hook, false)?,
            }
            self.filters.detach(ifindex, hook)?;
        }
        self.foreign.insert(ifindex, self.filters.foreign(ifindex)?);
        Ok(())
    }

    /// Where our program stands on the hook.
    ///
    /// Another agent's programs may stand in front: they let the next one run. Without
    /// CAP_SYS_ADMIN they can't be told from others, and are overtaken.
    fn place(&self, ifindex: u32, name: &str, hook: Hook) -> Result<Place, DatapathError> {
        let programs = query::programs(ifindex, hook.attach_type()).map_err(|error| {
            DatapathError::Program {
                operation: format!("asking who is attached to {name}"),
                message: error.to_string(),
            }
        })?;
        let is = |ids: &BTreeMap<_, u32>, id| ids.get(hook.program()) == Some(&id);
        let of_an_agent = |name: Option<String>| name.is_some_and(|n| PROGRAMS.contains(&&*n));
        let mut ahead = true;
        for id in programs {
            let main = is(&self.ids, id);
            if main || is(&self.twin_ids, id) {
                return Ok(match (ahead, main) {
                    (true, _) => Place::Ahead,
                    (false, true) => Place::Behind,
                    (false, false) => Place::Absent,
                });
            }
            ahead = ahead && of_an_agent(query::name(id));
        }
        Ok(Place::Absent)
    }

    /// The programs, or their twins.
    fn program(&mut self, hook: Hook, twin: bool) -> Result<&mut SchedClassifier, DatapathError> {
        if !twin {
            return Ok(self.ebpf.of_hook(hook)?);
        }
        let ebpf = match self.twin.take() {
            Some(twin) => twin,
            None => {
                let mut ebpf =
                    load::twin(self.folder.parent().unwrap_or(&self.folder), self.seen_mark)?;
                self.twin_ids = ids(&mut ebpf)?;
                ebpf
            }
        };
        Ok(self.twin.insert(ebpf).of_hook(hook)?)
    }

    /// A link can't be moved: a new one goes in front, then the old one goes.
    /// In between the program runs twice, which changes no verdict.
    fn attach_first(
        &mut self,
        ifindex: u32,
        name: &str,
        hook: Hook,
        twin: bool,
    ) -> Result<(), DatapathError> {
        let folder = self.folder.clone();
        let program = self.program(hook, twin)?;
        let link = tcx::attach_first(program, &folder, ifindex, name, hook)?;
        self.links.insert((ifindex, hook), link);
        Ok(())
    }

    /// Lets go of an interface that has vanished.
    pub(super) fn forget(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.failed.remove(&ifindex);
        self.foreign.remove(&ifindex);
        self.filters.forget(ifindex)?;
        self.detach_all_but(ifindex, &[])
    }

    fn detach_all_but(&mut self, ifindex: u32, kept: &[Hook]) -> Result<(), DatapathError> {
        for hook in Hook::ALL.into_iter().filter(|hook| !kept.contains(hook)) {
            self.unlink(ifindex, hook)?;
            self.filters.detach(ifindex, hook)?;
        }
        Ok(())
    }

    fn unlink(&mut self, ifindex: u32, hook: Hook) -> Result<(), DatapathError> {
        let path = self.folder.join(hook.file(ifindex));
        if path.exists() {
            tcx::remove_pin(&path)?;
        }
        self.links.remove(&(ifindex, hook));
        Ok(())
    }

    /// Interfaces that have a link or a filter.
    pub(super) fn interfaces(&self) -> Vec<u32> {
        let linked = self.links.keys().map(|(ifindex, _)| *ifindex);
        let all: BTreeSet<u32> = linked.chain(self.filters.interfaces()).collect();
        all.into_iter().collect()
    }

    /// Interfaces that have a pod's programs, whether their pod is known or not.
    pub(super) fn of_pods(&self) -> impl Iterator<Item = u32> + '_ {
        let links = self.links.keys();
        let of_pods = links.filter(|(_, hook)| Hook::POD.contains(hook));
        of_pods.map(|(ifindex, _)| *ifindex)
    }
}

/// Where our program stands on a hook.
enum Place {
    /// Before everybody else's.
    Ahead,
    /// Behind somebody else's.
    Behind,
    /// It doesn't, or its twin stands behind: it can be put in front.
    Absent,
}

/// The ids of all programs of an object.
fn ids(ebpf: &mut Ebpf) -> Result<BTreeMap<&'static str, u32>, DatapathError> {
    let mut ids = BTreeMap::new();
    for hook in Hook::ALL {
        let name = hook.program();
        let info = ebpf.of_hook(hook)?.info();
        let info = info
            .map_err(|error| HookError::program(format!("asking for the id of {name}"), &error))?;
        ids.insert(name, info.id());
    }
    Ok(ids)
}
