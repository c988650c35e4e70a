"""Shards on the web and in object stores: the samples are those of the disk, whatever goes wrong on the way."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from balance.errors import UserError
from balance.labels.attributes import shard_identity
from balance.stream import stores
from balance.stream.samples import read_shard
from balance.stream.shards import expand_shards
from balance.stream.stores import Storage, storage_in_use, use_storage
from conf.app.cli import compose
from scripts import annotate
from tests.tiny import people_shards
from tests.web_server import Served, serve


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, the settings of the machine out of sight, and nothing left behind."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("COUNTERBALANCE_STORAGE", "{}")
    use_storage(Storage(retries=3, timeout=5, pause=0.01))


@pytest.fixture
def shard(tmp_path: Path) -> str:
    return people_shards(tmp_path / "shards", [40])[0]


@pytest.fixture
def web(shard: str) -> Iterator[Served]:
    with serve({"/a.tar": Path(shard).read_bytes()}) as served:
        yield served


def keys(url: str) -> list[str]:
    return [raw["__key__"] for raw in read_shard(url)]


def contents(url: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in raw.items() if name != "__url__"} for raw in read_shard(url)]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("faults", [[], ["cut", "cut"], ["503", "503"], ["429", "cut", "503", "cut"]])
def test_the_web_gives_what_the_disk_gives(web: Served, shard: str, faults: list[str], ranges: bool) -> None:
    web.faults, web.ranges = list(faults), ranges
    assert contents(f"{web.url}/a.tar") == contents(shard)
    assert len(web.asked) == len(faults) + 1


def test_a_broken_connection_goes_on_where_it_broke(web: Served, shard: str, caplog: pytest.LogCaptureFixture) -> None:
    web.faults = ["cut"]
    size = Path(shard).stat().st_size
    assert len(keys(f"{web.url}/a.tar")) == 40
    (_, first), (_, second) = web.asked
    assert first == 0
    assert size // 2 - (1 << 16) < second <= size // 2
    assert web.sent < size * 1.5
    assert "try 2 of 4" in caplog.text


def test_a_stalled_connection_is_left(web: Served, shard: str) -> None:
    web.faults = ["stall"]
    use_storage(Storage(retries=1, timeout=0.2, pause=0.01))
    assert contents(f"{web.url}/a.tar") == contents(shard)


@pytest.mark.parametrize(
    ("faults", "sentence", "requests"),
    [
        (["503"] * 9, r"can't be read: OSError: 503 .* \(tried 4 times\)", 4),
        (["404"], r"can't be read: 404 ", 1),
        (["short"], "can't be read: it changed while it was read", 2),  # its length was wrong
        (["cut", "change"], "can't be read: it changed while it was read", 2),
    ],
)
def test_what_no_try_mends_is_one_sentence(web: Served, faults: list[str], sentence: str, requests: int) -> None:
    web.faults = list(faults)
    with pytest.raises(UserError, match=rf"The shard http.*/a\.tar {sentence}"):
        keys(f"{web.url}/a.tar")
    assert len(web.asked) == requests


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the server, which the project reaches by data.storage."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hidden-word")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    use_storage(Storage({"endpoint_url": s3_server}, retries=1, timeout=20, pause=0.01))
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="data")
    yield client
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="data"):
        client.delete_objects(Bucket="data", Delete={"Objects": [{"Key": o["Key"]} for o in page.get("Contents", [])]})
    client.delete_bucket(Bucket="data")


def test_s3_gives_what_the_disk_gives(s3: Any, shard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "PIECE", 10_000)  # many pieces
    s3.upload_file(shard, "data", "in/a.tar")
    s3.put_object(Bucket="data", Key="in/a_stats.json", Body=b"{}")
    for spec in ("s3://data/in", "s3://data/in/", "s3://data/in/a.tar", "s3://data/*/a*", "s3://data/in/{a..a}.tar"):
        (url,) = expand_shards(spec)
        assert url == "s3://data/in/a.tar"
    assert contents(url) == contents(shard)
    samples = read_shard(url)
    next(samples)
    samples.close()  # type: ignore[attr-defined]
    for spec, sentence in (("s3://data/none/", "no object"), ("s3://data/gone.tar", "there is no such object")):
        with pytest.raises(UserError, match=sentence):
            keys(expand_shards(spec)[0])


@pytest.mark.slow
def test_a_listing_of_several_pages_is_whole_and_sorted(s3: Any) -> None:
    names = [f"many/{n:04}.tar" for n in range(1_005)]
    for name in reversed(names):  # straight into the server's memory: a thousand requests take long
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object("data", name, b"")
    assert expand_shards("s3://data/many/") == [f"s3://data/{name}" for name in names]


@pytest.mark.slow
def test_labels_of_a_changed_object_are_made_anew(
    s3: Any, shard: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The command itself: labels are kept while the object stays as it is, and nothing written holds a secret."""
    caplog.set_level(logging.INFO)
    s3.upload_file(shard, "data", "a.tar")
    storage = f"data.storage={{endpoint_url: '{storage_in_use().options['endpoint_url']}'}}"
    before = shard_identity("s3://data/a.tar")
    assert before["size"] == Path(shard).stat().st_size
    command = ["data.train=s3://data/", "attributes=captions", f"out={tmp_path / 'out'}", storage]
    annotate.main(command)
    (file,) = (tmp_path / "out").glob("*.parquet")
    first = file.stat().st_mtime_ns
    annotate.main(command)
    assert file.stat().st_mtime_ns == first
    s3.upload_file(people_shards(tmp_path / "other", [41])[0], "data", "a.tar")
    annotate.main(command)
    assert file.stat().st_mtime_ns != first
    assert shard_identity("s3://data/a.tar") != before
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    captured = capsys.readouterr()
    assert "hidden-word" not in written.decode(errors="replace") + captured.out + captured.err + caplog.text


def test_secrets_are_refused_and_settings_reach_other_processes() -> None:
    with pytest.raises(UserError, match=r"data\.storage\.secret is not known .*secrets are never given here"):
        compose(["data=wds", "data.train=x", "data.storage={secret: word}"])
    compose(["data=wds", "data.train=x", "data.storage={anon: true}", "data.retries=2"])
    assert storage_in_use() == Storage({"anon": True}, retries=2)
    compose(["data=wds", "data.train=x"])
    assert storage_in_use() == Storage()


def test_a_missing_client_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"^gs:// is read by gcsfs, which is not installed: pip install -e '\.\[gcs\]'"):
        expand_shards("gs://b/in/")
    assert json.dumps(storage_in_use().options) == "{}"
