"""Trainings that are killed, run out of disk or meet another: what is read is whole, and what goes on is the same run.

A small form runs in CI; `EIGEN_DIGITS_HEAVY=1 pytest -s tests/test_faults.py` runs the heavy one and prints its counts.
"""

import csv
import errno
import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import numpy as np
import pytest

from eigen_digits.inference import Recognizer, read_artefact

resource = pytest.importorskip("resource", reason="limits of a process are set as on Unix")
FileLock = pytest.importorskip("filelock", reason="comes with the extra `train`").FileLock

HEAVY = bool(os.environ.get("EIGEN_DIGITS_HEAVY"))
KILLS = 10 if HEAVY else 3
FULL_DISKS = 10 if HEAVY else 1

# Children are forked from a process that has imported TensorFlow once, and not yet used it.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["eigen_digits.training"])


def in_child(job, *args) -> tuple:
    """A running child that does a job, and the end of a pipe on which it tells of its progress."""
    ours, theirs = processes.Pipe()
    child = processes.Process(target=_quietly, args=(job, theirs, *args))
    child.start()
    theirs.close()
    return child, ours


def _quietly(job, tell, *args) -> None:
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        tell.send(("end", job(tell.send, *args)))


def result(child, ours):
    """What the job gave; fails if it ended otherwise."""
    with suppress(EOFError):
        while True:
            kind, value = ours.recv()
            if kind == "end":
                child.join()
                return value
    child.join()
    pytest.fail(f"the child ended with exit code {child.exitcode}")


# What is trained: a network so small that a run takes seconds, but with all that has a state of its own.


def tiny_net():
    """A network with dice and running averages."""
    from keras import Input, Model, layers

    image = Input((28, 28, 1), name="image")
    x = layers.BatchNormalization()(layers.AveragePooling2D(2)(image))
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    return Model(image, layers.Dense(10, name="digits")(x), name="tiny_net")


def tiny_recipe(training):
    """One that the original's callbacks govern."""
    callbacks = ("early_stopping", "reduce_lr", "best_checkpoint")
    tiny = dict(network="tiny_net", frame=False, sets={"noise": 1.0}, steps=0, batch=64, augmentation=None)
    return training.Recipe(**tiny, epochs=40, fold_epochs=40, learning_rate=0.1, callbacks=callbacks)


