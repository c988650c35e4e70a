"""Features of pictures and texts, each computed once for all evaluators and shared out over the processes.

Equal pictures (by their bytes) and equal texts are embedded once, whichever sets and evaluators they belong to.
Features depend on neither the number of processes, the batch size nor the order of the stimuli, but for rounding: a
matrix product of another shape may add up in another order, which moves a float32 feature by about 1e-7.
"""

import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F

from balance.errors import UserError
from balance.progress import ProgressLine
from eval.features import FeatureStore, FeatureTable, content_key
from eval.pixels import Pixels
from eval.sets import EvalSet
from models.factory import ModelBundle
from models.training.distributed import Processes

CPU_PIXELS = 16 * 224 * 224  # given to a model at a time on a CPU: doubles EfficientNet's speed, ViT's stays
MANY_TEXTS = 5000  # from here on texts take long enough for a progress line


class Embedder:
    """Embeds with one state of one model; make a new one when the model has changed.

    Args:
        bundle: the model with tokenizer and preprocessing.
        device: where it computes.
        batch_size: pictures or texts at a time.
        processes: each embeds its share, and all get all; by default this one alone.
        pixels: the decoder, with the pictures that it has kept.
        store: features on disk, used and added to by the first process.
        name: what the model is called in messages.
        shown: show the progress.

    Attributes:
        truncated: texts that the tokenizer has cut, in the order met.
        seconds: spent on embedding, reading and decoding of pictures included.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        device: torch.device,
        batch_size: int = 256,
        processes: Processes | None = None,
        pixels: Pixels | None = None,
        store: FeatureStore | None = None,
        name: str = "the model",
        shown: bool = False,
    ) -> None:
        self.bundle, self.device, self.batch_size = bundle, device, batch_size
        self.model: Any = bundle.model  # open_clip's model classes share these methods but no base class
        self.processes = processes or Processes(alone=True)
        self.name, self.shown = name, shown and self.processes.first
        self.pixels = pixels or Pixels(0)
        self.store = store
        self.truncated: list[str] = []
        self.seconds = 0.0
        self._pad: int | None = None
        self._tables = {"images": FeatureTable(), "texts": FeatureTable()}
        if store is not None:
            self._load(store)

    @property
    def scale(self) -> float:
        """The model's logit scale: scores are `scale * cosine`."""
        return float(self.model.logit_scale.detach().exp())

    def images(self, data: EvalSet) -> torch.Tensor:
        """Normalised features of all pictures of a set, (n, d) float32 on the CPU.

        Raises:
            UserError: a picture can't be decoded, or its feature is not finite.
        """
        self.prepare([data])
        return self._tables["images"].get(data.picture_keys())

    @torch.inference_mode()
    def prepare(self, sets: Iterable[EvalSet]) -> None:
        """Embed all pictures of some sets that are not embedded yet, in full batches across the sets.

        Raises:
            UserError: a picture can't be decoded, or its feature is not finite.
        """
        table = self._tables["images"]
        pictures = [picture for data in sets for picture in data.pictures()]
        new = [pictures[position] for position in table.missing([picture.key for picture in pictures])]
        if not new:
            return
        start = time.perf_counter()
        rounds = self._rounds(new)
        shares = [part[self.processes.rank :: self.processes.world] for part in rounds]
        with ProgressLine("embed pictures", len(new), "pictures", shown=self.shown) as line:
            for part, pixels in zip(rounds, self.pixels.batches(self.bundle.resize, shares), strict=True):
                mine = None
                if pixels is not None:
                    parts = pixels.split(self._at_once(pixels))
                    mine = torch.cat([self._encode(part) for part in parts])
                features = self._gather(mine, len(part))
                self._check(features, "picture", [picture.name for picture in part])
                self._add("images", [picture.key for picture in part], features)
                line.update(len(part))
        self.seconds += time.perf_counter() - start

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Normalised features of texts, (n, d) float32 on the CPU.

        Raises:
            UserError: a feature is not finite.
        """
        table, keys = self._tables["texts"], [content_key(text.encode()) for text in texts]
        new = [texts[position] for position in table.missing(keys)]
        shown, start = self.shown and len(new) >= MANY_TEXTS, time.perf_counter()
        with ProgressLine("embed texts", len(new), "texts", shown=shown) as line:
            for part in self._rounds(new):
                mine = part[self.processes.rank :: self.processes.world]
                features = None
                if mine:
                    tokens = self.bundle.tokenizer(list(mine))
                    self._note_truncated(mine, tokens)
                    features = self.model.encode_text(self.bundle.trim(tokens).to(self.device))
                whole = self._gather(features, len(part))
                self._check(whole, "text", part)
                self._add("texts", [content_key(text.encode()) for text in part], whole)
                line.update(len(part))
        self.seconds += time.perf_counter() - start
        return table.get(keys)

    def prompts(self, classes: Sequence[Sequence[str]]) -> torch.Tensor:
        """One feature per class: the normalised mean over its prompts; (k, d)."""
        features = self.texts([prompt for prompts in classes for prompt in prompts])
        parts = features.split([len(prompts) for prompts in classes])
        return torch.stack([F.normalize(part.mean(dim=0), dim=0) for part in parts])

    def probabilities(self, images: torch.Tensor, classes: Sequence[Sequence[str]]) -> torch.Tensor:
        """Softmax over the classes' scores for each picture; (n, k) float64.

        A bias of the logits is the same for all classes and cancels.
        """
        return (self.scale * images.double() @ self.prompts(classes).double().T).softmax(dim=1)

    def finish(self) -> None:
        """Write what the store has not written yet, and put together which texts were cut."""
        parts = self.processes.gather(self.truncated)
        self.truncated = list(dict.fromkeys(text for part in parts for text in part))
        self.save()

    def save(self) -> None:
        """Write what the store has not written yet."""
        if self.store is not None and self.processes.first:
            self.store.flush(self.truncated)

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.model.encode_image(self.bundle.normalise(pixels.to(self.device))))

    def _at_once(self, pixels: torch.Tensor) -> int:
        """How many pictures the model is given together: on a CPU as many as stay in its cache."""
        if self.device.type != "cpu":
            return len(pixels)
        return max(1, CPU_PIXELS // (pixels.shape[-1] * pixels.shape[-2]))

    def _rounds(self, items: Sequence[Any]) -> list[Sequence[Any]]:
        """Stretches of which each process gets at most a batch."""
        step = self.batch_size * self.processes.world
        return [items[start : start + step] for start in range(0, len(items), step)]

    def _gather(self, mine: torch.Tensor | None, total: int) -> torch.Tensor:
        """Normalise, and put the processes' interleaved rows together again."""
        mine = None if mine is None else F.normalize(mine.float().cpu(), dim=1)
        if self.processes.world == 1:
            assert mine is not None
            return mine
        parts = self.processes.gather(mine)
        some = next(part for part in parts if part is not None)
        full = some.new_empty(total, some.shape[1])
        for rank, part in enumerate(parts):
            if part is not None:
                full[rank :: self.processes.world] = part
        return full

    def _check(self, features: torch.Tensor, what: str, names: Sequence[str]) -> None:
        bad = (~features.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if bad:
            raise UserError(
                f"{self.name} gives a feature that is not finite for the {what} {names[bad[0]]!r}"
                f"{f' and {len(bad) - 1} more' if len(bad) > 1 else ''}; its weights are damaged or have diverged."
            )

    def _add(self, kind: str, keys: list[bytes], features: torch.Tensor) -> None:
        self._tables[kind].add(keys, features)
        if self.store is not None and self.processes.first:
            self.store.add(kind, keys, features)

    def _load(self, store: FeatureStore) -> None:
        """Read the store on the first process, for all."""
        if self.processes.first:
            for kind, table in self._tables.items():
                store.load(kind, table)
            self.truncated = store.truncated()
        self._tables, self.truncated = self.processes.agree((self._tables, self.truncated))

    def _note_truncated(self, texts: Sequence[str], tokens: torch.Tensor) -> None:
        """Note which texts are longer than the tokens they get: only rows without padding at the end can be."""
        if self._pad is None:
            self._pad = int(self.bundle.tokenizer([""])[0, -1])
        # Where the end of a text pads it, too, only the last but one tells.
        full = (tokens[:, -2:] != self._pad).any(dim=1).nonzero().flatten().tolist()
        if not full:
            return
        length = tokens.shape[1]
        longer: Any = self.bundle.tokenizer
        with contextlib.suppress(TypeError):  # a tokenizer whose length is fixed can't tell
            whole = longer([texts[row] for row in full], context_length=4 * length)
            cut = (whole[:, length:] != self._pad).any(dim=1).tolist()
            self.truncated += [texts[row] for row, over in zip(full, cut, strict=True) if over]
