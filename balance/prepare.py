"""From shards to sampling rates: label the pairs, count the patterns, solve the plan, say what it does to the data."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance.common.structure import expecting
from balance.common.terminal import Table, terminal
from balance.errors import UserError, keys_under
from balance.files import write_whole
from balance.labels.annotate import annotate_shards
from balance.labels.annotators import build_annotator
from balance.labels.attributes import find_files, read_meta
from balance.labels.summary import Summary, summarise
from balance.m4.cells import Cells
from balance.m4.counting import count_parquet
from balance.m4.explain import explain
from balance.m4.moments import Moments, moments_of
from balance.m4.plan import Plan
from balance.m4.planfile import save_plan
from balance.m4.problem import Problem
from balance.m4.solve import solve
from balance.m4.system import build_system
from balance.stream.accepted import AcceptedMoments
from balance.stream.balanced import Rates, uniform_rates

SHOWN_NOTES = 5
MOST_RARE = 8  # concepts that are named, of those that are not balanced
MOVED = 0.02  # of a share: a move away from the target that is counted
ENOUGH = 30  # samples of known attribute from which on a concept is worth a row in a table


@dataclass
class Balance:
    """What the trainer needs to know of the data.

    Attributes:
        files: attribute files, one per shard.
        rates: sampling rates for attributes.
        expected: samples that one pass over the data accepts, on average.
        s_names: names of the attributes.
        y_names: names of the concepts.
        hash: changes with the data, its attributes, or the plan.
        before: moments of the data as it is.
        after: moments at the plan's rates; equal to `before` without a plan.
        plan: the plan, or None without balancing.
        known: (m, c) samples of known attribute that bear each concept.
        notes: what a user should know: constraints that do not hold, bad samples.
        losses: those of the notes that tell what was lost with damaged shards or has no labels.
        weigh: importance weights for attributes, of mean 1 under the data, where `rates` uses every sample and the
            loss is to balance; None otherwise.
        held: samples held out, which are in none of the other figures.
    """

    files: list[Path]
    rates: Rates
    expected: int
    s_names: tuple[str, ...]
    y_names: tuple[str, ...]
    hash: str
    before: Moments
    after: Moments
    plan: Plan | None
    known: NDArray[np.float64]
    notes: list[str] = field(default_factory=list)
    weigh: Rates | None = None
    losses: list[str] = field(default_factory=list)
    held: int = 0

    @property
    def samples(self) -> int:
        """Good samples of the data."""
        return self.expected if self.plan is None else int(self.plan.cells.total)

    def worst(self, moments: Moments) -> tuple[int, int] | None:
        """(attribute, concept) with the largest gap among concepts that enough samples bear to tell it from chance."""
        gaps = np.where(self.known >= ENOUGH, np.abs(moments.concept_gap), np.nan)
        if not np.isfinite(gaps).any():
            return None
        k, r = np.unravel_index(int(np.nanargmax(gaps)), gaps.shape)
        return int(k), int(r)

    def rows(self) -> list[dict[str, Any]]:
        """The table before / after: name, before, after."""
        rows = [
            _row("RB: largest gap between an attribute's share and its target", "representation_bias", self),
            _row("AB: largest difference in a concept's share between groups", "association_bias", self),
        ]
        if self.before.proxies.any():
            rows.append(_row("AB over proxies", "proxy_association_bias", self))
        for label, moments in (("before", self.before), ("after", self.after)):
            worst = self.worst(moments)
            if worst is not None:
                gaps = [float(either.concept_gap[worst]) for either in (self.before, self.after)]
                attribute, concept = self.before.targets[worst[0]], self.before.concepts[worst[1]]
                name = f"gap of {attribute} in {concept}, the worst concept {label}"
                rows.append({"name": name, "before": gaps[0], "after": gaps[1]})
        if self.plan is not None:
            rows += _kept_rows(self.plan)
        return rows

    def values(self) -> dict[str, float]:
        """The same as numbers by name, for the metrics."""
        worst = self.worst(self.after)
        found = {"rb": self.after.representation_bias, "ab": self.after.association_bias, "kept": 1.0}
        if worst is not None:
            found["worst_gap"] = abs(float(self.after.concept_gap[worst]))
        if self.plan is not None:
            found |= {"kept": self.plan.kept.all, "effective_sample_size": self.plan.effective_sample_size}
        return found

    def table(self) -> str:
        """The table before / after as text, with what a user should know below it."""
        table = Table(title="The data" if self.plan is None else "The data before and after balancing")
        table.title_justify = "left"
        table.add_column("")
        table.add_column("before", justify="right")
        table.add_column("after", justify="right")
        for row in self.rows():
            table.add_row(row["name"], _number(row["before"]), _number(row["after"]))
        console = terminal(width=None if os.environ.get("COLUMNS") else 110, no_color=True)
        with console.capture() as capture:
            console.print(table)
        notes = [f"note: {note}" for note in self.notes[:SHOWN_NOTES]]
        if len(self.notes) > SHOWN_NOTES:
            notes.append(
                f"note: {len(self.notes) - SHOWN_NOTES} more of this kind are in plan/data.json and the report"
            )
        return "\n".join([capture.get().rstrip(), *notes])

    def compare(self, accepted: AcceptedMoments) -> dict[str, float]:
        """What was accepted beside what was planned: shares of each attribute, and the largest deviation in a concept.

        Deviations are in standard errors, so that a value far above 4 means that sampler and plan disagree.
        """
        found: dict[str, float] = {}
        position = {name: k for k, name in enumerate(self.s_names)}
        for k, target in enumerate(self.after.targets):
            if target in position:
                found[f"share[{target}]"] = float(accepted.representation[position[target]])
                found[f"planned_share[{target}]"] = float(self.after.representation[k])
        rows = [k for k, target in enumerate(self.after.targets) if target in position]
        columns = [position[self.after.targets[k]] for k in rows]
        p = np.clip(self.after.concept_share[rows], 1e-9, 1 - 1e-9)
        n = accepted.effective_y[columns]
        with np.errstate(invalid="ignore", divide="ignore"):
            errors = np.abs(accepted.inside[columns] - p) / np.sqrt(p * (1 - p) / n)
        errors = errors[(n > 20) & np.isfinite(errors)]
        if errors.size:
            found["largest_deviation"] = float(errors.max())
        return found


def prepare_balance(
    shards: Sequence[str],
    attributes: Mapping[str, Any],
    balance: Mapping[str, Any],
    cache: Path,
    max_bad: float = 0.05,
    workers: int = 0,
    progress: bool = True,
    holdout: float = 0.0,
) -> Balance:
    """Label, count and solve; what is labelled already is not labelled again.

    Args:
        shards: addresses of the shards.
        attributes: configuration group `attributes`; its `files` names a folder of attribute files made before.
        balance: configuration group `balance`: `method` (`none` for no balancing), `mode` (`sample` or `weight`)
            and the arguments of `Problem`.
        cache: folder under which attribute files are kept, by what made them.
        max_bad: share of unusable samples at which to stop.
        workers: processes that label.
        progress: show a progress bar.
        holdout: share of the samples that is held out by key: neither counted nor trained on.

    Raises:
        UserError: what the steps raise, or a target that no sample bears.
    """
    notes: list[str] = []
    losses: list[str] = []

    def report(summary: Summary) -> None:
        if summary.bad or summary.damaged or summary.repeated or summary.warnings:
            notes.extend(summary.lines())
            losses.extend(one for one in (summary.damage(), *summary.warnings) if one)

    if attributes.get("files"):  # made before, by scripts/annotate.py: a picture model need not be here
        files = find_files(shards, str(attributes["files"]))
        summary = summarise(files)
        summary.check(max_bad)
        report(summary)
        method, problem = _problem(balance, read_meta(files[0])["s_names"])
    else:
        annotator = build_annotator(attributes, shards=shards)
        method, problem = _problem(balance, annotator.s_names)
        out = cache / annotator.fingerprint[:12]
        files = annotate_shards(shards, annotator, out, workers, progress, max_bad, report=report)
    cells = count_parquet([str(file) for file in files], holdout=holdout)
    held = sum(read_meta(file)["samples"] for file in files) - int(cells.total) if holdout else 0
    _check_borne(cells, problem)
    if method == "none":
        system = build_system(cells, problem)
        proxies = np.array([name in {*problem.proxies, *cells.proxies} for name in cells.y_names], bool)
        table = system.operator.moments(system.p)
        before = moments_of(table, system.targets, cells.y_names, proxies)
        known = _known(table, len(system.targets), cells)
        names = cells.s_names, cells.y_names
        kept = uniform_rates, int(cells.total)
        return Balance(files, *kept, *names, cells.hash, before, before, None, known, notes, None, losses, held)
    plan = solve(cells, problem, method=method)
    notes += _left_alone(cells, plan) + explain(plan)
    expected = int(cells.total * plan.kept.all)
    mode = balance.get("mode", "sample")
    digest = hashlib.sha256(f"{cells.hash} {plan.hash} {mode}".encode()).hexdigest()[:16]
    known = _known(plan.moments_before, len(plan.targets), cells)
    names = cells.s_names, cells.y_names
    if mode == "weight":
        weigh = ImportanceWeights(plan.rates, plan.kept.all)
        everything = uniform_rates, int(cells.total)
        return Balance(
            files, *everything, *names, digest, plan.before, plan.after, plan, known, notes, weigh, losses, held
        )
    sampled = plan.rates, expected
    return Balance(files, *sampled, *names, digest, plan.before, plan.after, plan, known, notes, None, losses, held)


@dataclass(frozen=True)
class ImportanceWeights:
    """Importance weights that do in a loss what sampling at these rates does in a stream: q / E[q]."""

    rates: Rates
    mean: float

    def __call__(self, s: NDArray[np.float32], y: NDArray[np.uint8]) -> NDArray[np.float64]:
        """ImportanceWeights (n,) for attributes s (n, m) and concepts y (n, c)."""
        return self.rates(s, y) / self.mean


def _known(table: NDArray[np.float64], m: int, cells: Cells) -> NDArray[np.float64]:
    """(m, c) samples of known attribute that bear each concept, from the table of moments."""
    return table[m : 2 * m, 1:] * cells.total


def save_balance(balance: Balance, folder: Path) -> None:
    """Write the plan, if there is one, and `data.json` (the data before and after, for the report) into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if balance.plan is not None:
        save_plan(balance.plan, folder)
    inside = [
        {
            "attribute": attribute,
            "target": float(balance.before.pi[k]),
            "rows": [
                {"concept": concept, "before": float(before), "after": float(after), "known": float(known)}
                for concept, before, after, known in zip(
                    balance.before.concepts,
                    balance.before.concept_share[k],
                    balance.after.concept_share[k],
                    balance.known[k],
                    strict=True,
                )
                if np.isfinite(before) and np.isfinite(after)
            ],
        }
        for k, attribute in enumerate(balance.before.targets)
    ]
    title = "not balanced" if balance.plan is None else f"balanced by M4 (keep rate {balance.plan.keep:.2f})"
    data = {"title": title, "samples": balance.samples, "rows": balance.rows(), "notes": balance.notes}
    data |= {"inside": inside, "hash": balance.hash}
    write_whole(folder / "data.json", json.dumps(data, indent=1, ensure_ascii=False))