def noise(training):
    """Pictures that nothing can be learnt from, so that what is watched wavers, and the callbacks act."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (200, 28, 28), np.uint8), rng.integers(0, 10, 200)
    unknown = np.full(200, "")
    return {"noise": training.DigitSet(pixels, pixels, labels, unknown, np.arange(200).astype(str), np.arange(200) % 5)}


def prepare():
    """The module `training`, with the tiny network among those it knows."""
    import tensorflow as tf

    from eigen_digits import training

    tf.config.experimental.enable_op_determinism()
    training.networks.tiny_net = tiny_net
    training.load_sets = lambda *args, **kwargs: noise(training)
    return training


def hook_files(folder: Path, act) -> None:
    """Call `act` before this process opens for writing, renames or removes a file below a folder."""
    events = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}

    def hook(event, args):
        written = event != "open" or (isinstance(args[1], str) and set(args[1]) & set("wax+"))
        if event in events and written and str(args[0]).startswith(str(folder)):
            act(Path(str(args[0])).relative_to(folder))

    sys.addaudithook(hook)


def train_tiny(tell, folder: Path) -> None:
    """Train, and tell of each change to a file."""
    training = prepare()
    tell(("begin", None))
    hook_files(folder, lambda path: tell(("file", path)))
    training.train(folder, tiny_recipe(training))


def die_at(folder: Path, number: int, name: str | None = None) -> None:
    """Have this process killed instead of the change below a folder, or to the file named, that has this number."""
    left = [number]

    def act(path):
        left[0] -= name in (None, path.as_posix())
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    hook_files(folder, act)


def die_training(tell, folder: Path, name: str, number: int) -> None:
    """Train, and be killed instead of a change to the file named."""
    training = prepare()
    die_at(folder, number, name)
    training.train(folder, tiny_recipe(training))


def train_till_full(tell, folder: Path, changes: int, room: int) -> None:
    """Train on a disk that, after some changes to files, takes no file that is longer than the room left."""
    training, countdown = prepare(), [changes]

    def act(path):
        countdown[0] -= 1
        if countdown[0] == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

    hook_files(folder, act)
    with pytest.raises(OSError) as error:
        training.train(folder, tiny_recipe(training))
    assert error.value.errno == errno.EFBIG


def write_old(tell, folder: Path) -> None:
    """Write an artefact of a network that has learnt nothing."""
    training = prepare()
    training.keras.utils.set_random_seed(7)
    training.write_artefact(tiny_net(), folder, tiny_recipe(training), {}, training.Calibration(2.0, 0.0, 0.5), {})


PICTURES = np.random.default_rng(1).random((5, 28, 28, 1), np.float32)


def artefact(folder: Path) -> tuple[float, list]:
    """The temperature that a reader loads, and what the network that it loads says."""
    recognizer = Recognizer.load(folder)
    return recognizer.meta["temperature"], [recognizer.logits(picture).tolist() for picture in PICTURES]


RUN = "runs/all"


def outcome(folder: Path) -> dict:
    """All that must be the same after a run, stopped or not."""
    found = {"artefact": artefact(folder)}
    meta = json.loads((folder / "model.json").read_text())
    found["meta"] = {key: value for key, value in meta.items() if key not in ("name", "seconds", "files")}
    for name, digest in meta["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest["sha256"], name
    found["log"] = list(csv.DictReader((folder / RUN / "log.csv").open()))
    return found


def leftovers(folder: Path) -> list[str]:
    """Files that are only there while something is written."""
    names = ("*.part", "part.keras", "next")
    return sorted(str(path.relative_to(folder)) for name in names for path in folder.rglob(name))


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """A folder with an old artefact."""
    folder = tmp_path_factory.mktemp("old")
    result(*in_child(write_old, folder))
    return folder


@pytest.fixture(scope="module")
def whole(old, tmp_path_factory):
    """A run that nothing stopped: its folder, what came of it, how long it took, and which files it wrote in turn."""
    folder = shutil.copytree(old, tmp_path_factory.mktemp("whole") / "folder")
    child, ours = in_child(train_tiny, folder)
    files, began = [], None
    while (told := ours.recv())[0] != "end":
        if told[0] == "begin":
            began = time.monotonic()
        else:
            files.append(told[1])
    child.join()
    return folder, outcome(folder), time.monotonic() - began, files


def falls_of_learning_rate(losses: list[float]) -> int:
    """How often ReduceLROnPlateau with a patience of 2 lowers the rate."""
    falls, best, wait = 0, losses[0], 0
    for loss in losses[1:]:
        best, wait = (loss, 0) if loss < best - 1e-4 else (best, wait + 1)
        if wait == 2:
            falls, wait = falls + 1, 0
    return falls


def test_the_run_is_one_that_forgetting_would_change(whole):
    """Early stopping acted, the learning rate fell several times, and nothing is left."""
    folder, found, seconds, files = whole
    rows = found["log"]
    falls = falls_of_learning_rate([float(row["val_loss"]) for row in rows])
    assert 16 <= len(rows) < 40 and falls >= 3  # patience is 5 and begins when 10 epochs are done
    assert leftovers(folder) == []
    print(f"\nthe run: {len(rows)} epochs, {falls} falls, {seconds:.1f} s, {len(files)} changes to files")


def kill_at(folder: Path, rng: random.Random, seconds: float | None, changes: int | None) -> str | None:
    """Train, kill -9 after some seconds or changes to files; what was under way, None if it had just ended."""
    child, ours = in_child(train_tiny, folder)
    while ours.recv()[0] != "begin":
        pass
    if seconds is not None:
        time.sleep(seconds)
    else:
        for _ in range(changes):
            ours.recv()
        time.sleep(rng.expovariate(500))  # some 2 ms: often in the midst of what it was about to do
    child.kill()
    child.join()
    if child.exitcode == 0:
        return None
    assert child.exitcode == -signal.SIGKILL
    log = folder / RUN / "log.csv"
    epoch = len(log.read_text().splitlines()) if log.exists() else 0
    return f"in epoch {max(1, epoch)}, about: {leftovers(folder)}"


def test_killed_at_random_it_goes_on_and_ends_the_same(old, whole, tmp_path):
    """A third of the kills each is spread over all that is written, over the time, and over what the artefact takes."""
    _, wanted, seconds, files = whole
    first = files.index(Path("next"))  # here the artefact begins
    rng, struck = random.Random(26), []
    for kill in range(KILLS):
        moment, told, folder = (kill + rng.random()) / KILLS, None, tmp_path / str(kill)
        while told is None:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(old, folder)
            if kill % 3 == 0:
                when, at = "of the writes", (None, 1 + int(moment * len(files)))
            elif kill % 3 == 1:
                when, at = "of the time", (moment * seconds, None)
            else:
                when, at = "of the artefact's writes", (None, 1 + first + int(moment * (len(files) - first)))
            told = kill_at(folder, rng, *at)
            moment *= 1 if told else 0.9  # it was too late
        assert artefact(folder) in (artefact(old), wanted["artefact"])
        result(*in_child(train_tiny, folder))
        assert outcome(folder) == wanted
        assert leftovers(folder) == []
        struck.append(f"  at {moment:.0%} {when}: {told}")
    print(f"\n{len(struck)} kills, {len(struck)} runs gone on with that ended as the one that was not stopped")
    print(*struck, sep="\n")


MOMENTS = {  # the file, and how many changes to it are to come; a backup takes three changes to its part
    "the log has the row of epoch 16, the backup is of epoch 15": (f"{RUN}/backup.npz.part", 3 * 15 + 1),
    "the last backup is there, nothing of the artefact": ("next", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_moment_that_chance_rarely_meets_it_ends_the_same(old, whole, tmp_path, moment):
    _, wanted, *_ = whole
    folder = shutil.copytree(old, tmp_path / "folder")
    child, _ = in_child(die_training, folder, *MOMENTS[moment])
    child.join()
    assert child.exitcode == -signal.SIGKILL
    rows = (folder / RUN / "log.csv").read_text().splitlines()[1:]
    assert len(rows) == (16 if "epoch 16" in moment else len(wanted["log"]))
    result(*in_child(train_tiny, folder))
    assert outcome(folder) == wanted
    assert leftovers(folder) == []


def test_a_full_disk_in_mid_training_loses_no_more_than_a_kill(old, whole, tmp_path):
    """From a random moment on a backup, a network or a log is written in part, and fails."""
    _, wanted, _, files = whole
    rng, struck = random.Random(26), []
    for number in range(FULL_DISKS):
        folder = shutil.copytree(old, tmp_path / str(number))
        changes = 1 + int((number + rng.random()) / FULL_DISKS * files.index(Path("next")))
        result(*in_child(train_till_full, folder, changes, rng.randrange(2000)))
        assert artefact(folder) == artefact(old)
        assert [name for name in leftovers(folder) if name.endswith((".part", "next"))] == []
        result(*in_child(train_tiny, folder))
        assert outcome(folder) == wanted
        struck.append(changes)
    print(f"\n{len(struck)} full disks, all ended as the one that had room; after {struck} of {len(files)} changes")


# The artefact alone, whose writing is stopped at every step.


def write_new(training, folder: Path, temperature: float) -> None:
    """Write an artefact; of a network that has been converted already, which saves the time."""
    training.write_artefact(
        training.new, folder, tiny_recipe(training), {}, training.Calibration(temperature, 0.0, 0.5), {}
    )


def prepare_new(network: bytes):
    """The module `training` with a network to write, and its conversion."""
    training = prepare()
    training.new = tiny_net()
    training.networks.to_litert = lambda model: network
    return training


def fail_to_write(tell, old: Path, folder: Path, network: bytes) -> int:
    """Write an artefact over a copy of the old one, as often as it takes till each change to a file has failed."""
    training, countdown = prepare_new(network), [0]

    def act(path):
        countdown[0] -= 1
        if countdown[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    hook_files(folder, act)
    number = 0
    while True:
        number += 1
        countdown[0] = 0
        shutil.copytree(old, folder / str(number))
        countdown[0] = number
        with suppress(OSError):
            write_new(training, folder / str(number), 3.0)
        if countdown[0] > 0:  # it went through
            return number - 1


def limited_write(tell, old: Path, folder: Path, network: bytes, limits: list[int]) -> None:
    """Write an artefact over copies of the old one, each on a disk that takes no longer files than so many bytes."""
    training = prepare_new(network)
    for limit in limits:
        copy = shutil.copytree(old, folder / str(limit))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        with suppress(OSError):
            write_new(training, copy, 3.0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def die_writing(tell, folder: Path, network: bytes, number: int, temperature: float = 3.0) -> None:
    """Write an artefact, and be killed instead of the change to a file that has this number, if there are so many."""
    training = prepare_new(network)
    die_at(folder, number)
    write_new(training, folder, temperature)


def write_by_turns(tell, folder: Path, networks: list[bytes], seconds: float) -> int:
    """Write two artefacts over each other by turns, for some seconds; how often."""
    training, end, times = prepare_new(b""), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        training.networks.to_litert = lambda model: networks[times % 2]  # noqa: B023
        write_new(training, folder, (2.0, 3.0)[times % 2])
        times += 1
    return times


@pytest.fixture(scope="module")
def network(whole) -> bytes:
    """One that says otherwise than the old artefact's."""
    return (whole[0] / "model.tflite").read_bytes()


