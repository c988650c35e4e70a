"""Make morph series from pairs of faces with landmarks, as the evaluator `hypodescent` reads them.

    python scripts/make_morphs.py pairs=pairs.csv faces=faces landmarks=landmarks out=stimuli/morphs

pairs: a CSV file with the columns source and target (files inside faces) and any labels, such as source_ethnicity and
gender, which are copied; without a column series it is named after the two files. landmarks: for each face a file of
the same name, .csv with columns x and y, or .json with a list of [x, y], in pixels of the face; the same landmarks in
the same order for all.
  steps=21            pictures a series
  steps_by=paper      paper (the last is the target) or released (20/21 of the way)
  quality=95          of the JPEG files

Writes out/morphs/<series>/<step>.jpg and out/morphs.csv. Series that are there are not made again.
"""

import csv
import io
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image

from balance.common.images import BadImage, decode_rgb
from balance.errors import UserError
from balance.files import write_whole
from balance.progress import ProgressLine
from conf.app.command import run_command, split_options
from eval.morph import morph, read_landmarks, step_shares
from scripts.stimuli_faces import read_table
from scripts.stimuli_plan import need

OPTIONS: dict[str, Any] = {
    "pairs": "",
    "faces": "",
    "landmarks": "",
    "out": "",
    "steps": 21,
    "steps_by": "paper",
    "quality": 95,
    "progress": True,
}


def main(arguments: list[str]) -> None:
    options, rest = split_options(arguments, OPTIONS)
    if rest:
        raise UserError(f"{rest[0]!r} is not a setting; they are {', '.join(OPTIONS)}.")
    for key in ("pairs", "faces", "landmarks", "out"):
        if not options[key]:
            raise UserError(f"{key} must be given; see --help.")
    shares = step_shares(int(options["steps"]), options["steps_by"])
    faces, landmarks, out = (Path(options[key]).expanduser() for key in ("faces", "landmarks", "out"))
    pairs = _pairs(Path(options["pairs"]).expanduser(), faces, landmarks)
    rows = []
    with ProgressLine("morphs", len(pairs), "series", shown=bool(options["progress"])) as progress:
        for pair in pairs:
            names = [f"{pair['series']}/{round(1000 * share):04d}.jpg" for share in shares]
            if not all((out / "morphs" / name).is_file() for name in names):
                first, last = (_read(faces / pair[end]) for end in ("source", "target"))
                points, others = (read_landmarks(_landmark_file(landmarks, pair[end])) for end in ("source", "target"))
                series = morph(first, last, points, others, shares, pair["series"])
                for name, made in zip(names, series, strict=True):
                    _save(made, out / "morphs" / name, int(options["quality"]))
            for name, share in zip(names, shares, strict=True):
                weights = {"source_weight": round(1 - share, 6), "target_weight": round(share, 6)}
                rows.append({"file": name, **pair, **weights})
            progress.update(1)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(out / "morphs.csv", text.getvalue())
    print(f"{out}: {len(pairs)} series of {len(shares)} pictures")


def _pairs(table: Path, faces: Path, landmarks: Path) -> list[dict[str, str]]:
    """The pairs, all of whose files are there."""
    pairs = read_table(need(table, "the table of pairs"), ("source", "target"))
    found = []
    for row in pairs:
        for end in ("source", "target"):
            need(faces / row[end], f"a face of {table}")
            need(_landmark_file(landmarks, row[end]), f"the landmarks of {row[end]}")
        series = row.get("series") or "_".join(Path(row[end]).with_suffix("").name for end in ("source", "target"))
        found.append({**row, "series": series})
    names = [row["series"] for row in found]
    if len(set(names)) < len(names):
        raise UserError(f"{table} names a series twice: {max(names, key=names.count)}.")
    return found


def _landmark_file(folder: Path, face: str) -> Path:
    file = (folder / face).with_suffix(".csv")
    return file if file.is_file() else file.with_suffix(".json")


def _read(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    try:
        return np.array(decode_rgb(path.read_bytes()))
    except (OSError, BadImage) as error:
        raise UserError(f"{path} can't be read as a picture.") from error


def _save(pixels: np.ndarray[Any, np.dtype[np.uint8]], path: Path, quality: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    write_whole(path, buffer.getvalue())


if __name__ == "__main__":
    run_command(main, __doc__, bare=False)
