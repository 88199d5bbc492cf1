"""The job in Faust: two agents and a table; ``python faust_peer.py BOOTSTRAP PREFIX FOLDER TOPIC``.

The table is Faust's default: in memory, with a changelog topic that makes it durable (its
RocksDB store costs more). Two topics have no order between them, so each agent keeps what comes first.
"""

from __future__ import annotations

import sys
from typing import Any

import faust
from watching import Watching

bootstrap, prefix, folder, outcomes_topic = sys.argv[1:5]
app = faust.App(
    f"{prefix}faust",
    broker=f"kafka://{bootstrap}",
    store="memory://",
    datadir=folder,
    topic_partitions=2,
    topic_replication_factor=1,
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
    value_serializer="json",
)
predictions = app.topic(f"{prefix}predictions", key_type=str, key_serializer="raw")
labels = app.topic(f"{prefix}labels", key_type=str, key_serializer="raw")
outcomes = app.topic(outcomes_topic, key_type=str, key_serializer="raw")
pending = app.Table("pending", key_type=str, value_type=dict)
watching = Watching()


@app.agent(predictions)
async def follow_predictions(stream: Any) -> None:
    async for prediction in stream:
        name = prediction["prediction_id"]
        label = pending.get(name)
        if label is None:
            pending[name] = prediction
        else:
            await _emit(name, prediction, label)


@app.agent(labels)
async def follow_labels(stream: Any) -> None:
    async for label in stream:
        name = label["prediction_id"]
        prediction = pending.get(name)
        if prediction is None:
            pending[name] = label
        else:
            await _emit(name, prediction, label)


async def _emit(name: str, prediction: dict[str, Any], label: dict[str, Any]) -> None:
    del pending[name]
    await outcomes.send(key=name, value=watching.outcome(prediction, label))


if __name__ == "__main__":
    sys.argv[1:] = ["worker", "--loglevel=warn", "--without-web"]
    app.main()
