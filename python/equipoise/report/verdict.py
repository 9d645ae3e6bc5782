"""The verdict in words, read off the gains and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from equipoise.evaluate.over_models import MEAN_OF_MODELS
from equipoise.report.summary import Gain, Outline
from equipoise.report.words import OVERALL, number, plain, reason_text, signed

Gains = Mapping[tuple[str, ...], Gain]

_TOLD = {
    "above": "above zero",
    "below": "below zero",
    "zero": "which cannot be told from zero",
    "": "without an interval, so it cannot be judged",
}


@dataclass(frozen=True)
class Verdict:
    """A headline, a sentence about the model or the mean of several, and one about the groups."""

    headline: str
    sentences: tuple[str, ...]


def judge(gains: Gains, outline: Outline) -> Verdict:
    """Say what the method in focus changed in F1, and how much of that a threshold would give."""
    if outline.focus is None:
        return Verdict(
            "Nothing was compared: only the original data were used for training.",
            ("Run at least one balancing method to see what balancing buys.",),
        )
    method = plain(outline.focus)
    added = f"synthetic patients of {method}" if outline.generates else f"{method} data"
    parts = {model: _part(gains, outline, model, "information") for model in outline.models}
    first = outline.shown[0]
    sentence = _model_sentence(gains, outline, first, added)
    return Verdict(_headline(parts, added), (sentence, *_group_sentence(gains, outline, first)))


def interval_text(gain: Gain) -> str:
    """A gain with its interval, with as many digits as it takes to tell a bound from zero."""
    if gain.value is None:
        return f"not estimable ({reason_text(gain.reason or 'undefined')})"
    ends = [end for end in (gain.low, gain.high) if end is not None]
    least = min((abs(end) for end in ends if end), default=1.0)
    digits = next(digits for digits in range(2, 9) if digits == 8 or least >= 0.5 / 10**digits)
    text = signed(gain.value, digits)
    if len(ends) < 2:
        return text
    return f"{text} [{number(gain.low, digits)}, {number(gain.high, digits)}]"


def _part(gains: Gains, outline: Outline, model: str, part: str) -> Gain:
    return gains.get((model, outline.focus or "", OVERALL, OVERALL, "f1", part), Gain())


def _headline(parts: Mapping[str, Gain], added: str) -> str:
    told = {model: gain.told if gain.value is not None else "none" for model, gain in parts.items()}
    kinds = set(told.values())
    what = f"What {added} added to F1 beyond a tuned threshold"
    if kinds <= {"none"}:
        return f"{what} is not estimable from this run."
    subject = _first_upper(added)
    whole = {
        "above": f"{subject} raised F1 beyond what a tuned threshold gives.",
        "below": f"{subject} lowered F1 below what a tuned threshold gives.",
        "zero": f"{what} cannot be told from zero.",
        "": f"{what} cannot be judged: no interval was computed.",
    }
    if len(kinds) == 1:
        return whole[kinds.pop()]
    words = {
        "above": "is above zero",
        "below": "is below zero",
        "zero": "cannot be told from zero",
        "": "has no interval",
        "none": "is not estimable",
    }
    clauses = [
        f"{words[kind]} with {_join(plain(model) for model in told if told[model] == kind)}"
        for kind in words
        if kind in kinds
    ]
    return f"{what} depends on the model: it {_join(clauses)}."


def _model_sentence(gains: Gains, outline: Outline, model: str, added: str) -> str:
    total = _part(gains, outline, model, "total")
    threshold = _part(gains, outline, model, "threshold")
    information = _part(gains, outline, model, "information")
    change = interval_text(total)
    told = f", {_TOLD['zero']}" if total.told == "zero" else ""
    first = (
        f"{_with(model)}, balancing with {plain(outline.focus or '')} changed F1 at the 0.5 "
        f"threshold by {change}{told}; tuning the threshold of the original model alone changes "
        f"it by {interval_text(threshold)}."
        if total.value is not None
        else f"{_with(model)}, the change of F1 at the 0.5 threshold is {change}."
    )
    if information.value is None:
        return f"{first} What {added} added is {interval_text(information)}."
    return f"{first} What {added} added is {interval_text(information)}, {_TOLD[information.told]}."


def _with(model: str) -> str:
    return "On average over the models" if model == MEAN_OF_MODELS else f"With {plain(model)}"


def _group_sentence(gains: Gains, outline: Outline, model: str) -> tuple[str, ...]:
    sections = [by for by in outline.sections if by.count("×") == 0] or list(outline.sections)
    found = [
        gains.get((model, outline.focus or "", by, group, "f1", "information"), Gain())
        for by in sections
        for group in outline.groups[by]
    ]
    told = [gain.told for gain in found if gain.told]
    if not found:
        return ()
    if not told:
        return ("For no single group could this be estimated.",)
    words = {"above": "is above zero", "below": "is below zero", "zero": _TOLD["zero"][6:]}
    counts = [f"{text} in {told.count(kind)}" for kind, text in words.items() if kind in told]
    silent = len(found) - len(told)
    more = f"; {silent} more are not estimable" if silent else ""
    each = " of each feature" if len(sections) > 1 else ""
    kept = sum(gain.p is not None and gain.p < 0.05 for gain in found)
    return (
        f"By group, the same part {_join(counts)} of {len(told)}{more}. About one interval in "
        f"twenty misses its target by chance alone; corrected for the number of groups{each}, "
        f"{kept or 'none'} can be told from zero.",
    )


def _join(words: Iterable[str]) -> str:
    items = list(words)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
