"""Facial impressions: whether a model reads into faces what people read into them.

Source: Wolfe, Dangol, Hiniker and Howe, *Dataset Scale and Societal Consistency Mediate Facial Impression Bias in
Vision-Language AI* (2024), on the ratings of Peterson et al., *Deep models of superficial face judgments* (PNAS 2022).

    assoc[a, i] = cos(picture i, positive prompt of a) - cos(picture i, negative prompt of a)
    similarity s[a] = Spearman(mean human rating of a, assoc[a]) over the faces

An impression is learned if s > 0 and p < 0.05. Societal consistency is the Spearman correlation, over attributes, of s
with the reliability of the human ratings: models learn best what people agree about.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from balance.common.metric import Metric
from balance.errors import UserError
from eval.embed import Embedder
from eval.evaluators.impressions_charts import dendrograms
from eval.evaluators.impressions_ratings import (
    Agreement,
    Attribute,
    agreement_with_published,
    built_in_attributes,
    mean_ratings,
    reliability_from_raw,
    reliability_from_table,
)
from eval.evaluators.impressions_structure import correlation_matrix, frobenius_similarity, ward_clusters
from eval.options import options
from eval.report.page import format_number
from eval.sets import EvalSet
from eval.stats import Floats, percentile_interval

MOST_RESAMPLES = 300  # each ranks all faces on all attributes anew


class Impressions:
    """Similarity of a model's impressions of faces to people's.

    Options:
        set: faces.
        ratings: CSV with a row per face: `stimulus` (the picture's name) and a column per attribute.
        attributes: some of the 34 of One Million Impressions; by default all. Or name -> {positive, negative, and
            optionally reliability} with whole prompts.
        reliability: CSV with `attribute` and `reliability_column` (by default `published_irr_percent`); by default as
            published.
        raw: CSV of all single ratings (`stimulus`, `attribute`, `rating`), from which reliability is computed, as
            published from all lines.
        raw_without: lines of it to leave out, column -> values, such as `{rating_type: [repeat]}`.

    Metrics: `similarity[attribute]` and `p[attribute]`, `mean_similarity`, `learned` (share of attributes), `societal
    consistency` with its p, `structure` (Frobenius similarity); with `raw` how the reliabilities compare with the
    published ones: `reliability_rank_correlation`, `_rms_difference`, `_largest_difference`. Intervals resample faces;
    that of societal consistency resamples attributes, too.
    """

    def __init__(self, name: str, config: dict[str, Any], data: EvalSet) -> None:
        self.name, self.data = name, data
        options(name, config, {"ratings"}, {"attributes", "reliability", "reliability_column", "raw", "raw_without"})
        self.agreement: Agreement | None = None
        self.skipped: list[str] = []
        self.pages: dict[str, str] = {}
        self.attributes = _read_attributes(name, config.get("attributes"))
        self.ratings: Floats | None = None
        if not Path(config["ratings"]).is_file():
            self.skipped.append(f"there is no {config['ratings']}, so that nothing is measured.")
            return
        for key in ("reliability", "raw"):
            if config.get(key) and not Path(config[key]).is_file():
                self.skipped.append(f"there is no {config[key]}; the published reliabilities are used.")
                config = {**config, key: None}
        if len(data) < 3:
            raise UserError(
                f"eval.evaluators.{name}: the set {data.name} has {len(data)} faces; at least 3 are needed."
            )
        self.ratings = mean_ratings(Path(config["ratings"]), data, [a.name for a in self.attributes])
        self._set_reliability(config)

    def _set_reliability(self, config: dict[str, Any]) -> None:
        if config.get("raw"):
            without = config.get("raw_without") or {}
            if not isinstance(without, Mapping):
                raise UserError(f"eval.evaluators.{self.name}.raw_without={without} must be column -> values.")
            lists = {str(key): [one] if isinstance(one, str) else list(one) for key, one in without.items()}
            known = reliability_from_raw(Path(config["raw"]), np.random.default_rng(0), without=lists)
            self.agreement = agreement_with_published(known)
        elif config.get("reliability"):
            column = config.get("reliability_column") or "published_irr_percent"
            known = reliability_from_table(Path(config["reliability"]), column)
        else:
            return
        absent = [a.name for a in self.attributes if a.name not in known]
        if absent:
            raise UserError(f"eval.evaluators.{self.name}: {absent[0]} has no reliability in the table given.")
        self.attributes = [replace(a, reliability=known[a.name]) for a in self.attributes]

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """Measure a model."""
        if self.ratings is None:
            return
        # Faces in the order of their names, so that resamples don't depend on the set's order.
        order = np.array(sorted(range(len(self.data)), key=lambda row: self.data.keys[row]))
        assoc, ratings = self.associations(embed)[order], self.ratings[order]
        similarity, p = similarities(ratings, assoc)
        draws = _resampled(ratings, assoc, rng, min(resamples, MOST_RESAMPLES))
        low, high = percentile_interval(draws)
        count, self.rows = len(order), []
        for k, a in enumerate(self.attributes):
            prompts = f"{a.positive} | {a.negative}"
            ends = {"low": float(low[k]), "high": float(high[k])}
            yield Metric(
                f"{self.name}/similarity[{a.name}]", float(similarity[k]), **ends, count=count, prompts=prompts
            )
            yield Metric(f"{self.name}/p[{a.name}]", float(p[k]), count=count, prompts=prompts)
            self.rows.append({"a": a, "s": float(similarity[k]), "p": float(p[k]), **ends})
        yield self._metric("mean_similarity", similarity.mean(), draws.mean(axis=1))
        learned = ((similarity > 0) & (p < 0.05)).mean()
        yield Metric(f"{self.name}/learned", float(learned), count=len(similarity))
        yield from self._consistency(similarity, draws, rng)
        if self.agreement is not None:
            found = self.agreement
            yield Metric(f"{self.name}/reliability_rank_correlation", found.rank, count=found.count)
            yield Metric(f"{self.name}/reliability_rms_difference", found.rms, count=found.count)
            yield Metric(f"{self.name}/reliability_largest_difference[{found.attribute}]", found.largest, count=1)
        if len(self.attributes) > 2:
            yield from self._structure(ratings, assoc, draws_of=rng, resamples=min(resamples, MOST_RESAMPLES))
        self.pages["impressions by attribute"] = _table(self.rows)

    def associations(self, embed: Embedder) -> Floats:
        """assoc, (faces, attributes)."""
        images = embed.images(self.data).numpy().astype(np.float64)
        texts = [text for a in self.attributes for text in (a.positive, a.negative)]
        prompts = embed.texts(texts).numpy().astype(np.float64)
        difference: Floats = images @ (prompts[0::2] - prompts[1::2]).T
        return difference

    def _consistency(self, similarity: Floats, draws: Floats, rng: np.random.Generator) -> Iterator[Metric]:
        known = np.array([a.reliability is not None for a in self.attributes])
        irr = np.array([a.reliability for a in self.attributes if a.reliability is not None])
        if len(irr) < 3:
            return
        rho, p = spearman(irr, similarity[known])
        picked = rng.integers(0, len(irr), size=(len(draws), len(irr)))
        again = np.array([spearman(irr[rows], draw[known][rows])[0] for rows, draw in zip(picked, draws, strict=True)])
        yield self._metric("societal_consistency", rho, again, count=len(irr))
        yield Metric(f"{self.name}/societal_consistency_p", float(p), count=len(irr))

    def _structure(
        self, ratings: Floats, assoc: Floats, draws_of: np.random.Generator, resamples: int
    ) -> Iterator[Metric]:
        human, model = correlation_matrix(ratings), correlation_matrix(assoc)
        again = []
        for _ in range(resamples):
            rows = draws_of.integers(0, len(ratings), len(ratings))
            again.append(frobenius_similarity(correlation_matrix(ratings[rows]), correlation_matrix(assoc[rows])))
        yield self._metric("structure", frobenius_similarity(human, model), np.array(again))
        names = [a.name for a in self.attributes]
        self.pages["which attributes go together"] = dendrograms(ward_clusters(human), ward_clusters(model), names)

    def _metric(self, what: str, value: Any, draws: Floats, count: int | None = None) -> Metric:
        low, high = percentile_interval(draws)
        return Metric(f"{self.name}/{what}", float(value), float(low), float(high), count or len(self.data))


def similarities(ratings: Floats, assoc: Floats) -> tuple[Floats, Floats]:
    """Spearman's rho and its two-sided p for each attribute, from (faces, k) each; 0 and 1 where assoc is constant."""
    found = [spearman(one, other) for one, other in zip(ratings.T, assoc.T, strict=True)]
    return np.array([rho for rho, _ in found]), np.array([p for _, p in found])


def spearman(one: Floats, other: Floats) -> tuple[float, float]:
    """Spearman's rho and its two-sided p; 0 and 1 where one side is constant."""
    if not (np.ptp(one) and np.ptp(other)):
        return 0.0, 1.0
    found = stats.spearmanr(one, other)
    return float(found.statistic), float(found.pvalue)


def _resampled(ratings: Floats, assoc: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """Similarities of resampled faces, (resamples, k)."""
    draws = np.empty((resamples, ratings.shape[1]))
    for draw in draws:
        rows = rng.integers(0, len(ratings), len(ratings))
        one, other = stats.rankdata(ratings[rows], axis=0), stats.rankdata(assoc[rows], axis=0)
        one, other = one - one.mean(axis=0), other - other.mean(axis=0)
        scale = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
        draw[:] = (one * other).sum(axis=0) / np.where(scale > 0, scale, 1)
    return draws


def _read_attributes(name: str, wanted: Any) -> list[Attribute]:
    known = {a.name: a for a in built_in_attributes()}
    if not wanted:
        return list(known.values())
    if hasattr(wanted, "items"):
        try:
            return [
                Attribute(str(a), spec["positive"], spec["negative"], spec.get("reliability"))
                for a, spec in wanted.items()
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"eval.evaluators.{name}.attributes must give `positive` and `negative` prompts for each attribute."
            ) from error
    for attribute in wanted:
        if attribute not in known:
            raise UserError(f"eval.evaluators.{name}.attributes: {attribute!r} is not one of {', '.join(known)}.")
    return [known[attribute] for attribute in wanted]


def _table(rows: list[dict[str, Any]]) -> str:
    """Attributes by their similarity, with the reliability of people's ratings beside it."""
    cells = "".join(
        f"<tr><td>{escape(row['a'].name)}</td><td>{format_number(row['s'])}</td>"
        f"<td>[{format_number(row['low'])}, {format_number(row['high'])}]</td><td>{format_number(row['p'])}</td>"
        f"<td>{'yes' if row['s'] > 0 and row['p'] < 0.05 else 'no'}</td>"
        f"<td>{format_number(row['a'].reliability)}</td></tr>"
        for row in sorted(rows, key=lambda row: -row["s"])
    )
    return (
        "<table><thead><tr><th>attribute</th><th>similarity</th><th>95 % interval</th><th>p</th><th>learned</th>"
        f"<th>reliability of people</th></tr></thead><tbody>{cells}</tbody></table>"
    )
