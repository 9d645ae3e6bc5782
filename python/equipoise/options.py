"""What may be asked for on the command line: the options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from equipoise.errors import UsageError
from equipoise.pipeline import Comparison
from equipoise.vocabulary import VocabularySettings

METHODS = "original,upsample,downsample,fairplay"
MODELS = "logistic_regression,xgboost"


class SourceName(StrEnum):
    """The sources that can be read."""

    mimic_iv = "mimic-iv"
    mimic_iii = "mimic-iii"
    eicu = "eicu"
    meds = "meds"
    tables = "tables"


class FileFormat(StrEnum):
    """How tables are written."""

    csv_gz = "csv.gz"
    csv = "csv"
    parquet = "parquet"


By = Annotated[str, typer.Option("--by", help="Group columns, separated by commas: race,sex")]
Out = Annotated[Path, typer.Option("--out", help="The folder (or file) to write")]
Force = Annotated[bool, typer.Option("--force", help="Replace a finished folder")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, help="The same seed gives the same bytes")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Default: all cores")]
Labs = Annotated[int, typer.Option("--labs", min=0, help="How many of the commonest labs to keep")]
Methods = Annotated[
    str,
    typer.Option(
        "--methods",
        help="Methods to compare, with commas between (docs/balancing.md lists them); or all",
    ),
]
Models = Annotated[
    str,
    typer.Option(
        "--models",
        help="Of knn, logistic_regression, neural_network, random_forest, xgboost; or all",
    ),
]
Model = Annotated[
    list[str] | None,
    typer.Option("--model", help="Also your own scikit-learn estimator: module:name; repeatable"),
]
MinShare = Annotated[
    float,
    typer.Option(
        "--min-share",
        min=0,
        max=1,
        help="Leave crossed groups with a smaller share of the subjects unjudged",
    ),
]
Folds = Annotated[int, typer.Option("--folds", min=2, help="Folds over subjects")]
Root = Annotated[Path, typer.Argument(help="The folder that holds the source's tables")]
SourceArgument = Annotated[SourceName, typer.Argument(help="What kind of tables they are")]
Spec = Annotated[
    str | None,
    typer.Option("--spec", help="For tables: a TOML file (docs/data.md), support2 or diabetes130"),
]
Codes = Annotated[
    str | None,
    typer.Option(
        "--codes",
        help="MIMIC: diagnosis,procedure,medication; eICU: diagnosis,medication,treatment",
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task", help="in_hospital_mortality, mortality_30d, readmission_30d, or a spec's own"
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="Instead of a task: subject_id, visit_id or prediction_time, boolean_value",
    ),
]
Until = Annotated[
    str | None,
    typer.Option("--until", help="Cut events later than admission+24h, discharge-1d, prediction"),
]
ByTime = Annotated[
    bool, typer.Option("--attach-by-time", help="Place events without a visit id by their time")
]
AgeCuts = Annotated[
    str, typer.Option("--age-cuts", help="18,74 makes bands up to 18, 19 to 74, and 75 on")
]
LabKey = Annotated[
    str | None, typer.Option("--lab-key", help="For MIMIC: item,unit makes a lab of each unit")
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse bad data instead of counting them")]
Races = Annotated[
    Path | None,
    typer.Option("--race-table", help="CSV with columns race, group: which words make which group"),
]

Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with what a stopped run of the same left")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="NAME=VALUE of GeneratorConfig (docs/generator.md); repeatable"),
]
ShardParams = Annotated[
    bool,
    typer.Option(
        "--shard-params",
        help="Each device holds a part of the weights: for models that one cannot hold",
    ),
]
Shard = Annotated[str | None, typer.Option("--shard", help="Make part i of n only: 2/8")]
ShardSubjects = Annotated[int, typer.Option("--shard-subjects", min=1, help="Subjects to a file")]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch", min=1, help="Subjects drawn side by side on a device (default: what suits it)"
    ),
]


def names_in(text: str) -> list[str]:
    """Names with commas between; raises `UsageError` if there is none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("want at least one name, separated by commas, got none")
    return names


def comparison_of(
    by: str,
    methods: str,
    models: str,
    model: list[str] | None,
    folds: int,
    seed: int,
    labs: int,
    min_share: float,
) -> Comparison:
    """What is to be compared; raises `UsageError` for a method or model that there is not."""
    comparison = Comparison(
        by=names_in(by),
        methods=names_in(methods),
        models=[*names_in(models), *(model or [])],
        folds=folds,
        seed=seed,
        settings=VocabularySettings(labs=labs),
        min_share=min_share,
    )
    comparison.config()
    return comparison


def settings_in(texts: list[str]) -> dict[str, int | float | str]:
    """Settings given as NAME=VALUE, numbers and truths as such; raises `UsageError`."""
    settings: dict[str, int | float | str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--set: want NAME=VALUE, got {text}")
        settings[name] = _number_or_word(value)
    return settings


def _number_or_word(text: str) -> int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def source_options(spec: str | None, codes: str | None, lab_key: str | None) -> dict[str, Any]:
    """Those options of a source that were given."""
    given = {
        "spec": spec,
        "codes": names_in(codes) if codes else None,
        "lab_key": names_in(lab_key) if lab_key else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def reading_options(
    labels: Path | None,
    until: str | None,
    attach_by_time: bool,
    age_cuts: str,
    race_table: Path | None,
    strict: bool,
) -> dict[str, Any]:
    """The options of `read_source`; raises `UsageError`."""
    try:
        cuts = tuple(int(cut) for cut in names_in(age_cuts))
    except ValueError:
        raise UsageError(f"--age-cuts: want whole years such as 18,74, got {age_cuts}") from None
    return {
        "labels": labels,
        "until": until,
        "attach_by_time": attach_by_time,
        "age_cuts": cuts,
        "race_table": race_table,
        "strict": strict,
    }


def part_of(shard: str | None) -> tuple[int, int] | None:
    """The two numbers of `2/8`; raises `UsageError`."""
    if shard is None:
        return None
    number, _, of = shard.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UsageError(f"--shard: want i/n with i from 1 to n, such as 2/8, got {shard}")
    return int(number), int(of)
