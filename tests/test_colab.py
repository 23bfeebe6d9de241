"""Installing alignlab on Colab changes none of the packages that are there."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

# Colab's published list of August 2026.
COLAB = {
    "torch": "2.11.0", "transformers": "5.15.0", "peft": "0.20.0", "datasets": "4.0.0", "accelerate": "1.14.0", "numpy": "2.1.3",
    "pandas": "2.2.3", "matplotlib": "3.10.0", "pyarrow": "18.1.0", "ipykernel": "6.17.1", "ipython": "7.34.0", "ipywidgets": "7.7.1",
    "graphviz": "0.21",
}  # fmt: skip
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def test_every_floor_lies_at_or_below_what_colab_has():
    floors = {requirement.name: requirement for requirement in map(Requirement, PROJECT["dependencies"])}
    shared = sorted(floors.keys() & COLAB.keys())
    assert shared == [
        "accelerate", "datasets", "graphviz", "ipython", "ipywidgets", "matplotlib", "numpy", "peft", "pyarrow", "torch", "transformers",
    ]  # fmt: skip
    for name in shared:
        assert floors[name].specifier.contains(COLAB[name]), f"{floors[name]} would change Colab's {COLAB[name]}"


def test_jupyterlab_is_no_core_dependency_and_no_version_is_capped():
    requirements = list(map(Requirement, PROJECT["dependencies"]))
    assert "jupyterlab" not in {requirement.name for requirement in requirements}
    assert {part.operator for requirement in requirements for part in requirement.specifier} == {">="}


def test_python_of_colab_is_supported():
    from packaging.specifiers import SpecifierSet

    supported = SpecifierSet(PROJECT["requires-python"])
    assert supported.contains("3.13.0") and supported.contains("3.12.0") and supported.contains("3.11.0")
