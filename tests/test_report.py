"""The report: self-contained, escaped, the same bytes, and honest about what is missing."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import polars as pl
import pytest

from equipoise.evaluate import calibration, counts, fairness, gains, group_metrics, judging
from equipoise.evaluate.benefit import FEWEST_POSITIVES
from equipoise.evaluate.results import Results
from equipoise.report import words
from equipoise.report.figures import INKS, Bar, Mark, Row, Series, bars_figure, dots_figure
from equipoise.report.html import render, write_report
from equipoise.report.summary import (
    Gain,
    cells_of,
    gains_of,
    ledger_of,
    means_of,
    metric_means,
    outline_of,
    totals_of,
    with_mean,
)
from equipoise.report.verdict import interval_text, judge
from equipoise.report.words import count, number, share, signed
from test_report_toys import HOSTILE, MANIFEST, RACES, SMALL, fake_results

SECTIONS = ("cells", "f1", "gains", "metrics", "ledger", "configuration", "reading")
VOID = {"meta", "br", "img", "hr", "input", "link"}


class Page(HTMLParser):
    """Collects tags, attributes and text; fails on a tag that is closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at line {self.getpos()[0]}"

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def svgs(text: str) -> list[str]:
    return re.findall(r"<svg\b.*?</svg>", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def hospital() -> str:
    return render(fake_results(900), MANIFEST)


def test_it_is_self_contained(hospital: str) -> None:
    page = Page(hospital)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "base"}
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert "@import" not in hospital
    assert set(re.findall(r"url\((.)", hospital)) <= {"#"}


def test_links_within_the_page_have_targets_and_ids_are_unique(hospital: str) -> None:
    tags = Page(hospital).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a[n][1:] for _, a in tags for n in ("href", "xlink:href") if a.get(n)}  # type: ignore[index]
    targets |= set(re.findall(r"url\(#([^)]*)\)", hospital))
    assert targets and targets <= set(ids)


def test_all_sections_are_there_in_order(hospital: str) -> None:
    ids = [attributes.get("id") for tag, attributes in Page(hospital).tags if tag == "section"]
    assert tuple(ids) == SECTIONS


def test_names_from_the_data_are_escaped_everywhere(hospital: str) -> None:
    page = Page(hospital)
    assert "<script" not in hospital
    assert HOSTILE in "".join(page.words)
    figures = [ET.fromstring(svg) for svg in svgs(hospital)]
    drawn = " ".join("".join(figure.itertext()) for figure in figures)
    assert "<script>alert(1)</script> & $x$" in drawn


def test_hostile_names_in_every_place() -> None:
    ledger = pl.DataFrame({"table": [HOSTILE], "outcome": [HOSTILE], "rows": [3]})
    results = replace(
        fake_results(200, methods=("original", HOSTILE), models=(HOSTILE,), folds=2), ledger=ledger
    )
    manifest = {"equipoise": HOSTILE, "seed": HOSTILE, "inputs": {HOSTILE: HOSTILE},
                "config": {"task": '"><script>', HOSTILE: {HOSTILE: [HOSTILE]}}}  # fmt: skip
    text = render(results, manifest)
    assert "<script" not in text
    Page(text)
    for svg in svgs(text):
        ET.fromstring(svg)


def test_every_figure_is_well_formed_and_follows_the_theme(hospital: str) -> None:
    figures = [svg for svg in svgs(hospital) if "role=" in svg]
    assert len(figures) == 4 + 3 * (2 + 1 + 2)
    for svg in figures:
        assert ET.fromstring(svg).get("aria-label")
        tags = "".join(re.findall(r"<[a-z][^<>]*>", svg))
        assert "var(--ink)" in tags and "font-family" not in tags
        assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(r'(href="|url\()#[^")]*', "", tags))


def test_every_css_variable_is_defined_for_light_and_dark(hospital: str) -> None:
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", hospital)) | {f"--{name}" for name in INKS}
    light, dark = re.findall(r":root \{(.*?)\}", hospital, flags=re.DOTALL)[:2]
    for theme in (light, dark):
        assert used <= set(re.findall(r"(--[a-z0-9-]+):", theme))


