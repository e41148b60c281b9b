//! Commands that the operator calls healthchecks, by image: exec probes and hooks of Kubernetes, healthchecks of Podman.
//! Where no file of a runtime has them ([`manifest`](super::manifest)), they are named in the configuration.
//!
//! ```text
//! reg.example/shop/*  /bin/sh -c 'test -f /tmp/healthy'
//! image               arguments, whole and in their order
//! ```

use dogwatch_schemas::Text;

use super::Container;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// An image without its tag; with `*` at its end whatever begins so.
    image: Text,
    command: Vec<Text>,
}

impl Probe {
    /// Reads one as it is configured; `None` without an image and a command, or with a quote that does not end.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = words(line)?.into_iter();
        let image = words.next()?;
        let command: Vec<Text> = words.collect();
        (!image.is_empty() && !command.is_empty()).then_some(Self { image, command })
    }

    fn fits(&self, container: &Container) -> bool {
        let named = [&container.repository, &container.image];
        let mut named = named.into_iter().flatten();
        match self.image.strip_suffix('*') {
            Some(start) => named.any(|name| name.starts_with(start)),
            None => named.any(|name| *name == self.image),
        }
    }
}

/// The commands of those that fit a container.
pub(super) fn of(probes: &[Probe], container: &Container) -> Vec<Vec<Text>> {
    let fitting = probes.iter().filter(|probe| probe.fits(container));
    fitting.map(|probe| probe.command.clone()).collect()
}

/// Splits at blanks; what stands in quotes is one word, or a part of it.
fn words(line: &str) -> Option<Vec<Text>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(letter),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, letter) if letter.is_whitespace() => {
                words.extend(word.take().map(Text::from));
            }
            (None, _) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word.map(Text::from));
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(line: &str, image: &str, repository: &str) -> Vec<Vec<Text>> {
        let container = Container {
            image: Some(image.into()),
            repository: Some(repository.into()),
            ..Container::default()
        };
        of(&[Probe::parse(line).unwrap()], &container)
    }

    #[test]
    fn arguments_are_words_and_quotes_keep_blanks() {
        let found = commands(r#"app sh -c 'test -f "/ok"' "" a"b c"d"#, "app:7", "app");
        let expected = ["sh", "-c", "test -f \"/ok\"", "", "ab cd"].map(Text::from);
        assert_eq!(found, [expected]);
    }

    #[test]
    fn an_image_is_named_whole_or_by_its_beginning() {
        for (image, fits) in [
            ("reg.example/app", true),
            ("reg.example/app:7", true),
            ("reg.example/*", true),
            ("*", true),
            ("reg.example/ap", false),
            ("other/*", false),
        ] {
            let line = format!("{image} true");
            let found = commands(&line, "reg.example/app:7", "reg.example/app");
            assert_eq!(found.len(), usize::from(fits), "{image}");
        }
        let unknown = Container::default();
        assert!(of(&[Probe::parse("* true").unwrap()], &unknown).is_empty());
    }

    #[test]
    fn half_a_probe_is_none() {
        for line in ["", "app", "app 'sh", "'' sh"] {
            assert_eq!(Probe::parse(line), None, "{line}");
        }
    }
}
