"""The job in Quix Streams: an as-of join; ``python quix_peer.py BOOTSTRAP PREFIX FOLDER TOPIC``.

Labels are the left side, as the page "Joins" has it: they look up the newest prediction of their key, kept in
RocksDB with a changelog topic. Everything else is its default: at least once, a commit every five seconds.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

from quixstreams import Application
from watching import Watching

bootstrap, prefix, folder, outcomes_topic = sys.argv[1:5]
app = Application(
    broker_address=bootstrap,
    consumer_group=f"{prefix}quix",
    auto_offset_reset="earliest",
    state_dir=folder,
    loglevel="WARNING",
)
predictions = app.dataframe(app.topic(f"{prefix}predictions", value_deserializer="json"))
labels = app.dataframe(app.topic(f"{prefix}labels", value_deserializer="json"))
watching = Watching()


def merge(label: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
    return watching.outcome(prediction, label)


joined = labels.join_asof(predictions, how="inner", on_merge=merge, grace_ms=timedelta(days=14))
joined.to_topic(app.topic(outcomes_topic, value_serializer="json"))

if __name__ == "__main__":
    app.run()
