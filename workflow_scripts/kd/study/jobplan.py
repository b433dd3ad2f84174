"""Every job of an experiment as one thing: what it is told, what it reads, what it was made from.

Rules, dry runs and records read it here and nowhere else.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kd.study.chain import HALVES, STUDENT_UPDATE
from kd.study.checks import check_code, check_job, networks
from kd.study.continual import ContinualPlan, ContinualRun
from kd.study.digests import canonical, code_digest, text_digest
from kd.study.made import MANIFEST
from kd.study.plan import Run
from kd.tools.memo import remembered

RESULTS = frozenset({"evaluate", "evaluate_teacher", "continual_matrix", "collect", "statistics"})
"""Rules of what tables and figures are made from."""

TRAININGS = frozenset(
    {
        "tune",
        "train_teacher",
        "teacher_outputs",
        "pretrain_method",
        "train_student",
        "asib_teacher_update",
        "asib_student_update",
        "continual_run",
    }
)
"""Rules whose jobs wait until every network and method of the experiment was checked."""

Files = Mapping[str, str | list[str]]


@dataclass(frozen=True, eq=False)
class JobPlan:
    """One job: a rule with all its wildcards filled in."""

    rule: str
    folder: str
    """Where it writes."""
    settings: str
    """What it is told, as one canonical text: validated, defaults filled in, nothing else."""
    code: str
    """Digest of the code that computes its result."""
    inputs: Files = field(default_factory=dict)
    """Files that it reads, by the names of its arguments."""
    after: tuple["JobPlan", ...] = ()
    """The jobs whose results it reads."""
    given: tuple[str, ...] = ()
    """What the user's own files were that it starts from: they are no job's result."""
    contents: str | None = None
    """Packing only: digest of names, sizes and times of what is packed; None where that is not there to be looked at.
    It stands beside the identity, for a download is there only after the job; what depends on the images is compared
    with the packed arrays' manifest."""
    data: str | None = None
    """The folder of packed arrays that it reads."""
    images: int = 0
    """About how many images it trains on: what it may take, no part of what its result is made from."""

    @cached_property
    def identity(self) -> str:
        """Return the digest of everything that decides its result but the images themselves."""
        before = [job.identity for job in self.after]
        return text_digest(canonical([self.rule, self.settings, self.code, before, list(self.given)]))

    @property
    def record(self) -> str:
        """Return the file in which a finished job says what it was made from."""
        return f"{self.folder}/made/{self.rule}.json"


