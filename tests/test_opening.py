"""Addresses of shards: what each kind opens, and that no address runs a command that was not allowed."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from balance.errors import UserError
from balance.stream.opening import RefusedAddress, ShellCommand, is_local, scheme_of
from balance.stream.samples import read_shard
from balance.stream.shards import MOST_ADDRESSES, expand_braces, expand_shards
from conf.app.cli import compose
from eval.runner import build_suite
from eval.sets import load_set
from scripts import annotate, audit, evaluate, interpolate
from tests.made_run import make_run
from tests.tiny import people_shards

ATTACKS = [
    "pipe:{command}",
    "  pipe:{command}",
    "PIPE:{command}",
    "Pipe:{command}",
    "pi\npe:{command}",
    "\x00pipe:{command}",
    "{tar}::pipe:{command}",
    "file://{tar}::pipe:{command}",
    "https://example.invalid/a.tar::pipe:{command}",
    "{{pipe:{command} #://,pipe:{command}}}",
    "{{p,P}}ipe:{command}",
    "{{,}}pipe:{command}",
    "file:pipe:{command}",
    "file://pipe:{command}",
    "file:///x/a.tar;pipe:{command}",
    "-o x::|{command}",
]


@pytest.fixture(autouse=True)
def no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that are not there are not asked again."""
    monkeypatch.setenv("COUNTERBALANCE_STORAGE", '{"retries": 0}')


@pytest.fixture
def shard(tmp_path: Path) -> str:
    return people_shards(tmp_path / "shards", [3])[0]


@pytest.fixture(params=ATTACKS)
def attack(request: pytest.FixtureRequest, tmp_path: Path, shard: str) -> Iterator[str]:
    """An address that tries to run a command, which must not have run at the end."""
    ran = tmp_path / "ran"
    yield request.param.format(tar=shard, command=f"touch {ran}; cat {shard}")
    assert not ran.exists()


def opened(addresses: list[str]) -> list[Any]:
    return [raw["__key__"] for address in addresses for raw in read_shard(address)]


def test_no_address_runs_a_command(attack: str) -> None:
    for spec in (attack, [attack]):
        with pytest.raises(UserError):
            opened(expand_shards(spec))
    with pytest.raises((UserError, ValueError)):  # straight to the opener, which no command of ours does
        opened([attack])


def through_train(attack: str, tmp_path: Path) -> None:
    train.main(compose(["data=wds", "attributes=captions", f"data.train={attack}", f"runs={tmp_path}", "name=x"]))


def through_held_out(attack: str, tmp_path: Path) -> None:
    data = [f"data.train={tmp_path}/shards", f"data.eval={attack}"]
    train.main(compose(["data=wds", "attributes=captions", *data, f"runs={tmp_path}", "name=x"]))


def through_annotate(attack: str, tmp_path: Path) -> None:
    annotate.main([f"data.train={attack}", "attributes=captions", f"out={tmp_path / 'out'}"])


def through_audit(attack: str, tmp_path: Path) -> None:
    audit.main([f"data.train={attack}", "attributes=captions", f"out={tmp_path / 'out'}"])


