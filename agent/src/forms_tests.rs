use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::json;
use tempfile::TempDir;

use super::*;

fn form(namespace: &str, name: &str, bytes: usize) -> KeptForm {
    KeptForm {
        kind: "NetworkPolicy".into(),
        namespace: namespace.into(),
        name: name.into(),
        uid: "1".into(),
        object: json!("x".repeat(bytes)),
    }
}

fn place() -> (TempDir, Forms) {
    let dir = tempfile::tempdir().unwrap();
    let forms = Forms::beside(&dir.path().join("agent.sock"));
    (dir, forms)
}

fn file(forms: &Forms) -> PathBuf {
    forms.folder.join(NAME)
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_is_kept_is_read_back_and_only_its_owner_may_see_it() {
    let (dir, mut forms) = place();
    assert_eq!(forms.read().unwrap(), []);
    assert_eq!(forms.write(vec![form("a", "p", 3)]).unwrap(), [""; 0]);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&forms.folder), mode(&file(&forms))), (0o700, 0o600));
    let mut again = Forms::beside(&dir.path().join("agent.sock"));
    assert_eq!(again.read().unwrap(), [form("a", "p", 3)]);
    let left: Vec<_> = fs::read_dir(&forms.folder).unwrap().collect();
    assert_eq!(left.len(), 1);
}

#[test]
fn with_nothing_to_keep_nothing_is_left_and_nothing_is_made() {
    let (dir, mut forms) = place();
    forms.write(Vec::new()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    forms.write(vec![form("a", "p", 3)]).unwrap();
    // The next agent reads it, too.
    let mut forms = Forms::beside(&dir.path().join("agent.sock"));
    forms.read().unwrap();
    forms.write(Vec::new()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_is_cut_off_of_another_version_or_anything_else_is_refused_with_the_reason() {
    let (_dir, mut forms) = place();
    forms.write(vec![form("a", "p", 300)]).unwrap();
    let path = file(&forms);
    let good = fs::read_to_string(&path).unwrap();
    for cut in [0, 1, good.len() / 2, good.len() - 1] {
        fs::write(&path, &good[..cut]).unwrap();
        assert!(forms.read().is_err(), "{cut}");
    }
    fs::write(&path, good.replace("\"version\":1", "\"version\":2")).unwrap();
    let error = forms.read().unwrap_err().to_string();
    assert!(error.ends_with("version 2, expected 1"), "{error}");
    for hostile in [
        "[]",
        "null",
        "{\"version\":1,\"forms\":[7]}",
        "\u{0}",
        "{\"version\":1}",
    ] {
        fs::write(&path, hostile).unwrap();
        assert!(forms.read().is_err(), "{hostile}");
    }
    // The next write replaces it.
    forms.write(vec![form("a", "p", 3)]).unwrap();
    assert_eq!(forms.read().unwrap(), [form("a", "p", 3)]);
}

#[test]
fn what_others_could_have_written_is_refused() {
    let (dir, mut forms) = place();
    forms.write(vec![form("a", "p", 3)]).unwrap();
    let path = file(&forms);
    for (what, mode) in [
        (&path, 0o620),
        (&path, 0o604),
        (&forms.folder.clone(), 0o770),
    ] {
        let before = fs::metadata(what).unwrap().mode();
        chmod(what, mode);
        let error = forms.read().unwrap_err();
        assert!(matches!(error, FormsError::NotOurs { .. }), "{error}");
        chmod(what, before);
    }
    assert!(forms.read().is_ok());
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(forms.read().is_err(), "a link");
}

#[test]
fn one_namespace_takes_no_more_than_its_share_and_all_together_no_more_than_there_is() {
    let own = (0..5).map(|n| form("evil", &format!("p{n}"), ONE / 4));
    let (kept, left_out) = fitting(own.chain([form("bank", "p", 10)]).collect());
    assert_eq!(left_out.len(), 2, "{left_out:?}");
    assert!(
        left_out
            .iter()
            .all(|name| name.starts_with("NetworkPolicy evil/"))
    );
    assert!(kept.iter().any(|form| form.namespace == "bank"));
    let many = (0..12).map(|n| form(&format!("s{n:02}"), "p", ONE - 10));
    let (kept, left_out) = fitting(many.chain([form("bank", "p", 10)]).collect());
    assert!(kept.iter().any(|form| form.namespace == "bank"));
    assert_eq!((kept.len(), left_out.len()), (9, 4));
    let page = Page {
        version: VERSION,
        forms: kept,
    };
    assert!((serde_json::to_vec(&page).unwrap().len() as u64) < LARGEST);
}
