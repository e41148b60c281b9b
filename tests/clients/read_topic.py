"""Reads a Dogwatch topic as somebody else's program would, and prints one JSON object a line.

Knows nothing of Dogwatch but what is documented: records are Avro in single-object encoding, and the writers' schemas
stand in the topic `<prefix>.schemas`. Shares no code with Dogwatch except librdkafka.

    read_topic.py --kafka HOST:PORT --topic dogwatch.alerts [--isolation read_uncommitted] [--follow | --raw]

Without --follow it ends at the end of every partition. A record that is not Avro is printed with "value": null and its
bytes as "hex".
With --raw it decodes nothing and prints no JSON, but for each record: partition (4 bytes, big-endian like all numbers),
offset (8), time in milliseconds (8), 1 where that is the broker's (1), length and bytes of the key, length and bytes of
the value (4 each); a length of -1 is null.
"""

import argparse
import io
import json
import struct
import sys
import time

import confluent_kafka as kafka
import fastavro

AVRO_MARK = b"\xc3\x01"
TIMESTAMP_TYPES = {kafka.TIMESTAMP_CREATE_TIME: "create", kafka.TIMESTAMP_LOG_APPEND_TIME: "append"}


def consumer(arguments, isolation):
    return kafka.Consumer({
        "bootstrap.servers": arguments.kafka,
        "group.id": "read-topic",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "isolation.level": isolation,
        # Brokers that come and go are part of the tests, not of their output.
        "log_level": 2,
    })


def assign_all(client, topic, deadline_s):
    """Assigns every partition of the topic, waiting until broker and topic are there; returns their number."""
    while True:
        try:
            found = client.list_topics(topic, timeout=10).topics[topic]
            reason = found.error
            if reason is None and found.partitions:
                break
        except kafka.KafkaException as error:
            reason = error
        if time.monotonic() > deadline_s:
            sys.exit(f"topic {topic} is not there: {reason}")
        time.sleep(0.1)
    client.assign([kafka.TopicPartition(topic, number, kafka.OFFSET_BEGINNING) for number in found.partitions])
    return len(found.partitions)


def messages(client, partitions, follow):
    ended = set()
    while follow or len(ended) < partitions:
        message = client.poll(1.0)
        if message is None:
            continue
        if message.error() is None:
            yield message
        elif message.error().code() == kafka.KafkaError._PARTITION_EOF:
            ended.add(message.partition())
        elif not message.error().retriable():
            print(message.error(), file=sys.stderr)


class Schemas:
    """The writers' schemas by fingerprint, read again when an unknown one turns up."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.known = {}

    def find(self, fingerprint):
        if fingerprint not in self.known:
            self.load()
        return self.known.get(fingerprint)

    def load(self):
        client = consumer(self.arguments, "read_committed")
        topic = self.arguments.topic.rsplit(".", 1)[0] + ".schemas"
        partitions = assign_all(client, topic, time.monotonic() + 10)
        for message in messages(client, partitions, follow=False):
            schema = json.loads(message.value())
            canonical = fastavro.schema.to_parsing_canonical_form(schema)
            fingerprint = fastavro.schema.fingerprint(canonical, "CRC-64-AVRO")
            # fastavro says the 8 bytes in the order in which they stand in a record.
            self.known[bytes.fromhex(fingerprint)] = fastavro.parse_schema(schema)
        client.close()


def decoded(value, schemas):
    if value[:2] != AVRO_MARK:
        return None
    schema = schemas.find(value[2:10])
    if schema is None:
        return None
    body = io.BytesIO(value[10:])
    try:
        record = fastavro.schemaless_reader(body, schema)
    except (EOFError, ValueError, IndexError):
        return None
    return record if body.tell() == len(value) - 10 else None


def described(message, schemas):
    value = message.value() or b""
    record = decoded(value, schemas)
    kind, timestamp_ms = message.timestamp()
    return {
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp_ms": timestamp_ms,
        "timestamp_type": TIMESTAMP_TYPES.get(kind),
        "key": (message.key() or b"").decode("utf-8", "backslashreplace"),
        "headers": {name: (content or b"").decode("utf-8", "backslashreplace") for name, content in message.headers() or []},
        "value": record,
        "hex": value.hex() if record is None else None,
    }


def framed(data):
    return struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data


def write_raw(client, partitions, output):
    ended = set()
    while len(ended) < partitions:
        # A million records come this way: not one call each.
        for message in client.consume(10_000, 1.0):
            if message.error() is None:
                kind, timestamp_ms = message.timestamp()
                numbers = (message.partition(), message.offset(), timestamp_ms, kind == kafka.TIMESTAMP_LOG_APPEND_TIME)
                output.write(struct.pack(">iqqB", *numbers) + framed(message.key()) + framed(message.value()))
            elif message.error().code() == kafka.KafkaError._PARTITION_EOF:
                ended.add(message.partition())
            elif not message.error().retriable():
                print(message.error(), file=sys.stderr)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--isolation", default="read_committed")
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--raw", action="store_true")
    arguments = parser.parse_args()
    client = consumer(arguments, arguments.isolation)
    partitions = assign_all(client, arguments.topic, time.monotonic() + 60)
    if arguments.raw:
        write_raw(client, partitions, sys.stdout.buffer)
        return
    schemas = Schemas(arguments)
    for message in messages(client, partitions, arguments.follow):
        print(json.dumps(described(message, schemas), default=str), flush=True)


main()
