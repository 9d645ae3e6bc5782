"""A TOML file that says what anyone's own tables mean; see `sources/specs` for two examples."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from equipoise import schema
from equipoise.errors import DataError
from equipoise.sources.declaration import LAB

Record = Literal["whole", "first_event", "last_known"]
RECORDS: Final = ("whole", "first_event", "last_known")
#: What cannot be a group: other columns of subjects, and of their visits.
RESERVED: Final = (*schema.SUBJECTS, schema.PERSON_ID, schema.VISIT_ID)
#: Keys of codes and values that say how a table of events is read, and how the visits' own cells.
OF_TABLES: Final = ("visit", "subject", "code", "value", "unit", "time")
OF_CELLS: Final = ("null", "name")
GROUP_KINDS: Final = ("value", "race", "age")
NAMES: Final = ("value", "column=value")


@dataclass(frozen=True)
class VisitsSpec:
    """The table with a row for each visit. Without `subject` or `visit` it is the row's number."""

    table: str
    folders: tuple[str, ...]
    subject: str | None
    visit: str | None
    order: str | None
    start: str | None
    end: str | None
    death: str | None
    person: str | None
    split: str | None
    null: tuple[str, ...]


@dataclass(frozen=True)
class TaskSpec:
    """A label: the words of `column` that are true and false; `unknown` words of other columns."""

    name: str
    title: str
    column: str
    true: tuple[str, ...]
    false: tuple[str, ...]
    record: Record
    unknown: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class GroupSpec:
    """A group column: its words as they are or by `values`, by the table of races, or ages."""

    name: str
    column: str
    kind: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class EventsSpec:
    """Codes or values: `columns` of the visits' table, or a `table` of events with its columns.

    Events belong to the visit that they name, or to that of `subject` that encloses `time`.
    """

    kind: str
    system: str | None
    columns: tuple[str, ...]
    name: str
    null: tuple[str, ...]
    table: str | None
    visit: str | None
    subject: str | None
    code: str | None
    value: str | None
    unit: str | None
    time: str | None


@dataclass(frozen=True)
class Spec:
    """What a spec says."""

    name: str
    visits: VisitsSpec
    tasks: tuple[TaskSpec, ...]
    groups: tuple[GroupSpec, ...]
    codes: tuple[EventsSpec, ...]
    values: tuple[EventsSpec, ...]


