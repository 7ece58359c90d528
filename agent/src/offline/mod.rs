//! The commands that need neither root nor a datapath: they use the same compiler on manifests, or
//! on the present state of a cluster.

mod answers;
pub mod callers;
mod difference;
pub mod explain;
pub mod matrix;

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::Context as _;
use ringfence_policy::index::Index;
use ringfence_policy::ports::PortSpec;

use crate::cli::{ClusterArgs, PolicyArgs};
use crate::failure::Failure;
use crate::kubernetes::list::{self, ListError};
use crate::manifests::Store;
use crate::output;
use crate::settings::Origin;

/// Stands for stdin in place of a path.
const STDIN: &str = "-";

/// Maximum number of printed lines about what is left out.
const MOST_LINES: usize = 20;

/// Maximum number of names in one line.
const MOST_NAMES: usize = 5;

/// Reads the cluster or manifests that a question is about.
fn load(cluster: &ClusterArgs, policy: &PolicyArgs) -> Result<Index, Failure> {
    match Origin::of(cluster.manifests.clone(), cluster.kubeconfig.clone()) {
        Origin::Manifests(path) => read(&path, policy),
        Origin::Kubernetes(access) => {
            let index = list::index(&access, &policy.config()).map_err(|error| match error {
                ListError::Access(_) => Failure::input(error),
                ListError::List { .. } | ListError::Runtime(_) => Failure::fault(error),
            })?;
            say(left_out(&index));
            Ok(index)
        }
    }
}

/// Reads a folder, a file or stdin. Fails on any error, since an answer from only some of the
/// policies would be wrong.
fn read(manifests: &Path, policy: &PolicyArgs) -> Result<Index, Failure> {
    let store = open(manifests)?;
    let index = store.index(&policy.config());
    let empty = store.emptiness().into_iter();
    say(empty.chain(store.unread()).chain(left_out(&index)));
    Ok(index)
}

fn open(manifests: &Path) -> Result<Store, Failure> {
    let is_stdin = manifests == Path::new(STDIN);
    let (name, source) = match is_stdin {
        true => ("stdin".as_ref(), "/dev/stdin".as_ref()),
        false => (manifests, manifests),
    };
    // A pipe, such as the shell's `<(…)`, can be read only once.
    let is_pipe = fs::metadata(source).is_ok_and(|meta| !meta.is_dir() && !meta.is_file());
    if !is_stdin && !is_pipe {
        return Store::open(manifests).map_err(Failure::input);
    }
    let mut bytes = Vec::new();
    let read = match is_stdin {
        true => io::stdin().lock().read_to_end(&mut bytes),
        false => fs::File::open(source).and_then(|mut file| file.read_to_end(&mut bytes)),
    };
    let named = || format!("reading {}", name.display());
    read.with_context(named).map_err(Failure::Input)?;
    Store::of_bytes(name, bytes).map_err(Failure::input)
}

impl ClusterArgs {
    fn is_stdin(&self) -> bool {
        self.manifests.as_deref() == Some(STDIN.as_ref())
    }
}

/// Prints what an answer leaves out, and only counts the lines beyond a limit.
fn say(lines: impl Iterator<Item = String>) {
    let mut lines = lines.map(|line| output::plain(&line));
    for line in lines.by_ref().take(MOST_LINES) {
        eprintln!("ringfence: {line}");
    }
    match lines.count() {
        0 => {}
        more => eprintln!("ringfence: and {more} more lines like these"),
    }
}

/// Lists what isn't judged as intended, or not at all.
fn left_out(index: &Index) -> impl Iterator<Item = String> {
    let problems = index.problems().into_iter();
    let problems = problems.map(|p| format!("{}: {}: {}", p.object, p.key_or_field, p.message));
    on_host_network(index).into_iter().chain(problems)
}

/// Describes the pods on the host network, which share the node's interfaces and so can't be
/// filtered.
fn on_host_network(index: &Index) -> Option<String> {
    let names = index.names_on_host_network();
    let named = names.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>();
    let rest = match names.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!names.is_empty()).then(|| {
        format!(
            "on the host network, so that they count as the node and are not judged: {}{rest}",
            named.join(", ")
        )
    })
}

fn port(text: &str) -> Result<PortSpec, Failure> {
    text.parse().map_err(Failure::input)
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
