"""What MEDS's codes say: how they are named, what opens and closes a visit, what is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import polars as pl

BIRTH: Final = "MEDS_BIRTH"
DEATH: Final = "MEDS_DEATH"
BY_CODES: Final = "codes"
#: What follows the name of a discharge that says nothing, up to the next `//`.
SILENT: Final = ("", "UNK", "UNKNOWN")
ICD: Final = r"(?i)^(?:(diagnosis|procedure)//)?ICD(?://)?(9|10)(CM|PCS|PROC)?(?://|/)([A-Z0-9.]+)$"


@dataclass(frozen=True)
class MedsSettings:
    """How a MEDS dataset is read. Codes are named by how they begin.

    visits: the column of visit ids, `codes` to pair admissions with discharges by time, or None:
    `hadm_id` where the data have it, else `codes`.
    admission, discharge: codes that open and close a visit; of several that a code begins with the
    longest is its name. died: how what follows the name of a discharge begins that says so.
    groups: for each group the codes that give it (`race` goes through the table of races).
    left_out: codes that never become features, with the reason that the ledger gives. Groups and
    what opens and closes a visit are left out in any case.
    keep: if any, only codes that begin so become features.
    """

    visits: str | None = None
    admission: tuple[str, ...] = ("HOSPITAL_ADMISSION",)
    discharge: tuple[str, ...] = ("HOSPITAL_DISCHARGE",)
    died: tuple[str, ...] = ("DIED", "EXPIRED", "DEAD")
    groups: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "sex": ("GENDER//", "SEX//"),
            "race": ("RACE//", "ETHNICITY//"),
            "insurance": ("INSURANCE//",),
        }
    )
    left_out: Mapping[str, str] = field(
        default_factory=lambda: {
            BIRTH: "birth or death",
            DEATH: "birth or death",
            "LANGUAGE//": "demographic",
            "MARITAL_STATUS//": "demographic",
            "LAB//SPECIMEN_COLLECTED//": "specimen of a lab that stands as its result",
            # They are assigned after discharge, and some of them say that the patient died.
            "DRG//": "billed after the visit",
        }
    )
    keep: tuple[str, ...] = ()


def name_codes(settings: MedsSettings, codes: pl.DataFrame) -> pl.DataFrame:
    """What each code (column `code`) is called: kind, system, name, and why it is `dropped`.

    ICD codes in MIMIC_IV_MEDS's and in the vocabularies' spelling lose their dot and are kinds
    `diagnosis` and `procedure`; elsewhere the part before the first `//` is the system.
    """
    code = pl.col("code")
    parts = code.str.splitn("//", 2).struct.rename_fields(["first", "rest"])
    frame = codes.select("code", parts.alias("parts"), code.str.extract_groups(ICD).alias("icd"))
    frame = frame.unnest("parts").with_columns(
        what=pl.col("icd").struct["1"].str.to_lowercase(),
        version=pl.col("icd").struct["2"],
        variant=pl.col("icd").struct["3"].str.to_uppercase(),
        icd=pl.col("icd").struct["4"].str.replace_all(".", "", literal=True),
    )
    is_icd = pl.col("icd").is_not_null()
    procedure = (pl.col("what") == "procedure") | pl.col("variant").is_in(["PCS", "PROC"])
    first = pl.col("first").str.to_lowercase()
    kinds = ["diagnosis", "procedure", "medication"]
    return frame.select(
        "code",
        kind=pl.when(is_icd & procedure.fill_null(value=False))
        .then(pl.lit("procedure"))
        .when(is_icd)
        .then(pl.lit("diagnosis"))
        .when(first.is_in(kinds) & pl.col("rest").is_not_null())
        .then(first)
        .otherwise(pl.lit("event")),
        system=pl.when(is_icd)
        .then("ICD" + pl.col("version"))
        .when(pl.col("rest").is_not_null())
        .then("first")
        .otherwise(pl.lit("code")),
        name=pl.coalesce("icd", "rest", "first"),
        dropped=_dropped(settings),
    )


def _dropped(settings: MedsSettings) -> pl.Expr:
    demographic = [name for names in settings.groups.values() for name in names]
    reasons = [
        *((start, "opens or closes a visit") for start in settings.admission + settings.discharge),
        *((start, "demographic") for start in demographic),
        *settings.left_out.items(),
    ]
    code = pl.col("code")
    dropped = [pl.when(code.str.starts_with(start)).then(pl.lit(why)) for start, why in reasons]
    if settings.keep:
        dropped.append(pl.when(~begins_with(settings.keep)).then(pl.lit("not asked for")))
    return pl.coalesce(*dropped, pl.lit(None, pl.String))


def begins_with(starts: Sequence[str]) -> pl.Expr:
    """Whether the column `code` begins with one of these."""
    return pl.any_horizontal(pl.col("code").str.starts_with(start) for start in starts)


def meanings(settings: MedsSettings) -> dict[str, pl.Expr]:
    """Whether a code opens or closes a visit, and what a discharge says of the outcome."""
    rest = _behind_name(settings.discharge)
    return {
        "opens": begins_with(settings.admission),
        "closes": begins_with(settings.discharge),
        "died": pl.any_horizontal(rest.str.starts_with(word) for word in settings.died),
        "silent": rest.str.split("//").list.first().is_in(SILENT),
    }


def _behind_name(names: Sequence[str]) -> pl.Expr:
    """What follows the longest of `names` that a code begins with; null where none does."""
    code = pl.col("code")
    rests = [
        pl.when(code.str.starts_with(name)).then(_rest(code.str.strip_prefix(name), name))
        for name in sorted(names, key=len, reverse=True)
    ]
    return pl.coalesce(*rests, pl.lit(None, pl.String))


def _rest(tail: pl.Expr, name: str) -> pl.Expr:
    """A code's tail behind `name`, without the `//` between them.

    A name that does not end with a mark of its own may be cut (`DISCH`): it goes on to that `//`.
    """
    if not name[-1:].isalnum():
        return tail.str.strip_prefix("//")
    return tail.str.splitn("//", 2).struct["field_1"].fill_null("")
