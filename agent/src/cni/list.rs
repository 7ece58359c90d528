//! Edits the text of a network's configuration. Everything that others wrote stays verbatim: only
//! the plugin's own entry is rewritten.

use std::borrow::Cow;
use std::ops::Range;

use ringfence_cni::{PLUGIN, VERSIONS};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Why a file isn't edited.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ListError {
    /// A runtime would reject it, or its interpretation is unclear.
    #[error("it doesn't parse: {0}")]
    Syntax(String),
    /// It creates no network.
    #[error("it names no network, or no plugin that creates one")]
    Empty,
    /// The plugin would refuse to be called.
    #[error("cniVersion {0:?}: {PLUGIN} supports {supported}", supported = VERSIONS.join(", "))]
    Version(String),
}

impl From<serde_json::Error> for ListError {
    fn from(error: serde_json::Error) -> Self {
        Self::Syntax(error.to_string())
    }
}

/// A network list (`*.conflist`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct List<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(default, borrow)]
    cni_version: Cow<'a, str>,
    #[serde(default)]
    cni_versions: Vec<String>,
    /// Whether drop-ins are ignored.
    #[serde(default)]
    load_only_inlined_plugins: bool,
    #[serde(borrow)]
    plugins: Vec<&'a RawValue>,
}

/// One plugin of a list, or the only one of a `*.conf`.
#[derive(Debug, Deserialize)]
struct Plugin<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

/// A configuration of a single plugin (`*.conf`, `*.json`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Single<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    cni_version: Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

impl<'a> List<'a> {
    /// Parses a list that creates a network.
    pub(super) fn parse(text: &'a str) -> Result<Self, ListError> {
        let list: Self = serde_json::from_str(text)?;
        let ours = list.ours()?;
        if list.name.is_empty() || ours.iter().all(|is_ours| *is_ours) {
            return Err(ListError::Empty);
        }
        Ok(list)
    }

    /// Reports for each plugin whether it is ours.
    fn ours(&self) -> Result<Vec<bool>, ListError> {
        let all = self.plugins.iter();
        all.map(|raw| is_ours(raw.get())).collect()
    }

    /// Counts the plugins of others.
    pub(super) fn others(&self) -> usize {
        let ours = self.ours().unwrap_or_default();
        ours.iter().filter(|is_ours| !**is_ours).count()
    }

    /// Returns a plugin's range in the text that was parsed.
    fn place(&self, text: &str, n: usize) -> Range<usize> {
        let raw = self.plugins[n].get();
        let start = raw.as_ptr().addr() - text.as_ptr().addr();
        start..start + raw.len()
    }

    /// Reports whether a runtime that supports drop-ins reads the folder with the network's name.
    pub(super) fn reads_drop_ins(&self) -> bool {
        // Such names lead to other folders; CNI doesn't allow them anyway.
        let is_plain = !self.name.contains('/') && !self.name.starts_with('.');
        is_plain && !self.load_only_inlined_plugins
    }

    /// Checks that the plugin supports the version that the runtime will call it with: the highest
    /// version that both support, including those of `cniVersions`.
    pub(super) fn check_version(&self) -> Result<(), ListError> {
        let highest = self.cni_versions.iter().max_by_key(|text| numbers(text));
        let told = [Some(self.cni_version.as_ref()), highest.map(String::as_str)];
        let mut told = told.into_iter().flatten();
        match told.find(|version| !VERSIONS.contains(version)) {
            Some(version) => Err(ListError::Version(version.to_owned())),
            None => Ok(()),
        }
    }
}

fn numbers(version: &str) -> Vec<u64> {
    version.split('.').filter_map(|n| n.parse().ok()).collect()
}

/// Reports whether an object is an entry of our plugin.
pub(super) fn is_ours(object: &str) -> Result<bool, ListError> {
    let plugin: Plugin<'_> = serde_json::from_str(object)?;
    if plugin.kind.is_empty() {
        return Err(ListError::Syntax("a plugin without a type".to_owned()));
    }
    Ok(plugin.kind == PLUGIN)
}

/// Returns the list with this entry after all others; none if it is there already.
pub(super) fn put(text: &str, entry: &str) -> Result<Option<String>, ListError> {
    let list = List::parse(text)?;
    list.check_version()?;
    let ours = list.ours()?;
    let is_last = ours.iter().position(|is_ours| *is_ours) == Some(ours.len() - 1);
    if is_last && are_equal(list.plugins[ours.len() - 1].get(), entry)? {
        return Ok(None);
    }
    let without = take(text)?;
    let without = without.as_deref().unwrap_or(text);
    let list = List::parse(without)?;
    let before = &without[..list.place(without, 0).start];
    let gap = &before[before.trim_end_matches(SPACE).len()..];
    let (head, tail) = without.split_at(list.place(without, list.plugins.len() - 1).end);
    Ok(Some(format!("{head},{gap}{entry}{tail}")))
}

/// Whitespace allowed between two values.
const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Returns the list without our plugin's entries; none if there are none.
pub(super) fn take(text: &str) -> Result<Option<String>, ListError> {
    let mut text = Cow::Borrowed(text);
    loop {
        let list = List::parse(&text)?;
        let Some(n) = list.ours()?.iter().position(|is_ours| *is_ours) else {
            break;
        };
        let own = list.place(&text, n);
        // Includes the comma before the entry, or the one after the first entry.
        let cut = match n.checked_sub(1) {
            Some(before) => list.place(&text, before).end..own.end,
            None => own.start..list.place(&text, 1).start,
        };
        let mut rest = text.clone().into_owned();
        rest.replace_range(cut, "");
        text = Cow::Owned(rest);
    }
    Ok(match text {
        Cow::Borrowed(_) => None,
        Cow::Owned(text) => Some(text),
    })
}

/// Reports whether two objects are equal as JSON.
pub(super) fn are_equal(a: &str, b: &str) -> Result<bool, ListError> {
    Ok(serde_json::from_str::<Value>(a)? == serde_json::from_str::<Value>(b)?)
}

/// Checks that a file with a single plugin creates a network; ours alone creates none.
pub(super) fn check_single(text: &str) -> Result<(), ListError> {
    let single: Single<'_> = serde_json::from_str(text)?;
    if single.name.is_empty() || single.kind.is_empty() || single.kind == PLUGIN {
        return Err(ListError::Empty);
    }
    Ok(())
}

/// Returns a list that creates the same network as a file with a single plugin.
pub(super) fn convert(text: &str) -> Result<String, ListError> {
    check_single(text)?;
    let single: Single<'_> = serde_json::from_str(text)?;
    let quoted = serde_json::to_string;
    Ok(format!(
        "{{\n  \"cniVersion\": {},\n  \"name\": {},\n  \"plugins\": [\n    {}\n  ]\n}}\n",
        quoted(&single.cni_version)?,
        quoted(&single.name)?,
        text.trim_matches(SPACE)
    ))
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
