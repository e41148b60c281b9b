//! A producer whose delivery reports are served by a thread of its own that sleeps while there are none.
//!
//! rdkafka's `ThreadedProducer` asks with what is left of 100 ms in whole milliseconds, and so asks without a pause for
//! the last one of each: 1 % of a core on every host, where nothing happens (rdkafka 0.39, measured). Here librdkafka
//! writes a byte when its queue has something, and a thread reads it.

use std::io::{Read, Result, Write};
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::client::Client;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};

/// How long the thread sleeps at most: after that it looks without having been woken.
const SLEEP: Duration = Duration::from_secs(1);

/// A [`BaseProducer`], to which it dereferences, and the thread that calls its context; see the module's description.
pub struct ServedProducer<C: ProducerContext + 'static> {
    // Fields are dropped in this order: librdkafka wants references to its queues back before its client goes.
    events: Arc<Events>,
    producer: Arc<BaseProducer<C>>,
    thread: Option<JoinHandle<()>>,
}

impl<C: ProducerContext + 'static> Deref for ServedProducer<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &BaseProducer<C> {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> FromClientConfigAndContext<C> for ServedProducer<C> {
    /// Makes the producer and starts its thread.
    ///
    /// # Errors
    /// librdkafka's when it refuses a setting; `ClientCreation` when there is no room for a thread or two descriptors.
    fn from_config_and_context(config: &ClientConfig, context: C) -> KafkaResult<Self> {
        let producer: BaseProducer<C> = config.create_with_context(context)?;
        let producer = Arc::new(producer);
        let no_thread = |error: std::io::Error| KafkaError::ClientCreation(error.to_string());
        let (events, bell) = Events::of(producer.client()).map_err(no_thread)?;
        let events = Arc::new(events);
        let (served, of) = (producer.clone(), events.clone());
        let thread = Builder::new()
            .name("kafka deliveries".into())
            .spawn(move || of.serve(&served, bell))
            .map_err(no_thread)?;
        Ok(Self {
            events,
            producer,
            thread: Some(thread),
        })
    }
}

impl<C: ProducerContext + 'static> Drop for ServedProducer<C> {
    fn drop(&mut self) {
        self.events.end();
        if let Some(thread) = self.thread.take() {
            // A context that panicked has said so; the producer is dropped all the same.
            let _ = thread.join();
        }
    }
}

/// The queue of a client's events, and how its thread is woken.
struct Events {
    queue: *mut native::rd_kafka_queue_t,
    /// What librdkafka writes to, as well as [`Events::end`].
    rope: UnixStream,
    ended: AtomicBool,
}

// SAFETY: librdkafka's queues may be used from any thread, and this handle holds a reference of its own.
unsafe impl Send for Events {}
// SAFETY: as above.
unsafe impl Sync for Events {}

impl Events {
    /// Has the client's queue announce its events; what is read from the stream is when.
    fn of<C: ProducerContext>(client: &Client<C>) -> Result<(Self, UnixStream)> {
        let (bell, rope) = UnixStream::pair()?;
        bell.set_read_timeout(Some(SLEEP))?;
        // librdkafka must never wait for its reader.
        rope.set_nonblocking(true)?;
        // SAFETY: the client lives; the queue that comes back is a reference of ours, given back on drop.
        let queue = unsafe { native::rd_kafka_queue_get_main(client.native_ptr()) };
        let events = Self {
            queue,
            rope,
            ended: AtomicBool::new(false),
        };
        // SAFETY: the queue lives, the byte is copied, and the descriptor is open until this is taken back on drop.
        unsafe {
            native::rd_kafka_queue_io_event_enable(
                queue,
                events.rope.as_raw_fd(),
                [1u8].as_ptr().cast(),
                1,
            );
        }
        Ok((events, bell))
    }

    /// Serves what comes until [`Events::end`].
    fn serve<C: ProducerContext>(&self, producer: &BaseProducer<C>, mut bell: UnixStream) {
        let mut rung = [0; 64];
        while !self.ended.load(Ordering::Acquire) {
            // Woken, or the time is over: in both cases it looks.
            let _ = bell.read(&mut rung);
            // One event a call: with no time to wait, the loop inside ends after the first.
            producer.poll(Duration::ZERO);
            // SAFETY: the queue lives as long as this.
            while unsafe { native::rd_kafka_queue_length(self.queue) } > 0 {
                producer.poll(Duration::ZERO);
            }
        }
    }

    /// Ends the thread, after what it does just now.
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        // A stream that is full wakes it, too.
        let _ = (&self.rope).write(&[1]);
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: our reference to the queue, not used after this; without a descriptor nothing is written any more.
        unsafe {
            native::rd_kafka_queue_io_event_enable(self.queue, -1, std::ptr::null(), 0);
            native::rd_kafka_queue_destroy(self.queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
    use std::thread::sleep;

    use rdkafka::ClientContext;
    use rdkafka::producer::{BaseRecord, DeliveryResult};

    use super::*;

    /// Tells whether each record was delivered.
    struct Told(Sender<bool>);

    impl ClientContext for Told {}

    impl ProducerContext for Told {
        type DeliveryOpaque = ();

        fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
            let _ = self.0.send(result.is_ok());
        }
    }

    /// CPU time of this process's threads that serve deliveries.
    fn cpu() -> Duration {
        let threads = fs::read_dir("/proc/self/task").expect("threads").flatten();
        let ours = threads.filter(|thread| {
            let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            name.trim() == "kafka deliverie" // the kernel keeps 15 bytes
        });
        let nanoseconds = ours.filter_map(|thread| {
            // proc(5): time on the CPU in nanoseconds, time waited, slices.
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    #[test]
    fn deliveries_are_told_at_once_and_nothing_runs_between_them() {
        let (sender, told) = channel();
        let producer: ServedProducer<Told> = ClientConfig::new()
            .set("test.mock.num.brokers", "1")
            .set("linger.ms", "0")
            .create_with_context(Told(sender))
            .expect("a producer");
        for _ in 0..1_000 {
            let record = BaseRecord::<str, str>::to("topic").key("k").payload("v");
            producer
                .send(record)
                .map_err(|(error, _)| error)
                .expect("room");
        }
        for _ in 0..1_000 {
            assert!(
                told.recv_timeout(Duration::from_secs(20))
                    .expect("a report")
            );
        }

        let before = cpu();
        assert!(before > Duration::ZERO);
        sleep(Duration::from_secs(2));
        // What asks without a pause in the last millisecond of each 100 uses 20 ms.
        let idle = cpu() - before;
        assert!(idle < Duration::from_millis(5), "{idle:?}");
    }

    #[test]
    fn a_producer_that_is_dropped_ends_its_thread() {
        let (sender, told) = channel();
        let producer: ServedProducer<Told> = ClientConfig::new()
            .set("test.mock.num.brokers", "1")
            .create_with_context(Told(sender))
            .expect("a producer");
        drop(producer);
        // The context goes with the client, and the client when its thread has let go of it.
        assert!(
            told.recv_timeout(Duration::from_secs(5))
                .is_err_and(|error| error == RecvTimeoutError::Disconnected)
        );
    }
}
