"""What is read is data: checkpoints, run folders, suites and downloads run no code, read no secrets, fill no memory."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from balance.common.documents import read_document
from balance.errors import UserError
from conf.app.cli import stored_config
from eval.report.card import code, plain
from eval.runner import find_kind
from models.architecture import check_architecture, check_folder
from models.checkpoint import list_checkpoints, load_checkpoint, newest_checkpoint, note_sum, save_checkpoint
from models.factory import create
from models.weights import read_weights
from scripts.prepare_stimuli import main as prepare
from scripts.suite_tools import compose_suite
from tests.launching import MODEL
from tests.tiny import picture


@pytest.fixture
def stopped(straight: Path, tmp_path: Path) -> Path:
    """A copy of a run, to be changed."""
    return Path(shutil.copytree(straight, tmp_path / "runs/a"))


def change(run: Path, key: str, value: Any) -> None:
    """Set a dotted key of a run's config.yaml."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    *path, last = key.split(".")
    node = config
    for part in path:
        node = node.setdefault(part, {})
    node[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def resume(run: Path, *more: str) -> Any:
    return stored_config([f"name={run.name}", f"runs={run.parent}", "resume=true", *more])


# ---------------------------------------------------------------------------- checkpoint folders


def evil_folder(folder: Path, tokenizer: dict[str, Any], **text: Any) -> Path:
    """An open_clip folder whose tokenizer brings Python of its own."""
    folder.mkdir()
    model = {**MODEL, "text_cfg": {**MODEL["text_cfg"], "hf_tokenizer_name": "x", **text}}  # type: ignore[dict-item]
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "evil.py").write_text(f"open({str(folder / 'pwned')!r}, 'w')\nclass Evil: pass\n")
    torch.save({"x": torch.zeros(1)}, folder / "open_clip_pytorch_model.bin")
    return folder


@pytest.mark.parametrize("given", ["model.init_from", "model.name"])
@pytest.mark.parametrize("text", [{"tokenizer_kwargs": {"trust_remote_code": True}}, {}], ids=["asked", "auto_map"])
def test_a_folders_tokenizer_runs_no_code(tmp_path: Path, given: str, text: dict[str, Any]) -> None:
    folder = evil_folder(tmp_path / "model", {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}, **text)
    source = (
        {"name": "from", "init_from": str(folder)} if given == "model.init_from" else {"name": f"local-dir:{folder}"}
    )
    with pytest.raises(UserError, match=r"trust_remote_code is not known|asks to run Python"):
        create(**source)  # type: ignore[arg-type]
    assert not (folder / "pwned").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"embed_dim": 1e9}, "embed_dim=1000000000.0 must be above 0 and at most"),
        ({"embed_dim": True}, "embed_dim=True must be"),
        ({"text_cfg": {"vocab_size": 1 << 24, "width": 1 << 16}}, "GiB of weights"),
        ({"vision_cfg": {"image_size": 16384, "patch_size": 1, "width": 65536}}, "GiB of weights"),
        ({"vision_cfg": {"layers": [2, 2, 1 << 30, 2]}}, "layers="),
        ({"vision_cfg": "x"}, "no vision_cfg"),
        ({"__class__": "x"}, "__class__ is not known"),
        ({"text_cfg": {"tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}}, "bpe_path is not known"),
    ],
)
def test_sizes_and_keys_are_refused_before_anything_is_allocated(change: dict[str, Any], sentence: str) -> None:
    base: dict[str, Any] = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}
    with pytest.raises(UserError, match=sentence):
        check_architecture({**base, **change}, "x")


def test_every_architecture_of_open_clip_passes() -> None:
    import open_clip

    for name in open_clip.list_models():
        check_architecture(open_clip.get_model_config(name), name)


def test_a_damaged_configuration_of_a_folder_is_told_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_bytes(b"[" * 100_000)
    with pytest.raises(UserError, match=r"open_clip_config\.json is damaged"):
        check_folder(tmp_path, "model.init_from=x")


