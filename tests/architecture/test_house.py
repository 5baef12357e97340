"""The house: every step folder holds what a step holds, interfaces stay thin, compiling stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.steps import SECTIONS, STEPS

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {step.name: ROOT / "components" / step.name for step in STEPS} | {
    name: ROOT / "components" / "data_synthesis" / name for name in ("recordings", "clips", "trajectories")
}


def test_the_required_top_level_is_there() -> None:
    for name in ("components", "pipelines", "images", "manifests", "tests", "pipeline_config.yaml", "README.md"):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("step", sorted(FOLDERS))
def test_a_step_folder_holds_its_contract(step: str) -> None:
    folder = FOLDERS[step]
    for name in ("component.py", "README.md", "metadata.yaml"):
        assert (folder / name).is_file(), f"{step}: {name} is missing"
    if step in SECTIONS:
        assert (folder / "config.py").is_file()
    metadata = yaml.safe_load((folder / "metadata.yaml").read_text())
    assert metadata["name"] and metadata["stability"] and metadata["lastVerified"]


@pytest.mark.parametrize("step", sorted(FOLDERS))
def test_an_interface_has_no_logic(step: str) -> None:
    tree = ast.parse((FOLDERS[step] / "component.py").read_text())
    branches = [node for node in ast.walk(tree) if isinstance(node, ast.If | ast.For | ast.While | ast.Try)]
    assert not branches, f"{step}/component.py branches at line {branches[0].lineno}"
    heavy = {"torch", "transformers", "cv2", "mlflow", "components"}
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {(node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name for node in top}
    assert not {name.split(".")[0] for name in names} & heavy, f"{step}/component.py imports {names} at its top"


def test_every_section_field_is_documented() -> None:
    from pipelines.config import config_class

    undocumented = []
    for name in SECTIONS:
        section = config_class().model_fields[name].annotation
        undocumented += [f"{name}.{key}" for key, field in section.model_fields.items() if not field.description]
    assert undocumented == []


def test_compiling_imports_no_torch() -> None:
    code = "import sys, pipelines.training; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'cv2')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_no_pickle_no_shell_no_unsafe_loading() -> None:
    wrong = []
    for path in [*ROOT.glob("components/**/*.py"), *ROOT.glob("pipelines/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import) and any(alias.name in ("pickle", "dill") for alias in node.names):
                wrong.append(f"{path}: imports pickle")
            if isinstance(node, ast.keyword) and node.arg == "shell" and getattr(node.value, "value", None) is True:
                wrong.append(f"{path}:{node.value.lineno}: shell=True")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "yaml.load", "eval", "exec"):
                safe = any(key.arg == "weights_only" for key in node.keywords)
                wrong += [] if safe else [f"{path}:{node.lineno}: {ast.unparse(node.func)}"]
    assert wrong == []
