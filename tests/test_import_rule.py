"""Imports run one way: scripts, recipe, medical_team. The game needs no training stack."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GAME = sorted((ROOT / "medical_team").rglob("*.py"))
RECIPE = sorted((ROOT / "recipe").rglob("*.py"))
ENGINES = ["verl", "ray", "hydra", "omegaconf", "torch", "vllm", "transformers", "tensordict"]

BLOCKED_IMPORTS = """
import importlib, json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")
modules, BLOCKED = json.loads(sys.argv[1]), set(json.loads(sys.argv[2]))
sys.meta_path.insert(0, Blocked())
for name in modules:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: {error}")
"""


def run_python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_packages(path: Path) -> set[str]:
    """Top-level packages a file imports, inside functions too."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add((node.module or "").partition(".")[0])
    return packages


def test_every_game_module_imports_without_the_training_stack() -> None:
    modules = [module_name(path) for path in GAME if path.stem != "__main__"]
    assert modules
    blocked = json.dumps([*ENGINES, "recipe"])
    assert run_python("-c", BLOCKED_IMPORTS, json.dumps(modules), blocked) == ""


@pytest.mark.parametrize("path", GAME, ids=module_name)
def test_game_module_never_imports_verl_ray_hydra_or_the_recipe(path: Path) -> None:
    assert not imported_packages(path) & {"verl", "ray", "hydra", "recipe", "scripts", "tests"}


@pytest.mark.parametrize("path", RECIPE, ids=module_name)
def test_recipe_module_never_imports_scripts_or_tests(path: Path) -> None:
    assert not imported_packages(path) & {"scripts", "tests"}


def test_importing_the_game_loads_nothing_heavy() -> None:
    heavy = [*ENGINES, "pandas", "pyarrow", "numpy", "ftfy", "sklearn", "rich", "pydantic"]
    code = "import sys, medical_team; print(*(n for n in sys.argv[1:] if n in sys.modules))"
    assert run_python("-c", code, *heavy).split() == []


def test_importing_the_game_takes_under_200_ms() -> None:
    code = (
        "import time; start = time.perf_counter(); import medical_team;"
        " print(time.perf_counter() - start)"
    )
    # The least of three, so that a busy machine does not fail it.
    assert min(float(run_python("-c", code)) for _ in range(3)) < 0.2


def test_recipe_is_a_namespace_that_other_recipes_share() -> None:
    assert not (ROOT / "recipe" / "__init__.py").exists()
