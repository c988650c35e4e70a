"""Where a model starts from: `model.init_from` names weights anywhere, and mostly the architecture that they belong to.

| written | means |
|---|---|
| `ViT-B-32:laion2b_s34b_b79k` | an open_clip model and tag |
| `hf-hub:organisation/model` | an open_clip model on the Hugging Face hub |
| `local-dir:folder`, or the folder | an open_clip folder, such as scripts/export.py writes |
| a folder with `config.json` | a CLIPModel or SiglipModel of transformers |
| `hf:organisation/model` | the same on the Hugging Face hub |
| `runs/mine`, `runs/mine@best`, `runs/mine@500` | a run: its newest, its best, or that step's checkpoint |
| `weights.safetensors`, `weights.pt` | a file: a state dict, or a checkpoint of a run |
| `weights.npz` | big_vision's SigLIP |

This gives weights to a new run. To go on with a run is something else: `resume=true`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip

from balance.common.documents import read_mapping
from balance.errors import UserError
from models.architecture import CONFIG_FILE, check_folder, check_no_code
from models.checkpoint import best_checkpoint, checkpoint_path, list_checkpoints
from models.hf_config import is_transformers, model_cfg, preprocess_cfg, read_config
from models.hf_hub import fetch
from models.hf_tokenizer import FOLDER, has_tokenizer
from models.hf_weights import to_open_clip
from models.weights import Weights, one_line, read_weights

FROM = "from"
"""The model name that stands for the architecture of `init_from`."""
WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
)
_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode", "fill_color", "crop")
HUB = "hf:"
_TRANSFORMERS_FILES = (
    *("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_BPE = 49408
"""Tokens of CLIP's own vocabulary, whose tokenizer open_clip has."""


