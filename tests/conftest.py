"""What several test modules share: the rule for skipped tests, ports, pictures, a copy of the repository to spoil."""

import io
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
EXPECTED_SKIPS = Path(__file__).with_name("expected_skips.txt").read_text(encoding="utf-8").splitlines()
STRICT = os.environ.get("EIGEN_DIGITS_STRICT_SKIPS") == "1"

unexpected_skips: list[str] = []


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def note_skip(report) -> None:
    """Remember a skipped test or module that the list of expected skips does not name."""
    if STRICT and report.skipped and report.nodeid not in EXPECTED_SKIPS:
        unexpected_skips.append(report.nodeid)


pytest_runtest_logreport = pytest_collectreport = note_skip


def pytest_sessionfinish(session) -> None:
    """Fail a session that passed but for unexpected skips."""
    if unexpected_skips and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter) -> None:
    """Name the unexpected skips."""
    for nodeid in unexpected_skips:
        terminalreporter.write_line(f"FAILED: skipped, and not listed in tests/expected_skips.txt: {nodeid}", red=True)


@pytest.fixture(scope="session")
def copy_repository() -> Callable[[Path], Path]:
    """A function that copies the repository as it stands, without what git ignores, into a folder, and returns that."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    files = [name for name in listed.split("\0") if name and (ROOT / name).exists()]  # git lists deleted ones too

    def copy(target: Path) -> Path:
        for name in files:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
        return target

    return copy
