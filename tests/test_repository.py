"""The notebooks are the source: each is whole, and the modules, README.md and the site are what they make."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import black
import nbformat
import pytest
from execnb.nbio import read_nb

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
MACHINE_PATH = re.compile(r"site-packages|/root/|/home/|/tmp/|/Users/")

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture
def checkout(copy_repository, tmp_path) -> Path:
    """A copy of the repository that a test may change."""
    return copy_repository(tmp_path)


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command, and fail with all it printed if it fails."""
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def nbdev(name: str, cwd: Path) -> None:
    """Run one of nbdev's commands."""
    run(Path(sysconfig.get_path("scripts"), name), cwd=cwd)


def outputs(notebook: Path) -> list[dict]:
    """The outputs of all cells of a notebook."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


def output_text(notebook: Path) -> str:
    """All that the outputs of a notebook say in text."""
    printed = ["".join(output.get("text", "")) for output in outputs(notebook)]
    shown = [item for output in outputs(notebook) for item in output.get("data", {}).items()]
    return "\n".join(printed + ["".join(value) for kind, value in shown if kind.startswith("text/")])


def default_export(notebook: Path) -> str | None:
    """The module that a notebook exports to."""
    source = "\n".join(cell.source for cell in nbformat.read(notebook, as_version=4).cells)
    found = re.search(r"^#\| *default_exp +(\w+)", source, re.MULTILINE)
    return found[1] if found else None


@each_notebook
def test_notebook_is_valid_and_under_1_mb(notebook):
    nbformat.validate(json.loads(notebook.read_text(encoding="utf-8")))
    assert notebook.stat().st_size < 1_000_000


@each_notebook
def test_notebook_keeps_its_outputs_and_none_is_an_error(notebook):
    kinds = {output["output_type"] for output in outputs(notebook)}
    assert kinds and "error" not in kinds


@each_notebook
def test_outputs_name_no_path_of_the_machine_that_ran_them(notebook):
    assert MACHINE_PATH.findall(output_text(notebook)) == []


@each_notebook
def test_first_cell_is_the_title_and_one_line(notebook):
    """nbdev makes a page's title of this cell and drops whatever else it holds."""
    first = nbformat.read(notebook, as_version=4).cells[0]
    assert re.fullmatch(r"# .+\n\n> .+", first.source), first.source


@pytest.mark.parametrize("notebook", [path for path in NOTEBOOKS if default_export(path)], ids=lambda path: path.stem)
def test_imports_have_cells_of_their_own(notebook):
    """To make a page nbdev runs the exported cells and those with an import: other code in these would fail there."""
    mixed = []
    for cell in read_nb(notebook).cells:
        statements = cell.parsed_() or []
        imports = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
        nested = any(isinstance(node, ast.Import | ast.ImportFrom) for tree in statements for node in ast.walk(tree))
        exempt = re.search(r"^#\| *(export|eval: *false)|nbdev_export\(\)", cell.source, re.MULTILINE)
        if nested and len(imports) < len(statements) and not exempt:
            mixed.append(cell.id)
    assert mixed == []


@each_notebook
def test_what_the_site_folds_is_folded_in_jupyterlab(notebook):
    for cell in nbformat.read(notebook, as_version=4).cells:
        is_folded = cell.id == "imports" or cell.source.startswith(("#| hide", "#| code-fold: true"))
        is_code = cell.cell_type == "code"
        assert cell.metadata.get("jupyter", {}).get("source_hidden", False) == (is_folded and is_code), cell.id


@each_notebook
def test_cells_are_formatted_as_black_would(notebook):
    """Cell by cell, without the directives on top: black on the file would change `#| export` too."""
    mode = black.Mode(line_length=120, is_ipynb=True)
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code":
            code = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.MULTILINE)
            with suppress(black.NothingChanged):
                assert code == black.format_cell(code, fast=True, mode=mode), cell.id


def test_each_module_has_a_notebook():
    modules = {path.stem for path in (ROOT / "eigen_digits").glob("*.py")} - {"__init__", "_modidx"}
    modules -= {"__main__"}  # which only calls the command: in a notebook it would run it
    assert modules == {default_export(notebook) for notebook in NOTEBOOKS} - {None}


def contents(folder: Path) -> dict[Path, bytes]:
    """What each file below a folder holds."""
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_export_and_clean_change_nothing(checkout):
    before = contents(checkout)
    nbdev("nbdev_export", checkout)
    nbdev("nbdev_clean", checkout)
    after = contents(checkout)
    assert [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)] == []


@pytest.mark.parametrize("check", ["ruff check", "black --check", "isort --check-only"])
def test_static_check_is_clean(check):
    run(sys.executable, "-m", *check.split(), ".", cwd=ROOT)


def test_readme_is_what_the_index_makes():
    run(sys.executable, "tools/docs.py", "readme", "--check", cwd=ROOT)


class Page(HTMLParser):
    """The links of an HTML page, and the ids they can point at."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def broken_links(site: Path) -> list[str]:
    """The links among a site's own files that lead nowhere, as `page: link`."""
    pages = {path: Page(path) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            if urlsplit(link).scheme or link.startswith("//"):
                continue
            file, anchor = map(unquote, urldefrag(link))
            target = Path(os.path.normpath(path.parent / file)) if file else path
            target = target / "index.html" if target.is_dir() else target
            lost_anchor = anchor and target in pages and anchor not in pages[target].ids
            if not target.is_file() or lost_anchor:
                broken.append(f"{path.name}: {link}")
    return broken


def test_site_renders_without_a_broken_link(checkout):
    run(sys.executable, "tools/docs.py", "site", cwd=checkout)
    site = checkout / "_docs"
    assert {path.stem for path in site.glob("*.html")} == {path.stem for path in NOTEBOOKS}
    assert broken_links(site) == []


def test_a_broken_link_is_seen(tmp_path):
    (tmp_path / "a.html").write_text('<p id="here"></p><a href="#here"><a href="b.html#gone"><img src="c.png">')
    (tmp_path / "b.html").write_text('<a href="a.html#here"><a href="https://example.org/x">')
    assert broken_links(tmp_path) == ["a.html: b.html#gone", "a.html: c.png"]


def test_an_unexpected_skip_fails_a_strict_session(tmp_path):
    for name in ("conftest.py", "expected_skips.txt"):
        shutil.copy(ROOT / "tests" / name, tmp_path)
    (tmp_path / "test_it.py").write_text("import pytest\n\ndef test_skipped():\n    pytest.skip('no reason')\n")
    command = [sys.executable, "-m", "pytest", "-q", tmp_path]
    for strict, code, said in (("0", 0, "1 skipped"), ("1", 1, "expected_skips.txt: test_it.py::test_skipped")):
        environment = {**os.environ, "EIGEN_DIGITS_STRICT_SKIPS": strict}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (done.returncode, said in done.stdout) == (code, True), done.stdout
