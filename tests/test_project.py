"""Pins are installed, nothing but what belongs there is at the top, and the rooms keep the rules of the house."""

import ast
import graphlib
import importlib.metadata
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

REQUIREMENTS = (ROOT / "requirements.txt").read_text(encoding="utf-8")
TOP_LEVEL = {
    "train_qwen_gaokao.py", "infer_qwen_gaokao.py", "evaluate.py", "config.yaml", "gaokao", "gaokao_data",
    "requirements.txt", "tests", "README.md", "LICENSE",
}  # fmt: skip


@pytest.mark.parametrize("line", [line for line in REQUIREMENTS.splitlines() if line and not line.startswith("#")])
def test_installed_versions_are_the_pinned_ones(line: str) -> None:
    name, version = line.split("==")
    installed = importlib.metadata.version(name).split("+")[0]
    assert installed == version, f"{name} {installed} is installed, requirements.txt pins {version}"


def test_the_packages_that_were_ordered_are_pinned() -> None:
    pinned = {line.split("==")[0] for line in REQUIREMENTS.splitlines() if "==" in line}
    assert {"torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate", "pyyaml"} <= pinned


def test_nothing_else_is_at_the_top() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {path.split("/")[0] for path in listed if not path.startswith(".")} <= TOP_LEVEL


HEAVY = {"torch", "transformers", "trl", "peft", "bitsandbytes"}
MAY_BE_HEAVY = {"models", "adapters", "tiny", "training", "loss", "callbacks", "generation", "sampling", "decoding"}
ROOMS = sorted((ROOT / "gaokao").glob("*.py"))


def imported(file: Path, *, everywhere: bool) -> set[str]:
    """Names of the modules that a file imports, those that only its types need left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("file", ROOMS, ids=lambda file: file.stem)
def test_a_room_imports_neither_scripts_nor_data_tools_and_only_some_import_torch_at_once(file: Path) -> None:
    scripts = {path.stem for path in ROOT.glob("*.py")}
    tops = {name.split(".")[0] for name in imported(file, everywhere=True)}
    assert not tops & {*scripts, "gaokao_data", "tests"}
    at_once = {name.split(".")[0] for name in imported(file, everywhere=False)}
    assert file.stem in MAY_BE_HEAVY or not at_once & HEAVY


def test_nothing_but_the_commands_of_the_data_folder_imports_from_it() -> None:
    for file in [*ROOT.glob("*.py"), *ROOMS]:
        assert not any(name.startswith("gaokao_data") for name in imported(file, everywhere=True)), file


def test_every_room_imports_only_rooms_that_need_not_be_imported_after_it() -> None:
    """Rooms that import each other in a circle cannot be understood one at a time."""
    needs = {
        file.stem: {name.split(".")[1] for name in imported(file, everywhere=False) if name.startswith("gaokao.")}
        for file in ROOMS
    }
    order = list(graphlib.TopologicalSorter(needs).static_order())
    assert set(needs) <= set(order)


def test_the_scripts_are_recipes_and_no_function_is_long_without_a_reason() -> None:
    for script in ROOT.glob("*.py"):
        assert len(script.read_text(encoding="utf-8").splitlines()) <= 150, script
    for file in [*ROOT.glob("*.py"), *ROOMS, *(ROOT / "gaokao_data").glob("*.py")]:
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
                assert len(lines) <= 60 or any("Long because" in line for line in lines), f"{file}: {node.name}"
