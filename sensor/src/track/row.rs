//! What comes out of the tracker: rows for topics.

use std::sync::Arc;

use dogwatch_schemas::Text;
use dogwatch_schemas::framing;
use dogwatch_schemas::records::{self, Event, EventSection};

use super::blocks::Block;
use crate::fact::Host;

/// A row of a topic.
#[derive(Debug)]
pub(crate) enum Row {
    /// For `dogwatch.events`.
    Event(EventRow),
    /// For `dogwatch.containers`.
    Container(Box<records::Container>),
    /// For `dogwatch.container-samples`.
    ContainerSample(Box<records::ContainerSample>),
    /// For `dogwatch.process-samples`.
    ProcessSample(Box<records::ProcessSample>),
    /// For `dogwatch.io-samples`.
    IoSample(Box<records::IoSample>),
    /// For `dogwatch.syscall-samples`.
    SyscallSample(Box<records::SyscallSample>),
}

/// The columns of the sensor's run, encoded: the same for all its events.
#[derive(Debug, Clone)]
pub(crate) struct RunColumns(Arc<[u8]>);

impl RunColumns {
    /// The columns of a run on this host.
    pub fn of(host: &Host) -> Self {
        let event = Event {
            host_id: host.host_id.clone(),
            host_name: host.host_name.clone(),
            host_tags: host.host_tags.clone(),
            boot_id: host.boot_id.clone(),
            sensor_run: host.sensor_run.clone(),
            ..Event::default()
        };
        let mut bytes = Vec::new();
        event.encode_section(EventSection::Run, &mut bytes);
        Self(bytes.into())
    }
}

/// An event on its way out: what it tells itself, beside what is encoded already.
#[derive(Debug)]
pub(crate) struct EventRow {
    run: RunColumns,
    /// What it tells itself: all columns but the run's, and but those of the block where there is one.
    /// In a box from its beginning: it has some 140 columns, and is handed on a dozen times.
    pub event: Box<Event>,
    block: Option<Arc<Block>>,
}

impl EventRow {
    /// An event that tells of its process, if it has one, itself.
    pub fn alone(run: &RunColumns, event: Box<Event>) -> Self {
        Self {
            run: run.clone(),
            event,
            block: None,
        }
    }

    /// An event of a process whose columns are encoded.
    pub fn of_process(run: &RunColumns, mut event: Box<Event>, block: Arc<Block>) -> Self {
        event.evt_escaped |= block.escaped;
        event.evt_redacted |= block.redacted;
        event.evt_truncated |= block.truncated;
        Self {
            run: run.clone(),
            event,
            block: Some(block),
        }
    }

    /// The container of the row, `host` or `unknown`.
    pub fn container_id(&self) -> &Text {
        let event = &self.event.container_id;
        self.block
            .as_ref()
            .map_or(event, |block| &block.container_id)
    }

    /// Appends the record as an Avro single object.
    pub fn encode_framed(&self, out: &mut Vec<u8>) {
        framing::write_header(Event::fingerprint(), out);
        for section in EventSection::ALL {
            let encoded = match section {
                EventSection::Run => Some(&*self.run.0),
                _ => self.block.as_ref().and_then(|block| block.section(section)),
            };
            match encoded {
                Some(bytes) => out.extend_from_slice(bytes),
                None => self.event.encode_section(section, out),
            }
        }
    }

    /// The whole event, as a reader of the topic gets it.
    #[cfg(test)]
    pub fn whole(&self) -> Event {
        let mut framed = Vec::new();
        self.encode_framed(&mut framed);
        Event::decode_framed(&framed).unwrap()
    }
}
