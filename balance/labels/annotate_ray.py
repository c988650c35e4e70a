"""The annotation job on Ray Data: the same files as the local engine writes, byte for byte.

Each shard is read as one block by `ray.data.read_webdataset` and annotated where it was read, so that no picture
travels.
Ray's reader stops at a damaged tar and at a key that comes back after others, which the local reader counts and goes
on.
So every local shard's headers are walked first; shards that Ray would stumble over are given to plain Ray tasks.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from balance.errors import UserError
from balance.labels.annotate_shard import ShardBuilder, ShardTask, annotate_shard
from balance.labels.attributes import canonical_url
from balance.stream.opening import is_local
from balance.stream.tarwalk import DamagedTar, walk_tar


def count_samples(url: str) -> int | None:
    """How many samples a local shard holds by its headers; None if Ray's reader would stumble over it."""
    from webdataset.tariterators import base_plus_ext  # brings torch along, which labelling does without

    keys: set[str] = set()
    members: set[str] = set()
    last = None
    try:
        for name, data in walk_tar(url):
            key, extension = base_plus_ext(name)
            if name.rpartition("/")[2].startswith("."):
                return None
            if key is None or name.startswith("__") or "\\" in name or type(data) is str or extension.startswith("__"):
                return None
            if name in members or (key != last and key in keys) or extension != extension.lower():
                return None
            members.add(name)
            keys.add(key)
            last = key
    except (DamagedTar, OSError):
        return None
    return len(keys)


def run_ray(task: ShardTask, shards: list[str], address: str | None) -> Iterator[Path]:
    """Annotate shards on a Ray cluster.

    Args:
        task: what to do.
        shards: addresses; all machines of the cluster must see them and the output folder under the same path.
        address: of the cluster; None starts one on this machine, and stops it at the end.

    Yields:
        Attribute files as they get done.

    Raises:
        UserError: Ray is not installed, or the cluster is not to be reached.
    """
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")  # read once, when ray.data is imported
    try:
        import ray
    except ImportError as error:
        raise UserError("engine=ray needs Ray: pip install 'counterbalance[ray]' (or 'ray[data]').") from error
    started = not ray.is_initialized()
    if started:
        _start(ray, address)
    try:
        remote = ray.remote(num_cpus=1)
        counts = ray.get([remote(count_samples).remote(url) if is_local(url) else ray.put(None) for url in shards])
        plain = {canonical_url(url): count for url, count in zip(shards, counts, strict=True) if count}
        shared = ray.put(task)
        others = [remote(annotate_shard).remote(shared, url) for url in shards if canonical_url(url) not in plain]
        if plain:
            yield from _run_data(ray, shared, plain)
        for reference in others:
            yield ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, UserError) else error
        raise UserError(str(cause).strip().splitlines()[-1]) from error
    finally:
        if started:
            ray.shutdown()


def _start(ray: Any, address: str | None) -> None:
    # Workers must import this checkout wherever they run.
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[2])])}}
    options: dict[str, Any] = {"runtime_env": environment, "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {"num_cpus": os.cpu_count(), "include_dashboard": False}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError) as error:
        raise UserError(f"ray.address={address}: there is no Ray cluster to be reached ({error}).") from error


def _run_data(ray: Any, shared: Any, counts: dict[str, int]) -> Iterator[Path]:
    context = ray.data.DataContext.get_current()
    before = context.target_max_block_size, context.enable_progress_bars
    context.target_max_block_size, context.enable_progress_bars = None, False  # one block a shard
    try:
        shards = ray.data.read_webdataset(
            list(counts), decoder=None, include_paths=True, override_num_blocks=len(counts)
        )
        written = shards.map_batches(
            _annotate_block, batch_size=None, batch_format="pandas", fn_kwargs={"shared": shared, "counts": counts}
        )
        for row in written.iter_rows():
            yield Path(row["file"])
    finally:
        context.target_max_block_size, context.enable_progress_bars = before


def _annotate_block(block: Any, shared: Any, counts: dict[str, int]) -> Any:
    """Annotate the shards of one block, which holds them whole."""
    import pandas as pd
    import ray

    task: ShardTask = ray.get(shared)
    files = []
    for url, rows in block.groupby("path", sort=False):
        url = canonical_url(str(url))
        if len(rows) != counts[url]:
            raise UserError(f"Ray split the shard {url} ({len(rows)} of {counts[url]} samples); use engine=local.")
        builder = ShardBuilder(task, url)
        extensions = [name for name in rows.columns if name not in ("path", "__url__")]
        for values in rows[extensions].itertuples(index=False, name=None):
            # A member that this sample lacks is NaN or None in a table.
            builder.add({k: v for k, v in zip(extensions, values, strict=True) if isinstance(v, bytes | str)})
        files.append(str(builder.write()))
    return pd.DataFrame({"file": files})
