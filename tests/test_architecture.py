"""Who may import whom (docs: the house of equipoise, section 2)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "python" / "equipoise"
#: Each tier may import from itself and from those after it.
TIERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli",),
    ("terminal", "options"),
    ("pipeline", "inspection", "sampler"),
    ("report",),
    ("evaluate", "balance", "generator", "simulate"),
    ("training_set",),
    (
        "cohort",
        "vocabulary",
        "records",
        "reading",
        "mixed_reading",
        "stream_reading",
        "strict",
        "events",
    ),
    ("sources", "tasks", "ragged", "store", "_core"),
    ("schema", "errors", "cores"),
)
FILES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path, *, at_top: bool = False) -> set[str]:
    """The modules that a file imports, anywhere or only on being imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if typing_only or (at_top and isinstance(node, ast.FunctionDef)):
            skipped.update(ast.walk(node))
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module)
            if node.module == "equipoise":
                found.update(f"equipoise.{alias.name}" for alias in node.names)
    return found


def tier(name: str) -> int:
    return next(level for level, rooms in enumerate(TIERS) if name in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":
        return
    for module in imports(path):
        if module.startswith("equipoise."):
            assert tier(own) <= tier(room(module)), f"{own} imports {module}"


def test_only_the_nouns_open_the_core() -> None:
    for path in FILES:
        if "equipoise._core" in imports(path):
            assert path.stem in {
                "records",
                "reading",
                "strict",
                "labels",
                "vocabulary",
                "cohort",
                "in_core",
            }


def test_a_judge_does_not_know_who_made_the_data() -> None:
    for path in (PACKAGE / "evaluate").rglob("*.py"):
        rooms = {room(module) for module in imports(path) if module.startswith("equipoise.")}
        assert not rooms & {"generator", "balance"}, path


def test_the_network_imports_nothing_of_ours() -> None:
    for name in ("model", "head"):
        modules = imports(PACKAGE / "generator" / f"{name}.py")
        ours = {m for m in modules if m.startswith("equipoise")}
        assert not ours, name


def test_jax_stays_in_its_rooms() -> None:
    for path in FILES:
        uses = any(m.split(".")[0] in {"jax", "flax", "optax", "orbax"} for m in imports(path))
        allowed = path.parent.name == "generator" or path.stem in {"mcrage"}
        assert allowed or not uses, path


def test_the_command_line_starts_without_what_few_verbs_need() -> None:
    code = "import equipoise, equipoise.balance, equipoise.cli, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    modules = set(done.stdout.split())
    assert "equipoise.cli" in modules
    assert not modules & {"jax", "matplotlib", "scipy.stats", "sklearn", "xgboost"}


def test_only_the_command_line_prints_and_nothing_unpickles() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print" or path.stem == "cli", path
        assert not {m.split(".")[0] for m in imports(path)} & {"pickle", "joblib", "dill"}, path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, f"{path.name}: {node.name}"