# ---------------------------------------------------------------------------- run folders and suites


@pytest.mark.parametrize(
    "kind", ["builtins:eval", "os:system", "subprocess:Popen", "math:pi", "nowhere:X", "x", None, []]
)
def test_what_is_no_evaluator_is_no_kind(kind: Any) -> None:
    with pytest.raises(UserError, match=r"eval\.evaluators\.a\.kind="):
        find_kind("a", kind)


def test_a_class_that_a_run_folder_names_is_imported_only_when_the_command_names_it(stopped: Path) -> None:
    change(stopped, "eval.evaluators.mine.kind", "tests.no_such_module:Mine")
    with pytest.raises(UserError, match=r"would import code that the file names"):
        resume(stopped)
    assert resume(stopped, "eval.evaluators.mine.kind=tests.no_such_module:Mine") is not None


def test_a_class_that_a_suite_names_is_imported_only_when_the_command_names_it(tmp_path: Path, straight: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text("sets: {}\nevaluators: {mine: {kind: 'tests.no_such_module:Mine'}}\n")
    model = f"model.init_from={straight}"
    with pytest.raises(UserError, match=r"would import code that the file names"):
        compose_suite([model], str(suite))
    compose_suite([model, "eval.evaluators.mine.kind=tests.no_such_module:Mine"], str(suite))
    suite.write_text("sets: {a: {path: '${oc.env:HOME}'}}\nevaluators: {}\n")
    with pytest.raises(UserError, match=r"oc\.env:HOME\} would be looked up"):
        compose_suite([model], str(suite))


@pytest.mark.parametrize("key", ["data.train", "track.group", "eval.headline.x"])
def test_a_saved_configuration_looks_nothing_up(stopped: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "sesame")
    change(stopped, key, "${oc.env:SECRET}")
    with pytest.raises(UserError, match="would be looked up on this machine") as caught:
        resume(stopped)
    assert "sesame" not in str(caught.value)


def test_commands_are_allowed_by_the_command_line_alone(stopped: Path) -> None:
    change(stopped, "data.allow_pipe", True)
    assert resume(stopped).data.allow_pipe is False
    assert resume(stopped, "data.allow_pipe=true").data.allow_pipe is True


BOMBS = {
    "aliases": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40)),
    "depth": "[" * 3000 + "]" * 3000,
    "itself": "a: &a [*a]\n",
    "object": "!!python/object/apply:os.system ['touch pwned']\n",
    "size": "x: " + "y" * (1 << 20),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_documents_that_unfold_are_refused(bomb: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(BOMBS[bomb])
    with pytest.raises(UserError, match=r"config\.yaml (is damaged|has 1,048,579 bytes)"):
        read_document(path, "a configuration", "restore it")


# ---------------------------------------------------------------------------- weights


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('ran')",))


def test_a_pickle_is_refused_without_advice_to_trust_it(tmp_path: Path) -> None:
    torch.save({"model": Evil()}, tmp_path / "step-00000001.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil()))
    for read in (
        lambda: load_checkpoint(tmp_path / "step-00000001.pt"),
        lambda: read_weights(tmp_path / "step-00000001.pt", "x"),
        lambda: read_weights(tmp_path / "raw.pt", "x"),
    ):
        with pytest.raises(UserError, match="refused") as caught:
            read()
        assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("hashed", [True, False], ids=["by its hash", "by its checksums"])
def test_a_flipped_bit_is_found(tmp_path: Path, hashed: bool) -> None:
    path = save_checkpoint(tmp_path, 1, {"model": {"w": torch.ones(1000)}})
    if not hashed:
        (tmp_path / "sha256sums.txt").unlink()
    assert newest_checkpoint(tmp_path) == (path, [])
    data = bytearray(path.read_bytes())
    data[data.index(torch.ones(8).numpy().tobytes()) + 100] ^= 1
    path.write_bytes(data)
    for read in (lambda: load_checkpoint(path), lambda: read_weights(path, "x")):
        with pytest.raises(UserError, match="damaged"):
            read()


def test_packed_archives_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as old,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(UserError, match="packed"):
        read_weights(tmp_path / "b.pt", "x")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, suffix: str, value: float) -> None:
    from safetensors.torch import save_file

    weights = {"good": torch.ones(2), "bad": torch.tensor([1.0, value])}
    path = tmp_path / f"w{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    with pytest.raises(UserError, match="1 of 2 values of bad are NaN or infinite"):
        read_weights(path, "model.init_from=w")


def test_a_tensor_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1).expand(1 << 40)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="more values than are stored"):
        read_weights(tmp_path / "w.pt", "x")


