//! The point after each write of a map at which a build for tests may end.

/// Called after each write of a map on the way to a change in force.
#[cfg(not(feature = "other-policy"))]
pub(super) const fn written() {}

/// Ends the process where `RINGFENCE_DIE` says so, in the language of the crate `fail`:
/// `3*off->return` after the fourth write since the file `RINGFENCE_DIE_WITH` is there.
#[cfg(feature = "other-policy")]
pub(super) fn written() {
    use std::path::PathBuf;
    use std::sync::LazyLock;

    /// The file; none if nobody is to die.
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
