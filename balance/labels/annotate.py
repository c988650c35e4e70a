"""The annotation job: shards in, one attribute file a shard out, skipping what is done and unchanged."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import duckdb

from balance.common.pool import in_processes
from balance.errors import UserError
from balance.files import remove_abandoned
from balance.labels.annotate_ray import run_ray
from balance.labels.annotate_shard import ShardTask, annotate_shard
from balance.labels.annotators import Annotator
from balance.labels.attributes import attribute_path, is_current, read_meta
from balance.labels.rows import TableRows
from balance.labels.summary import Summary
from balance.progress import ProgressLine

log = logging.getLogger(__name__)


def annotate_shards(
    shards: Sequence[str],
    annotator: Annotator,
    out: str | os.PathLike[str],
    workers: int = 0,
    progress: bool = True,
    max_bad: float = 0.05,
    check_images: bool = True,
    need_caption: bool = True,
    engine: str = "local",
    ray_address: str | None = None,
    report: Callable[[Summary], None] | None = None,
    rows: TableRows | None = None,
) -> list[Path]:
    """Write the attribute files of shards, skipping those that are done and unchanged.

    Args:
        shards: addresses of tar shards; or of parts of tables, from `expand_tables`.
        annotator: from `build_annotator`.
        out: folder of the attribute files.
        workers: processes; 0 works in this one. Pictures are labelled in this process, where the model is.
        progress: show a progress bar.
        max_bad: share of samples, over all shards, that may be bad or lost with damaged shards; a larger one is an
            error.
        check_images: read each picture's header; nothing is decoded.
        need_caption: count a sample without caption as bad.
        engine: `local`, or `ray` for Ray Data (the same files, byte for byte).
        ray_address: of a running Ray cluster; by default one is started on this machine.
        report: is handed the summary at the end; by default it is logged.
        rows: what is read of tables; None for shards.

    Returns:
        The files, in the order of the shards.

    Raises:
        UserError: more bad or lost samples than `max_bad`, no good sample at all, a shard that can't be read, or an
        annotator that can't go on.
    """
    if engine not in ("local", "ray"):
        raise UserError(f"engine={engine!r} is neither local nor ray.")
    started = time.monotonic()
    if rows is not None and (engine == "ray" or "image" in annotator.needs):
        raise UserError("Tables of metadata are labelled with engine=local, by their columns: they hold no pictures.")
    task = ShardTask(annotator, Path(out), check_images, need_caption, rows)
    files = [attribute_path(out, url) for url in shards]
    current = [is_current(path, url, task.fingerprint) for path, url in zip(files, shards, strict=True)]
    summary = Summary(files=files, done=sum(current))
    for path, is_done in zip(files, current, strict=True):
        if is_done:
            summary.add(read_meta(path))
    todo = [url for url, is_done in zip(shards, current, strict=True) if not is_done]
    if todo:
        with ProgressLine("annotate", len(shards), "shards", start=summary.done, shown=progress) as counter:
            before = summary.samples
            for path in _run(engine, task, todo, workers, ray_address):
                summary.add(read_meta(path))
                counter.update(1, f"{(summary.samples - before) / (time.monotonic() - started):,.0f} samples/s")
                if summary.bad or summary.damaged:
                    summary.check(max_bad, final=False)
    summary.check(max_bad)
    summary.repeated = repeated_keys(files)
    summary.warnings = annotator.check_labelled(files, shards)
    summary.seconds = time.monotonic() - started
    if report is not None:
        report(summary)
    elif summary.bad or summary.damaged or summary.repeated or summary.warnings:
        for line in summary.lines():
            log.warning(line)
    return files


def _run(engine: str, task: ShardTask, todo: list[str], workers: int, ray_address: str | None) -> Iterator[Path]:
    """Files as they get done, in any order."""
    if engine == "ray":
        yield from run_ray(task, todo, ray_address)
    elif "image" in task.annotator.needs:
        for url in todo:
            yield annotate_shard(task, url)
    else:
        yield from in_processes(
            annotate_shard, task, todo, workers, partial(remove_abandoned, task.out), "balance.labels.annotators"
        )


def repeated_keys(files: Iterable[Path], limit: int = 10) -> list[tuple[str, int]]:
    """Keys that stand in the attribute files more than once, with how often; the `limit` most frequent."""
    query = (
        "SELECT key, count(*) AS n FROM read_parquet($files) GROUP BY key HAVING n > 1 "
        "ORDER BY n DESC, key LIMIT $limit"
    )
    with duckdb.connect() as connection:
        return connection.execute(query, {"files": [str(path) for path in files], "limit": limit}).fetchall()
