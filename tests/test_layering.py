"""Which module may import which, and how little each costs to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "eigen_digits"
MODULES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.glob("[!_]*.py"))}

# The modules of the package that each one may import. A new module is given its place here.
ARROWS = {
    "preprocessing": set(),
    "data": {"preprocessing"},
    "scenes": {"preprocessing", "data"},
    "model": {"preprocessing"},
    "augmentation": {"preprocessing", "data", "scenes", "model"},
    "inference": {"preprocessing"},
    "evaluation": {"preprocessing", "data", "scenes", "augmentation", "inference"},
    "training": {"preprocessing", "data", "scenes", "model", "augmentation", "inference", "evaluation"},
    "middleware": set(),
    "serving": {"preprocessing", "inference", "middleware"},
    "canvas": {"preprocessing", "inference"},
    "cli": {"preprocessing", "data", "training", "evaluation", "inference", "serving"},
}
# The command starts fast: beyond these it imports inside the functions that need it.
AT_THE_TOP_OF_CLI = {"preprocessing", "inference"}

HEAVY = {"tensorflow", "keras", "sklearn", "matplotlib", "scipy", "pandas", "cleanlab", "mlxtend", "nbdev", "fastcore"}
# How many modules, of all the packages it needs, `import eigen_digits.<name>` may load.
MOST_MODULES = {"preprocessing": 200, "inference": 250, "middleware": 300, "serving": 750, "canvas": 450, "cli": 100}

each_module = pytest.mark.parametrize("module", MODULES)


def imported(tree: ast.AST) -> set[str]:
    """The modules of the package that the code of a syntax tree imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("eigen_digits")):
            path = (node.module or "").removeprefix("eigen_digits").strip(".")
            found |= {path.split(".")[0]} if path else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("eigen_digits.")}
    return found & MODULES.keys()


def loaded_by(code: str) -> set[str]:
    """The names of the modules that a new interpreter loads to run `code`."""
    script = f"import sys\nbefore = {{*sys.modules}}\n{code}\nprint(*{{*sys.modules}} - before)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def public(names: list[ast.stmt]) -> list[ast.stmt]:
    """The functions and classes among statements whose names have no leading underscore."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node for node in names if isinstance(node, kinds) and not node.name.startswith("_")]


@each_module
def test_arrows_go_one_way(module):
    assert imported(MODULES[module]) <= ARROWS[module]


def test_cli_imports_at_its_top_only_what_is_light():
    statements = [node for node in MODULES["cli"].body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imported(ast.Module(statements, [])) <= AT_THE_TOP_OF_CLI


@each_module
def test_public_names_have_docstrings(module):
    nodes = public(MODULES[module].body)
    nodes += [method for node in nodes if isinstance(node, ast.ClassDef) for method in public(node.body)]
    assert ast.get_docstring(MODULES[module])
    assert [node.name for node in nodes if not ast.get_docstring(node)] == []


def test_the_package_imports_nothing_on_its_own():
    loaded = loaded_by("import eigen_digits")
    assert {name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names} == {"eigen_digits"}


@pytest.mark.parametrize("module", MOST_MODULES)
def test_the_serving_side_is_light(module):
    loaded = loaded_by(f"import eigen_digits.{module}")
    assert HEAVY.isdisjoint(name.split(".")[0] for name in loaded)
    assert len(loaded) <= MOST_MODULES[module]


def test_names_come_on_demand():
    import eigen_digits

    assert all(getattr(eigen_digits, name) for name in eigen_digits.__all__)
    assert {*eigen_digits.__all__} <= {*dir(eigen_digits)}
    with pytest.raises(AttributeError, match="no attribute 'Recogniser'"):
        eigen_digits.Recogniser  # noqa: B018