def assert_old_or_new(folder: Path, old: Path, whole: tuple) -> bool:
    """Whether what is read is the new artefact; fails if it is neither that nor the old one, or a mix."""
    found = artefact(folder)
    assert found in (artefact(old), (3.0, artefact(whole[0])[1]))
    return found[0] == 3.0


def test_no_failing_step_leaves_a_mixed_artefact(old, whole, network, tmp_path):
    steps = result(*in_child(fail_to_write, old, tmp_path, network))
    read = [assert_old_or_new(tmp_path / str(number), old, whole) for number in range(1, steps + 2)]
    assert read == sorted(read) and not read[0] and read[-1]  # from some step on it is the new one
    print(f"\n{steps} steps failed for want of room: {steps + 1 - sum(read)} times the old one was read, then the new")


def test_no_full_disk_leaves_a_mixed_artefact(old, whole, network, tmp_path):
    most = (old / "model.keras").stat().st_size
    limits = [int(most * share) for share in np.linspace(0, 1.1, 40 if HEAVY else 12)]
    result(*in_child(limited_write, old, tmp_path, network, limits))
    read = [assert_old_or_new(tmp_path / str(limit), old, whole) for limit in limits]
    assert read == sorted(read) and not read[0] and read[-1]
    assert [path for path in map(leftovers, tmp_path.iterdir()) if path] == []
    print(f"\n{len(limits)} lengths of file that a disk took: {len(limits) - sum(read)} times the old one was read")