class Jobs:
    """The jobs of a plan, one function a rule; each is made once."""

    def __init__(self, plan: ContinualPlan, command: Callable[[str], str] = lambda rule: "") -> None:
        self.plan, self.command = plan, command
        """`command` tells the text of a rule's command, which decides a result as the code does."""
        self.known: dict[Hashable, Any] = {}

    # --- what trainings start from --------------------------------------------------------------

    @remembered
    def packing(self, dataset: str) -> JobPlan:
        """Return the packing of a data set."""
        plan = self.plan
        folder = f"{plan.folder}/{dataset}/data"
        settings, code = plan.data_settings(dataset), plan.data_code(dataset)
        return self._job("prepare_data", folder, settings, code, contents=plan.contents(dataset).digest)

    @remembered
    def check(self) -> JobPlan:
        """Return the check of every network and method, which comes before any training."""
        plan = self.plan
        packed = dict.fromkeys(self._packing_of(name) for name in plan.experiment.datasets)
        weights = dict.fromkeys(file for name in networks(plan) for file in plan.initial_weights(name))
        return self._job(
            "check_pairs",
            plan.folder,
            check_job(plan),
            check_code(plan),
            inputs={
                "data": list(dict.fromkeys(map(self._manifest, plan.experiment.datasets))),
                "initial": list(weights),
            },
            after=tuple(packed),
            given=tuple(file_digest(file) for file in weights),
        )

    @remembered
    def measurement(self, dataset: str, network: str) -> JobPlan:
        """Return the measurement of how a network runs fastest."""
        plan = self.plan
        folder = f"{plan.folder}/{dataset}/tuned/{network}"
        return self._on_images("tune", dataset, folder, plan.tune_job(dataset, network), plan.tune_code(network))

    @remembered
    def teacher(self, dataset: str, teacher: str, seed: int) -> JobPlan:
        """Return a teacher's training; the seed is its own."""
        plan = self.plan
        tuned = plan.tuned_networks(dataset, (teacher,), plan.teacher_recipe(teacher))
        return self._on_images(
            "train_teacher",
            dataset,
            f"{plan.folder}/{dataset}/teachers/{teacher}/seed{seed}",
            plan.teacher_job(dataset, teacher, seed),
            plan.teacher_code(teacher),
            tuned=tuned,
            initial=plan.initial_weights(teacher),
        )

    @remembered
    def teacher_outputs(self, dataset: str, teacher: str, seed: int) -> JobPlan:
        """Return a teacher's pass over one fixed view of the training images; the seed is its own."""
        plan = self.plan
        return self._on_images(
            "teacher_outputs",
            dataset,
            f"{plan.folder}/{dataset}/teacher_outputs/{teacher}/seed{seed}",
            plan.outputs_job(dataset, teacher, seed),
            plan.outputs_code(teacher),
            teachers=[self._teacher_of(dataset, teacher, seed)],
        )

    @remembered
    def pretraining(self, dataset: str, teacher: str, method: str, seed: int) -> JobPlan:
        """Return a method's pre-stage; the seed is the teacher's."""
        plan = self.plan
        return self._on_images(
            "pretrain_method",
            dataset,
            f"{plan.folder}/{dataset}/pretrain/{teacher}/{method}/seed{seed}",
            plan.pretrain_job(dataset, teacher, method, seed),
            plan.pretrain_code(teacher, method),
            tuned=plan.tuned_networks(dataset, (teacher,), plan.pretrain_recipe(method)),
            teachers=[self._teacher_of(dataset, teacher, seed)],
        )

    # --- students -------------------------------------------------------------------------------

    @remembered
    def student(self, run: Run) -> JobPlan:
        """Return a student's training, alone or beside others: the result is the same."""
        plan = self.plan
        return self._on_images(
            "train_student",
            run.dataset,
            f"{plan.folder}/{run.path}",
            plan.student_job(run),
            plan.run_code(run, "train_student", "train_students"),
            tuned=plan.tuned_networks(run.dataset, (run.student, *plan.teaching(run)), plan.recipe_of(run)),
            initial=plan.initial_weights(run.student),
            teachers=self._teachers(run),
            outputs=self._outputs(run),
            pretrained=self._pretrained(run),
        )

    @remembered
    def half(self, run: Run, stage: int, half: str) -> JobPlan:
        """Return one half of one stage of a chain, which starts from the half before it."""
        plan = self.plan
        number = 2 * (stage - 1) + HALVES.index(half)
        first = number == 0
        return self._on_images(
            f"asib_{half}",
            run.dataset,
            self._half_folder(run, stage, half),
            plan.half_job(run, stage, half),
            plan.run_code(run, f"asib_{half}"),
            tuned=plan.tuned_networks(run.dataset, (run.student, *run.teachers), plan.recipe_of(run)),
            initial=plan.initial_weights(run.student) if first else [],
            teachers=self._teachers(run) if first else [],
            previous=[] if first else [self.halves(run)[number - 1]],
        )

    @remembered
    def halves(self, run: Run) -> list[JobPlan]:
        """Return every half-stage of a chain, in order."""
        found: list[JobPlan] = []
        self.known["halves", (run,), ()] = found  # each half looks up the one before it
        for stage in range(1, self.plan.stages(run.method) + 1):
            for half in HALVES:
                found.append(self.half(run, stage, half))
        return found

    @remembered
    def result(self, run: Run) -> JobPlan:
        """Return what makes one run of a chain's half-stages."""
        halves = self.halves(run)
        inputs: dict[str, str | list[str]] = {
            "runs": [f"{job.folder}/run.json" for job in halves],
            "metrics": [f"{job.folder}/metrics.csv" for job in halves],
            "weights": [
                f"{job.folder}/checkpoints/{name}.safetensors"
                for job in halves
                if job.rule == f"asib_{STUDENT_UPDATE}"
                for name in ("best", "last")
            ],
        }
        folder = f"{self.plan.folder}/{run.path}"
        return self._job("asib_result", folder, "", code_digest({"asib_result"}), inputs=inputs, after=tuple(halves))

    def training(self, run: Run) -> JobPlan:
        """Return the job that leaves a run's weights."""
        return self.result(run) if self.plan.variants[run.method].chain else self.student(run)

    def steps(self, run: Run) -> list[JobPlan]:
        """Return every job of a run's own, in order."""
        chain = self.plan.variants[run.method].chain
        return [*(self.halves(run) if chain else []), self.training(run), self.evaluation(run)]

    def side_by_side(self, runs: Sequence[Run]) -> str:
        """Return what one job that trains several students is told: settings, code and inputs of each, as JSON."""
        jobs = [self.student(run) for run in runs]
        keys = ("outputs", "pretrained", "tuned")
        return canonical(
            [
                {
                    **{"settings": job.settings, "code": job.code, "folder": job.folder},
                    **{"record": job.record, "identity": job.identity},
                    **{key: job.inputs[key] for key in keys},
                }
                for job in jobs
            ]
        )

    # --- evaluations ----------------------------------------------------------------------------

    @remembered
    def evaluation(self, run: Run) -> JobPlan:
        """Return the reading of the test split with a run's weights."""
        plan = self.plan
        own = f"{plan.folder}/{run.path}"
        teacher, members = self._teaching(run)[:1], [self.evaluation(one) for one in plan.ensemble_runs(run)]
        predictions = {
            "teacher": [f"{job.folder}/predictions.npz" for job in teacher],
            "members": [f"{job.folder}/predictions.npz" for job in members],
        }
        return self._evaluation("evaluate", own, self.training(run), run, predictions, (*teacher, *members))

    @remembered
    def teacher_evaluation(self, dataset: str, teacher: str, seed: int) -> JobPlan:
        """Return the reading of the test split with a teacher's weights; the seed is its own."""
        training = self.teacher(dataset, teacher, seed)
        run = Run(dataset, (), teacher, "teacher", seed)
        return self._evaluation("evaluate_teacher", training.folder, training, run, {"teacher": [], "members": []}, ())

    def _evaluation(
        self, rule: str, folder: str, training: JobPlan, run: Run, more: Files, before: Sequence[JobPlan]
    ) -> JobPlan:
        own = {name: f"{folder}/checkpoints/{name}.safetensors" for name in ("best", "last")}
        teacher = rule == "evaluate_teacher"
        settings = self.plan.evaluation_job(run.dataset, run.student, run.seed, teacher=teacher)
        return self._job(
            rule,
            folder,
            settings,
            self.plan.evaluation_code(run.student),
            inputs={"data": self._manifest(run.dataset), **own, "metrics": f"{folder}/metrics.csv", **more},
            after=(training, *before),
            data=self.plan.data_folder(run.dataset),
        )

    @remembered
    def single(self, run: Run, weights: str | None = None) -> JobPlan:
        """Return the accuracies of a run's weights, or of other ones, on all splits."""
        training, plan = self.training(run), self.plan
        own = f"{training.folder}/checkpoints/best.safetensors"
        return self._job(
            "evaluate_single",
            training.folder,
            plan.evaluation_job(run.dataset, run.student, run.seed),
            plan.evaluation_code(run.student, "evaluate_single"),
            inputs={"data": self._manifest(run.dataset), "weights": weights or own},
            after=() if weights else (training,),
            given=(weights, file_digest(weights)) if weights else (),
            data=plan.data_folder(run.dataset),
        )

    @remembered
    def synergy(self, run: Run) -> JobPlan:
        """Return the accuracies of all that a finished chain holds, on all splits."""
        rule = "evaluate_synergy"
        return self._of_last_half(rule, run, f"{self.plan.folder}/{run.path}", self.plan.run_code(run, rule))

    @remembered
    def synergy_outputs(self, run: Run) -> JobPlan:
        """Return a finished chain's pass over the training images."""
        folder = f"{self.plan.folder}/{run.path}/synergy_outputs"
        return self._of_last_half("synergy_outputs", run, folder, self.plan.synergy_code(run))

    def _of_last_half(self, rule: str, run: Run, folder: str, code: str) -> JobPlan:
        last = self.halves(run)[-1]
        return self._on_images(rule, run.dataset, folder, self.plan.synergy_job(run), code, previous=[last])

    # --- class-incremental runs -----------------------------------------------------------------

    @remembered
    def continual(self, run: ContinualRun) -> JobPlan:
        """Return a class-incremental training."""
        plan, chain = self.plan, self.plan.target_run(run)
        return self._on_images(
            "continual_run",
            run.dataset,
            f"{plan.folder}/{run.path}",
            plan.continual_job(run),
            plan.continual_code(run),
            initial=plan.initial_weights(run.student),
            teachers=[self._teacher_of(run.dataset, name, run.seed) for name in plan.taught_by(run)],
            outputs=[self.synergy_outputs(chain)] if chain else [],
        )

    @remembered
    def matrix(self, run: ContinualRun) -> JobPlan:
        """Return the reading of the test split after each task."""
        plan, training = self.plan, self.continual(run)
        assert plan.continual is not None, "only an experiment with a section continual has such runs"
        tasks = range(1, plan.continual.num_tasks + 1)
        return self._job(
            "continual_matrix",
            training.folder,
            plan.matrix_job(run),
            plan.matrix_code(run),
            inputs={
                "data": self._manifest(run.dataset),
                "weights": [f"{training.folder}/checkpoints/task{task}.safetensors" for task in tasks],
            },
            after=(training,),
            data=plan.data_folder(run.dataset),
        )

    # --- results --------------------------------------------------------------------------------

    def report(
        self, rule: str, settings: str, inputs: Files, after: Sequence[JobPlan], module: str | None = None
    ) -> JobPlan:
        """Return a job that makes something for people, in the experiment's folder, by the script of its name."""
        code = code_digest({module or rule})
        return self._job(rule, self.plan.folder, settings, code, inputs=inputs, after=tuple(after))

    def rows(self) -> list[dict[str, Any]]:
        """Return what `collect` needs of every row of runs.csv, with what its files must have been made from."""
        return [{**row, "made": self._made(run, row["kind"])} for row, run in self.plan.listed()]

    def continual_rows(self) -> list[dict[str, Any]]:
        """Return what the report needs of every class-incremental run, likewise."""
        runs = zip(self.plan.continual_rows(), self.plan.continual_runs, strict=True)
        return [{**row, "made": _steps([self.continual(run), self.matrix(run)])} for row, run in runs]

    def _made(self, run: Run, kind: str) -> dict[str, Any]:
        if kind == "teacher":
            steps = [self.teacher(run.dataset, run.student, run.seed)]
            steps.append(self.teacher_evaluation(run.dataset, run.student, run.seed))
        else:
            steps = self.steps(run)
        return _steps(steps)

    # --- parts ----------------------------------------------------------------------------------

    def _job(self, rule: str, folder: str, settings: str, code: str, **more: Any) -> JobPlan:
        command = self.command(rule)
        return JobPlan(rule, folder, settings, text_digest(code + command) if command else code, **more)

    def _on_images(
        self,
        rule: str,
        dataset: str,
        folder: str,
        settings: str,
        code: str,
        tuned: Sequence[str] = (),
        initial: Sequence[str] = (),
        teachers: Sequence[JobPlan] = (),
        outputs: Sequence[JobPlan] = (),
        pretrained: Sequence[JobPlan] = (),
        previous: Sequence[JobPlan] = (),
    ) -> JobPlan:
        """Return a job that reads packed images and what other jobs left."""
        measured = [self.measurement(dataset, network) for network in tuned]
        return self._job(
            rule,
            folder,
            settings,
            code,
            inputs={
                "data": self._manifest(dataset),
                "tuned": [f"{job.folder}/choice.json" for job in measured],
                "initial": list(initial),
                "teachers": [f"{job.folder}/checkpoints/best.safetensors" for job in teachers],
                "outputs": [f"{job.folder}/outputs.safetensors" for job in outputs],
                "pretrained": [f"{job.folder}/extra.safetensors" for job in pretrained],
                "previous": [f"{job.folder}/state.pt" for job in previous],
            },
            after=(self._packing_of(dataset), *measured, *teachers, *outputs, *pretrained, *previous),
            given=tuple(file_digest(file) for file in initial),
            data=self.plan.data_folder(dataset),
            images=self.plan.training_images(dataset),
        )

    def _packing_of(self, dataset: str) -> JobPlan:
        return self.packing(self.plan.packed_as(dataset))

    def _manifest(self, dataset: str) -> str:
        return f"{self.plan.data_folder(dataset)}/{MANIFEST}"

    def _teacher_of(self, dataset: str, teacher: str, seed: int) -> JobPlan:
        """Return the teacher that a student of this seed learns from."""
        return self.teacher(self.plan.teachers_dataset(dataset), teacher, self.plan.teacher_seed(seed))

    def _teachers(self, run: Run) -> list[JobPlan]:
        """Return the trainings of the networks that teach a run: the pair's teachers, or the link before it."""
        if self.plan.variants[run.method].after is not None:
            return [self.training(self.plan.lineage(run)[-1])]
        return [self._teacher_of(run.dataset, name, run.seed) for name in run.teachers]

    def _teaching(self, run: Run) -> list[JobPlan]:
        """Return the evaluations of the networks that teach a run."""
        if self.plan.variants[run.method].after is not None:
            return [self.evaluation(self.plan.lineage(run)[-1])]
        dataset, seed = self.plan.teachers_dataset(run.dataset), self.plan.teacher_seed(run.seed)
        return [self.teacher_evaluation(dataset, name, seed) for name in run.teachers]

    def _outputs(self, run: Run) -> list[JobPlan]:
        if not self.plan.reads_outputs(run):
            return []
        seed = self.plan.teacher_seed(run.seed)
        return [self.teacher_outputs(run.dataset, name, seed) for name in run.teachers]

    def _pretrained(self, run: Run) -> list[JobPlan]:
        if not self.plan.variants[run.method].pretrain:
            return []
        return [self.pretraining(run.dataset, run.teachers[0], run.method, self.plan.teacher_seed(run.seed))]

    def _half_folder(self, run: Run, stage: int, half: str) -> str:
        return f"{self.plan.folder}/{run.path}/stage{stage}/{half}"


def _steps(steps: Sequence[JobPlan]) -> dict[str, Any]:
    """Return what says whether a run's files are what is asked: its own jobs, the last one last, and those before."""
    before = dict.fromkeys(one for job in steps for one in _all_before(job) if one not in steps)
    return {"steps": [_noted(job) for job in steps], "before": [_noted(job) for job in before]}


def _noted(job: JobPlan) -> dict[str, str | None]:
    return {"folder": job.folder, "record": job.record, "identity": job.identity, "data": job.data}


def _all_before(job: JobPlan, found: dict[JobPlan, None] | None = None) -> dict[JobPlan, None]:
    """Return every job before one, each once, the farthest first."""
    found = {} if found is None else found
    for one in job.after:
        if one not in found:
            _all_before(one, found)
            found[one] = None
    return found


def file_digest(path: str) -> str:
    """Return the digest of a file's size and modification time; of its absence, where it is not there."""
    try:
        status = Path(path).stat()
    except OSError:
        return text_digest("absent")
    return text_digest(f"{status.st_size} {status.st_mtime_ns}")
