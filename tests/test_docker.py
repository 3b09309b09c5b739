"""The Dockerfile: as a linter and good practice want it; and its steps, taken without a container engine."""

import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent
replay = SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "docker_replay.py")))
STEPS = replay.read_steps(replay.DOCKERFILE.read_text(encoding="utf-8"))
PATTERNS = replay.read_patterns(replay.IGNORE.read_text(encoding="utf-8"))
LAST_FROM = max(number for number, step in enumerate(STEPS) if step.word == "FROM")


def steps(word: str) -> list:
    """The steps of the last stage with this word."""
    return [step for step in STEPS[LAST_FROM:] if step.word == word]


@pytest.mark.skipif(sys.platform == "win32", reason="hadolint has no wheel for Windows")
def test_the_linter_has_nothing_to_say():
    command = [Path(sysconfig.get_path("scripts"), "hadolint"), "--failure-threshold", "style", replay.DOCKERFILE]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_stages_are_several_and_each_is_slim():
    images = [step.rest.split()[0] for step in STEPS if step.word == "FROM"]
    assert len(images) > 1
    assert [image for image in images if not image.endswith("-slim")] == []


def test_the_image_has_what_the_build_made_and_nothing_more():
    assert [step.flags.get("from") for step in steps("COPY")] == ["build"] * len(steps("COPY"))
    assert steps("RUN") == []


def test_requirements_are_installed_before_the_code_is_copied():
    """Otherwise each change of the code would fetch them again."""
    installs = next(i for i, step in enumerate(STEPS) if step.word == "RUN" and "-r requirements.lock" in step.rest)
    code = next(i for i, step in enumerate(STEPS) if step.word == "COPY" and "eigen_digits/" in step.rest)
    assert installs < code


def test_what_is_copied_exists_and_is_all_that_the_builder_is_sent():
    sources = {source.rstrip("/") for source in replay.context_sources(STEPS)}
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert PATTERNS[0] == "*"
    assert {pattern[1:].rstrip("/") for pattern in PATTERNS if pattern.startswith("!")} == sources


@pytest.mark.parametrize(
    "path, ignored",
    [
        ("eigen_digits/serving.py", False),
        ("eigen_digits/web/index.html", False),
        ("models/eigen-digits/model.tflite", False),
        ("models/eigen-digits/ink.tflite", False),
        ("models/eigen-digits/model.keras", True),
        ("eigen_digits/web/__pycache__/a.pyc", True),
        (".env", True),
        (".git/config", True),
        ("nbs/index.ipynb", True),
    ],
)
def test_dockerignore_keeps_out_what_no_build_needs(path, ignored):
    assert replay.is_ignored(path, PATTERNS) == ignored


def test_the_server_is_not_root():
    (user,) = steps("USER")
    assert all(int(number) > 0 for number in user.rest.split(":"))


def test_commands_are_in_exec_form():
    """A shell in between would not hand SIGTERM on to the server."""
    (command,), (health,) = steps("CMD"), steps("HEALTHCHECK")
    assert replay.exec_form(command.rest) == ["eigen-digits", "serve"]
    assert replay.health_command(health)[0] == "python"
    assert {"interval", "timeout", "retries"} <= health.flags.keys()


def test_a_shell_form_is_refused():
    with pytest.raises(replay.ReplayError, match="not in exec form: eigen-digits serve"):
        replay.exec_form("eigen-digits serve")


def test_steps_are_read_whole():
    text = "# a comment\nFROM a AS b\n\ncopy --from=b --chmod=644 x \\\n  # between\n  y z\n"
    assert replay.read_steps(text) == [("FROM", {}, "a AS b"), ("COPY", {"from": "b", "chmod": "644"}, "x y z")]


@pytest.fixture
def registry() -> None:
    """Skip the test where pip reaches no registry, as in a checkout without network."""
    # Of what the Dockerfile installs, that which a folder of wheels on the machine is least likely to hold.
    command = ["-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--retries=0", "ai-edge-litert"]
    if subprocess.run([sys.executable, *command], capture_output=True).returncode:
        pytest.skip("pip reaches no registry, and the Dockerfile installs from one")


@pytest.mark.skipif(sys.platform == "win32", reason="a RUN needs /bin/sh")
def test_the_image_is_small_and_answers_and_stops(registry):
    """All that tools/docker_replay.py looks at: size, HEALTHCHECK, an answer, SIGTERM, nothing written."""
    done = subprocess.run([sys.executable, ROOT / "tools" / "docker_replay.py"], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
