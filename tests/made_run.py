"""The folder of a run that was never made, for tests of what reads such folders."""

import json
from pathlib import Path
from typing import Any

import yaml

HEADLINE = {"model RB": "rb/mean_parity", "AB": "ab/max", "top-1": "zs/top1"}
KINDS = {"rb": "parity", "ab": "association", "zs": "zeroshot"}


def make_run(folder: Path, name: str, rb: float = 0.3, top1: float = 0.8, **config: Any) -> Path:
    """The folder of a finished run with two evaluations."""
    run = folder / name
    (run / "plan").mkdir(parents=True)
    stored = {
        "name": name,
        "seed": 0,
        "data": {"name": "wds"},
        "model": {"name": "tiny", "init_from": "runs/start"},
        "balance": {"method": "dual"},
        "eval": {"headline": HEADLINE, "evaluators": {key: {"kind": kind} for key, kind in KINDS.items()}},
        **config,
    }
    (run / "config.yaml").write_text(yaml.safe_dump(stored, sort_keys=False))
    rows = []
    for step, samples, share in ((0, 0, 0.0), (10, 1000, 1.0)):
        values = {
            "rb/mean_parity": rb * share,
            "ab/max": 0.1,
            "ab/difference[nurse]": 0.1,
            "ab/difference[<b>chef</b>]": -0.05,
            "zs/top1": 0.1 + (top1 - 0.1) * share,
        }
        rows += [
            {
                "step": step,
                "epoch": step / 10,
                "samples": samples,
                "name": key,
                "value": value,
                "low": value - 0.02,
                "high": value + 0.02,
                "count": 50,
                "prompts": "a | b",
            }
            for key, value in values.items()
        ]
        rows.append(
            {
                "step": step,
                "epoch": 0,
                "samples": samples,
                "name": "train/loss",
                "value": 1.0,
                "low": None,
                "high": None,
            }
        )
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    inside = [
        {"concept": "nurse", "before": 0.9, "after": 0.52, "known": 100},
        {"concept": "<b>chef</b>", "before": 0.2, "after": 0.48, "known": 1200},
    ]
    data = {
        "title": "balanced by M4",
        "hash": "abc123",
        "notes": ["a sentence"],
        "rows": [{"name": "RB: gap", "before": 0.17, "after": 0.01}, {"name": "AB: gap", "before": 0.1, "after": 0.02}],
        "inside": [{"attribute": "woman", "target": 0.5, "rows": inside}],
    }
    (run / "plan" / "data.json").write_text(json.dumps(data))
    return run
