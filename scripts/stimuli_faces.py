"""Labelled faces as their authors publish them: UTKFace, FairFace, MIAP, One Million Impressions, morph series."""

import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from balance.common.images import decode_rgb, opened, upright_size
from balance.errors import UserError
from scripts.stimuli_plan import Item, StimuliPlan, first_of, need, on_white, pictures_in

UTK_GENDERS = ("male", "female")
UTK_RACES = ("White", "Black", "Asian", "Indian", "Other")
MIAP_SMALLEST = 64  # pixels of a crop's shorter side: below it there is little to see


def utkface(source: Path, options: dict[str, Any]) -> StimuliPlan:
    """UTKFace: labels stand in the files' names, `age_gender_race_date.jpg`. Zhang, Song and Qi (CVPR 2017)."""
    plan = StimuliPlan("utkface", [])
    for path in pictures_in(source):
        parts = path.name.split("_")
        try:
            age, gender, race = int(parts[0]), UTK_GENDERS[int(parts[1])], UTK_RACES[int(parts[2])]
        except (IndexError, ValueError):
            plan.left_out["name without age, gender and race"] += 1
            continue
        key = path.name.split(".")[0]
        plan.items.append(Item(key, path, {"json": {"age": age, "gender": gender, "race": race}}))
    plan.notes += _count_note(plan, {23_705: "all", 23_708: "all"}, "UTKFace has 23,708 pictures, 3 with broken names")
    return plan


def fairface(source: Path, options: dict[str, Any]) -> StimuliPlan:
    """FairFace: `fairface_label_val.csv` beside `val/`. Karkkainen and Joo (WACV 2021)."""
    split = str(options.get("split") or "val")
    table = first_of(source, [f"fairface_label_{split}.csv"], "the table of FairFace's labels")
    plan = StimuliPlan("fairface", [])
    for row in read_table(table, ("file", "age", "gender", "race")):
        path = need(source / row["file"], f"a picture of {table.name}; unpack the pictures beside the table")
        labels = {"age": row["age"], "gender": row["gender"], "race": row["race"]}
        plan.items.append(Item(Path(row["file"]).stem.zfill(6), path, {"json": labels}))
    plan.notes += _count_note(plan, {10_954: "val", 86_744: "train"}, "FairFace has 10,954 (val) or 86,744 (train)")
    return plan


def miap(source: Path, options: dict[str, Any]) -> StimuliPlan:
    """MIAP: boxes of people in Open Images, cut out. Schumann et al. (AIES 2021).

    Left out: groups, depictions, truncated views from inside, boxes of less than 64 px, pictures not downloaded.
    """
    split = str(options.get("split") or "val")
    table = first_of(
        source, [f"open_images_extended_miap_boxes_{split}.csv"], "the boxes of MIAP, beside the folder of pictures"
    )
    pictures = {path.stem: path for path in pictures_in(source)}
    plan = StimuliPlan("miap", [])
    wanted = ("ImageID", "XMin", "XMax", "YMin", "YMax", "GenderPresentation", "AgePresentation")
    boxes: Counter[str] = Counter()
    for row in read_table(table, wanted):
        number = boxes[row["ImageID"]]
        boxes[row["ImageID"]] += 1
        if any(row.get(flag) == "1" for flag in ("IsGroupOf", "IsDepictionOf", "IsInsideOf")):
            plan.left_out["a group, a depiction or a view from inside"] += 1
            continue
        path = pictures.get(row["ImageID"])
        if path is None:
            plan.left_out["picture not downloaded"] += 1
            continue
        box = tuple(float(row[name]) for name in ("XMin", "YMin", "XMax", "YMax"))
        with opened(path.read_bytes()) as picture:
            size = upright_size(picture)
        if min((box[2] - box[0]) * size[0], (box[3] - box[1]) * size[1]) < MIAP_SMALLEST:
            plan.left_out[f"smaller than {MIAP_SMALLEST} px"] += 1
            continue
        labels = {"gender_presentation": row["GenderPresentation"], "age_presentation": row["AgePresentation"]}
        plan.items.append(
            Item(f"{row['ImageID']}_{number:02d}", path, {"json": labels}, change=partial(_crop, box=box))
        )
    return plan


def _crop(content: bytes, box: tuple[float, ...]) -> bytes:
    picture = decode_rgb(content)
    pixels = [round(part * side) for part, side in zip(box, picture.size * 2, strict=True)]
    buffer = io.BytesIO()
    picture.crop((pixels[0], pixels[1], pixels[2], pixels[3])).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def omi(source: Path, options: dict[str, Any]) -> StimuliPlan:
    """One Million Impressions: `images/1.jpg ... 1004.jpg`, `attribute_means.csv`. Peterson et al. (PNAS 2022).

    The raw ratings (`attribute_ratings.zip` or `.csv`) are taken along where they are, for the reliability of ratings.
    """
    table = need(source / "attribute_means.csv", "the mean ratings of One Million Impressions")
    images = {path.stem: path for path in pictures_in(need(source / "images", "the rated faces"))}
    plan = StimuliPlan("omi", [], table="", pictures="images")
    rows = read_table(table, ("stimulus",))
    for row in rows:
        path = images.pop(row["stimulus"], None)
        if path is None:
            plan.left_out["rated, but no picture"] += 1
        else:
            plan.items.append(Item(path.name, path))
    if images:
        plan.left_out["picture without ratings"] = len(images)
    attributes = len(rows[0]) - 1
    if attributes != 34:
        plan.notes.append(f"{table.name} has {attributes} attributes; the published one has 34.")
    plan.files["attribute_means.csv"] = table.read_text(encoding="utf-8")
    ratings = _raw_ratings(source)
    if ratings is None:
        plan.notes.append("No raw ratings (attribute_ratings.zip): reliabilities will be the published ones.")
    else:
        plan.files["attribute_ratings.csv"] = ratings
    plan.notes += _count_note(plan, {1004: "all"}, "One Million Impressions has 1,004 rated faces")
    return plan


