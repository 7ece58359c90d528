//! Pinned tcx links: attach first in the chain, keep that position, replace programs in place. On
//! kernels without tcx, [`Filters`] on clsact qdiscs do the same.

mod take_over;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::SchedClassifier;
use aya::programs::links::FdLink;
use ringfence_hooks::{
    AttachLock, Filters, Hook, HookError, PROGRAMS, Pinned, Programs as _, query, tcx,
};

use super::error::DatapathError;
use super::load;

/// All links of this agent.
pub(super) struct Links {
    folder: PathBuf,
    ebpf: Ebpf,
    /// The mark that the programs, including the twin's, set on packets.
    seen_mark: u32,
    /// A second copy of the programs, loaded when it is needed: the kernel accepts a program only
    /// once per hook, so a program that was overtaken can't be attached again in front of itself.
    twin: Option<Ebpf>,
    /// Program ids, to check which program is first.
    ids: BTreeMap<&'static str, u32>,
    /// Program ids of the twin.
    twin_ids: BTreeMap<&'static str, u32>,
    /// Held open in addition to the pin, so that losing the pin doesn't detach the program.
    links: BTreeMap<(u32, Hook), FdLink>,
    /// Attachments by the alternative to tcx.
    filters: Filters,
    /// Whether filters are used for attaching. Attachments that an earlier agent made the other
    /// way are adopted, and removed once the new ones are in place.
    by_clsact: bool,
    /// Filters of other programs by interface, as last seen.
    foreign: BTreeMap<u32, Vec<String>>,
    /// Interfaces on which the last attach failed.
    failed: BTreeSet<u32>,
    /// Interfaces that programs of another version guard for now.
    left: BTreeSet<u32>,
}

impl Links {
    /// Replaces the program of every pinned link atomically by the new one; removes pins of
    /// interfaces that have vanished.
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
        let _turn = AttachLock::take(folder)?;
        tcx::remove_leftovers(&links.folder)?;
        for (ifindex, hook, path) in tcx::pins(&links.folder)? {
            links.adopt_one(ifindex, hook, &path)?;
        }
        // Until here the network plugin attaches the programs of the last agent; their links have
        // been given the new programs by now.
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

    /// Returns the loaded object.
    pub(super) const fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Reports whether both hooks of a pod's interface are attached and were in their place when
    /// last checked.
    pub(super) fn attached(&self, ifindex: u32) -> bool {
        !self.failed.contains(&ifindex)
            && Hook::POD.iter().all(|hook| {
                self.links.contains_key(&(ifindex, *hook)) || self.filters.holds(ifindex, *hook)
            })
    }

    /// Returns the clsact filters of other programs that run after ours on an interface.
    pub(super) fn foreign(&self, ifindex: u32) -> Vec<String> {
        self.foreign.get(&ifindex).cloned().unwrap_or_default()
    }

    /// Attaches these programs first in their chains, or verifies that they still are first. Then
    /// detaches those of other hooks, so that a device that has become a pod's is never unguarded.
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
        // The network plugin attaches programs too.
        let version = self.folder.parent().unwrap_or(&self.folder);
        let _turn = AttachLock::take(version)?;
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
                Some(ChainPosition::Ahead) => {}
                Some(ChainPosition::Behind) => self.attach_first(ifindex, name, hook, true)?,
                Some(ChainPosition::Absent) | None => {
                    self.attach_first(ifindex, name, hook, false)?;
                }
            }
            self.filters.detach(ifindex, hook)?;
        }
        self.foreign.insert(ifindex, self.filters.foreign(ifindex)?);
        Ok(())
    }

    /// Returns the position of our program on the hook.
    ///
    /// Programs of another agent may come first: they let the next one run. Without CAP_SYS_ADMIN
    /// they can't be told apart from other programs, and ours are moved in front.
    fn place(&self, ifindex: u32, name: &str, hook: Hook) -> Result<ChainPosition, DatapathError> {
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
                    (true, _) => ChainPosition::Ahead,
                    (false, true) => ChainPosition::Behind,
                    (false, false) => ChainPosition::Absent,
                });
            }
            ahead = ahead && of_an_agent(query::name(id));
        }
        Ok(ChainPosition::Absent)
    }

    /// Returns the program of a hook, or its twin.
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

    /// Attaches a program in front. A link can't be moved, so a new one is attached in front and
    /// the old one is then removed. In between the program runs twice, which changes no verdict.
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

    /// Detaches everything from an interface that has vanished.
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

    /// Returns the interfaces that have a link or a filter.
    pub(super) fn interfaces(&self) -> Vec<u32> {
        let linked = self.links.keys().map(|(ifindex, _)| *ifindex);
        let all: BTreeSet<u32> = linked.chain(self.filters.interfaces()).collect();
        all.into_iter().collect()
    }

    /// Returns the interfaces that have a pod's programs, whether the pod is known or not.
    pub(super) fn of_pods(&self) -> impl Iterator<Item = u32> + '_ {
        let links = self.links.keys();
        let of_pods = links.filter(|(_, hook)| Hook::POD.contains(hook));
        of_pods.map(|(ifindex, _)| *ifindex)
    }
}

/// Position of our program on a hook.
enum ChainPosition {
    /// In front of all other programs.
    Ahead,
    /// Behind another program.
    Behind,
    /// Not attached, or its twin is behind another program: it can be attached in front.
    Absent,
}

/// Returns the ids of all programs of an object.
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
