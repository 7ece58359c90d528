//! What `deploy/` holds, as a cluster gets it: rendered by kustomize, read as
//! YAML; and the tools that `cargo xtask setup` put there for it.

mod container;
mod image;
mod prometheus;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize as _;
use serde_json::Value;

pub use container::{Container, Host};
pub use image::Image;
pub use prometheus::Prometheus;

/// A file or folder of the checkout's `deploy/`.
pub fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

/// The target folder in which this test was built.
pub fn target() -> Result<PathBuf> {
    let here = env::current_exe()?;
    // target/TRIPLE/PROFILE/deps/TEST
    let target = here.ancestors().nth(4).context("a test runs elsewhere")?;
    Ok(target.to_owned())
}

/// The binary that `cargo xtask build` made.
pub fn static_binary() -> Result<PathBuf> {
    let binary = target()?.join("static/ringfence");
    ensure!(
        binary.exists(),
        "{} isn't there: `cargo xtask build`",
        binary.display()
    );
    Ok(binary)
}

/// A command of a program that is on PATH or that setup unpacked.
pub fn tool(name: &str) -> Result<Command> {
    let tools = target()?.join("tools");
    let path = env::var_os("PATH").unwrap_or_default();
    let own = ["prometheus/usr/bin", "containerd/usr/bin", "python/bin"];
    let own = own.map(|folder| tools.join(folder));
    let program = own
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    let program = program.with_context(|| format!("no {name} here: `cargo xtask setup`"))?;
    Ok(Command::new(program))
}

/// Runs a command; its output, or an error with all that it said.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("can't start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{command:?} ended with {}:\n{said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said.into_owned())
}

/// What `kubectl apply -k` would send of a folder of `deploy/`.
pub fn kustomize(folder: &str) -> Result<String> {
    output(tool("kubectl")?.arg("kustomize").arg(deploy(folder)))
}

/// The same of a folder with components of `deploy/components` on top.
pub fn kustomize_with(folder: &str, components: &[&str]) -> Result<String> {
    let own = tempfile::tempdir()?;
    // Kustomize takes relative paths alone.
    let depth = own.path().canonicalize()?.components().count() - 1;
    let relative = |name: String| -> Result<String> {
        let path = deploy(&name).canonicalize()?;
        Ok("..".to_owned() + &"/..".repeat(depth - 1) + &path.to_string_lossy())
    };
    let components = components
        .iter()
        .map(|name| relative(format!("components/{name}")));
    let whole = serde_json::json!({
        "resources": [relative(folder.to_owned())?],
        "components": components.collect::<Result<Vec<_>>>()?,
    });
    // JSON is YAML.
    fs::write(own.path().join("kustomization.yaml"), whole.to_string())?;
    output(tool("kubectl")?.arg("kustomize").arg(own.path()))
}

/// The documents of a YAML file.
pub fn documents(yaml: &str) -> Result<Vec<Value>> {
    serde_yaml_ng::Deserializer::from_str(yaml)
        .map(|document| Ok(Value::deserialize(document)?))
        .collect()
}

/// The one object of a kind among documents.
pub fn only<'a>(documents: &'a [Value], kind: &str) -> Result<&'a Value> {
    let found: Vec<&Value> = documents.iter().filter(|one| one["kind"] == kind).collect();
    ensure!(found.len() == 1, "{} objects {kind}", found.len());
    Ok(found[0])
}

/// The strings of a list.
pub fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items
        .filter_map(|item| item.as_str())
        .map(str::to_owned)
        .collect()
}
