"""The quick start through a real Slurm: daemons of this machine's own, started and ended here."""

import csv
import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from checkout import copy_repository, environment

ONEBOX = Path(__file__).with_name("slurm_onebox.sh")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "munged")
LOCK = "/etc"  # per machine, as /etc/slurm is; a lock on a folder leaves no file behind
# What a shared file system, a busy controller and large nodes need is of no use on one machine.
# --set-threads takes all words up to the next option, so it does not stand last.
QUICK = [
    *("--set-threads", "prepare_data=2", "--latency-wait", "15"),
    *("--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"),
]
# A submission costs two starts of Snakemake, as much as a small job itself: what follows upon one another shares one.
GROUPS = [
    "--groups",
    *("train_teacher=teacher", "evaluate_teacher=teacher", "train_student=student", "evaluate=student"),
    *("asib_teacher_update=chain", "asib_student_update=chain"),
]
# One method of each kind of job: no teacher, a teacher, a pre-stage of its own, a chain of half-stages.
METHODS = ("ce", "kd", "ft", "asib")
# Costs differ from run to run; everything else in the table is a result.
COST = re.compile(r"seconds|memory|_mb|_mib|time|hours|cost|speed|device", re.IGNORECASE)

# one worker: two clusters cannot share a machine's /etc/slurm
pytestmark = [pytest.mark.workflow, pytest.mark.slurm, pytest.mark.xdist_group("quickstart")]


def installed() -> bool:
    """Whether all of Slurm's programs are here; the daemons lie in sbin, which is not on everybody's path."""
    path = os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin"
    return all(shutil.which(program, path=path) for program in PROGRAMS)


def install() -> str:
    """Install Debian's Slurm where that is asked for, and return the reason if it is not or cannot be done here."""
    if os.environ.get("KD_TEST_SLURM") != "install":
        return "Slurm is not installed; with KD_TEST_SLURM=install this test installs Debian's packages"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "Slurm is not installed, and only root on a Debian machine can install it"
    # another process may be installing something: apt then waits for its lock
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "slurm-wlm", "munge"]):
        done = subprocess.run(
            [*apt, *arguments],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            check=False,
        )
    return "" if installed() else f"Slurm could not be installed: {done.stderr.strip()[-300:]}"


def foreign_slurm() -> str:
    """The reason not to start daemons: a Slurm of this machine's own. What a killed test left is taken down."""
    conf = Path("/etc/slurm/slurm.conf")
    if not conf.exists():
        return ""
    if conf.is_symlink() and "ClusterName=onebox\n" in conf.read_text(encoding="utf-8"):
        # we hold the lock, so whoever started it is gone
        subprocess.run([ONEBOX, "down", os.readlink(conf).removesuffix("/slurm.conf")], check=False)
        return ""
    return f"{conf} configures a Slurm that is not this test's"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Path]:
    """A running Slurm: two nodes of two cores, two null devices each in the place of GPUs."""
    if not installed() and (reason := install()):
        pytest.skip(reason)
    if os.geteuid() != 0:
        pytest.skip("the Slurm daemons need root")
    folder = tmp_path_factory.mktemp("slurm")
    lock = os.open(LOCK, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if reason := foreign_slurm():
            pytest.skip(reason)
        try:
            # the daemons inherit no pipe of ours: reading it to its end would wait for them
            with (folder / "up.log").open("w", encoding="utf-8") as log:
                up = subprocess.run([ONEBOX, "up", folder, "2", "2", "2"], stdout=log, stderr=log, check=False)
            assert up.returncode == 0, (folder / "up.log").read_text(encoding="utf-8")
            yield folder
        finally:
            subprocess.run([ONEBOX, "down", folder], check=False)
    finally:
        os.close(lock)


def user_environment(home: Path) -> dict[str, str]:
    """A user's environment with a home of its own, outside any Slurm job and without GPUs."""
    dropped = ("SLURM_", "SBATCH_", "CUDA_VISIBLE_DEVICES")
    kept = {name: value for name, value in environment(HOME=str(home)).items() if not name.startswith(dropped)}
    return {**kept, "PATH": kept["PATH"] + os.pathsep + "/usr/sbin"}


def documented_setup(repository: Path, home: Path) -> None:
    """The one step that the README asks for before `snakemake --profile slurm`."""
    step = 'mkdir -p ~/.config/snakemake && ln -sfn "$PWD/config/profiles/slurm" ~/.config/snakemake/slurm'
    subprocess.run(["bash", "-c", step], cwd=repository, env=user_environment(home), check=True)


def run_through_slurm(repository: Path, home: Path, *arguments: str) -> None:
    """Run the literal command, with waits that fit one machine."""
    log = repository / "slurm.log"
    with log.open("w", encoding="utf-8") as stream:
        command = ["snakemake", "--profile", "slurm", *QUICK, *arguments]
        done = subprocess.run(
            command, cwd=repository, env=user_environment(home), stdout=stream, stderr=stream, check=False
        )
    assert done.returncode == 0, log.read_text(encoding="utf-8")[-6000:]


def results_of(runs: Path, seed: int) -> list[dict[str, str]]:
    """The rows of a seed's teachers and METHODS without their cost columns."""
    with runs.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["seed"] == str(seed)]
    rows = [row for row in rows if row["method"] in ("teacher", *METHODS)]
    return [{name: value for name, value in row.items() if not COST.search(name)} for row in rows]


