"""The job in Bytewax: its join operator; ``python bytewax_peer.py BOOTSTRAP PREFIX FOLDER TOPIC``.

State is snapshotted into a recovery store every ten seconds, as the page "Recovery" recommends; sources are
read in batches of 1,000, the connector's default.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main
from watching import Watching

bootstrap, prefix, folder, outcomes_topic = sys.argv[1:5]
watching = Watching()


def outcome(joined: tuple[str, tuple[dict[str, Any], dict[str, Any]]]) -> KafkaSinkMessage[bytes, bytes]:
    name, (prediction, label) = joined
    return KafkaSinkMessage(name.encode(), orjson.dumps(watching.outcome(prediction, label)))


flow = Dataflow("peer")
sides: list[Any] = []
for side in ("predictions", "labels"):
    read = kop.input(side, flow, brokers=[bootstrap], topics=[f"{prefix}{side}"])
    events = op.map(f"parse-{side}", read.oks, lambda message: orjson.loads(message.value))
    sides.append(op.key_on(f"key-{side}", events, lambda event: event["prediction_id"]))
outcomes = op.map("watch", op.join("join", *sides), outcome)
kop.output("outcomes", outcomes, brokers=[bootstrap], topic=outcomes_topic)

if __name__ == "__main__":
    init_db_dir(Path(folder), 1)
    recovery = RecoveryConfig(folder)
    cluster_main(flow, [], 0, epoch_interval=timedelta(seconds=10), recovery_config=recovery)
