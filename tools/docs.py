"""Make README.md and the site from the notebooks.

With the `dev` extra installed, and without quarto:

    python tools/docs.py readme           write README.md and its pictures from nbs/index.ipynb
    python tools/docs.py readme --check   fail if they are not what nbs/index.ipynb makes
    python tools/docs.py site             render the site into _docs/
    python tools/docs.py pictures         draw on the page and in the widget, and keep a picture of each for the README
"""

import argparse
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from posixpath import join, normpath

import nbformat
from execnb.nbio import nb2str, read_nb
from nbconvert import MarkdownExporter
from nbdev.config import get_config
from nbdev.processors import FilterDefaults
from nbdev.serve import proc_nbs

CONFIG = get_config()
ROOT = CONFIG.config_path
NOTEBOOKS = CONFIG.nbs_path
RELATIVE_LINK = re.compile(r'(\]\(|src=")(?![a-z]+:|[#/])([^)"\s]+)')


class ReadmeFilter(FilterDefaults):
    """nbdev's filter for pages, with the title left in place and no links to the site's API pages."""

    def base_procs(self) -> list:
        """The processors to run, in order."""
        return [p for p in super().base_procs() if p.__name__ not in ("FrontmatterProc", "add_links")]


def load_index() -> nbformat.NotebookNode:
    """nbs/index.ipynb as a reader sees it: without hidden cells and directives."""
    notebook = read_nb(NOTEBOOKS / CONFIG.readme_nb)
    ReadmeFilter()(notebook)
    notebook = nbformat.reads(nb2str(notebook), as_version=4)
    notebook.metadata["language_info"] = {"name": "python"}  # what the fences of code cells are marked with
    for cell in notebook.cells:
        if cell.cell_type == "code":
            apply_directives(cell)
    return notebook


def apply_directives(cell: nbformat.NotebookNode) -> None:
    """Take the directives that quarto reads out of a code cell and do what `echo` and `fig-alt` say."""
    directives = "\n".join(re.findall(r"^#\|.*", cell.source, re.MULTILINE))
    cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.MULTILINE)
    cell.metadata["transient"] = {"remove_source": bool(re.search(r"\becho: *false", directives))}
    alt = re.search(r"\bfig-alt: *(.*)", directives)
    cell.metadata["alt"] = alt[1].strip("\"'") if alt else ""


def take_pictures(notebook: nbformat.NotebookNode) -> dict[str, bytes]:
    """Put a link in the place of each picture among the outputs; the pictures by their path below nbs/."""
    pictures = {}
    for cell in notebook.cells:
        for number, output in enumerate(cell.get("outputs", [])):
            data = output.get("data", {})
            for kind in {"image/png", "image/jpeg"} & data.keys():
                path = f"images/index-{cell.id}-{number}.{kind.removeprefix('image/')}"
                pictures[path] = b64decode(data[kind])
                data.clear()
                data["text/markdown"] = f"![{cell.metadata['alt']}]({path})"
    return pictures


def make_readme() -> dict[Path, bytes]:
    """Every file that nbs/index.ipynb makes, README.md and its pictures, with its contents."""
    notebook = load_index()
    pictures = take_pictures(notebook)
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    text = RELATIVE_LINK.sub(lambda link: link[1] + normpath(join(NOTEBOOKS.name, link[2])), text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return {ROOT / "README.md": text.encode(), **{NOTEBOOKS / path: data for path, data in pictures.items()}}


def readme(check: bool) -> None:
    """Write what nbs/index.ipynb makes; with `check`, exit with a message if a file differs or is left over."""
    files = make_readme()
    stale = {*NOTEBOOKS.glob("images/index-*")} - files.keys()
    changed = [path for path, data in files.items() if not path.exists() or path.read_bytes() != data]
    if check and (stale or changed):
        names = ", ".join(str(path.relative_to(ROOT)) for path in sorted({*stale, *changed}))
        sys.exit(f"not what nbs/index.ipynb makes: {names}; run: python tools/docs.py readme")
    for path in stale:
        path.unlink()
    for path in changed:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(files[path])


def link_pages(text: str) -> str:
    """A processed page with links that hold in the site: to its own pages, and to the repository outside nbs/."""
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        page = re.sub(r"^\d+_", "", notebook.stem)  # nbdev's links leave the number out, and smalldocs keeps it
        link = re.escape(f"{CONFIG.doc_host}{CONFIG.doc_baseurl}/{page}.html") + r"(#\w+)?[\w.]*"
        text = re.sub(link, rf"{notebook.name}\1", text)  # and a method is described where its class is
    text = text.replace("](../", f"]({CONFIG.git_url}/blob/{CONFIG.branch}/")
    return re.sub(r'"output-file: .*?\\n",\s*', "", text)


def site() -> None:
    """Render the site into _docs/: nbdev turns the notebooks into pages, smalldocs turns the pages into HTML."""
    pages = proc_nbs(force=True)
    for page in pages.glob("*.ipynb"):
        page.write_text(link_pages(page.read_text(encoding="utf-8")), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "smalldocs.cli", "render", "--quiet", "--strict", pages], check=True)
    shutil.rmtree(CONFIG.doc_path, ignore_errors=True)
    shutil.move(pages / CONFIG.doc_path.name, CONFIG.doc_path)


def pictures() -> None:
    """Take the pictures of the page with tools/screenshots.py, and widget.png from the browser test that draws a 7."""
    subprocess.run([sys.executable, ROOT / "tools" / "screenshots.py"], check=True)
    tests = ["tests/test_widget.py", "-k", "digit and mouse and seven"]
    subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT, check=True)
    artifact = ROOT / "test-artifacts" / "widget-a_drawn_digit_is_answered-seven-mouse.png"
    shutil.copy(artifact, NOTEBOOKS / "images" / "widget.png")


def main() -> None:
    """Read the command line and run its command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["readme", "site", "pictures"])
    parser.add_argument("--check", action="store_true", help="with readme: write nothing, fail on a difference")
    options = parser.parse_args()
    if options.command == "readme":
        readme(options.check)
    else:
        {"site": site, "pictures": pictures}[options.command]()


if __name__ == "__main__":
    main()