def through_suite(attack: str, tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    evaluators = {"r": {"kind": "retrieval", "set": "s"}}
    suite.write_text(yaml.safe_dump({"sets": {"s": {"path": attack}}, "evaluators": evaluators, "allow_pipe": True}))
    evaluate.main([f"suite={suite}", "model=tiny", "device=cpu", f"out={tmp_path / 'out'}"])


def through_interpolate(attack: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, "run", data={"name": "wds", "eval": attack, "allow_pipe": True})
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["eval"] |= {"sets": {}, "bootstrap": 2, "batch_size": 2}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    interpolate.run([f"run={run}"])


@pytest.mark.parametrize(
    ("through", "address"),
    [
        (through_train, ATTACKS[7]),
        (through_held_out, ATTACKS[9]),
        (through_annotate, ATTACKS[9]),
        (through_audit, ATTACKS[7]),
        (through_suite, ATTACKS[9]),
        (through_interpolate, ATTACKS[7]),
    ],
)
def test_no_program_runs_a_command(
    through: Callable[[str, Path], None], address: str, tmp_path: Path, shard: str
) -> None:
    ran = tmp_path / "ran"
    with pytest.raises(UserError):
        through(address.format(tar=shard, command=f"touch {ran}"), tmp_path)
    assert not ran.exists()


def test_the_environment_rewrites_no_address(shard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPEN_REWRITE", f"{shard}=pipe:touch {tmp_path / 'ran'}")
    assert len(opened(expand_shards(f"file://{shard}"))) == 3
    assert not (tmp_path / "ran").exists()


def test_an_allowed_command_runs_in_training_data_and_in_sets(shard: str) -> None:
    named = [f"pipe:cat {shard}", "pipe:" + shard.join(["cat '", "'"]), "pipe:{cat,tail -c +0} " + shard]
    for spec in named:
        addresses = expand_shards(spec, allow_pipe=True)
        assert opened(addresses) == ["000000", "000001", "000002"] * len(addresses)
        assert expand_shards(addresses) == addresses  # what was allowed stays so
        assert isinstance(pickle.loads(pickle.dumps(addresses[0])), ShellCommand)  # in a worker, too
    with pytest.raises(RefusedAddress, match=r"eval\.sets\.s.*set data\.allow_pipe=true"):
        load_set("s", {"path": named[0]})
    suite = build_suite({"s": {"path": named[0]}}, {"r": {"kind": "retrieval", "set": "s"}}, allow_pipe=True)
    assert len(suite.sets["s"]) == 3


def test_a_command_that_fails_is_told(shard: str) -> None:
    for command in (f"head -c 2000 {shard}; exit 3", "exit 3", f"cat {shard}; exit 3"):
        with pytest.raises(UserError, match=r"can't be read: its command ended with status 3\."):
            opened(expand_shards(f"pipe:{command}", allow_pipe=True))


def test_a_command_whose_reader_stops_early_ends(shard: str) -> None:
    samples = read_shard(ShellCommand(f"pipe:cat {shard}; sleep 600"))
    next(samples)
    samples.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["file://{}/{}", "file:{}/{}", "FILE://localhost{}/{}", "{}/{}", "file://{}", "{}"])
def test_files_by_address(shard: str, form: str) -> None:
    (found,) = expand_shards(form.format(Path(shard).parent, "train-*.ta[r]"))
    assert found == shard
    assert is_local(found)


def test_a_file_address_is_decoded(tmp_path: Path) -> None:
    shard = Path(people_shards(tmp_path / "a b%{c}", [1])[0])
    assert expand_shards(str(shard)) == [str(shard)]
    assert len(opened([shard.as_uri()])) == 1


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("ftp://bucket/{0..1}.tar", r"ftp:// is not read; paths, file://, http://, https://, s3://.*pipe:<command>"),
        ("gopher://b/a.tar", "gopher:// is not read"),
        ("https://me:secret@machine/a.tar", "an address on machine holds a password"),
        ("https://machine/a.tar?X-Amz-Signature=secret", "an address on machine holds a password or a signature"),
        ("file://machine/a.tar", "names another machine"),
        ("a-{0..1.tar", "can't be expanded: Unbalanced braces"),
        ("{0..99999999999}.tar", "stands for more than 1,000,000 addresses"),
        ("{0..999}{0..999}{0..9}.tar", "more than"),
        ("{{0..999}{0..999}{0..9},x}{a,b}.tar", "more than"),
        ("{a..z}{a..z}{a..z}{a..z}{a..z}.tar", "more than"),
        ("{0.." + "9" * 5000 + "}", "can't be expanded"),
        ("{" * 3000 + "}" * 3000, "more than"),
    ],
)
def test_addresses_that_are_not_read_are_told(spec: str, sentence: str) -> None:
    with pytest.raises(RefusedAddress, match=rf"^data\.train.*{sentence}"):
        expand_shards(spec)
    with pytest.raises(RefusedAddress, match=rf"^eval\.sets\.s.*{sentence}"):
        load_set("s", {"path": spec})


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..9}x",
        "{00..20..5}{a,b}",
        "{a..e}{{0..3},{5..9}}",
        "a{b}c",
        "{x,{y,z{1..3}}}",
        r"\{a,b\}{c\,d,e}",
        "{c..A}",
        "a",
    ],
)
def test_addresses_are_counted_as_they_are_expanded(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    number = len(expand_braces(pattern, "it"))
    monkeypatch.setattr("balance.stream.shards.MOST_ADDRESSES", number)
    assert len(expand_braces(pattern, "it")) == number
    monkeypatch.setattr("balance.stream.shards.MOST_ADDRESSES", number - 1)
    with pytest.raises(RefusedAddress):
        expand_braces(pattern, "it")
    assert number < MOST_ADDRESSES


@pytest.mark.parametrize(
    ("url", "scheme"), [("a:b/c.tar", ""), ("C://x", "c"), ("./pipe:x", ""), ("HTTPS://x", "https"), ("pipe:", "pipe")]
)
def test_schemes(url: str, scheme: str) -> None:
    assert scheme_of(url) == scheme