def test_no_kill_leaves_a_mixed_artefact_and_the_next_write_mends_it(old, whole, network, tmp_path):
    """Also if that is killed in its turn."""
    read, number, again_killed = [], 0, 0
    while True:
        number += 1
        folder = shutil.copytree(old, tmp_path / str(number))
        child, _ = in_child(die_writing, folder, network, number)
        child.join()
        read.append(assert_old_or_new(folder, old, whole))
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        if read[-1] and (folder / "next").exists():
            again_killed += kill_the_next_write(folder, old, whole, network, tmp_path / "again")
        child, _ = in_child(die_writing, folder, network, 0)
        child.join()
        assert child.exitcode == 0 and assert_old_or_new(folder, old, whole) and leftovers(folder) == []
    assert read == sorted(read) and not read[0] and len(read) > 6
    assert again_killed > 0
    print(f"\n{len(read) - 1} steps, killed at each: {len(read) - sum(read)} times the old one was read, then the new;")
    print(f"the next write killed, too, {again_killed} times")


def kill_the_next_write(folder: Path, old: Path, whole: tuple, network: bytes, copy: Path) -> int:
    """Kill another write to copies of what a killed one left, of the old artefact this time; how often."""
    kills = 0
    for number in range(1, 9) if HEAVY else (4,):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        child, _ = in_child(die_writing, copy, (old / "model.tflite").read_bytes(), number, 2.0)
        child.join()
        assert child.exitcode in (-signal.SIGKILL, 0)  # 0: it took fewer changes
        assert_old_or_new(copy, old, whole)
        kills += child.exitcode != 0
    return kills