class _Section:
    """A table of the spec whose keys are taken one by one; a bad one is named in full."""

    def __init__(self, file: str, path: str, content: object) -> None:
        self.file, self.path = file, path
        if not isinstance(content, dict):
            raise self.wrong("", "a table of keys", content)
        self.content: dict[str, Any] = content
        self.taken: set[str] = set()

    def wrong(self, key: str, want: str, got: object) -> DataError:
        where = ".".join(part for part in (self.path, key) if part)
        return DataError(table=self.file, column=where, want=want, got=repr(got))

    def text(self, key: str, default: str | None = None) -> str | None:
        self.taken.add(key)
        value = self.content.get(key, default)
        if value is not None and not (isinstance(value, str) and value):
            raise self.wrong(key, "a text", value)
        return value

    def needed(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            raise self.wrong(key, "this key", "nothing")
        return value

    def texts(self, key: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        self.taken.add(key)
        value = self.content.get(key, default)
        if value is None:
            raise self.wrong(key, "this key", "nothing")
        if not isinstance(value, (list, tuple)) or not all(isinstance(x, str) for x in value):
            raise self.wrong(key, "a list of texts", value)
        return tuple(value)

    def choice(self, key: str, choices: Sequence[str]) -> str:
        value = self.text(key, choices[0]) or choices[0]
        if value not in choices:
            raise self.wrong(key, f"one of {', '.join(choices)}", value)
        return value

    def section(self, key: str) -> _Section:
        self.taken.add(key)
        return _Section(self.file, f"{self.path}.{key}".strip("."), self.content.get(key, {}))

    def sections(self, key: str) -> list[_Section]:
        self.taken.add(key)
        content = self.content.get(key, [])
        if not isinstance(content, list):
            raise self.wrong(key, f"a list: [[{key}]]", content)
        return [_Section(self.file, f"{key}[{n}]", part) for n, part in enumerate(content)]

    def named(self) -> list[tuple[str, _Section]]:
        """All keys, each as a section."""
        return [(name, self.section(name)) for name in self.content]

    def done(self) -> None:
        for key in self.content:
            if key not in self.taken:
                raise self.wrong(key, f"no key but {', '.join(sorted(self.taken))}", key)


def read_spec(path: Path | str) -> Spec:
    """The spec in a TOML file; raises `DataError` naming the key, what is wanted and what is there.

    `support2` and `diabetes130` are the names of the shipped examples.
    """
    path = Path(path)
    shipped = Path(__file__).parent / "specs" / f"{path}.toml"
    file = shipped if not path.suffix and shipped.is_file() else path
    if not file.is_file():
        raise DataError(table=str(path), want="a TOML file", got="no such file")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(table=file.name, want="TOML", got=str(error)) from None
    root = _Section(file.name, "", content)
    spec = Spec(
        name=root.text("name", file.stem) or file.stem,
        visits=_visits(root.section("visits")),
        tasks=tuple(_task(name, part) for name, part in root.section("tasks").named()),
        groups=tuple(_group(name, part) for name, part in root.section("groups").named()),
        codes=tuple(_events(part, is_code=True) for part in root.sections("codes")),
        values=tuple(_events(part, is_code=False) for part in root.sections("values")),
    )
    root.done()
    if not spec.tasks:
        raise root.wrong("tasks", "at least one task: [tasks.NAME]", "none")
    if not spec.codes and not spec.values:
        raise root.wrong("codes", "at least one of [[codes]] and [[values]]", "none")
    _check_placing(root, spec)
    _check_once(root, "values", [column for part in spec.values for column in part.columns])
    return spec


def _check_table(part: _Section, spec: EventsSpec, *, is_code: bool) -> None:
    for key in ("code",) if is_code else ("code", "value"):
        part.needed(key)
    if not (spec.visit or spec.subject):
        raise part.wrong("visit", "the column of visits, or subject and time", "neither")
    if spec.subject and not spec.time:
        raise part.wrong("time", "when events happened, for they are placed by it", "nothing")


def _check_placing(root: _Section, spec: Spec) -> None:
    """Raise `DataError` unless visits say what tables of events are placed by."""
    by_time = any(part.subject for part in (*spec.codes, *spec.values))
    for key in ("subject", "start", "end"):
        if by_time and getattr(spec.visits, key) is None:
            want = "this key, for events are placed by subject and time"
            raise root.wrong(f"visits.{key}", want, "nothing")


def _check_once(part: _Section, key: str, columns: Sequence[str]) -> None:
    for place, column in enumerate(columns):
        if column in columns[:place]:
            raise part.wrong(key, "each column once", column)


def _visits(part: _Section) -> VisitsSpec:
    spec = VisitsSpec(
        table=part.needed("table"),
        folders=part.texts("folders", ["."]),
        subject=part.text("subject"),
        visit=part.text("visit"),
        order=part.text("order"),
        start=part.text("start"),
        end=part.text("end"),
        death=part.text("death"),
        person=part.text("person"),
        split=part.text("split"),
        null=part.texts("null", []),
    )
    part.done()
    for folder in map(Path, spec.folders):
        if folder.is_absolute() or ".." in folder.parts:
            raise part.wrong("folders", "folders below the one that is read", str(folder))
    if spec.subject and not (spec.order or spec.start):
        raise part.wrong("order", "what a subject's visits are ordered by, or start", "neither")
    return spec


def _task(name: str, part: _Section) -> TaskSpec:
    others = part.section("unknown")
    spec = TaskSpec(
        name=name,
        title=part.text("title", name.replace("_", " ")) or name,
        column=part.needed("column"),
        true=part.texts("true"),
        false=part.texts("false"),
        record=cast("Record", part.choice("record", RECORDS)),
        unknown={column: others.texts(column) for column in others.content},
    )
    part.done()
    if both := set(spec.true) & set(spec.false):
        raise part.wrong("true", "words that are not false, too", sorted(both)[0])
    return spec


def _group(name: str, part: _Section) -> GroupSpec:
    values = part.section("values")
    spec = GroupSpec(
        name=name,
        column=part.needed("column"),
        kind=part.choice("kind", GROUP_KINDS),
        values={word: values.needed(word) for word in values.content},
    )
    part.done()
    if name in RESERVED:
        raise part.wrong("", f"another name than {', '.join(RESERVED)}", name)
    return spec


def _events(part: _Section, *, is_code: bool) -> EventsSpec:
    spec = EventsSpec(
        kind=part.text("kind", "code") or "code",
        system=part.text("system"),
        columns=part.texts("columns", []),
        name=part.choice("name", NAMES),
        null=part.texts("null", []),
        table=part.text("table"),
        visit=part.text("visit"),
        subject=part.text("subject"),
        code=part.text("code"),
        value=part.text("value"),
        unit=part.text("unit"),
        time=part.text("time"),
    )
    part.done()
    if spec.kind == LAB:
        raise part.wrong("kind", "another name, for that is what values become", LAB)
    _check_once(part, "columns", spec.columns)
    if spec.table:
        _check_table(part, spec, is_code=is_code)
    if bool(spec.table) == bool(spec.columns):
        want = "either columns of the visits' table or a table of events"
        raise part.wrong("columns", want, "both" if spec.table else "neither")
    idle = {*(OF_CELLS if spec.table else OF_TABLES)}
    idle |= {"value", "unit"} if is_code else {"kind", "system", "name"}
    where = f"{'codes' if is_code else 'values'} of {'a table' if spec.table else 'columns'}"
    for key in sorted(idle & part.content.keys()):
        raise part.wrong(key, f"only keys that mean something for {where}", part.content[key])
    return spec
