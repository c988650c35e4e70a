"""What explains the association effects of many models: mixed effects, correlations with quality, paired contrasts.

Source: Ghate et al., *Intrinsic Bias is Predicted by Pretraining Data and Correlates with Downstream Performance in
Vision-Language Encoders* (NAACL 2025), whose mixed model and correlations these are; the contrast of scales is that of
the work on facial impressions in `eval.evaluators.impressions`.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import pearsonr, wilcoxon

from balance.errors import UserError
from balance.intervals import adjust_p_values
from eval.evaluators.eat_stimuli import BUILT_IN, read_definitions
from eval.evaluators.impressions_regression import paired_contrast, similarity_regression
from eval.options import stimuli

FEWEST_MODELS = 4  # for a correlation: below it Fisher's interval does not exist
NUMBERS = ("log_params", "log_dataset_size")
CLASSES = ("architecture_family", "dataset_family")
_TEST = re.compile(r"[^/]+/d\[(.+)\]")


@dataclass
class Fit:
    """A fitted mixed model.

    Attributes:
        table: a row per fixed effect: term, coefficient, low, high, p.
        formula: what was fitted.
        rows: how many effects.
        groups: how many tests.
        scale: the residual variance.
        notes: what was left out or went wrong, a sentence each.
    """

    table: pd.DataFrame
    formula: str
    rows: int
    groups: int
    scale: float
    notes: list[str] = field(default_factory=list)


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """The effect sizes of association tests, with `test`, and `group` for the mixed model.

    Tests of one order of modalities and one pair of concepts form a group; a test that is in no such scheme, its own.
    """
    known = read_definitions("valence26").tests
    found = table[(table["kind"] == "eat") & table["name"].str.fullmatch(_TEST)].copy()
    found["test"] = found["name"].str.extract(_TEST, expand=False)

    def group_of(row: Any) -> str:
        test = known.get(row.test)
        return f"{test.order} × {test.group}" if test and test.order else f"{row.evaluator}: {row.test}"

    found["group"] = [group_of(row) for row in found.itertuples()]
    return found


def choose_tests(rows: pd.DataFrame, wanted: Sequence[str]) -> pd.DataFrame:
    """The effects of some tests.

    Args:
        rows: as `effects` gives them.
        wanted: names of tests, of evaluators in the zoo's suite, or of built-in sets of tests, such as `valence26`.

    Raises:
        UserError: the zoo has no test of such a name.
    """
    chosen = pd.Series(False, index=rows.index)
    for name in wanted:
        found = rows["evaluator"] == name
        if not found.any() and name in BUILT_IN:  # under another evaluator's name; sets share some names of tests
            found = rows["test"].isin(read_definitions(name).tests) & ~rows["evaluator"].isin(BUILT_IN)
        elif not found.any():
            found = rows["test"] == name
        if not found.any():
            known = list(dict.fromkeys([*rows["evaluator"], *rows["test"]]))
            near = get_close_matches(name, known, n=2, cutoff=0.5) or list(dict.fromkeys(rows["evaluator"]))
            raise UserError(f"tests={name}: the zoo has no such association tests; it has {', '.join(near) or 'none'}.")
        chosen |= found
    return rows[chosen]


def mixed_model(rows: pd.DataFrame, extra: Sequence[str] = ()) -> Fit:
    """Fit `value ~ log_params + architecture_family + dataset_family + log_dataset_size` with random slopes per test.

    By REML, groups are tests, slopes of the two numbers vary between them. Numbers are natural logarithms, standardised
    over all rows. What does not vary between the models is left out, and so is what others determine.

    Args:
        rows: effects with `value`, `group`, `parameters`, `dataset_size` and the families, as `effects` gives them.
        extra: further facts to take in, such as `balance`.

    Raises:
        UserError: fewer than two models have all facts, or nothing varies between them.
    """
    import statsmodels.formula.api as smf  # takes a second, and only analyses need it

    data = rows.assign(
        log_params=np.log(rows["parameters"].astype(float)), log_dataset_size=np.log(rows["dataset_size"].astype(float))
    )
    notes: list[str] = []
    wanted = [*NUMBERS, *CLASSES, *extra]
    absent = [term for term in wanted if term not in data or data[term].isna().all()]
    terms = [term for term in wanted if term not in absent]
    lacking = data[data[terms].isna().any(axis=1)]["model"].unique()
    if len(lacking):
        notes.append(f"{len(lacking)} model(s) lack a fact and are left out: {', '.join(lacking[:5])}.")
    data = data.dropna(subset=[*terms, "value"])
    constant = [term for term in terms if data[term].nunique() < 2]
    terms = [term for term in terms if term not in constant]
    notes += [f"{term} is left out: it does not vary between these models." for term in [*absent, *constant]]
    if data["model"].nunique() < 2 or not terms:
        raise UserError("A mixed model needs at least two models that differ in a known fact; add `facts` to the zoo.")
    for term in set(terms) & set(NUMBERS):
        data[term] = (data[term] - data[term].mean()) / data[term].std(ddof=0)
    terms = _independent(data, terms, notes)
    formula = "value ~ " + " + ".join(terms)
    slopes = [term for term in terms if term in NUMBERS]
    fitted = None
    for random in (slopes, []):  # random slopes need more models than a small zoo has
        model = smf.mixedlm(formula, data, groups=data["group"], re_formula="~" + (" + ".join(random) or "1"))
        fitted = _fit(model, "random slopes" if random else "random intercepts", notes)
        if fitted is not None:
            break
    if fitted is None:
        raise UserError("The mixed model can't be fitted: there are too few models for so many facts.")
    ends = fitted.conf_int()
    names = list(fitted.fe_params.index)
    found = pd.DataFrame(
        {
            "term": names,
            "coefficient": [float(fitted.fe_params[name]) for name in names],
            "low": [float(ends.loc[name, 0]) for name in names],
            "high": [float(ends.loc[name, 1]) for name in names],
            "p": [float(fitted.pvalues[name]) for name in names],
        }
    )
    return Fit(found, formula, len(data), data["group"].nunique(), float(fitted.scale), notes)


def _independent(data: pd.DataFrame, terms: list[str], notes: list[str]) -> list[str]:
    """The terms, in order, that earlier ones do not determine."""
    kept: list[str] = []
    design = np.ones((len(data), 1))
    for term in terms:
        column = data[[term]].astype(float) if term in NUMBERS else pd.get_dummies(data[term], drop_first=True)
        wider = np.hstack([design, column.to_numpy(dtype=float)])
        if np.linalg.matrix_rank(wider) < wider.shape[1]:
            notes.append(f"{term} is left out: the other facts determine it, so that its effect can't be told apart.")
            continue
        kept, design = [*kept, term], wider
    return kept


def _fit(model: Any, what: str, notes: list[str]) -> Any:
    """The fit by REML, or None if it is singular; the library's warnings become notes."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            fitted = model.fit(reml=True, method="lbfgs", maxiter=1000)
        except np.linalg.LinAlgError:
            notes.append(f"The model with {what} is singular.")
            return None
    if not np.isfinite(fitted.bse_fe).all():
        notes.append(f"The model with {what} has no standard errors.")
        return None
    notes += [f"With {what}: {str(message).splitlines()[0]}" for message in dict.fromkeys(w.message for w in told)]
    return fitted


