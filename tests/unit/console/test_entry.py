"""How scripts end on a disk that is full, read-only or of another shape: one sentence, and a status other than 0."""

import ast
import contextlib
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "workflow_scripts"
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))

# A job that fills --out from --data, as all that train do; its body is the first argument.
JOB = """
import argparse, os, sys
from pathlib import Path
from kd.console.entry import log, run
from kd.tools.errors import UserError
from kd.tools.files import atomic_write, write_json

parser = argparse.ArgumentParser()
parser.add_argument("--data")
parser.add_argument("--out", type=Path)
parser.set_defaults(history=True)
body = sys.argv.pop(1)

def main(arguments):
    out = arguments.out
    exec(body)

run(main, parser, "job")
"""
WRITES = 'atomic_write(out / "weights.bin", "x" * 3_000_000)'


def no_room() -> None:
    """Let no file of this process grow: what a full disk does, without one, and without being root."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def finished(command: list[str], limit=None, **options) -> subprocess.CompletedProcess[str]:
    pipes = {"capture_output": True, "text": True, "errors": "backslashreplace"}
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS), **options.pop("env", {})}
    return subprocess.run(command, env=environment, preexec_fn=limit, check=False, **{**pipes, **options})


def job(folder: Path, body: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    # a job that keeps no record writes nothing of its own
    made = ["--made", str(folder / "made" / "job.json"), "identity"] if options.pop("made", True) else []
    command = [sys.executable, "-c", JOB, body, "--data", "data", "--out", str(folder), *made, *arguments]
    return finished(command, **options)


def reason_in(folder: Path, rule: str = "job") -> dict:
    return json.loads((folder / "made" / f"{rule}.failure.json").read_text(encoding="utf-8"))


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines that tell of a failure; a log that ended is told in a warning of its own."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if "WARNING" not in line]


EPOCHS = """
from kd.console.progress import Progress
with Progress(3, "train") as on_epoch:
    for epoch in (1, 2, 3):
        on_epoch({"epoch": epoch, "train_loss": 1.0, "val_top1": 50.0, "seconds": 0.1})
log.info("over")
"""


def test_epochs_stand_in_the_log_whether_or_not_a_terminal_shows_a_bar(tmp_path):
    here, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    settings = ["--made", str(tmp_path / "run/made/job.json"), "identity", "code", "kd_t2: a -> b, seed 0"]
    command = [sys.executable, "-c", JOB, EPOCHS, "--data", "data", "--out", str(tmp_path / "run"), *settings]
    done = subprocess.Popen(command, stderr=terminal, env={**os.environ, "PYTHONPATH": str(SCRIPTS)})
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # what ends a terminal whose other end is closed
        while found := os.read(here, 4096):
            shown += found
    os.close(here)
    assert done.wait() == 0
    assert b"kd_t2: a -> b, seed 0: over" in shown
    assert b"/3 [" in shown, "the bar"
    assert b"epoch 3/3:" not in shown, "what the bar shows is in no line"
    plain = job(tmp_path / "plain", EPOCHS)
    assert "INFO epoch 3/3: train_loss 1, val_top1 50" in plain.stderr
    for folder in ("run", "plain"):
        kept = (tmp_path / folder / "train.log").read_text(encoding="utf-8")
        assert [line.split(" ", 2)[2][:10] for line in kept.splitlines()] == [
            *(f"epoch {i}/3:" for i in (1, 2, 3)),
            "over",
        ]


def test_settings_may_be_a_file_of_their_text(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"lr": 0.1}', encoding="utf-8")
    script = JOB.replace(
        'parser.add_argument("--data")', 'parser.add_argument("--data"); parser.add_argument("--settings")'
    )
    command = [
        sys.executable,
        "-c",
        script,
        "print(arguments.settings)",
        "--data",
        "data",
        "--out",
        str(tmp_path / "run"),
        "--settings",
    ]
    assert finished([*command, str(path)]).stdout == '{"lr": 0.1}\n'
    assert finished([*command, '{"lr": 0.2}']).stdout == '{"lr": 0.2}\n'
    gone = finished([*command, str(tmp_path / "gone.json")])
    assert complaints(gone)[0].endswith(f"--settings: cannot read {tmp_path / 'gone.json'}: No such file or directory")


@pytest.fixture
def full_disk(tmp_path) -> Iterator[Path]:
    """A file system of a megabyte without a free byte."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or finished(mount).returncode != 0:
        pytest.skip("only root can mount a small disk, and not in every container")
    try:
        with (folder / "filling").open("wb", buffering=0) as file:
            while file.write(bytes(4096)) == 4096:
                pass
    except OSError:
        pass
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_every_script_starts_and_ends_by_the_one_entry():
    for name in NAMES:
        tree = ast.parse((SCRIPTS / f"{name}.py").read_text(encoding="utf-8"))
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert called & {"run", "run_training"}, name


