"""A made-up experiment on disk: run folders as the engine leaves them, collected and analysed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recorded import failed, finished, step

from kd.analysis.collect import collect
from kd.analysis.compared import compute_statistics
from kd.analysis.curves import write_curves
from kd.analysis.details import Shown, gather, write_details
from kd.analysis.runs import read_runs
from kd.reporting.figures import Group, load_groups, write_figures
from kd.reporting.layout import continual_figures, design_figures, figure_files
from kd.reporting.page import Inputs, write_page
from kd.schema.cards import Card, Paper, Published
from kd.schema.config import Reporting
from kd.study.designs import Design

PIXEL = b"\x89PNG\r\n\x1a\nnot really"  # the page inlines figures as they are
FAMILIES = {"ce": "baseline", "kd": "logits", "crd": "relational", "ft": "features", "at": "features"}


def make_card(name, published=()):
    return Card(
        name=name,
        title=f"The method {name}",
        family="logits",
        paper=Paper(title=f"On <{name}>", authors="A. Author & B. Author", year=2020, url="https://example.org/x"),
        loss="CE + KL(p_t || p_s)",
        module=f"kd.methods.{name}",
        teachers="one",
        settings={},
        published=[Published(**entry) for entry in published],
    )


@dataclass
class World:
    """Builds run folders and everything that follows from them."""

    root: Path
    dataset: str = "toy"
    pair: str = "big--small"
    teacher: str = "big"
    student: str = "small"
    runs: list = field(default_factory=list)
    report: Reporting = field(default_factory=Reporting)
    cards: dict = field(default_factory=dict)
    families: dict = field(default_factory=lambda: dict(FAMILIES))

    def teachers(self, seeds, accuracy=80.0):
        for seed in seeds:
            self._add("teacher", self.teacher, "none", seed, accuracy + seed / 10, 100.0, teacher_paths=[])
        return self

    def method(self, name, accuracies, seconds=50.0, base=None, pretrain=None, broken=(), **more):
        """One run an accuracy; seeds in `broken` fail with a reason, accuracy None means missing."""
        alone = name == "ce"
        for seed, accuracy in enumerate(accuracies):
            options = {
                "teacher_paths": [] if alone else [str(self._folder("teacher", self.teacher, seed))],
                "base": base or name,
                "pretrain": pretrain,
                "reason": "loss became NaN in epoch 3, step 17 <&_%>" if seed in broken else None,
                "kind": more.get("kind", "student"),
                "ensemble": more.get("ensemble"),
                "epochs": more.get("epochs", 4),
            }
            self._add(
                name,
                more.get("student", self.student),
                "none" if alone else self.teacher,
                seed,
                accuracy,
                seconds,
                **options,
            )
        return self

    def _folder(self, method, student, seed):
        return self.root / self.dataset / self.pair / f"{method}-{student}" / f"seed{seed}"

    def _add(self, method, student, teachers, seed, accuracy, seconds, teacher_paths, **options):
        folder = self._folder(method, student, seed)
        prestages = [options["pretrain"]] if options.get("pretrain") else []
        self.runs.append(
            {
                **{"experiment": "unit", "dataset": self.dataset, "pair": self.pair, "teachers": teachers},
                **{"student": student, "method": method, "base_method": options.get("base", method), "seed": seed},
                **{"path": str(folder), "teacher_paths": teacher_paths, "prestage_paths": prestages},
                "taught_by": teacher_paths,
                "made": {"steps": [step(folder, "train_student"), step(folder, "evaluate")], "before": []},
                "kind": "teacher" if method == "teacher" else options.get("kind", "student"),
            }
        )
        folder.mkdir(parents=True, exist_ok=True)
        if options.get("reason"):
            failed(folder, "train_student", options["reason"])
        elif accuracy is not None:
            write_run(folder, accuracy, seconds, options.get("epochs", 4), options.get("ensemble"))
            finished(folder, "train_student", "evaluate")

    def analyse(self):
        self.runs_csv, self.statistics = self.root / "runs.csv", self.root / "statistics.json"
        collect(self.runs, self.runs_csv)
        compute_statistics(self.runs_csv, self.statistics, self.report)
        self.gather({})
        return self

    def gather(self, shown: dict[str, Shown]) -> None:
        """Gather what is told of the runs beside the comparison, with what is told of the images."""
        runs = read_runs(self.runs_csv)
        write_curves(runs, self.root / "curves.csv")
        write_details(gather(runs, shown, self.report.weights), self.root / "details.json")

    def groups(self) -> list[Group]:
        files = (self.runs_csv, self.statistics, self.root / "curves.csv")
        return load_groups(*files, self.report, self.families)

    def figures(self, folder: Path) -> None:
        """Draw the figures of the comparison."""
        files = (self.runs_csv, self.statistics, self.root / "curves.csv")
        write_figures(*files, folder, self.report, self.families)

    def page(
        self,
        designs: Sequence[Design] = (),
        continual: Path | None = None,
        figures: Path | None = None,
        trials: Path | None = None,
        meta: Mapping[str, Any] | None = None,
        synergy: Path | None = None,
    ) -> str:
        """The page; without a folder of figures each of them is some bytes that tell its name."""
        inputs = Inputs(
            runs=self.runs_csv,
            statistics=self.statistics,
            curves=self.root / "curves.csv",
            details=self.root / "details.json",
            figures=figures or self.root / "figures",
            continual=continual,
            trials=trials,
            synergy=synergy,
        )
        names = [*figure_files([group.key for group in self.groups()]), *design_figures(designs)]
        for name in [] if figures else [*names, *continual_figures([self.dataset] if continual else [])]:
            (inputs.figures / name).parent.mkdir(parents=True, exist_ok=True)
            (inputs.figures / name).write_bytes(PIXEL + name.encode())
        out = self.root / "report.html"
        write_page(inputs, out, self.report, self.cards, meta or self.meta, self.families, designs)
        return out.read_text(encoding="utf-8")

    @property
    def meta(self):
        return {
            **{"experiment": "unit_test", "description": "A made-up experiment & its <table>."},
            "datasets": {self.dataset: {"source": "cifar100", "subset_size": None, "n_classes": 100, "n_test": 10000}},
            **{"seeds": [0, 1, 2], "teacher_seed": "same", "recipe": {"epochs": 4, "lr": 0.05}},
        }


def write_run(folder, accuracy, seconds=50.0, epochs=4, ensemble=None):
    scores = {"val_top1": accuracy - 1, "test_top1": accuracy, "test_top5": min(100.0, accuracy + 20)}
    best = scores | {"test_nll": 1.25, "test_ece": 0.05, "agreement": 88.0}
    last = best | {"test_top1": accuracy - 0.5}
    run = {
        "status": "ok",
        "settings": {"method": {"temperature": 4.0}},
        "versions": {"torch": "2.14.1", "timm": "1.0.31"},
        "hardware": {"device": "cpu", "cpu": "Some CPU", "gpu": None},
        "seconds": {"train": seconds, "evaluate": 1.0},
        "peak_memory_mb": 512.0,
        "flops": {"train": seconds * 1e12},
        "params": {"student": 700_000, "extra_train": 12_345, "extra_inference": 0},
        **{"epochs": epochs, "best_epoch": epochs - 1},
        "git": {"commit": "abc123", "dirty": False},
    }
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    together = {"last": ensemble, "best": None if ensemble is None else ensemble + 1}
    tracked = {"test_top1_tracked_max": accuracy + 0.3, "ensemble": together}
    (folder / "evaluation.json").write_text(json.dumps({"last": last, "best": best} | tracked), encoding="utf-8")
    rows = [f"{e},{2 / (e + 1):.3f},{accuracy * (1 - 0.5 ** (e + 1)):.3f}" for e in range(epochs)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,train_loss,val_top1", *rows]) + "\n", encoding="utf-8")