@dataclass
class Start:
    """A place that weights come from, found but not read.

    Attributes:
        said: what the user wrote, `key=value`.
        kind: "tag", "hub", "folder", "run", "file" or "transformers".
        name: a name for the model: of the architecture, the run, the folder or the file.
        path: of the weights; None as long as they would have to be downloaded.
        tag: of open_clip.
        folder: of transformers' files; None as long as they would have to be downloaded.
    """

    said: str
    kind: str
    name: str
    path: Path | None = None
    tag: str | None = None
    folder: Path | None = None
    _read: Weights | None = None

    def weights(self) -> Weights:
        """Read the weights, once; downloads them where that is needed.

        Raises:
            UserError: they can't be had, or read.
        """
        if self._read is None:
            if self.kind == "transformers":
                self._read = self._of_transformers()
            else:
                self._read = read_weights(self._local(), self.said)
        return self._read

    def _of_transformers(self) -> Weights:
        if self.path is None:
            self.path = _transformers_weights(fetch(self._repository(), self.said, True), self.said)
        found = read_weights(self.path, self.said)
        siglip = self._facts()["model_type"] == "siglip"
        return Weights(to_open_clip(found.tensors, siglip, self.said), transformers=True)

    def _repository(self) -> str:
        return self.said.partition(f"={HUB}")[2]

    def _transformers_folder(self) -> Path:
        if self.folder is None:
            self.folder = fetch(self._repository(), self.said, False)
        return self.folder

    def _facts(self) -> dict[str, Any]:
        folder = self._transformers_folder()
        check_no_code(folder, self.said)
        return read_config(folder, self.said)

    def tokenizer_folder(self) -> Path | None:
        """The folder of transformers' files for the tokenizer that the weights were trained with, if they have one.

        Raises:
            UserError: a model whose tokenizer is not known came without it.
        """
        if self.kind == "transformers":
            folder = self._transformers_folder()
            if has_tokenizer(folder):
                return folder
            facts = self._facts()
            if facts["model_type"] != "clip" or (facts.get("text_config") or {}).get("vocab_size", _BPE) != _BPE:
                raise UserError(
                    f"{self.said} has no tokenizer files (tokenizer.json); save the model's tokenizer into the "
                    "same folder."
                )
            return None
        if self.kind in ("run", "file") and self.path is not None and self.path.parent.name == "checkpoints":
            kept = self.path.parent.parent / FOLDER
            return kept if has_tokenizer(kept) else None
        return None

    def config(self) -> dict[str, Any]:
        """open_clip's `model_cfg` and `preprocess_cfg` that belong to the weights; {} if they carry none.

        Raises:
            UserError: they can't be had, or read.
        """
        if self.kind == "folder":
            assert self.path is not None
            return _read_json(self.path.parent / CONFIG_FILE, self.said)
        if self.kind == "transformers":
            facts, folder = self._facts(), self._transformers_folder()
            tokenizer = self.tokenizer_folder()
            return {
                "model_cfg": model_cfg(facts, self.said, None if tokenizer is None else self.name),
                "preprocess_cfg": preprocess_cfg(folder, facts, self.said),
            }
        if self.kind == "hub":
            return _read_json(Path(self._download(CONFIG_FILE)), self.said)
        if self.kind == "tag":
            return tag_config(self.name, self.tag or "")
        return self.weights().config

    def preprocess(self) -> dict[str, Any]:
        """The preprocessing that the weights were made for; {} if that is not known."""
        return preprocessing(self.config().get("preprocess_cfg") or {})

    def loss(self) -> str | None:
        """The loss that a run's model was trained with; None where that is not known."""
        if self.kind not in ("run", "file") or self.path is None:
            return None
        stored = self.path.parent.parent / "config.yaml"
        if self.path.parent.name != "checkpoints" or not stored.is_file():
            return None
        try:
            model = read_mapping(stored, "a run's configuration", "restore it").get("model")
        except UserError:  # weights can be taken from a run that can't be gone on with
            return None
        return model.get("loss") if isinstance(model, Mapping) else None

    def tokenizer_source(self) -> str | None:
        """What open_clip finds the tokenizer by, if it lies beside the weights."""
        if self.kind == "folder" and self.path is not None:
            return f"local-dir:{self.path.parent}"
        return f"hf-hub:{self.said.partition('hf-hub:')[2]}" if self.kind == "hub" else None

    def _local(self) -> Path:
        if self.path is None:
            if self.kind == "tag":
                self.path = _downloaded(self.said, open_clip.download_pretrained, tag_facts(self.name, self.tag or ""))
            else:
                self.path = Path(self._download(None))
        return self.path

    def _download(self, file: str | None) -> str:
        repository = self.said.partition("hf-hub:")[2]
        options = {} if file is None else {"filename": file}
        return str(_downloaded(self.said, open_clip.download_pretrained_from_hf, repository, **options))


def find_start(asked: str, key: str = "model.init_from") -> Start:
    """Find what `model.init_from` names, without reading or downloading weights.

    Raises:
        UserError: there is no such thing; the sentence says what there is.
    """
    said = f"{key}={asked}"
    if asked.startswith("hf-hub:"):
        return Start(said, "hub", asked.rpartition("/")[2])
    if asked.startswith(HUB):
        repository = asked.removeprefix(HUB)
        if not repository or any(part in ("", "..") for part in repository.split("/")):
            raise UserError(f"{said}: write {HUB}<organisation>/<model>.")
        return Start(said, "transformers", repository.rpartition("/")[2])
    place, at, which = asked.partition("@")
    folder = Path(asked.removeprefix("local-dir:"))
    if (folder / CONFIG_FILE).is_file():
        return Start(said, "folder", folder.resolve().name, _weights_in(folder, said))
    if is_transformers(folder):
        return Start(said, "transformers", folder.resolve().name, _transformers_weights(folder, said), folder=folder)
    if asked.startswith("local-dir:"):
        raise UserError(f"{said}: there is no {folder / CONFIG_FILE}; name an exported folder.")
    if folder.is_file():
        return Start(said, "file", folder.stem, folder)
    if (Path(place) / "config.yaml").is_file():
        return Start(
            said, "run", Path(place).resolve().name, _checkpoint_of(Path(place), which if at else "last", said)
        )
    name, colon, tag = asked.partition(":")
    if colon and "/" not in tag:
        check_tag(name, tag, said)
        return Start(said, "tag", name, tag=tag)
    near = get_close_matches(asked, open_clip.list_models(), n=1, cutoff=0.7)
    hint = f" {near[0]} alone has no weights: add a tag, {near[0]}:<tag>." if near else ""
    raise UserError(
        f"{said} is no file, run, open_clip folder (with {CONFIG_FILE}), transformers folder (with config.json), "
        f"hf:<repository>, hf-hub:<repository>, or <model>:<tag> of open_clip.{hint}"
    )