def test_same_results_give_the_same_bytes_and_globals_stay(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    kwargs = {"subjects": 150, **SMALL}
    one = write_report(fake_results(**kwargs), tmp_path / "a" / "report.html", manifest=MANIFEST)
    two = write_report(fake_results(**kwargs), tmp_path / "b.html", manifest=MANIFEST)
    assert one == tmp_path / "a" / "report.html"
    assert one.read_bytes() == two.read_bytes()
    assert dict(mpl.rcParams) == before
    assert [path.name for path in one.parent.iterdir()] == ["report.html"]


def test_the_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    code = (
        "import sys, hashlib; from test_report_toys import *; from equipoise.report.html import "
        "render; print(hashlib.sha256(render(fake_results(80, **SMALL), MANIFEST).encode())"
        ".hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True,
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed, "HOME": str(tmp_path)},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1


def test_not_estimable_says_why_in_place_and_in_a_legend(hospital: str) -> None:
    tags = Page(hospital).tags
    titles = {a.get("title") for tag, a in tags if tag == "abbr" and a.get("class") == "ne"}
    assert "not estimable: no positive visit in this group" in titles
    assert "not estimable: fewer than 10 positive visits" in titles
    legend = re.findall(r'<p class="note">n/e, not estimable.*?</p>', hospital, flags=re.DOTALL)
    assert len(legend) == 2
    letters = dict(re.findall(r"<sup>(\w)</sup> ([^;.<]*)[;.]", legend[-1]))
    assert set(letters.values()) >= {"no positive visit in this group"}
    for title, letter in set(
        re.findall(r'title="not estimable: ([^"]*)">n/e</abbr><sup>(\w)', hospital)
    ):
        assert letters[letter] == title


def test_nan_is_never_written_as_a_number(hospital: str) -> None:
    text = " ".join(Page(hospital).words)
    assert not re.search(r"\b(nan|NaN|None|inf)\b", text)


@pytest.mark.parametrize(
    "kwargs",
    [
        {**SMALL, "folds": 1},
        {"methods": ("original",)},
        {"methods": ("original", "upsample")},
        {**SMALL, "estimable": False},
        {"models": ("xgboost",)},
        {**SMALL, "by": ("race",)},
        {**SMALL, "by": ("race", "insurance")},
    ],
    ids=str,
)
def test_unusual_shapes_render_whole(kwargs: dict[str, Any]) -> None:
    text = render(fake_results(160, **kwargs), MANIFEST)
    page = Page(text)
    assert [a.get("id") for tag, a in page.tags if tag == "section"] == list(SECTIONS)
    for svg in svgs(text):
        ET.fromstring(svg)
    assert ("sd/√k" in text) == (kwargs.get("folds") != 1)


def test_empty_frames_render() -> None:
    full = fake_results(100, methods=("original",), folds=1)
    results = replace(full, ledger=full.ledger.clear(), notes=(), fairness=full.fairness.clear())
    text = render(results, {})
    assert "came without a ledger" in text and "nothing to compare" in text


def test_a_single_fold_shows_no_spread_and_says_so() -> None:
    text = render(fake_results(200, folds=1), MANIFEST)
    assert "±" not in text


def test_means_leave_out_what_is_not_estimable() -> None:
    frame = pl.DataFrame(
        {
            "fold": [2, 0, 1, 0, 0],
            "group": ["a", "a", "a", "b", "c"],
            "value": [0.4, 0.2, 0.0, float("nan"), None],
            "status": ["ok", "ok", "no_positives", "empty", "ok"],
        }
    )
    means = means_of(frame, ["group"])
    a = means[("a",)]
    assert a.mean == pytest.approx(0.3) and a.points == (0.2, 0.4)
    assert (a.folds, a.of, a.reason) == (2, 3, "no_positives")
    assert a.spread == pytest.approx(0.1)
    assert (means[("b",)].mean, means[("b",)].reason) == (None, "empty")
    assert (means[("c",)].mean, means[("c",)].reason) == (None, "undefined")


def test_few_positives_in_all_folds_are_not_estimable() -> None:
    results = fake_results(400, folds=2)
    outline = outline_of(results)
    means = metric_means(results.metrics, outline)
    assert min(positives for _, positives in outline.sizes.values()) < FEWEST_POSITIVES
    shown = {key for key, value in means.items() if value.mean is not None}
    for by, group in outline.sizes:
        enough = outline.sizes[by, group][1] >= FEWEST_POSITIVES
        assert enough == any(key[3:] == (by, group, "f1") for key in shown)
        assert any(key[3:] == (by, group, "f1") for key in means)


def test_copies_are_no_group_and_are_not_counted_as_real() -> None:
    results = fake_results(200, folds=2)
    totals = {total.method: total for total in totals_of(results)}
    assert totals["upsample"].real == totals["original"].real == 100
    assert totals["upsample"].copies == totals["fairplay"].synthetic > 0
    names = {cell.group for cell in cells_of(results)["upsample"]}
    assert names <= {f"{sex} × {race}" for sex in "FM" for race in RACES}


def test_the_words_are_those_of_evaluate() -> None:
    assert (words.ORIGINAL, words.OVERALL, words.HALF, words.TUNED) == (
        judging.CONTROL, judging.OVERALL, judging.HALF, judging.TUNED,
    )  # fmt: skip
    assert {words.HALF, *words.SERIES} == set(judging.CUTS)
    assert set(words.PARTS) == set(gains.PARTS)
    assert set(words.CONTROL_PARTS) == set(gains.CONTROL_PARTS)
    assert set(words.FAIRNESS) == set(fairness.FAIRNESS)
    assert set(words.METRICS) == {*counts.RATES, *group_metrics.SCORES, *calibration.CALIBRATION}
    assert f"fewer than {FEWEST_POSITIVES}" in words.REASONS[counts.TOO_FEW]


def verdict_for(low: float, high: float, status: str = "ok", **kwargs: Any) -> Any:
    results = fake_results(300, models=("xgboost",), folds=2, **kwargs)
    part = (pl.col("part") == "information") & (pl.col("by") == "overall")
    frame = results.gains.with_columns(
        pl.when(part).then(pl.lit(new)).otherwise(pl.col(name)).alias(name)
        for name, new in (("value", (low + high) / 2), ("low", low), ("high", high),
                          ("status", status))
    )  # fmt: skip
    return judge(gains_of(frame), outline_of(results))


def test_the_verdict_follows_the_interval_and_not_the_point() -> None:
    assert "cannot be told from zero" in verdict_for(-0.02, 0.04).headline
    assert "raised F1" in verdict_for(0.01, 0.04).headline
    assert "lowered F1" in verdict_for(-0.04, -0.01).headline
    assert "not estimable" in verdict_for(0.01, 0.04, "too_few").headline
    sentence = verdict_for(-0.02, 0.04).sentences[0]
    assert "changed F1 at the 0.5 threshold by +0.2" in sentence
    assert sentence.endswith("+0.01 [−0.02, 0.04], which cannot be told from zero.")


def test_the_verdict_names_synthetic_patients_only_where_there_are_any() -> None:
    assert "synthetic" in verdict_for(-0.02, 0.04).headline
    assert "synthetic" not in verdict_for(-0.02, 0.04, methods=("original", "upsample")).headline
    alone = verdict_for(-0.02, 0.04, methods=("original",))
    assert "Nothing was compared" in alone.headline


def test_the_verdict_is_not_about_the_ceiling() -> None:
    def about(*methods: str) -> tuple[str | None, bool]:
        outline = outline_of(fake_results(300, folds=2, models=("xgboost",), methods=methods))
        return outline.focus, outline.generates

    assert about("original", "oracle", "mcrage") == ("mcrage", True)
    assert about("original", "smote", "fairplay@0.5", "oracle") == ("fairplay@0.5", True)
    assert about("original", "oracle", "upsample") == ("upsample", False)
    assert about("original", "oracle") == ("oracle", False)


@pytest.mark.parametrize(
    ("gain", "text"),
    [
        (Gain(0.01, -0.02, 0.04, None), "+0.01 [−0.02, 0.04]"),
        (Gain(0.0004, 0.0001, 0.0009, None), "+0.0004 [0.0001, 0.0009]"),
        (Gain(0.0, 0.0, 0.01, None), "0.00 [0.00, 0.01]"),
        (Gain(0.02, 0.004, 0.04, None), "+0.020 [0.004, 0.040]"),
    ],
)
def test_a_bound_that_is_not_zero_does_not_look_so(gain: Gain, text: str) -> None:
    assert interval_text(gain) == text


def test_a_figure_does_not_depend_on_the_settings_of_matplotlib() -> None:
    results = fake_results(300, **SMALL)
    wanted = render(results, MANIFEST)
    own = {"axes.labelweight": "bold", "xtick.direction": "in", "text.usetex": True}
    with mpl.rc_context(own):
        assert render(results, MANIFEST) == wanted
        assert mpl.rcParams["text.usetex"]


def test_the_verdict_of_two_models_that_disagree() -> None:
    results = fake_results(300, folds=2)
    gains = gains_of(results.gains)
    for model, gain in (("xgboost", Gain(0.05, 0.02, 0.08, None)),
                        ("logistic_regression", Gain(0.0, -0.02, 0.02, None))):  # fmt: skip
        gains[(model, "fairplay", "overall", "overall", "f1", "information")] = gain
    headline = judge(gains, outline_of(results)).headline
    assert "is above zero with xgboost and cannot be told from zero with logistic" in headline


def test_the_mean_of_several_models_comes_first_and_the_models_are_folded(hospital: str) -> None:
    captions = re.findall(r"<caption>All patients, (.*?)</caption>", hospital)
    assert captions[:3] == ["mean of models", "logistic regression", "xgboost"]
    before = hospital[: hospital.index("<caption>All patients, logistic regression")]
    assert before.count("<details>") > before.count("</details>")
    assert "On average over the models" in sentences(fake_results(300, folds=2))
    assert "mean of models" not in render(fake_results(300, **SMALL), MANIFEST)


def sentences(results: Results) -> str:
    return " ".join(judge(gains_of(results.gains), outline_of(results)).sentences)


def test_a_mean_over_models_is_unknown_where_a_model_is() -> None:
    results = fake_results(300, **{**SMALL, "models": ("a", "b")})
    one = (pl.col("model") == "b") & (pl.col("metric") == "f1") & (pl.col("fold") == 0)
    metrics = results.metrics.with_columns(
        pl.when(one).then(pl.lit("no_positives")).otherwise("status").alias("status"),
        pl.when(one).then(pl.lit(float("nan"))).otherwise("value").alias("value"),
    )
    means = metric_means(with_mean(metrics), outline_of(results))
    mean = means["mean of models", "fairplay", "tuned", "overall", "overall", "f1"]
    arm = {"method": "fairplay", "threshold": "tuned", "by": "overall", "metric": "f1"}
    known = metrics.filter(fold=1, **arm)
    assert (mean.folds, mean.of, mean.reason) == (1, 2, "no_positives")
    assert mean.mean == pytest.approx(known["value"].mean())


def test_the_further_controls_have_their_tables(hospital: str) -> None:
    for part in words.CONTROL_PARTS.values():
        assert f'<th class="n">{part}</th>' in hospital
    assert "fairplay, tuned by group" in hospital and "fairplay, priors corrected" in hospital
    full = fake_results(200, **SMALL)
    few = replace(full, metrics=full.metrics.filter(pl.col("threshold").is_in(["0.5", "tuned"])))
    assert "Further controls" not in render(few, MANIFEST)


def test_p_values_stand_beside_the_information_part(hospital: str) -> None:
    assert '<td class="n">0.060</td>' in hospital
    told = [words.p_value(p) for p in (0.0011, 0.0304, 0.4, None, float("nan"))]
    assert told == ["<0.002", "0.030", "0.40", "–", "–"]


def test_groups_that_chance_explains_are_not_counted_after_correction() -> None:
    results = fake_results(900, folds=2)
    assert "groups of each feature, none can be told from zero" in sentences(results)
    sure = replace(results, gains=results.gains.with_columns(pl.lit(0.001).alias("p_holm")))
    assert re.search(r"groups of each feature, \d can be told from zero", sentences(sure))


def test_intervals_never_round_a_bound_onto_zero() -> None:
    gain = Gain(0.02, 0.002, 0.04, None)
    assert interval_text(gain) == "+0.020 [0.002, 0.040]"
    assert interval_text(replace(gain, low=-0.02)) == "+0.02 [−0.02, 0.04]"
    assert interval_text(Gain(reason="too_few")).startswith("not estimable (fewer than")


def test_numbers_as_text() -> None:
    assert (number(-0.0001), number(-0.5, 2), number(float("nan"))) == ("0.000", "−0.50", "n/e")
    assert (signed(0.1, 1), signed(0.0001), signed(-0.1, 1)) == ("+0.1", "0.000", "−0.1")
    assert (share(1, 100000), share(99999, 100000), share(1, 4)) == ("<0.1%", ">99.9%", "25.0%")
    assert (share(0, 0), count(1234567), count(2.4)) == ("–", "1\u2009234\u2009567", "2.4")


def test_the_ledger_adds_up() -> None:
    table = next(t for t in ledger_of(fake_results(100, folds=1).ledger) if t.name == "labevents")
    assert table.read == table.used + sum(outcome.rows for outcome in table.dropped)
    assert [outcome.name for outcome in table.dropped] == ["no_hadm_id", "value is not a number"]


def test_figures_grow_with_their_rows_and_take_any_text() -> None:
    looks = [Series("a", "s1", "o")]
    odd = [
        "患者の多い集団" * 6,
        "#010100",
        "a\x00b\x1b",
        'style="fill: #010101"',
        "",
        "$\\frac{$",
        "x" * 300,
    ]
    rows = [Row(text, (Mark(0.5, 0.4, 0.6, (0.4, 0.6)),)) for text in odd]
    kwargs: dict[str, Any] = {"title": '"<&>', "xlabel": "F1", "limits": (0.0, 1.0)}
    tall = ET.fromstring(dots_figure(rows, looks, name="t", **kwargs))
    short = ET.fromstring(dots_figure(rows[:1], looks, name="s", **kwargs))
    assert float(tall.get("height", 0)) > 4 * float(short.get("height", 0)) / 2
    assert tall.get("aria-label") == '"<&>'
    text = "".join(tall.itertext())
    assert "#010100" in text and "#010101" in text and "$\\frac{$" in text
    bars = [Bar(text, "positive", 3.0, 1.0, 4.0, 3.0) for text in odd]
    ET.fromstring(bars_figure(bars, name="b", title="t", xlabel="x", limit=7.0))


def test_matplotlib_is_not_imported_with_the_package() -> None:
    code = "import sys, equipoise, equipoise.report; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
