//! The point after each map write at which a test build may end the process.

/// Does nothing in a release build; called after each map write that puts a change in force.
#[cfg(not(feature = "other-policy"))]
pub(super) const fn written() {}

/// Ends the process as configured by `RINGFENCE_DIE`, in the syntax of the crate `fail`:
/// `3*off->return` ends it after the fourth write made while the file `RINGFENCE_DIE_WITH` exists.
#[cfg(feature = "other-policy")]
pub(super) fn written() {
    use std::path::PathBuf;
    use std::sync::LazyLock;

    /// The file; none if the process is not to be ended.
    static WITH: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let actions = std::env::var("RINGFENCE_DIE").ok()?;
        if let Err(error) = fail::cfg("written", &actions) {
            tracing::error!("RINGFENCE_DIE: {error}");
        }
        std::env::var_os("RINGFENCE_DIE_WITH").map(PathBuf::from)
    });
    let armed = WITH.as_ref().is_some_and(|file| file.exists());
    fail::fail_point!("written", armed, |_| std::process::abort());
}