def test_a_full_disk_is_one_sentence_though_neither_log_nor_reason_can_be_written(full_disk):
    done = job(full_disk / "run", WRITES, "--log", str(full_disk / "logs" / "job.log"))
    told = complaints(done)
    assert len(told) == 1
    assert "No space left on device" in told[0]


def test_a_disk_that_fills_up_during_the_job(full_disk):
    (full_disk / "filling").unlink()
    log = full_disk / "logs" / "job.log"
    done = job(full_disk / "run", f"log.info('started'); {WRITES}", "--log", str(log))
    told = complaints(done)
    assert re.search(r"ERROR cannot write \S.*weights.bin: No space left on device", told[-1])
    assert "started" in log.read_text(encoding="utf-8")
    assert not list((full_disk / "run").glob("*weights*"))


def test_no_file_can_grow(tmp_path):
    done = job(tmp_path / "run", f"log.info('started'); {WRITES}", "--log", str(tmp_path / "job.log"), limit=no_room)
    told = complaints(done)
    assert len(told) == 2
    assert re.search(r"ERROR cannot write .*weights.bin: File too large; nor is the reason kept: cannot", told[1])
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert len(warnings) == 2, "each log says once that it ends"
    assert {path.name for path in (tmp_path / "run").rglob("*")} == {"train.log", "made", ".job.lock"}


def test_a_log_that_ends_does_not_end_the_job(tmp_path):
    body = "log.info('one'); log.info('two'); print('done')"
    done = job(tmp_path / "run", body, "--log", str(tmp_path / "job.log"), limit=no_room, made=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert [line.split(" ", 1)[1] for line in done.stderr.splitlines() if "INFO" in line] == ["INFO one", "INFO two"]
    assert done.stdout == "done\n"


def test_the_environment_says_how_much_is_told(tmp_path):
    body = "log.info('begun'); raise UserError('a mistake')"
    quiet, usual, all_of_it, wrong = (
        job(tmp_path / level, body, made=False, env={"KD_LOG_LEVEL": level})
        for level in ("error", "INFO", "debug", "verbose")
    )
    for done in (quiet, usual, all_of_it):
        assert done.returncode == 1
        assert "ERROR a mistake" in done.stderr
        assert ("INFO begun" in done.stderr) == (done is not quiet)
        assert ("UserError: a mistake" in done.stderr) == (done is all_of_it), "only DEBUG shows where it came from"
    assert wrong.returncode == 1
    assert wrong.stderr.strip().endswith("ERROR KD_LOG_LEVEL is 'VERBOSE': allowed are DEBUG, INFO, WARNING, ERROR")


@pytest.mark.parametrize("place", ["run", "logs"])
def test_a_file_in_the_place_of_a_folder(place, tmp_path):
    (tmp_path / place).write_text("", encoding="utf-8")
    done = job(tmp_path / "run", WRITES, "--log", str(tmp_path / "logs" / "job.log"))
    told = complaints(done)
    assert len(told) == 1
    assert re.search(r"cannot write .*(job|train)\.log: (File exists|Not a directory)", told[0])


def test_a_read_only_folder(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or finished(mount).returncode != 0:
        pytest.skip("only root can mount a read-only disk, and not in every container")
    try:
        told = complaints(job(tmp_path / "run", WRITES, "--log", str(tmp_path / "logs" / "job.log")))
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
    assert len(told) == 1
    assert "Read-only file system" in told[0]


def test_a_folder_without_permission(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    if os.geteuid() == 0:
        pytest.skip("nothing is closed to root")
    told = complaints(job(folder / "run", WRITES))
    assert len(told) == 1
    assert "Permission denied" in told[0]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise UserError('a sentence')", "ERROR a sentence"),
        ("raise MemoryError", "ERROR out of memory"),
        ("os.write(os.open(out, os.O_RDONLY), b'x')", "ERROR Bad file descriptor"),
        ("open(out / 'absent' / 'x', 'w')", r"ERROR cannot use .*absent.x: No such file or directory"),
        ("raise OSError('500000 requested and 1008 written')", "ERROR only a part could be written .No space"),
    ],
    ids=["user", "memory", "descriptor", "absent", "numpy"],
)
def test_reasons_are_one_line_and_are_kept(body, told, tmp_path):
    lines = complaints(job(tmp_path, body))
    assert len(lines) == 1
    assert re.search(told, lines[0])
    failure = reason_in(tmp_path)
    assert (failure["rule"], failure["identity"]) == ("job", "identity")
    assert lines[0].endswith(failure["reason"])


def test_an_unexpected_error_shows_where_it_came_from_and_keeps_its_reason(tmp_path):
    done = job(tmp_path, "{}['key']")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert reason_in(tmp_path)["reason"] == "KeyError: 'key'"


@pytest.mark.parametrize(("stream", "body"), [("stdout", "print('x')"), ("stderr", "log.info('x')")])
def test_what_cannot_be_printed_ends_no_job(stream, body, tmp_path):
    with (tmp_path / "printed").open("w", encoding="utf-8") as file:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: file}
        done = job(
            tmp_path / "run",
            body,
            limit=no_room,
            made=False,
            capture_output=False,
            env={"PYTHONUNBUFFERED": ""},
            **pipes,
        )
    assert done.returncode == 0
    assert not list((tmp_path / "run").rglob("*.failure.json"))


