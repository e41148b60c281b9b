//! Sends input offsets to a transaction, with a deadline that holds.
//!
//! librdkafka (2.12 to 2.14 at least) forgets the timeout of this one call: when the group's coordinator goes away at
//! the wrong moment it waits for a state change of a broker that may never come (confluentinc/librdkafka issues 5456
//! and 5511). So the call is made by a thread of its own. When it does not come back, thread and producer are left
//! behind: a new producer of the same transactional id fences them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::native::{self, GroupMetadata, NativeError};
use super::producer::RecordProducer;
use super::transactions::repeat;

/// What a call may take beyond its timeout before it is taken for lost.
const GRACE: Duration = Duration::from_secs(1);

/// The call did not come back.
#[derive(Debug)]
pub struct Stuck;

/// The thread that sends offsets, one call at a time.
pub struct OffsetSender {
    calls: Sender<Call>,
    answers: Receiver<Result<(), NativeError>>,
}

struct Call {
    offsets: TopicPartitionList,
    metadata: GroupMetadata,
    timeout: Duration,
}

impl OffsetSender {
    /// Starts the thread; it ends by itself when this is dropped and no call is open.
    ///
    /// # Errors
    /// The system's, when it has no thread.
    pub fn start(producer: Arc<RecordProducer>) -> std::io::Result<Self> {
        let (calls, to_make) = bounded::<Call>(1);
        let (answered, answers) = bounded(1);
        let run = move || {
            for call in to_make {
                let deadline = Instant::now() + call.timeout;
                let answer = repeat(deadline, || {
                    let left = deadline.saturating_duration_since(Instant::now());
                    native::send_offsets(&producer, &call.offsets, &call.metadata, left)
                });
                if answered.send(answer).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("offsets".to_owned())
            .spawn(run)?;
        Ok(Self { calls, answers })
    }

    /// Adds offsets to the open transaction of the producer, under the group's metadata.
    ///
    /// # Errors
    /// [`Stuck`] when nothing more can be done with the producer; within, what the broker or the client says.
    pub fn send(
        &self,
        offsets: TopicPartitionList,
        metadata: GroupMetadata,
        timeout: Duration,
    ) -> Result<Result<(), NativeError>, Stuck> {
        let call = Call {
            offsets,
            metadata,
            timeout,
        };
        self.calls.send(call).map_err(|_| Stuck)?;
        match self.answers.recv_timeout(timeout + GRACE) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(Stuck),
        }
    }
}
