//! The host's own key, by which equal secrets have equal hashes in their marks, and nobody else can try words out.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

const BYTES: usize = 32;

/// See the module's description.
#[derive(Clone)]
pub(crate) struct Key([u8; BYTES]);

impl Key {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads the key, or makes one, readable by its owner alone, where there is none.
    ///
    /// # Errors
    /// When the file can be neither read nor made, has another length, or may be read by others.
    pub fn read_or_make(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.mode() & 0o077 != 0 => {
                Err(io::Error::other("others may read it: chmod 600"))
            }
            Ok(_) => {
                let bytes = fs::read(path)?;
                let key = bytes.try_into().map(Self);
                key.map_err(|bytes: Vec<u8>| {
                    io::Error::other(format!("{} bytes, not {BYTES}", bytes.len()))
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path),
            Err(error) => Err(error),
        }
    }

    fn make(path: &Path) -> io::Result<Self> {
        let key = rand::random::<[u8; BYTES]>();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&key)?;
        Ok(Self(key))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/sensor.key");
        let made = Key::read_or_make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Key::read_or_make(&path).unwrap().0, made.0);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Key::read_or_make(&path).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        assert!(Key::read_or_make(&path).is_err());
    }
}
