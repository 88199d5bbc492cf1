"""A server of your own that always answers with the live version. Run it: `uvicorn own_server:app`."""

from fastapi import FastAPI

import driftloop

client = driftloop.Client()  # DRIFTLOOP_BOOTSTRAP_SERVERS says where Kafka is
late = driftloop.HotModel("late", client=client)
app = FastAPI()


@app.post("/flights")
def predict(features: dict[str, float | str | None]) -> dict[str, object]:
    served = late.predict(features)  # the newest proven version answers, and the prediction is on its topic
    return {"id": served.prediction_id, "answer": served.prediction, "version": served.version}


@app.post("/landed")
def landed(id: str, late: bool) -> None:
    client.label(id, "late" if late else "on_time")  # days later: what turned out to be true
