//! What the storage that Podman and CRI-O use says of a container: `overlay-containers/containers.json`, beside its bundle.
//!
//! Containers that go with their end (`podman run --rm`) are in `volatile-containers.json`. Both name all containers of
//! their storage, so they are parsed entry by entry.

use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};

use super::Container;
use super::bounded::{Line, List};
use super::docker::Reference;
use super::files::Files;

const LISTS: [&str; 2] = ["containers.json", "volatile-containers.json"];

/// The part of an entry that is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    id: Line,
    names: Option<List>,
    image: Option<Line>,
    metadata: Option<Line>,
    created: Option<Line>,
}

/// What the entry's metadata says; JSON in a text.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    #[serde(rename = "image-name")]
    image_name: Option<Line>,
}

/// Finds the entry of an id, holding one at a time.
struct Of<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Of<'_> {
    type Value = Option<Entry>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Of<'_> {
    type Value = Option<Entry>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a list of containers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(entry) = list.next_element::<Entry>()? {
            if *entry.id.text == *self.0 {
                found = Some(entry);
            }
        }
        Ok(found)
    }
}

/// Completes a container whose bundle lies in such a storage; false where it is in none.
pub(super) fn complete(files: &Files, bundle: &Path, id: &str, container: &mut Container) -> bool {
    // …/overlay-containers/ID/userdata
    let Some(storage) = bundle.parent().and_then(Path::parent) else {
        return false;
    };
    let graph = graph_root(storage);
    let folders = std::iter::once(storage).chain(graph.as_deref());
    let found = folders
        .flat_map(|folder| LISTS.map(|list| folder.join(list)))
        .find_map(|path| {
            let found = files.parse(&path, |parser| Of(id).deserialize(parser));
            found.ok().flatten()
        });
    let Some(entry) = found else {
        return false;
    };
    apply(entry, container);
    true
}

/// Where a storage keeps what outlives a boot, if the bundle is not there: CRI-O's bundles are below the run root.
fn graph_root(storage: &Path) -> Option<std::path::PathBuf> {
    let below = storage.strip_prefix("/run/containers/storage").ok();
    let below = below.or_else(|| storage.strip_prefix("/var/run/containers/storage").ok())?;
    Some(Path::new("/var/lib/containers/storage").join(below))
}

fn apply(entry: Entry, container: &mut Container) {
    let names = entry.names.unwrap_or_default();
    let name = names.items.into_iter().next();
    container.name = container.name.take().or(name);
    let image_id = entry.image.map(|image| image.text);
    let image_id = image_id.filter(|id| !id.is_empty());
    container.image_id = container.image_id.take().or(image_id);
    let metadata: Metadata = entry
        .metadata
        .and_then(|metadata| serde_json::from_str(&metadata.text).ok())
        .unwrap_or_default();
    let image = metadata.image_name.map(|name| name.text);
    if let Some(image) = image.filter(|name| !name.is_empty())
        && container.image.is_none()
    {
        let reference = Reference::of(&image);
        container.image = Some(image);
        container.repository = reference.repository;
        container.tag = reference.tag;
        container.digest = container.digest.take().or(reference.digest);
    }
    let created = entry
        .created
        .and_then(|time| super::docker::timestamp_ns(&time.text));
    container.created_ns = created.or(container.created_ns);
    container.source = "bundle_and_storage".into();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"[
        {"id":"aa","names":["other"],"image":"11","layer":"l","metadata":"{}","created":"2026-11-24T00:10:24Z"},
        {"id":"bb","names":["web"],"image":"22","layer":"l",
         "metadata":"{\"image-name\":\"docker.io/library/app:7\",\"image-id\":\"22\",\"name\":\"web\",\"created-at\":1}",
         "created":"2026-11-24T00:10:24.088682486Z","flags":{"MountLabel":""}}]"#;

    #[test]
    fn names_and_images_are_in_either_list() {
        for list in LISTS {
            let storage = tempfile::tempdir().unwrap();
            std::fs::write(storage.path().join(list), LIST).unwrap();
            let bundle = storage.path().join("bb/userdata");
            let mut container = Container::default();
            assert!(complete(&Files::default(), &bundle, "bb", &mut container));
            assert_eq!(container.name.as_deref(), Some("web"));
            assert_eq!(container.image.as_deref(), Some("docker.io/library/app:7"));
            assert_eq!(container.image_id.as_deref(), Some("22"));
            assert_eq!(
                container.repository.as_deref(),
                Some("docker.io/library/app")
            );
            assert_eq!(container.tag.as_deref(), Some("7"));
            assert_eq!(container.created_ns, Some(1_795_479_024_088_682_486));
            assert!(!complete(&Files::default(), &bundle, "cc", &mut container));
        }
    }

    #[test]
    fn what_is_known_better_stays() {
        let storage = tempfile::tempdir().unwrap();
        std::fs::write(storage.path().join("containers.json"), LIST).unwrap();
        let mut container = Container {
            name: Some("app".into()),
            image: Some("reg.example/app:8".into()),
            ..Container::default()
        };
        let bundle = storage.path().join("bb/userdata");
        complete(&Files::default(), &bundle, "bb", &mut container);
        assert_eq!(container.name.as_deref(), Some("app"));
        assert_eq!(container.image.as_deref(), Some("reg.example/app:8"));
        assert_eq!(container.image_id.as_deref(), Some("22"));
    }

    #[test]
    fn what_outlives_a_boot_lies_elsewhere() {
        let run = Path::new("/run/containers/storage/overlay-containers");
        let graph = Path::new("/var/lib/containers/storage/overlay-containers");
        assert_eq!(graph_root(run).as_deref(), Some(graph));
        assert_eq!(graph_root(graph), None);
    }
}