def jobs_of_slurm() -> dict[str, dict[str, str]]:
    """What the controller remembers: job number -> its fields."""
    text = subprocess.run(
        ["scontrol", "--oneliner", "show", "job"], capture_output=True, text=True, errors="backslashreplace", check=True
    ).stdout
    fields = (dict(word.split("=", 1) for word in line.split() if "=" in word) for line in text.splitlines())
    return {job["JobId"]: job for job in fields if "JobId" in job}


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> tuple[Path, Path]:
    """A clone whose quick start has METHODS and one seed, and a home that took the documented step."""
    repository = copy_repository(tmp_path_factory.mktemp("clone"))
    config = repository / "config" / "config.yaml"
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    entries = [{"method": entry} if isinstance(entry, str) else entry for entry in content["methods"]]
    content.update(seeds=[0], methods=[entry for entry in entries if entry.get("method") in METHODS])
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    home = tmp_path_factory.mktemp("home")
    documented_setup(repository, home)
    return repository, home


def test_quick_start_through_slurm_gives_the_results_of_a_local_run(slurm, user, quickstart_run):
    repository, home = user
    run_through_slurm(repository, home, *GROUPS)
    runs = Path("results/quickstart/runs.csv")
    found = results_of(repository / runs, seed=0)
    assert len(found) == 2 + len(METHODS), "two teachers and the methods"
    assert found == results_of(quickstart_run / runs, seed=0)
    assert (repository / "results/quickstart/report.html").exists()
    jobs = jobs_of_slurm()
    assert jobs
    assert {job["JobState"] for job in jobs.values()} == {"COMPLETED"}
    assert all(job["TimeLimit"] != "UNLIMITED" for job in jobs.values())


def test_a_job_that_asks_for_a_gpu_is_given_one(slurm, user):
    # no device stands behind the null device, so torch trains on the CPU; what Slurm granted is what is looked at
    repository, home = user
    experiment = yaml.safe_load((repository / "config" / "config.yaml").read_text(encoding="utf-8"))
    dataset, teacher = next(iter(experiment["datasets"])), experiment["pairs"][0]["teachers"][0]
    run = f"results/{experiment['experiment']}/{dataset}/teachers/{teacher}/seed{experiment['seeds'][0]}/run.json"
    before = jobs_of_slurm().keys()
    run_through_slurm(repository, home, run, "--config", "gpus=1", "--forcerun", "train_teacher")
    asked = [job for number, job in jobs_of_slurm().items() if number not in before and "TresPerJob" in job]
    assert [job["TresPerJob"] for job in asked] == ["gres:gpu:1"]
    hardware = json.loads((repository / run).read_text(encoding="utf-8"))["hardware"]
    assert hardware["slurm_job"] == asked[0]["JobId"]
    assert hardware["visible_devices"] in ("0", "1")
