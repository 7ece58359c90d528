//! Selects the network that a node's runtime uses.

use std::path::{Path, PathBuf};

use super::list::{List, check_single};

/// A file of the configuration folder: its text, or why it couldn't be read.
pub(super) type File = (PathBuf, Result<String, String>);

/// The network that new pods get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Network {
    /// A list, and its text.
    List(PathBuf, String),
    /// A file with a single plugin, to which none can be added.
    Single(PathBuf, String),
}

/// Reports whether runtimes read a file of this name.
pub(super) fn counts(path: &Path) -> bool {
    [".conf", ".conflist", ".json"]
        .iter()
        .any(|end| ends(path, end))
}

/// Reports whether a file contains a list rather than a single plugin.
pub(super) fn is_list(path: &Path) -> bool {
    ends(path, ".conflist")
}

fn ends(path: &Path, end: &str) -> bool {
    path.as_os_str()
        .as_encoded_bytes()
        .ends_with(end.as_bytes())
}

/// Returns the first valid file by name, as containerd and CRI-O do, and the faults of the files
/// before it. CRI-O skips a broken file; containerd keeps its previous network, on which an entry
/// in the next file has no effect.
pub(super) fn choose(mut files: Vec<File>) -> (Option<Network>, Vec<String>) {
    files.sort();
    let mut faults = Vec::new();
    for (path, text) in files {
        let is_list = is_list(&path);
        let checked = text.and_then(|text| {
            let checked = if is_list {
                List::parse(&text).map(drop)
            } else {
                check_single(&text)
            };
            checked.map(|()| text).map_err(|error| error.to_string())
        });
        match checked {
            Ok(text) if is_list => return (Some(Network::List(path, text)), faults),
            Ok(text) => return (Some(Network::Single(path, text)), faults),
            Err(why) => faults.push(format!("{}: {why}; left unchanged", path.display())),
        }
    }
    (None, faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINGLE: &str = r#"{"name":"a","type":"ptp"}"#;
    const LIST: &str = r#"{"name":"a","plugins":[{"type":"ptp"}]}"#;

    fn chosen(files: &[(&str, &str)]) -> (Option<String>, usize) {
        let file = |(name, text): &(&str, &str)| (PathBuf::from(name), Ok((*text).to_owned()));
        let (network, faults) = choose(files.iter().map(file).collect());
        let path = network.map(|network| match network {
            Network::List(path, _) => format!("list {}", path.display()),
            Network::Single(path, _) => format!("single {}", path.display()),
        });
        (path, faults.len())
    }

    #[test]
    fn the_first_valid_file_by_name_is_the_runtimes() {
        let files = [("20-b.conflist", LIST), ("10-a.conf", SINGLE)];
        assert_eq!(chosen(&files), (Some("single 10-a.conf".into()), 0));
        // A list under the wrong name, and a plugin without a list, are no network.
        let files = [
            ("1.conf", LIST),
            ("2.conflist", SINGLE),
            ("3.conflist", LIST),
        ];
        assert_eq!(chosen(&files), (Some("list 3.conflist".into()), 2));
        assert_eq!(chosen(&[("1.conflist", "{")]), (None, 1));
        assert_eq!(chosen(&[]), (None, 0));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let files = vec![("/n/1.conf".into(), Err("no".to_owned()))];
        let (network, faults) = choose(files);
        assert_eq!(network, None);
        assert_eq!(faults, ["/n/1.conf: no; left unchanged"]);
    }

    #[test]
    fn only_three_extensions_count() {
        for name in ["a.conf", "a.conflist", "a.json", ".conf"] {
            assert!(counts(Path::new(name)), "{name}");
        }
        for name in ["a", "a.conf.ringfence-saved", "conflist", "a.CONF"] {
            assert!(!counts(Path::new(name)), "{name}");
        }
    }
}