def _raw_ratings(source: Path) -> str | None:
    if (source / "attribute_ratings.csv").is_file():
        return (source / "attribute_ratings.csv").read_text(encoding="utf-8")
    archive = source / "attribute_ratings.zip"
    if not archive.is_file():
        return None
    try:
        with zipfile.ZipFile(archive) as file:
            name = next(name for name in file.namelist() if name.endswith("attribute_ratings.csv"))
            return file.read(name).decode("utf-8")
    except (zipfile.BadZipFile, StopIteration) as error:
        raise UserError(f"{archive} holds no attribute_ratings.csv; download it again.") from error


def morphs(source: Path, options: dict[str, Any]) -> StimuliPlan:
    """Morph series, in folders whose names tell the groups; each series has as many steps.

    Options: `pattern`, by default `{source_ethnicity}/{gender}/{series}/{step}`, from which names take the labels;
    `step` is a number that grows towards the majority face (`reverse` turns it round); `steps`: `paper` (the last step
    is the majority face, the default) or `released` (it is 20/21 of the way, as the released code of Wolfe et al. has
    it).
    """
    pattern = str(options.get("pattern") or "{source_ethnicity}/{gender}/{series}/{step}")
    expression = _expression(pattern)
    plan = StimuliPlan("morphs", [], table="morphs.csv", pictures="morphs")
    series: dict[str, list[tuple[float, Path, dict[str, str]]]] = {}
    for path in pictures_in(source):
        name = path.relative_to(source).with_suffix("").as_posix()
        match = expression.fullmatch(name)
        if match is None:
            plan.left_out["name that does not fit the pattern"] += 1
            continue
        labels = match.groupdict()
        step = float(labels.pop("step"))
        labels["series"] = "_".join(labels[name] for name in labels)
        series.setdefault(labels["series"], []).append((step, path, labels))
    lengths = Counter(len(steps) for steps in series.values())
    if len(lengths) > 1:
        usual = lengths.most_common(1)[0][0]
        odd = next(name for name, steps in series.items() if len(steps) != usual)
        raise UserError(f"The series {odd} in {source} has {len(series[odd])} pictures; others have {usual}.")
    parts = 0 if str(options.get("steps") or "paper") == "paper" else 1
    for name in sorted(series):
        ordered = sorted(series[name], key=lambda found: found[0], reverse=bool(options.get("reverse")))
        for number, (_, path, labels) in enumerate(ordered):
            share = number / max(len(ordered) - 1 + parts, 1)
            key = f"{name}/{number:03d}{path.suffix.lower()}"
            row = {**labels, "source_weight": round(1 - share, 6), "target_weight": round(share, 6)}
            plan.items.append(Item(key, path, row=row, change=on_white))
    if lengths and 21 not in lengths:
        plan.notes.append(f"Series have {next(iter(lengths))} steps; the published ones have 21.")
    return plan


def _expression(pattern: str) -> re.Pattern[str]:
    names = re.findall(r"\{(\w+)\}", pattern)
    if not {"series", "step"} <= set(names) or len(names) != len(set(names)):
        raise UserError(f"pattern={pattern} must hold {{series}} and {{step}}, and every name once.")
    parts = re.split(r"\{\w+\}", pattern)
    text = re.escape(parts[0])
    for name, rest in zip(names, parts[1:], strict=True):
        inside = r"\d+(?:\.\d+)?" if name == "step" else "[^/]+?"
        text += f"(?P<{name}>{inside}){re.escape(rest)}"
    return re.compile(text)


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file.

    Raises:
        UserError: it is empty, or a column is missing.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    lacking = [column for column in columns if not rows or column not in rows[0]]
    if lacking:
        raise UserError(f"{path} has no column {lacking[0]!r}; it has {', '.join(rows[0]) if rows else 'no rows'}.")
    return rows


def _count_note(plan: StimuliPlan, known: dict[int, str], sentence: str) -> list[str]:
    return [] if len(plan.items) in known else [f"{len(plan.items):,} pictures are here; {sentence}."]


SOURCES: dict[str, Callable[[Path, dict[str, Any]], StimuliPlan]] = {
    "utkface": utkface,
    "fairface": fairface,
    "miap": miap,
    "omi": omi,
    "morphs": morphs,
}
