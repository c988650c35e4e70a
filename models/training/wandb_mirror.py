"""W&B as a mirror of `metrics.jsonl`: what is logged there, and nothing that could slow or stop a run.

Each attempt of a run is a W&B run of its own, in one group: W&B starts its steps again from 0 when an offline run is
resumed. Everything is drawn over `samples`, our own count.

A server that is away must not cost a run more than a note. Before the start it is asked who the key belongs to, with a
short limit; a start that fails all the same is repeated offline. After that W&B is called by a thread of its own, in
the order of the calls: a table or an artifact asks the server and waits for its answer.
"""

import json
import netrc
import os
import queue
import ssl
import sys
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from balance.common.metric import Metric, direction_of

SECONDS_TO_ANSWER = 3.0
SECONDS_TO_START = 15.0
SECONDS_TO_FINISH = 60.0
PER_CONCEPT = ("metric", "of", "value", "low", "high", "count", "prompts")
VIEWER = json.dumps({"query": "query Viewer { viewer { id } }"}).encode()


class WandbMirror:
    """One attempt of a run in W&B.

    Args:
        folder: the run's folder; W&B writes into `wandb/` inside it.
        mode: offline or online; an online server that can't be used turns it into offline, with a note.
        name: name of the run, and of the group of its attempts.
        config: the resolved configuration, which becomes W&B's.
    """

    def __init__(self, folder: Path, mode: str, name: str, config: Mapping[str, Any]) -> None:
        import wandb  # takes a second to import, and is not needed with track=none

        self.wandb, self.config, self.folder, self.name = wandb, config, folder, name
        self.told = False  # whether a note was printed: one is enough
        self.bare = False  # whether rows go without tables, which ask the server
        trouble = server_trouble() if mode == "online" else ""
        if not trouble:
            try:
                self.run: Any = self._start(mode)
            except Exception as error:
                if mode != "online":
                    raise
                trouble = f"did not start the run ({_first_line(error)})"
                wandb.teardown()  # or the next start would wait for this one
        if trouble:
            self.run = self._start("offline")
            self._note(f"The W&B server {server()} {trouble}; this run is kept offline")
        self.run.define_metric("samples")
        self.run.define_metric("*", step_metric="samples")
        self.best: dict[str, float] = {}
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._caller = threading.Thread(target=self._call_all, name="wandb-mirror", daemon=True)
        self._caller.start()

    @property
    def sync_path(self) -> Path:
        """The folder that `wandb sync` takes."""
        return Path(self.run.settings.sync_dir)

    def log(self, metrics: Iterable[Metric], step: int, epoch: float, samples: int) -> None:
        """Log values with their intervals; an evaluation also as a table of what is measured per concept or group."""
        metrics = list(metrics)
        for metric in metrics:
            self._note_best(metric)
        self._calls.put(lambda: self._log(metrics, {"step": step, "epoch": epoch, "samples": samples}))

    def log_artifact(self, path: Path, kind: str) -> None:
        """Keep a folder or a file as an artifact, as it is now: the plan, an exported model."""
        artifact = self.wandb.Artifact(f"{_safe(self.run.name or 'run')}-{kind}", type=kind)
        (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path))
        self._calls.put(lambda: self.run.log_artifact(artifact))

    def log_curves(self, series: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """The metrics of the summary as interactive charts over the samples seen, and bias against quality."""
        self._calls.put(lambda: self._log_curves(series))

    def finish(self) -> None:
        """End the attempt; a server that is away is given a minute, and the run stays in the folder."""
        best = {f"best/{name}": value for name, value in self.best.items()}
        self._calls.put(lambda: self.run.summary.update(best))
        self._end(0)

    def abandon(self) -> None:
        """End an attempt that has failed; the run's folder may go then."""
        self._end(1)

    def _start(self, mode: str) -> Any:
        track = self.config["track"]
        settings = self.wandb.Settings(
            silent=True,
            reinit="create_new",  # a run before this one in the process may still wait for its server
            console="off",
            init_timeout=SECONDS_TO_START,
            finish_timeout=SECONDS_TO_FINISH,
            finish_timeout_raises=True,
        )
        return self.wandb.init(
            project=track.get("project", "counterbalance"),
            entity=track.get("entity"),
            name=self.name,
            group=track.get("group") or self.name,
            job_type=track.get("job") or "train",
            tags=_tags(self.config),
            dir=str(self.folder),
            mode=mode,  # type: ignore[arg-type]
            config=dict(self.config),
            settings=settings,
        )

    def _call_all(self) -> None:
        """Make the calls in their order until the end; none that fails stops the run or the calls after it."""
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:
                self._note_failure(error)

    def _end(self, status: int) -> None:
        """Make the calls that are left, then end the run; all within some seconds."""
        self._calls.put(lambda: self.run.finish(exit_code=status))
        self._calls.put(None)
        self._caller.join(SECONDS_TO_FINISH + SECONDS_TO_START)
        if self._caller.is_alive():
            self._note(f"The W&B server {server()} has not taken the whole run")

    def _note_failure(self, error: Exception) -> None:
        self._note(f"The W&B server {server()} failed ({_first_line(error)}); the run goes on, kept in its folder")

    def _note(self, what: str) -> None:
        if not self.told:
            self.told = True
            print(f"note: {what}. Send it later: wandb sync {self.sync_path}", file=sys.stderr, flush=True)

    def _log(self, metrics: Sequence[Metric], values: dict[str, Any]) -> None:
        rows: list[tuple[Any, ...]] = []
        for metric in metrics:
            if "[" in metric.name and not metric.name.startswith(("accepted/", "data/")):
                name, _, of = metric.name.partition("[")
                rows.append((name, of[:-1], metric.value, metric.low, metric.high, metric.count, metric.prompts))
            values[metric.name] = metric.value
            if metric.low is not None and metric.high is not None:
                values[f"{metric.name}.low"], values[f"{metric.name}.high"] = metric.low, metric.high
        if not rows or self.bare:
            self.run.log(values)
            return
        try:
            self.run.log({**values, **self._tables(rows)})
        except Exception as error:  # the server is away: nothing of the row was logged
            self.bare = True
            self.run.log(values)
            self._note_failure(error)

    def _tables(self, rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
        """What was measured per concept, as a table and as bars."""
        bars = [[f"{name.split('/')[0]}: {of}", value] for name, of, value, *_ in rows]
        table = self.wandb.Table(columns=["of", "value"], data=bars)
        return {
            "tables/per_concept": self.wandb.Table(columns=list(PER_CONCEPT), data=[list(row) for row in rows]),
            "charts/per_concept": self.wandb.plot.bar(table, "of", "value", title="Per concept, last evaluation"),
        }

    def _log_curves(self, series: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        if self.bare:
            return
        headline = self.config["eval"].get("headline") or {}
        for label, name in headline.items():
            rows = series.get(name) or []
            if len(rows) > 1:
                lines = [[row[key] for row in rows] for key in ("value", "low", "high") if rows[0].get(key) is not None]
                keys = ["value", "low", "high"][: len(lines)]
                chart = self.wandb.plot.line_series([r["samples"] for r in rows], lines, keys, label, "samples")
                self.run.log({f"charts/{_safe(label)}": chart})
        by = {way: [n for n in headline.values() if direction_of(self.config, n) == way] for way in ("bias", "quality")}
        if by["bias"] and by["quality"]:
            points = _points(series, by["bias"][0], by["quality"][0])
            if points:
                table = self.wandb.Table(columns=["size of bias", "quality", "samples"], data=points)
                title = f"{by['bias'][0]} against {by['quality'][0]}"
                self.run.log({"charts/frontier": self.wandb.plot.scatter(table, "size of bias", "quality", title)})

    def _note_best(self, metric: Metric) -> None:
        """The best value so far: of bias the one nearest to zero, of quality the largest."""
        way, before = direction_of(self.config, metric.name), self.best.get(metric.name)
        sign = {"bias": -1, "quality": 1}.get(way)
        if sign is None:
            return
        worth = abs(metric.value) if way == "bias" else metric.value
        if before is None or sign * (worth - (abs(before) if way == "bias" else before)) > 0:
            self.best[metric.name] = metric.value


def _points(series: Mapping[str, Sequence[Mapping[str, Any]]], bias: str, quality: str) -> list[list[float]]:
    at = {row["step"]: row["value"] for row in series.get(quality, [])}
    return [[abs(row["value"]), at[row["step"]], row["samples"]] for row in series.get(bias, []) if row["step"] in at]


def _tags(config: Mapping[str, Any]) -> list[str]:
    treatment = (config.get("balance") or {}).get("method", "none")
    found = [config["data"]["name"], config["model"]["name"], "unbalanced" if treatment == "none" else "balanced"]
    return [_safe(str(tag))[:64] for tag in found if tag]


def _safe(text: str) -> str:
    """A name that W&B takes: letters, digits, dashes, underscores and dots."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "-" for letter in text)


def _first_line(error: object) -> str:
    """What an error says, short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def server() -> str:
    """Where W&B sends runs."""
    import wandb

    return str(os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url)


def api_key(address: str) -> str:
    """The key of an address, from where W&B takes it: the environment, or what `wandb login` stored; empty if none."""
    if key := os.environ.get("WANDB_API_KEY"):
        return key
    for path in filter(None, (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")):
        try:
            found = netrc.netrc(os.path.expanduser(path)).authenticators(urlsplit(address).hostname or "")
        except (OSError, netrc.NetrcParseError):
            continue
        if found:
            return found[2] or ""
    return ""


def server_trouble(seconds: float = SECONDS_TO_ANSWER) -> str:
    """What keeps a run from being sent, as the end of a sentence about the server; empty if nothing does.

    The server is asked whom the key belongs to. Credentials of other kinds than a key, and certificates that only W&B
    knows, are left to W&B's own start.
    """
    address = server()
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
        return "has no valid address (WANDB_BASE_URL is https://..., or unset for W&B's own)"
    key = api_key(address)
    if not key:
        return "" if os.environ.get("WANDB_IDENTITY_TOKEN_FILE") else "needs an API key (wandb login stores one)"
    basic = b64encode(f"api:{key}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {basic}"}
    request = urllib.request.Request(f"{address.rstrip('/')}/graphql", VIEWER, headers)
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            viewer = (json.loads(answer.read()).get("data") or {}).get("viewer")
    except urllib.error.HTTPError as error:
        return "does not accept the API key" if error.code in (401, 403) else f"answers with error {error.code}"
    except urllib.error.URLError as error:
        return "" if isinstance(error.reason, ssl.SSLError) else f"does not answer ({_first_line(error.reason)})"
    except (OSError, ValueError, AttributeError) as error:  # no answer in time, or none of W&B's
        return f"does not answer ({_first_line(error)})"
    return "" if viewer else "does not accept the API key"
