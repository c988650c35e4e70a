"""Pictures as their authors publish them: iEAT, OASIS, ImageNet, and pictures with captions (COCO, Flickr)."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from balance.errors import UserError
from eval.options import stimuli
from scripts.stimuli_faces import read_table
from scripts.stimuli_plan import Item, StimuliPlan, first_of, need, on_white, pictures_in


def ieat(source: Path, options: dict[str, Any]) -> StimuliPlan:
    """The picture stimuli of iEAT, `data/experiments/<test>/<category>/`. Steed and Caliskan (FAccT 2021).

    Numbers of pictures are compared with those of the published tests; a difference is noted, an absent category too.
    """
    folder = first_of(source, ["data/experiments", "experiments", "images"], "the folder of iEAT's experiments")
    plan = StimuliPlan("ieat", [], table="", pictures="images")
    found: Counter[str] = Counter()
    for path in pictures_in(folder):
        name = path.relative_to(folder).as_posix()
        category = name.rpartition("/")[0]
        found[category] += 1
        plan.items.append(Item(name, path, change=on_white))
    for category, count in stimuli("eat/ieat").get("counts", {}).items():
        if found[category] != count:
            plan.notes.append(f"{category} has {found[category]} pictures; the published tests have {count}.")
    return plan


def oasis(source: Path, options: dict[str, Any]) -> StimuliPlan:
    """OASIS: `OASIS.csv` beside `images/`, a picture by its theme. Kurdi, Lozano and Banaji (2017)."""
    table = first_of(source, ["OASIS.csv", "ratings.csv"], "the ratings of OASIS")
    images = {_theme(path.stem): path for path in pictures_in(need(source / "images", "the pictures of OASIS"))}
    plan = StimuliPlan("oasis", [], table="ratings.csv", pictures="images")
    for row in read_table(table, ("Theme", "Valence_mean")):
        path = images.pop(_theme(row["Theme"]), None)
        if path is None:
            plan.left_out["rated, but no picture"] += 1
            continue
        kept = {("id" if key == "" else key): value for key, value in row.items() if key != "file"}
        plan.items.append(Item(f"{_theme(row['Theme'])}{path.suffix.lower()}", path, row=kept))
    if images:
        plan.left_out["picture without ratings"] = len(images)
    if len(plan.items) != 900:
        plan.notes.append(f"{len(plan.items):,} rated pictures are here; OASIS has 900.")
    return plan


def _theme(text: str) -> str:
    return re.sub(r"\s+", "_", text.strip())


def imagenet(source: Path, options: dict[str, Any]) -> StimuliPlan:
    """ImageNet's validation pictures, in a folder a class, or flat with `LOC_val_solution.csv`.

    Source: Russakovsky et al. (2015). Classes are numbered in the order of their WordNet ids; names and prompts are
    those that open_clip uses.
    """
    # Imported here: open_clip takes seconds.
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    solution = source / "LOC_val_solution.csv"
    if solution.is_file():
        answers = {row["ImageId"]: row["PredictionString"].split()[0] for row in read_table(solution, ("ImageId",))}
        found = [(answers.get(path.stem), path) for path in pictures_in(source)]
    else:
        found = [(path.parent.name, path) for path in pictures_in(source)]
    plan = StimuliPlan("imagenet", [], pictures="test")
    known = [(wnid, path) for wnid, path in found if wnid and re.fullmatch(r"n\d{8}", wnid)]
    plan.left_out["no WordNet id"] = len(found) - len(known)
    plan.left_out = +plan.left_out
    wnids = sorted({wnid for wnid, _ in known})
    if len(wnids) != len(IMAGENET_CLASSNAMES):
        raise UserError(
            f"{source} has pictures of {len(wnids)} classes; ImageNet has {len(IMAGENET_CLASSNAMES)}, and a class is "
            "numbered by its place among all of them."
        )
    number = {wnid: place for place, wnid in enumerate(wnids)}
    known.sort(key=lambda one: (one[1].name, one[0]))
    plan.items = [Item(f"{at:06d}", path, {"cls": number[wnid]}) for at, (wnid, path) in enumerate(known)]
    plan.files["classnames.txt"] = "\n".join(IMAGENET_CLASSNAMES) + "\n"
    templates = [template("{c}") for template in OPENAI_IMAGENET_TEMPLATES]
    plan.files["zeroshot_classification_templates.txt"] = "\n".join(templates) + "\n"
    if len(plan.items) != 50_000:
        plan.notes.append(f"{len(plan.items):,} pictures are here; ImageNet's validation set has 50,000.")
    return plan


def captions(source: Path, options: dict[str, Any]) -> StimuliPlan:
    """Pictures with captions: COCO's `captions_val2017.json`, Karpathy's `dataset_*.json`, or Flickr8k's token file."""
    split = str(options.get("split") or "")
    file = _caption_file(source, options.get("captions"))
    if file.suffix == ".txt":
        found = _flickr8k(source, file, split or "test")
    else:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = _karpathy(content, split or "test") if "sentences" in content["images"][0] else _coco(content)
    pictures = {path.name: path for path in pictures_in(source)}
    plan = StimuliPlan("captions", [], split=split or "test")
    for name, texts in found.items():
        path = pictures.get(name)
        texts = [text.strip() for text in texts if text.strip()]
        if path is None or not texts:
            plan.left_out["picture not there" if path is None else "no caption"] += 1
            continue
        members = {"txt": texts[0], "json": {"captions": texts}}
        plan.items.append(Item(path.stem.replace(".", "_"), path, members))
    plan.notes.append(f"{sum(len(i.members['json']['captions']) for i in plan.items):,} captions, from {file.name}.")
    return plan


