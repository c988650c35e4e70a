"""Read back what an offline W&B run wrote."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32768  # W&B's file is a log as LevelDB writes it: blocks of records that may be split over several
HEADER = 7


def records(data: bytes) -> Iterator[bytes]:
    """The records of a `.wandb` file: after a file header of 7 bytes, each piece has checksum, length and type."""
    at, whole = HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block that holds no header is padding
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        if kind == 0:
            at += BLOCK - at % BLOCK
            continue
        if at + HEADER + length > len(data):  # still being written
            return
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last piece
            yield whole
            whole = b""


def read_offline(folder: Path) -> dict[str, Any]:
    """What the only run holds: `history` (a dict a log call), `summary`, `config`, `run`, `artifacts`, `metrics`."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    _wait_for_end(path)
    found: dict[str, Any] = {"history": [], "summary": {}, "config": {}, "run": {}, "artifacts": {}, "metrics": {}}
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            found["history"].append(_items(record.history.item))
        elif kind == "summary":
            found["summary"].update(_items(record.summary.update))
        elif kind == "run":
            run = record.run
            found["run"] = {"group": run.run_group, "job_type": run.job_type, "tags": list(run.tags)}
            found["config"].update(_items(run.config.update))
        elif kind == "artifact":
            found["artifacts"][record.artifact.name] = record.artifact.type
        elif kind == "metric":
            found["metrics"][record.metric.name or record.metric.glob_name] = record.metric.step_metric
    return found


def _wait_for_end(path: Path, seconds: float = 300) -> None:
    """Wait until W&B's own process has written the run's last record, which it does after `finish` returns."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for data in records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "exit":
                return
        time.sleep(0.1)
    raise AssertionError(f"{path} has no end")


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