def test_who_reads_while_it_is_replaced_reads_one_or_the_other(old, whole, network, tmp_path):
    folder = shutil.copytree(old, tmp_path / "folder")
    networks = [(old / "model.tflite").read_bytes(), network]
    child, ours = in_child(write_by_turns, folder, networks, 20 if HEAVY else 3)
    known, seen = {(2.0, networks[0]): 0, (3.0, networks[1]): 0}, 0
    while not ours.poll():
        meta, content = read_artefact(folder)
        known[meta["temperature"], content["model.tflite"]] += 1  # a mix would be a KeyError
        seen += 1
    times = result(child, ours)
    assert times >= 4 and min(known.values()) > 0
    print(f"\n{times} writes, {seen} reads meanwhile, each of a whole artefact")


# Two trainings, one folder.


def start_command(tell, folder: Path, *args: str) -> tuple[int, str]:
    """The exit code and the output of a form of `eigen-digits train` that would write to a folder."""
    from click.testing import CliRunner

    from eigen_digits.cli import main

    prepare()
    done = CliRunner().invoke(main, ["train", *args, "--out", str(folder)])
    return done.exit_code, done.output


def train_second(tell, folder: Path) -> str:
    """Train; what was said against it."""
    training = prepare()
    with pytest.raises(training.FolderInUse) as error:
        training.train(folder, tiny_recipe(training))
    return str(error.value)


FORMS = [[], ["--ink"], ["--folds"], ["--sample"], ["--folds", "--sample"], ["--recipe", "original"]]


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_each_form_of_the_command_is_refused_where_another_trains(tmp_path, form):
    with FileLock(tmp_path / ".lock"):
        code, said = result(*in_child(start_command, tmp_path, *form))
    assert (code, str(tmp_path) in said, said.count("\n")) == (1, True, 1), said
    assert "another training writes to" in said
    assert {path.name for path in tmp_path.iterdir()} <= {".lock", "ink.tflite"}


def test_the_second_of_two_processes_is_refused_and_the_first_unharmed(old, whole, tmp_path):
    _, wanted, *_ = whole
    folder = shutil.copytree(old, tmp_path / "folder")
    child, ours = in_child(train_tiny, folder)
    while ours.recv()[0] != "file":
        pass
    said = result(*in_child(train_second, folder))
    assert "another training writes to" in said and str(folder) in said
    assert child.is_alive()
    result(child, ours)
    assert outcome(folder) == wanted


def hold(tell, folder: Path) -> None:
    """Train for good in two further processes, each of which puts its number into a file."""
    from eigen_digits import training

    list(training.each(wait_forever, [(folder / "1",), (folder / "2",)], 2))


def wait_forever(path: Path) -> None:
    path.with_suffix(".part").write_text(str(os.getpid()))
    path.with_suffix(".part").rename(path)
    time.sleep(600)


def runs(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes run")
def test_workers_end_with_a_killed_training(tmp_path):
    """Else they would write on to a folder whose lock has ended with the one that started them."""
    child, _ = in_child(hold, tmp_path)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("[12]"))) < 2:
        assert time.monotonic() < deadline and child.is_alive()
        time.sleep(0.1)
    pids = [int(path.read_text()) for path in tmp_path.iterdir()]
    assert all(map(runs, pids))
    child.kill()
    child.join()
    deadline = time.monotonic() + 10
    while any(map(runs, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