def check_name(name: str, said: str) -> None:
    """Check the name of an open_clip model.

    Raises:
        UserError: there is no such model; the sentence names the nearest.
    """
    names = open_clip.list_models()
    if name.replace("/", "-") not in names:
        near = get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "see open_clip.list_models()."
        raise UserError(f"{said}: open_clip has no model of that name; {hint}")


def check_tag(name: str, tag: str, said: str) -> None:
    """Check an open_clip model and tag.

    Raises:
        UserError: there is no such model, or tag.
    """
    check_name(name, said)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        known = ", ".join(tags) or "none"
        raise UserError(f"{said} is neither a file nor a tag of {name}, which has {known}.")


def tag_facts(name: str, tag: str) -> dict[str, Any]:
    """What open_clip knows of a tag: where its weights are, its preprocessing, its activation."""
    return dict(open_clip.get_pretrained_cfg(name.replace("/", "-"), tag) or {})


def tag_config(name: str, tag: str) -> dict[str, Any]:
    """The `model_cfg` and `preprocess_cfg` of an open_clip tag."""
    facts = tag_facts(name, tag)
    model = dict(open_clip.get_model_config(name.replace("/", "-")) or {})
    if facts.get("quick_gelu"):  # weights made with another activation than the architecture of that name has
        model["quick_gelu"] = True
    return {"model_cfg": model, "preprocess_cfg": preprocessing(facts)}


def preprocessing(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The preprocessing that weights were made for, without the picture's size, which is the model's."""
    return {key: facts[key] for key in _PREPROCESSING if facts.get(key) is not None}


def take_architecture(
    start: Start, preprocess: Mapping[str, Any] | None, loss: str | None
) -> tuple[str, dict[str, Any], dict[str, Any], str | None]:
    """(name, model_cfg, preprocess_cfg, loss) of `model=from`; what the user has given goes first.

    Raises:
        UserError: the weights carry no architecture.
    """
    config = start.config()
    if not config.get("model_cfg"):
        raise UserError(
            f"{start.said} holds weights alone, without their architecture; choose that by model=... instead of "
            "model=from."
        )
    pixels = start.preprocess() if preprocess is None else dict(preprocess)
    return start.name, dict(config["model_cfg"]), pixels, loss or start.loss()


def _checkpoint_of(run: Path, which: str, said: str) -> Path:
    folder = run / "checkpoints"
    saved = list_checkpoints(folder)
    if not saved:
        raise UserError(f"{said}: the run {run} has no checkpoint yet.")
    if which == "last":
        return saved[-1]
    if which == "best":
        best = best_checkpoint(folder)
        if best is None:
            raise UserError(f"{said}: the run {run} has not kept a best checkpoint (checkpoint.best=<metric>).")
        return best
    steps = {path.stem.removeprefix("step-").lstrip("0") or "0": path for path in saved}
    if which not in steps:
        raise UserError(f"{said}: {which!r} is none of last, best, and the kept steps {', '.join(steps)}.")
    return checkpoint_path(folder, int(which))


def _transformers_weights(folder: Path, said: str) -> Path:
    for name in _TRANSFORMERS_FILES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{said}: {folder} has a configuration and no weights, which {_TRANSFORMERS_FILES[0]} would hold.")


def _weights_in(folder: Path, said: str) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("*.pt")])
    if not others:
        raise UserError(f"{said}: {folder} has a configuration and no weights.")
    return others[0]


def _read_json(path: Path, said: str) -> dict[str, Any]:
    found = check_folder(path.parent, said)
    return found if "model_cfg" in found else {"model_cfg": found}


def _downloaded(said: str, fetch: Any, *arguments: Any, **options: Any) -> Path:
    try:
        return Path(fetch(*arguments, **options))
    except Exception as error:  # the hub's client and urllib have many
        raise UserError(f"{said} can't be downloaded: {one_line(error)}") from error
