"""What methods, metrics and reasons are called on the page, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

#: The method every gain is measured against.
ORIGINAL: Final = "original"
#: Fresh patients of a simulated hospital: what balancing could give at most.
ORACLE: Final = "oracle"
#: How `by` reads for all patients together.
OVERALL: Final = "overall"
#: The thresholds: the score is cut at one half, or where training data gave the best F1 (for all
#: alike, or for each group); or at one half once the shares of the classes are put right.
HALF: Final = "0.5"
TUNED: Final = "tuned"
CORRECTED: Final = "corrected"
GROUP_TUNED: Final = "group_tuned"


@dataclass(frozen=True)
class Term:
    """A metric: its short title, what it means in one line, and the value one hopes for."""

    title: str
    meaning: str
    target: str = ""


METRICS: Final[Mapping[str, Term]] = {
    "f1": Term("F1", "harmonic mean of precision and recall of the flagged visits", "1"),
    "auroc": Term(
        "AUROC",
        "chance that a positive visit scores above a negative one; no threshold is involved",
        "1",
    ),
    "ap": Term("AP", "average precision: area under the precision-recall curve, no threshold", "1"),
    "brier": Term("Brier", "mean squared error of the predicted risk, no threshold", "0"),
    "calibration_slope": Term(
        "Calibration slope",
        "how the log-odds of the truth rise with those of the predicted risk; below 1 the risks "
        "are too extreme, no threshold",
        "1",
    ),
    "calibration_intercept": Term(
        "Calibration intercept",
        "calibration in the large, in log-odds; below 0 the risks are told too high, no threshold",
        "0",
    ),
    "tpr": Term("TPR", "recall: share of positive visits that are flagged", "1"),
    "fpr": Term("FPR", "share of negative visits that are flagged", "0"),
    "precision": Term("Precision", "share of flagged visits that are positive", "1"),
    "selection_rate": Term("Flagged", "selection rate: share of all visits that are flagged"),
    "gbe": Term(
        "GBE",
        "group benefit equality: flagged visits per positive visit; below 0.8 a group may be "
        "under-served. It does not say who is flagged, so read it beside TPR and precision",
        "1",
    ),
}

FAIRNESS: Final[Mapping[str, Term]] = {
    "disparate_impact": Term(
        "Disparate impact of F1",
        "size-weighted mean of each group's F1 divided by the majority group's (FairPlay)",
        "1",
    ),
    "theil": Term("Theil index of F1", "inequality of F1 among the groups (FairPlay)", "0"),
    "performance_variance": Term(
        "Variance of F1", "population variance of F1 among the groups", "0"
    ),
    "classic_disparate_impact": Term(
        "Disparate impact of flags",
        "lowest selection rate of a group divided by the majority's; the four-fifths rule asks "
        "for 0.8",
        "1",
    ),
    "demographic_parity_difference": Term(
        "Demographic parity difference", "largest minus smallest selection rate", "0"
    ),
    "equality_of_opportunity_difference": Term(
        "Equality of opportunity difference", "largest minus smallest TPR", "0"
    ),
    "equalized_odds_difference": Term(
        "Equalized odds difference", "the larger of the ranges of TPR and FPR", "0"
    ),
    "weighted_theil": Term(
        "Theil index of F1, weighted", "the same, each group counting by its size", "0"
    ),
    "demographic_parity_ratio": Term(
        "Demographic parity ratio", "smallest selection rate divided by the largest", "1"
    ),
    "mean_equalized_odds_difference": Term(
        "Equalized odds difference, mean", "the mean of the ranges of TPR and FPR", "0"
    ),
    "individual_theil": Term(
        "Theil index of individuals",
        "inequality of benefit among visits (missed 0, right 1, wrongly flagged 2), as AIF360 "
        "has it; it shares only the name with the index of F1",
        "0",
    ),
    "between_group_theil": Term(
        "Theil index of individuals, between groups",
        "the same, each visit taking the mean benefit of its group",
        "0",
    ),
}

#: Metrics that need no positive visits to be estimated.
RATES: Final = frozenset({"fpr", "selection_rate", "brier"})

#: The fairness metrics that stand in the open; the others are folded away.
MAIN_FAIRNESS: Final = tuple(FAIRNESS)[:7]

SERIES: Final[Mapping[str, str]] = {
    TUNED: "tuned",
    CORRECTED: "priors corrected",
    GROUP_TUNED: "tuned by group",
}

PARTS: Final[Mapping[str, str]] = {
    "total": "total",
    "threshold": "threshold part",
    "information": "information part",
}
#: What the same gains are against the two other controls.
CONTROL_PARTS: Final[Mapping[str, str]] = {
    "group_threshold": "thresholds by group alone",
    "group_information": "information part, tuned by group",
    "corrected": "total, priors corrected",
}

REASONS: Final[Mapping[str, str]] = {
    "empty": "nobody of this group is in the test data",
    "no_positives": "no positive visit in this group",
    "no_negatives": "no negative visit in this group",
    "undefined": "the formula divides by zero here",
    "too_few": "fewer than 10 positive visits",
    "constant_score": "every score is the same",
    "separated": "a score divides the classes without error",
    "missing": "not computed in this run",
}


def plain(name: str) -> str:
    """A method's, model's or column's name as prose."""
    return name.replace("_", " ")


def metric_title(name: str) -> str:
    """The short title of a metric, also of one this file does not know."""
    term = METRICS.get(name) or FAIRNESS.get(name)
    return term.title if term else plain(name)


def reason_text(status: str) -> str:
    """Why a value is not estimable, in words."""
    return REASONS.get(status, plain(status))


def series_title(method: str, threshold: str) -> str:
    """A method at a threshold."""
    told = SERIES.get(threshold)
    return f"{plain(method)}, {told}" if told else f"{plain(method)} at {threshold}"


def series_cut(threshold: str) -> str:
    """A threshold under the name of its method."""
    return SERIES.get(threshold, f"at {threshold}")


def p_value(p: float | None) -> str:
    """A p value; small ones only as smaller than a bound, for it comes from resamples."""
    if p is None or math.isnan(p):
        return "–"
    return "<0.002" if p < 0.002 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with a true minus sign and no negative zero."""
    if value is None or math.isnan(value):
        return "n/e"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A number that always shows its sign, unless it rounds to zero."""
    text = number(value, digits)
    positive = value is not None and value > 0 and any(c in "123456789" for c in text)
    return f"+{text}" if positive else text


def count(value: float | None) -> str:
    """A count with thin spaces between thousands; a mean over folds keeps one decimal if small."""
    if value is None:
        return "–"
    digits = 0 if value >= 10 or float(value).is_integer() else 1
    return f"{value:,.{digits}f}".replace(",", "\u2009")


def share(part: float, whole: float) -> str:
    """A share in per cent, never rounded to a false 0 or 100."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "<0.1%"
    if 99.9 < percent < 100:
        return ">99.9%"
    return f"{percent:.1f}%"
