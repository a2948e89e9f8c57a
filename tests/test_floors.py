"""Every part of the package uses parts below it alone, and no two modules import each other."""

import ast

import pytest

from tests.training.by_hand import ROOT

# From the ground up; parts of one floor do not use each other.
FLOORS = [
    [
        *("version", "tensors", "atomic_files", "names", "graphs", "configs", "data_forms"),
        *("progress", "keras_internals", "warn"),
    ],
    ["checks", "data_checks", "loss_checks", "probabilities"],
    ["gem", "geometry"],
    ["attacks"],
    ["datasets", "interpretation", "pretrained", "serving"],
    ["plotting", "training"],
    ["evaluation"],
    ["callbacks", "reporting"],
]
FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
PACKAGE = ROOT / "lexirobust"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imported(module):
    """The package's modules that one module imports when it is imported."""
    found = set()
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{each.name}" for each in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found & MODULES.keys() - {module}


def test_every_part_has_a_floor():
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py"}
    parts |= {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert parts - {"__init__"} == FLOOR.keys()


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"lexirobust"}))
def test_no_import_goes_up(module):
    own = module.split(".")[1]
    for other in imported(module):
        part = [*other.split("."), "all of it"][1]
        assert part == own or FLOOR[part] < FLOOR[own], f"{module} imports {other}"


def test_no_circle():
    waiting = {module: imported(module) - {"lexirobust"} for module in MODULES}
    # The package of a module is no module of its own: what it imports it only passes on.
    waiting = {
        module: {other for other in others if MODULES[other].name != "__init__.py"}
        for module, others in waiting.items()
    }
    while free := [module for module, others in waiting.items() if not others & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert not waiting


# `plotting` is loaded whole, or not at all.
@pytest.mark.parametrize("module", sorted(m for m in MODULES if "plotting" not in m))
def test_what_few_need_is_loaded_where_it_is_used(module):
    few = ("tensorflow_datasets", "cvxopt", "matplotlib", "jinja2", "lexirobust.plotting")
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{each.name}" for each in node.names]
        assert not [name for name in names if name.startswith(few)]
