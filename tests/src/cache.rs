//! The folder outside the clone where `dogwatch.sh test` puts what the tests need: Kafka's jars, Python's packages.

use std::env;
use std::path::PathBuf;

/// Path of something in the cache.
///
/// # Panics
/// When it is not there.
pub fn path(name: &str) -> PathBuf {
    let path = folder().join(name);
    assert!(
        path.exists(),
        "{} is missing: run ./dogwatch.sh install",
        path.display()
    );
    path
}

fn folder() -> PathBuf {
    let caches = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home =
        || PathBuf::from(env::var_os("HOME").expect("HOME names the user's folder")).join(".cache");
    caches.unwrap_or_else(home).join("dogwatch")
}

/// The repository's root.
pub fn repository() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("the tests' folder lies in the repository")
        .to_path_buf()
}