def _caption_file(source: Path, given: Any) -> Path:
    if given:
        return need(source / str(given), "the file of captions")
    patterns = ("**/captions_*.json", "**/dataset_*.json", "**/*.token.txt")
    files = [path for pattern in patterns for path in sorted(source.glob(pattern))]
    if len(files) != 1:
        found = f"has {len(files)} files of captions ({', '.join(f.name for f in files)})" if files else "has none"
        raise UserError(f"{source} {found}; give captions=<file>, such as annotations/captions_val2017.json.")
    return files[0]


def _coco(content: dict[str, Any]) -> dict[str, list[str]]:
    names = {image["id"]: image["file_name"] for image in content["images"]}
    found: dict[str, list[str]] = {name: [] for name in names.values()}
    for note in sorted(content["annotations"], key=lambda note: note["id"]):
        found[names[note["image_id"]]].append(note["caption"])
    return found


def _karpathy(content: dict[str, Any], split: str) -> dict[str, list[str]]:
    found = {
        image["filename"]: [sentence["raw"] for sentence in image["sentences"]]
        for image in content["images"]
        if image["split"] == split
    }
    if not found:
        splits = sorted({image["split"] for image in content["images"]})
        raise UserError(f"There is no split {split!r} among the captions; there are {', '.join(splits)}.")
    return found


def _flickr8k(source: Path, file: Path, split: str) -> dict[str, list[str]]:
    names = need(file.with_name(f"Flickr_8k.{split}Images.txt"), "the list of this split's pictures")
    found: dict[str, list[str]] = {name: [] for name in names.read_text(encoding="utf-8").split()}
    for line in file.read_text(encoding="utf-8").splitlines():
        name, tab, text = line.partition("\t")
        name = name.rpartition("#")[0]
        if tab and name in found:
            found[name].append(text)
    return found


SOURCES: dict[str, Callable[[Path, dict[str, Any]], StimuliPlan]] = {
    "ieat": ieat,
    "oasis": oasis,
    "imagenet": imagenet,
    "coco": captions,
    "flickr8k": captions,
    "flickr30k": captions,
}
