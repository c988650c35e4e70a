"""Fit `scale` and `shift` of a prompts file on labelled pictures, so that its probabilities can be taken at their word.

    python scripts/calibrate.py data.train=faces/ prompts=gender field=gender positive=female negative=male model=...

where model is, say, '{name: ViT-B-32, pretrained: laion2b_s34b_b79k}'.

Half of the pictures (by hash of the key) fits, the other half checks. Prints the three lines for the prompts file, and
for the checking half the accuracy, the log loss and the expected calibration error, before and after. Settings beside
those: most (pictures used at most), device, precision, data.allow_pipe (run `pipe:` addresses).
"""

import sys
import zlib
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit

from balance.errors import UserError
from balance.labels.metadata import json_field
from balance.labels.pictures import PictureSource, fit_calibration
from balance.stream.samples import BadSample, Sample, parse_sample, read_shard
from balance.stream.shards import expand_shards
from conf.app.command import run_command, split_options

OPTIONS: dict[str, Any] = {"data.train": "", "prompts": "", "field": "", "positive": "", "negative": "", "model": {}}
NEEDED = tuple(OPTIONS)
OPTIONS |= {"most": 5000, "device": "auto", "precision": "auto", "data.allow_pipe": False}


def main(arguments: list[str]) -> None:
    options, rest = split_options(arguments, OPTIONS)
    missing = [key for key in NEEDED if not options[key]]
    if rest or missing:
        wrong = f"there is no setting {rest[0].partition('=')[0]}" if rest else f"{missing[0]} must be given"
        raise UserError(
            f"calibrate: {wrong}; it needs {', '.join(NEEDED)}, and may be given "
            f"{', '.join(key for key in OPTIONS if key not in NEEDED)}."
        )
    from scripts.picture_encoder import encoder_factory  # torch takes seconds

    encoder = encoder_factory(options["device"], options["precision"])(options["model"])
    source = PictureSource({"kind": "pictures", "prompts": options["prompts"]}, encoder)
    samples, labels = labelled(options)
    margins = source.margins(samples)
    if margins.shape[1] != 1:
        raise UserError("calibrate fits attributes with 'positive'; concepts have one margin each.")
    seen = np.isfinite(margins[:, 0])
    margin, label = margins[seen, 0], labels[seen]
    fitting = np.array([zlib.crc32(sample.key.encode()) % 2 == 0 for sample in samples])[seen]
    scale, shift = fit_calibration(margin[fitting], label[fitting])
    print(f"scale: {scale:.4g}\nshift: {shift:.4g}")
    before = source.scale * margin[~fitting] + source.shift
    for name, logit in (("before", before), ("after", scale * margin[~fitting] + shift)):
        print(f"# {name}: {quality(logit, label[~fitting])}, n = {(~fitting).sum()}")
    print(f"accuracy: {right(scale * margin[~fitting] + shift, label[~fitting]):.3f}")


def labelled(options: dict[str, Any]) -> tuple[list[Sample], NDArray[np.float64]]:
    """Pictures whose field holds one of the two values, and 1 or 0 for each."""
    meaning = {options["positive"].casefold(): 1.0, options["negative"].casefold(): 0.0}
    samples: list[Sample] = []
    labels: list[float] = []
    for shard in expand_shards(options["data.train"], allow_pipe=options["data.allow_pipe"] is True):
        for raw in read_shard(shard, on_bad=lambda cause: None):
            try:
                sample = parse_sample(raw, need_caption=False)
            except BadSample:
                continue
            label = meaning.get(str(json_field(sample.meta, options["field"])).casefold())
            if label is not None:
                samples.append(sample)
                labels.append(label)
    if not samples:
        raise UserError(f"No picture has {options['field']}={options['positive']} or {options['negative']}.")
    order = np.argsort([zlib.crc32(f"order {sample.key}".encode()) for sample in samples])[: int(options["most"])]
    return [samples[i] for i in order], np.array(labels)[order]


def right(logit: NDArray[np.float64], label: NDArray[np.float64]) -> float:
    """Share of labels that the nearer value gets right."""
    return float(((logit > 0) == label).mean())


def quality(logit: NDArray[np.float64], label: NDArray[np.float64]) -> str:
    """Accuracy, log loss, and expected calibration error over ten equal bins of p."""
    p = expit(logit)
    loss = -(label * log_expit(logit) + (1 - label) * log_expit(-logit)).mean()
    place = np.minimum((p * 10).astype(int), 9)
    gaps = [abs(p[place == b].mean() - label[place == b].mean()) * (place == b).mean() for b in np.unique(place)]
    return f"accuracy {right(logit, label):.3f}, log loss {loss:.3f}, calibration error {sum(gaps):.3f}"


if __name__ == "__main__":
    run_command(main, __doc__, bare=False)