def correlations(table: pd.DataFrame, quality: pd.Series) -> pd.DataFrame:
    """Pearson's r of each measure with a quality over models.

    Args:
        table: rows of a zoo.
        quality: by model.

    Returns:
        A row per measure: name, n, r, its 95 % interval by Fisher's transformation, p, and `q`, p adjusted for all the
        measures. Measures that are constant, or known of fewer than four models, are left out.
    """
    found = []
    for name, rows in table.groupby("name", sort=False):
        both = rows.set_index("model")["value"].to_frame().join(quality.rename("quality"), how="inner").dropna()
        if len(both) < FEWEST_MODELS or both["value"].nunique() < 2 or both["quality"].nunique() < 2:
            continue
        result = pearsonr(both["value"], both["quality"])
        ends = result.confidence_interval()
        row = {"name": name, "n": len(both), "r": result.statistic, "low": ends.low, "high": ends.high}
        found.append({**row, "p": result.pvalue})
    columns = ["name", "n", "r", "low", "high", "p"]
    done = pd.DataFrame(found, columns=columns)
    return done.assign(q=adjust_p_values(done["p"].to_numpy(dtype=float))).sort_values("p", ignore_index=True)


def matched_contrasts(table: pd.DataFrame, fact: str, low: Any, high: Any, same: Sequence[str]) -> pd.DataFrame:
    """How each measure differs between two values of a fact, over models that are alike in all the others.

    Args:
        table: rows of a zoo.
        fact: such as `dataset_size` or `balance`.
        low: its value on one side.
        high: its value on the other side; differences are high - low.
        same: facts that the models of a pair share. Several models of one side with the same facts are averaged.

    Returns:
        A row per measure: name, pairs, mean difference, `d` = mean difference / standard deviation of both sides
        together (ddof 1), p of the paired t-test and of Wilcoxon's signed-rank test, and `q`, the t-test's p adjusted.

    Raises:
        UserError: there are fewer than two pairs.
    """
    keys = ["name", *same]
    sides = [
        table[table[fact] == value].groupby(keys, sort=False, dropna=False)["value"].mean().rename(side)
        for value, side in ((low, "low"), (high, "high"))
    ]
    both = pd.concat(sides, axis=1, join="inner").dropna()
    found = []
    for name, rows in both.groupby(level="name", sort=False):
        difference = (rows["high"] - rows["low"]).to_numpy(dtype=float)
        # Equal differences have no t-test; rounding would make them the surest of all.
        if len(rows) < 2 or np.ptp(difference) <= 1e-9 * np.abs(difference).max():
            continue
        contrast = paired_contrast(rows["high"].to_numpy(dtype=float), rows["low"].to_numpy(dtype=float))
        ranks = wilcoxon(difference, method="exact" if len(rows) <= 25 else "approx")
        row = {"name": name, "pairs": len(rows), "difference": difference.mean(), "d": contrast.d, "p": contrast.p}
        found.append({**row, "p_wilcoxon": ranks.pvalue})
    if not found:
        raise UserError(
            f"contrast={fact}: no measure has two pairs of models with {fact}={low} and {fact}={high} that agree in "
            f"{', '.join(same) or 'nothing'}."
        )
    done = pd.DataFrame(found)
    return done.assign(q=adjust_p_values(done["p"].to_numpy(dtype=float))).sort_values("p", ignore_index=True)