@pytest.mark.parametrize("prefix", ["_orig_mod.module.", "module._orig_mod.", "module.module.", "_orig_mod.", ""])
def test_prefixes_of_wrappers_are_taken_off(tmp_path: Path, prefix: str) -> None:
    torch.save({f"{prefix}{name}": torch.ones(1) for name in ("a", "module_b")}, tmp_path / "w.pt")
    assert set(read_weights(tmp_path / "w.pt", "x").tensors) == {"a", "module_b"}


def test_a_hash_file_is_read_by_sha256sum(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "x.safetensors").write_bytes(b"x")
    note_sum(tmp_path / "x.safetensors")
    assert subprocess.run(["sha256sum", "--check", "sha256sums.txt"], cwd=tmp_path, capture_output=True).returncode == 0


def test_a_torn_newest_checkpoint_is_passed_over(
    world: Path, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.launching import measured, run

    before, newest = list_checkpoints(stopped / "checkpoints")
    expected = measured(stopped)
    newest.write_bytes(newest.read_bytes()[:1000])
    assert run(world, stopped.parent, "name=a", "resume=true") == 0
    said = capsys.readouterr().out
    assert f"The run goes on from the one before, {before.name}" in said
    assert measured(stopped) == expected
    assert load_checkpoint(newest)


# ---------------------------------------------------------------------------- downloads and cards


def faces(folder: Path, file: str) -> Path:
    """A download of FairFace with one picture, named in its table like this."""
    (folder / "val").mkdir(parents=True)
    (folder / "val/1.jpg").write_bytes(picture(1))
    (folder / "fairface_label_val.csv").write_text(f"file,age,gender,race\n{file},20-29,Female,Black\n")
    return folder


@pytest.mark.parametrize("kind", ["above", "absolute", "link"])
def test_stimuli_are_read_from_the_download_alone(tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(picture(2))
    source = faces(tmp_path / "down", {"above": "../secret.jpg", "absolute": str(secret), "link": "val/2.jpg"}[kind])
    (source / "val/2.jpg").symlink_to(secret)
    with pytest.raises(UserError, match="leads out of"):
        prepare(["source=fairface", f"from={source}", f"out={tmp_path / 'out'}", "progress=false"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../out", "a/b", "/abs"])
def test_a_name_of_stimuli_is_no_path(tmp_path: Path, name: str) -> None:
    source = faces(tmp_path / "down", "val/1.jpg")
    with pytest.raises(UserError, match="must be the name of a folder"):
        prepare(["source=fairface", f"from={source}", f"out={tmp_path / 'o'}", f"name={name}", "progress=false"])


@pytest.mark.parametrize(
    "text", ["[x](http://a)", "<script>", "a|b", "# t\n---\nx: 1", "![](x)", "`x`", "**b**", "\x1b[31m"]
)
def test_what_a_card_quotes_is_text(text: str) -> None:
    shown = plain(text)
    assert not any(mark in shown for mark in ("<", "\n", "\x1b"))
    for mark in "[]()|*`#!":
        assert shown.count(mark) == shown.count(f"\\{mark}")
    assert code(text).count("`") == 2
