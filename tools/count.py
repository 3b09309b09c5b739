"""Count the lines of the notebooks' code, without blank lines and directives.

    python tools/count.py

prints, for each notebook, how many lines it exports, how many lines its median cell of code and its longest have.
"""

import json
from pathlib import Path
from statistics import median

NOTEBOOKS = Path(__file__).parents[1] / "nbs"


def lines_of(source: str) -> int:
    """How many lines of code a cell holds."""
    return sum(bool(line.strip()) and not line.startswith("#|") for line in source.splitlines())


def main() -> None:
    """Print the table."""
    print(f"{'notebook':20}{'exported':>10}{'cells':>8}{'median':>8}{'longest':>9}")
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        found = json.loads(path.read_text())["cells"]
        cells = ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]
        exported = sum(lines_of(cell) for cell in cells if "#| export" in cell.splitlines())
        lengths = [count for count in map(lines_of, cells) if count]
        print(f"{path.stem:20}{exported:>10}{len(cells):>8}{median(lengths):>8.1f}{max(lengths):>9}")


if __name__ == "__main__":
    main()