def _problem(balance: Mapping[str, Any], s_names: Sequence[str]) -> tuple[str, Problem]:
    settings = {key: value for key, value in balance.items() if key not in ("name", "method", "mode")}
    mode = balance.get("mode", "sample")
    if mode not in ("sample", "weight"):
        raise UserError(f"balance.mode={mode} is not known; it is sample or weight.")
    method = balance.get("method", "dual")
    if method == "none":
        settings = {"target": settings.get("target") or {s_names[0]: 0.5}}
    with expecting("balance"), keys_under("balance"):
        return method, Problem.from_dict(settings)


def _check_borne(cells: Cells, problem: Problem) -> None:
    """Balancing an attribute that no sample is known to have or to lack would do nothing, silently."""
    for target in problem.target:
        columns = [k for k, name in enumerate(cells.s_names) if name == target or name.startswith(f"{target}=")]
        if columns and np.isnan(cells.s[:, columns]).all():
            raise UserError(
                f"balance.target names {target}, which is unknown for all {cells.total:,.0f} samples; "
                "check attributes.sources."
            )


def _left_alone(cells: Cells, plan: Plan) -> list[str]:
    """Which concepts are too rare to be balanced, and by how much balancing the others moves them."""
    least = plan.problem.min_concept_samples
    known = _known(plan.moments_before, len(plan.targets), cells)
    few = (known > 0) & (known < least - 1e-9)
    if not few.any():
        return []
    before, after = plan.before.concept_share, plan.after.concept_share
    with np.errstate(invalid="ignore"):
        pi = np.asarray(plan.before.pi)[:, None]
        away = np.where(few, np.abs(after - pi) - np.abs(before - pi), np.nan)
        moved = np.where(few & np.isfinite(before) & np.isfinite(after), np.abs(after - before), -1.0)
    shown = []
    for place in np.argsort(-moved, axis=None, kind="stable")[:MOST_RARE]:
        k, r = divmod(int(place), moved.shape[1])
        if moved[k, r] >= 0:
            shares = f"{before[k, r]:.2f} to {after[k, r]:.2f}"
            shown.append(f"{cells.y_names[r]} ({plan.targets[k].name} from {shares})")
    rare = int(few.any(axis=0).sum())
    farther = int((np.nan_to_num(away, nan=0.0) > MOVED).any(axis=0).sum())
    held = "" if plan.problem.hold_rare or not farther else "; balance.hold_rare=true keeps them from it"
    return [
        f"{rare} of {len(cells.y_names)} concepts have fewer than {least:g} samples of known attribute and are not "
        f"balanced; balancing the others moves {farther} of them away from the target by more than {MOVED:g}{held}. "
        f"Moved most: {', '.join(shown) or 'none'}."
    ]


def _row(name: str, moment: str, balance: Balance) -> dict[str, Any]:
    return {"name": name, "before": getattr(balance.before, moment), "after": getattr(balance.after, moment)}


def _kept_rows(plan: Plan) -> list[dict[str, Any]]:
    rows = [
        ("mean rate of all samples", plan.kept.all),
        ("mean rate of samples with a known attribute", plan.kept.known),
        ("mean rate of samples without", plan.kept.unknown),
    ]
    if plan.kept.smallest is not None:
        rows.append((f"mean rate of {plan.kept.smallest[0]}, the concept that loses most", plan.kept.smallest[1]))
    found: list[dict[str, Any]] = [{"name": name, "before": 1.0, "after": rate} for name, rate in rows if rate == rate]
    found.append({"name": "effective sample size", "before": plan.cells.total, "after": plan.effective_sample_size})
    found.append({"name": "relative gap of the plan (its certificate)", "before": None, "after": plan.gap})
    return found


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1e}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"
