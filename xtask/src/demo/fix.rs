//! Applies the change that `explain` proposes to the manifests as a person would:
//! merges the patch into the object that it names.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::cluster::{self, text};
use super::expected::Expected;
use super::report::{Colour, fine, paint};
use super::stage::{Stage, binary};
use super::traffic::Call;

/// Time limit for a change to come into force.
const PATIENCE: Duration = Duration::from_secs(10);

/// Explains one denied call, applies the fix, and waits until the call passes.
pub(super) fn explain_and_apply(stage: &Stage, expected: &Expected) -> Result<()> {
    let (from, to) = &expected.fix;
    let explanation = explain(stage, from, to, &[])?;
    for line in explanation.lines() {
        println!("  {line}");
    }
    let json = explain(stage, from, to, &["-o", "json"])?;
    let json: Value = serde_json::from_str(&json).context("ringfence explain -o json")?;
    let fixes = json["fix"].as_array().filter(|fixes| !fixes.is_empty());
    for fix in fixes.context("explain proposes no fix")? {
        apply(&stage.manifests, fix).with_context(|| format!("can't apply the fix {fix}"))?;
    }
    let changed = Instant::now();
    for v4 in [true, false] {
        let call = Call::new(stage, from, to, v4, 'X')?;
        while call.make()? != '.' {
            ensure!(
                changed.elapsed() < PATIENCE,
                "{from} to {to} is still denied {PATIENCE:?} after the fix"
            );
        }
    }
    let took = changed.elapsed().as_millis();
    fine(&format!(
        "fix written to the manifests; the call passes {took} ms later, no restart"
    ));
    Ok(())
}

/// Returns the output of `explain`, which must find the call denied.
fn explain(stage: &Stage, from: &str, to: &str, more: &[&str]) -> Result<String> {
    let (from, to) = (
        stage.cluster.pod(from)?.full_name(),
        stage.cluster.pod(to)?.full_name(),
    );
    let command = format!("ringfence explain {from} {to} TCP/8080");
    if more.is_empty() {
        println!(
            "  {}",
            paint(Colour::Dim, &format!("$ {command} --manifests …"))
        );
    }
    let mut explain = std::process::Command::new(binary()?);
    let explain = explain
        .args(["explain", &from, &to, "TCP/8080", "--manifests"])
        .arg(&stage.manifests)
        .args(more);
    let output = explain
        .output()
        .with_context(|| format!("can't start {command}"))?;
    if output.status.code() != Some(1) {
        bail!(
            "{command} ended with {} where the call is denied: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Merges the patch into its object, in whichever file contains it; a patch that is a
/// complete new object becomes a separate file.
fn apply(manifests: &Path, fix: &Value) -> Result<()> {
    let patch = text(fix, "/patch");
    if patch.starts_with("apiVersion") {
        return replace(&manifests.join("fix.yaml"), patch);
    }
    let patches = cluster::parse(patch)?;
    for path in cluster::files(manifests)? {
        let mut objects = cluster::documents(&path)?;
        let mut meant = objects.iter_mut();
        if let Some(object) = meant.find(|object| name(object) == text(fix, "/object")) {
            patches.iter().for_each(|patch| merge(object, patch));
            // JSON is YAML; comments are lost, but the file is only the demo's copy.
            let documents: Vec<String> = objects.iter().map(|o| format!("{o:#}")).collect();
            return replace(&path, &documents.join("\n---\n"));
        }
    }
    bail!("no manifest holds {}", fix["object"])
}

/// Replaces a file by renaming, as editors do: the agent never sees a partial file.
fn replace(path: &Path, text: &str) -> Result<()> {
    let partial = path.with_extension("partial");
    fs::write(&partial, text)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("can't replace {}", path.display()))
}

/// Returns an object's name as `explain` prints it: `Pod bank/service-ledger-1`.
fn name(object: &Value) -> String {
    let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
    match text(object, "/metadata/namespace") {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    }
}

/// Merges like `kubectl patch --type merge`: maps are merged, everything else is replaced.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            match value {
                Value::Null => drop(target.remove(key)),
                value => merge(target.entry(key).or_insert(Value::Null), value),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_adds_a_label_and_leaves_the_others() {
        let mut pod = json!({"kind": "Pod", "metadata": {"labels": {"app": "a", "old": "1"}}});
        merge(
            &mut pod,
            &json!({"metadata": {"labels": {"new": "true", "old": null}}}),
        );
        assert_eq!(
            pod["metadata"]["labels"],
            json!({"app": "a", "new": "true"})
        );
    }
}
