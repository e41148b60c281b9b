//! What Docker's API, which Podman serves as well, says of a container: labels, healthcheck, the image's digest.

use std::collections::BTreeMap;
use std::path::Path;

use dogwatch_schemas::Text;
use serde::Deserialize;

use super::AskError;
use super::http::get;
use super::told::{Bounds, digest_of};
use crate::container::{Question, Told, healthcheck_arguments, image_id};

/// The part of `/containers/ID/json` that is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Container {
    id: String,
    name: String,
    image: String,
    config: Config,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    image: String,
    labels: Option<BTreeMap<String, String>>,
    healthcheck: Option<Healthcheck>,
    shell: Option<Vec<Text>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Healthcheck {
    test: Option<Vec<Text>>,
}

/// The part of `/images/ID/json` that is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Image {
    repo_digests: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Version {
    version: String,
    components: Option<Vec<Component>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Component {
    name: String,
}

async fn ask_for<T: for<'a> Deserialize<'a>>(
    path: &Path,
    target: &str,
) -> Result<Option<T>, AskError> {
    let Some(bytes) = get(path, target).await? else {
        return Ok(None);
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map_err(|error| AskError::Damaged(error.to_string()))
}

/// Who serves the socket: its name and version.
pub(super) async fn greet(path: &Path) -> Result<String, AskError> {
    let version: Version = ask_for(path, "/version").await?.unwrap_or_default();
    let components = version.components.unwrap_or_default();
    let name = components.first().map_or("an engine", |first| &first.name);
    Ok(format!("{name} {}", version.version))
}

/// What is known of a container; `None` where there is no such.
pub(super) async fn ask(
    path: &Path,
    question: &Question,
    bounds: &Bounds<'_>,
) -> Result<Option<Told>, AskError> {
    let target = format!("/containers/{}/json", question.id);
    let container: Option<Container> = ask_for(path, &target).await?;
    let Some(container) = container.filter(|container| *container.id == *question.id) else {
        return Ok(None);
    };
    let id = image_id(&container.image);
    let image: Option<Image> = match &id {
        Some(id) => ask_for(path, &format!("/images/{id}/json")).await?,
        None => None,
    };
    let digests = image.and_then(|image| image.repo_digests);
    let digests = digests.unwrap_or_default();
    let config = container.config;
    let test = config.healthcheck.and_then(|check| check.test);
    let test = test.unwrap_or_default();
    // A part of a healthcheck is another program's arguments.
    let executed = |shell| {
        let arguments = healthcheck_arguments(&test, config.shell.clone(), shell);
        arguments.filter(|arguments| bounds.holds(arguments))
    };
    let healthcheck = executed("/bin/sh");
    // Versions of Podman differ in whether PATH says which shell that is.
    let other = executed("sh").filter(|other| healthcheck.as_ref() != Some(other));
    let mut told = Told {
        name: bounds.line(container.name.trim_start_matches('/')),
        image: bounds.line(&config.image),
        image_id: id,
        digest: digest_of(&digests, question.repository.as_deref()),
        healthcheck,
        probes: Vec::from_iter(other),
        ..Told::default()
    };
    bounds.labels(config.labels.unwrap_or_default(), &mut told);
    Ok(Some(told))
}
