"""Records that the monitor's core cannot use, each with the mistake in it."""

from __future__ import annotations

import numpy as np
from driftloop.schemas.control import ApprovalControl
from driftloop.schemas.spec.model import ModelSpec
from driftloop.schemas.vitals import NumberSketch

from tests.support.monitor.records import (
    MODEL,
    bits,
    entry,
    reference,
    run_record,
    spec_record,
    update_record,
    vitals,
)

GOOD = vitals(entry(bits(0.2, 20, 0)))
ODD: dict[str, bytes] = {
    "empty": b"",
    "truncated": GOOD[: len(GOOD) // 2],
    "not UTF-8": GOOD[:30] + b"\xff\xfe" + GOOD[30:],
    "not an object": b"[1, 2]",
    "a number": b"17",
    "NaN": GOOD.replace(b'"append_min_ms":', b'"append_min_ms":NaN,"x":'),
    "wrong type": GOOD.replace(b'"partition":0', b'"partition":"0"'),
    "missing models": b'{"vitals":1}',
    "unknown control": b'{"control":"dance","model":"fraud"}',
    "invalid control": b'{"control":{}}',
    "deep nesting": b'{"control":' + b"[" * 100_000,
    "deep vitals": b'{"vitals":' + b"[" * 100_000,
    "bad model name": GOOD.replace(b'"fraud"', b'"../fraud"'),
    "error count": GOOD.replace(b'"count":20', b'"count":900000000000'),
    "negative error count": GOOD.replace(b'"count":20', b'"count":-20'),
    "bad base64": vitals(entry(bits(0.2, 24, 0))).replace(b'"data":"', b'"data":"*'),
    "seqs of another length": vitals(entry(bits(0.2, 4, 0), seqs=[1, 2, 5, 9])).replace(
        b'"count":4', b'"count":5'
    ),
    "negative errors": vitals(entry(np.array([1.0, -2.0]))),
    "infinite errors": vitals(entry(np.array([1.0, np.inf]))),
    "negative count": vitals(entry(None, outcomes=-1)),
    "time beyond 2**53": vitals(entry(bits(0.2, 9, 0), ts=(2**60, 2**61))),
    "huge number": GOOD.replace(b'"first_seq":0', b'"first_seq":' + b"9" * 400),
    "damaged sketch": vitals(entry(None, latency=[1.0, 2.0, 3.0])).replace(b'"kll":"', b'"kll":"AAAA'),
    "value beyond a float32": vitals(entry(None, numbers={"x": NumberSketch(count=1, values=(1e300,))})),
    "invalid spec": spec_record(ModelSpec()).replace(b'"seed":', b'"colour":'),
    "spec with a bad digest": spec_record(ModelSpec()).replace(ModelSpec().digest().encode(), b"me"),
    "accuracy beyond 1": update_record(2, reference(accuracy=1.5)),
    "negative mean error": update_record(2, reference(accuracy=None, mean_error=-1.0)),
    "quantiles out of order": update_record(2, reference()).replace(b'"quantiles":[', b'"quantiles":[9.0,'),
    "errors too large to square": vitals(entry(np.array([1.0, 1e200]))),
    "approval of an unknown trigger": ApprovalControl(
        model=MODEL, command_id="c", trigger_id="t", approved=True, by="me", why="", ts=1
    ).encode(),
    "run of an unknown trigger": run_record("trigger-0", "promoted"),
}
