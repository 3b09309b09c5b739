"""Two environments as they would serve: one with this package alone, one with what the baseline needs."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from .rounds import CACHE, ROOT, environment


def ours() -> Path:
    """The folder of an environment with this package and what it needs."""
    source = [ROOT / "settings.ini", ROOT / "setup.py", *(ROOT / "models" / "eigen-digits").glob("*.tflite")]
    source += [path for path in (ROOT / "eigen_digits").rglob("*") if path.suffix in (".py", ".html")]
    return _made("ours", ROOT, source=source)


def baseline() -> Path:
    """The folder of an environment with what the baseline needs."""
    listed = ROOT / "benchmarks" / "baseline" / "requirements.txt"
    return _made("baseline", "-r", listed, source=[listed])


def python(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / "bin" / "python"


def megabytes(folder: Path) -> float:
    """What an environment takes on disk, without pip and bytecode."""
    (packages,) = folder.glob("lib/python*/site-packages")
    files = (path for path in packages.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sum(path.stat().st_size for path in files) / 1e6


def _made(name: str, *requirements: str | Path, source: Iterable[Path]) -> Path:
    """An environment with nothing but these requirements; kept until what `source` names changes."""
    folder = CACHE / name / ".venv"  # a name that linters leave alone
    mark = folder / "installed"
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(source))).hexdigest()
    if not mark.exists() or mark.read_text() != digest:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        pip = [sys.executable, "-m", "pip", "--python", python(folder), "install", "-qq", "--no-compile"]
        # What else Python finds, such as this folder, must not look as if it were installed there.
        subprocess.run([*pip, *requirements], cwd=folder, env=environment({"PYTHONPATH": None}), check=True)
        mark.write_text(digest)
    return folder