def impressions_model(table: pd.DataFrame) -> pd.DataFrame:
    """Regress the similarity of impressions on facts of the models and the reliability of people's ratings.

    Returns:
        A row per predictor: term, coefficient, low, high, t, p.

    Raises:
        UserError: there are no such measures, a model lacks a fact, or the facts are not independent.
    """
    pattern = r"[^/]+/similarity\[(.+)\]"
    rows = table[(table["kind"] == "impressions") & table["name"].str.fullmatch(pattern)].copy()
    if not len(rows):
        raise UserError("no model of this zoo has been measured on impressions.")
    for fact in ("dataset_size", "samples_seen"):
        if fact not in rows or rows[fact].isna().any():
            raise UserError(f"some models of this zoo lack {fact}; give it under `facts`.")
    reliability = {name: one["reliability"] for name, one in stimuli("impressions")["attributes"].items()}
    rows["attribute"] = rows["name"].str.extract(pattern, expand=False)
    facts = [
        {
            "similarity": row.value,
            "human_irr": reliability[row.attribute],
            "data": row.dataset_size,
            "total_samples": row.samples_seen,
            "image_mparams": row.image_parameters / 1e6,
            "text_mparams": row.text_parameters / 1e6,
        }
        for row in rows.itertuples()
        if reliability.get(row.attribute) is not None
    ]
    found = similarity_regression(facts).coefficients
    return pd.DataFrame(
        [{"term": c.name, "coefficient": c.value, "low": c.low, "high": c.high, "t": c.t, "p": c.p} for c in found]
    )