def test_logs_are_utf_8_whatever_the_locale_and_never_stop_at_a_letter(tmp_path):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    body = r"log.info('40 \xb1 2 %% \udce4'); print('\xb1', file=sys.stderr)"
    done = job(tmp_path, body, "--log", str(tmp_path / "job.log"), env=plain)
    assert done.returncode == 0, done.stderr
    assert r"40 \xb1 2" in done.stderr
    assert "40 ± 2 %% \\udce4\n" in (tmp_path / "job.log").read_text(encoding="utf-8")


def test_the_reason_of_one_network_is_not_kept_in_the_place_of_its_result(tmp_path):
    script = [sys.executable, str(SCRIPTS / "evaluate_single.py")]
    done = finished(
        [*script, *("--settings", "{}", "--data", "d", "--weights", "w", "--out", str(tmp_path / "s.json"))]
    )
    assert len(complaints(done)) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_finished_job_says_what_its_result_was_made_from(tmp_path):
    done = job(tmp_path, "write_json(out / 'seen.json', [p.name for p in (out / 'made').glob('[!.]*')])")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "seen.json").read_text(encoding="utf-8")) == ["job.failure.json"]
    assert json.loads((tmp_path / "made" / "job.json").read_text(encoding="utf-8"))["identity"] == "identity"
    assert [path.name for path in (tmp_path / "made").glob("[!.]*")] == ["job.json"]


def test_a_process_that_outlived_its_workflow_is_not_written_over(tmp_path):
    made = ["--made", str(tmp_path / "made" / "job.json"), "identity"]
    waits = "print('at work', flush=True); input()"
    command = [sys.executable, "-c", JOB, waits, "--data", "data", "--out", str(tmp_path), *made]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as first:
        assert first.stdout.readline() == "at work\n"
        (told,) = complaints(job(tmp_path, ""))
        assert f"another process is still at work on {tmp_path}" in told
        first.communicate("\n")
    assert job(tmp_path, "").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=str)
def test_a_killed_job_leaves_a_reason_and_no_record(number, tmp_path):
    assert job(tmp_path, "").returncode == 0
    body = f"os.kill(os.getpid(), {int(number)}); import time; time.sleep(60)"
    done = job(tmp_path, body, limit=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell's & ignores it
    assert done.returncode != 0
    assert not (tmp_path / "made" / "job.json").exists(), "an attempt takes back what an earlier one said"
    told = "interrupted" if number == signal.SIGINT else "it was killed before it could say why"
    assert reason_in(tmp_path)["reason"].startswith(told)


def test_every_run_of_a_job_keeps_its_reason(tmp_path):
    runs = [
        {
            **{"folder": str(tmp_path / name), "settings": "{}", "outputs": [], "tuned": []},
            **{"record": str(tmp_path / name / "made" / "train_student.json"), "identity": f"of {name}"},
        }
        for name in ("a", "b")
    ]
    (tmp_path / "runs.json").write_text(json.dumps(runs), encoding="utf-8")
    script = str(SCRIPTS / "train_students.py")
    told = complaints(finished([sys.executable, script, "--runs", str(tmp_path / "runs.json"), "--data", "d"]))
    for name in ("a", "b"):
        failure = reason_in(tmp_path / name, "train_student")
        assert told[0].endswith(failure["reason"])
        assert failure["identity"] == f"of {name}"
        assert (tmp_path / name / "train.log").read_text(encoding="utf-8").splitlines() == told


def test_a_finished_run_is_packed_only_whole(tmp_path):
    command = [sys.executable, str(SCRIPTS / "prepare_data.py"), "--settings", '{"source": "digits"}']
    done = finished([*command, "--out", str(tmp_path / "data")], limit=no_room)
    told = complaints(done)
    assert re.search(r"cannot pack digits into .*data: .*(File too large|No space left)", told[-1])
    assert list(tmp_path.iterdir()) == []
