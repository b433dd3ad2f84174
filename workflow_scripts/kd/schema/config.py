"""The configuration: what an experiment file may hold, checked before any job starts."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from kd.formats.cifar import ARCHIVE_SUFFIXES
from kd.schema.architectures import is_timm
from kd.tools.errors import shown

NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9_.]*[A-Za-z0-9_])?$"
"""One path component: '+' and '--' join names and stay reserved, and some file systems drop a last '.'."""
LONGEST_NAME = 100

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=LONGEST_NAME)]
Share = Annotated[float, Field(ge=0, lt=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Side = Annotated[int, Field(ge=1, le=4096)]
"""Pixels."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
ClassIndex = Annotated[int, Field(ge=0, le=1_000_000)]
ClassName = Annotated[str, Field(max_length=255)]
Weight = Annotated[float, Field(ge=0, le=1e9)]
Temperature = Annotated[float, Field(gt=0, le=1e6)]


def _path(value: str) -> str:
    """Check what no file system takes: control characters, parts of more than 255 bytes, more than 4,000 in all."""
    if not value.strip():
        raise ValueError("must be a path, found no text")
    if not value.isprintable():
        raise ValueError(f"a path may not hold line breaks or other control characters, found {shown(value)}")
    longest = max(len(part.encode()) for part in value.split("/"))
    if longest > 255 or len(value.encode()) > 4000:
        raise ValueError(f"a path has parts of at most 255 bytes and 4000 in all, found one of {longest}")
    return value


PathText = Annotated[str, AfterValidator(_path)]


class Strict(BaseModel):
    """Base of every settings model: typed strictly, frozen, unknown keys forbidden, every number finite.

    The docstring of a key is its meaning in config/README.md and in editors (`python3 envs/task.py docs` writes both).
    """

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class SplitRatios(Strict):
    """Shares that images without a test split of their own are divided into, class by class; their sum is 1."""

    train: float = Field(gt=0, lt=1)
    """Share that trains; without a `val`, the data set's `validation` is carved from it."""
    val: float = Field(default=0.0, ge=0, lt=1)
    """Share that validates, the same images for every seed; 0: see `train`."""
    test: float = Field(gt=0, lt=1)
    """Share that is read once, at the end."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError(f"train + val + test must be 1, found {self.train + self.val + self.test:g}")
        return self


DEFAULT_ROOTS = {"cifar10": "data/cifar10", "cifar100": "data/cifar100"}
TAKEN_BY = {
    "root": ["cifar10", "cifar100", "imagefolder", "imagenet32", "imagenet100"],
    "archives": ["imagefolder"],
    "download": ["cifar10", "cifar100"],
    "class_list": ["imagenet100"],
    "split_ratios": ["digits", "imagefolder"],
    "split_seed": ["digits", "imagefolder"],
}
"""Settings that not every source reads, and the sources that do: elsewhere they would be dropped."""


def _check_archives(archives: list[str]) -> None:
    seen: set[str] = set()
    for archive in archives:
        if not archive.lower().endswith(ARCHIVE_SUFFIXES):
            raise ValueError(f"archives: {archive} is none of {', '.join(ARCHIVE_SUFFIXES)}")
        if os.path.normpath(archive) in seen:
            raise ValueError(f"archives: {archive} is listed twice")
        seen.add(os.path.normpath(archive))


class DatasetSettings(Strict):
    """One data set: where it comes from and how much of it is used."""

    source: Literal["digits", "cifar10", "cifar100", "imagefolder", "imagenet32", "imagenet100"]
    """What kind of files they are. digits: scikit-learn's 1,797 grey images of 8x8 pixels, which need none; cifar10,
    cifar100: official files or their archive, class folders, or archives of class folders; imagefolder: class folders
    of pictures; imagenet32: the pickled batches of downsampled ImageNet; imagenet100: some classes of an ImageNet tree
    (train/CLASS and val/CLASS)."""
    root: PathText | None = None
    """Folder that holds the data, from where Snakemake was started; data/cifar10 and data/cifar100 are those two
    sources' own. An imagefolder has train/CLASS with test/CLASS or val/CLASS, or CLASS and `split_ratios`."""
    archives: list[PathText] = []
    """For imagefolder, in place of `root`: .tar, .tar.gz, .tar.bz2, .tar.xz and .zip files that together hold one tree;
    they are read where they are."""
    download: bool = False
    """Fetch cifar10 or cifar100 into `root` where nothing of it is there yet."""
    image_size: Side | None = None
    """Side in pixels that the images are packed at; null keeps their own, which must then be one size."""
    class_list: PathText | None = None
    """For imagenet100: a text file with one class folder's name per line."""
    split_ratios: SplitRatios | None = None
    """How one undivided image folder is divided, where there are no train and test folders; digits: 0.8 and 0.2 unless
    others are given."""
    split_seed: Seed = 0
    """Draws that division: the same test images whatever the seeds of the runs are."""
    subset_size: Count | None = None
    """Training images used, before the validation split is carved from them; null: all. The test split stays whole."""
    subset: Literal["stratified", "uniform"] = "stratified"
    """Which of them, drawn by each seed: of every class its share, or any."""
    class_subset: list[ClassName | ClassIndex] | None = None
    """Classes kept, by name (2 is the class named 2), or by place from 0 where no class is named by a number; labels
    are renumbered in this order. null: all."""
    validation: Share = 0.1
    """Share of the training images that each seed carves for validation, stratified; 0 only where the source brings a
    validation split of its own. Epochs, stages and settings are selected on it."""
    resident_limit_mb: int = Field(default=4096, ge=0, le=100_000_000)
    """MB of packed training images that may live on the device; larger sets are read from disk by `recipe.workers`."""

    @model_validator(mode="before")
    @classmethod
    def _with_default_root(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("source") in [*DEFAULT_ROOTS] and content.get("root") is None:
            return {**content, "root": DEFAULT_ROOTS[content["source"]]}
        return content

    @model_validator(mode="after")
    def _source_has_what_it_takes(self) -> Self:
        if self.source in {"imagenet32", "imagenet100"} and self.root is None:
            raise ValueError(f"root is required for source {self.source}")
        if self.source == "imagenet100" and self.class_list is None:
            raise ValueError("class_list is required for source imagenet100")
        if self.source == "imagefolder" and (self.root is None) == (not self.archives):
            found = "neither" if self.root is None else "both"
            raise ValueError(f"source imagefolder takes either root or archives, found {found}")
        for key, sources in TAKEN_BY.items():
            if self.source not in sources and getattr(self, key) != type(self).model_fields[key].default:
                hint = " (its archives are found in root)" if key == "archives" and self.source in DEFAULT_ROOTS else ""
                raise ValueError(f"source {self.source} takes no {key}{hint}: {key} is for {', '.join(sources)}")
        if self.split_seed and self.source == "imagefolder" and self.split_ratios is None:
            raise ValueError("split_seed needs split_ratios, which it divides the images by")
        if self.subset != "stratified" and self.subset_size is None:
            raise ValueError(f"subset {self.subset} needs a subset_size")
        _check_archives(self.archives)
        if self.class_subset is not None and len(set(self.class_subset)) < 2:
            raise ValueError("class_subset needs at least two different classes")
        return self

    def packing(self) -> dict[str, Any]:
        """Return the settings that decide what is written to disk, and nothing of what acts at load time.

        Whether images may be fetched is no part of either: they are the same images.
        """
        keys = {"source", "root", "archives", "image_size", "class_list", "split_ratios", "split_seed"}
        return self.model_dump(mode="json", include=keys)

    def loading(self) -> dict[str, Any]:
        """Return the settings that act when packed images are read."""
        return self.model_dump(mode="json", exclude={*self.packing(), "download"} - {"source"})

    def files(self) -> list[Path]:
        """Return the files that must exist before a job starts."""
        listed = [Path(archive) for archive in self.archives]
        return listed + ([Path(self.class_list)] if self.class_list else [])


class RandAugment(Strict):
    """RandAugment (Cubuk et al. 2020)."""

    ops: int = Field(default=2, ge=1, le=100)
    """Operations per image, one after the other."""
    magnitude: int = Field(default=9, ge=0, le=30)
    """How strong they are, on the paper's scale of 0 to 30."""


class Augmentation(Strict):
    """What happens to a training image, with draws of its own: crop, flip, RandAugment, cutout, in this order."""

    crop: Literal["padded", "resized", "none"] = "padded"
    """padded: anywhere in the image with a black border; resized: 8 to 100 % of the area at a ratio of 3:4 to 4:3,
    resized to the image's side; none: the whole image."""
    padding: int = Field(default=4, ge=0, le=4096)
    """Width in pixels of the border of crop padded."""
    flip: bool = True
    """Mirror an image left to right, in half of the draws."""
    randaugment: RandAugment | None = None
    """Colour and geometry changes; null: none, `{}`: the defaults."""
    cutout: Side | None = None
    """Side in pixels of the square that is blanked; null: none."""


class Recipe(Strict):
    """How a network is trained; every method of an experiment shares one."""

    epochs: int = Field(ge=1, le=100_000)
    """Passes over the training images; under schedule plateau the most there can be. The stages of a method and the
    halves of ASIB divide them, or bring their own."""
    schedule_epochs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Epochs of the recipe in which methods count their warm-ups and first stages (240: the field's). Each of those,
    given or a card's default, then lasts its share of it: 20 of 240 is 1 of 12. null: as many epochs as it says."""
    batch_size: int = Field(default=64, ge=2, le=1_000_000)
    """Images per update; the last batch of an epoch is smaller where they do not divide evenly."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """torch's own, at torch's settings but for those below."""
    lr: float = Field(default=0.05, gt=0, le=1e30)
    """Learning rate that the schedule starts from. One that is far too high is no mistake of the file: the run fails
    and says that it diverged."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD."""
    nesterov: bool = False
    """Of SGD."""
    betas: tuple[Share, Share] = Field(default=(0.9, 0.999), strict=False)
    """Of Adam and AdamW."""
    weight_decay: float = Field(default=5e-4, ge=0, le=100)
    """Of all weights, BatchNorm's and biases included; AdamW's is decoupled from the gradient."""
    schedule: Literal["step", "cosine", "constant", "plateau"] = "step"
    """How lr moves. step: down at each of the milestones; cosine: down to min_lr over all epochs; constant: not at all;
    plateau: down whenever validation has not improved for `patience` epochs."""
    milestones: list[Annotated[float, Field(gt=0, le=100_000)]] = []
    """Schedule step: epochs after which lr is multiplied with gamma (150: from the 151st on); values under 1 are shares
    of all epochs."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """What lr is multiplied with at a milestone or, under schedule plateau, at each drop."""
    patience: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Schedule plateau: after so many epochs without a better validation accuracy the best weights return and lr
    drops."""
    lr_drops: int = Field(default=3, ge=0, le=1000)
    """Schedule plateau: training ends where one more drop would be due."""
    warmup_epochs: float = Field(default=0.0, ge=0, le=100_000)
    """Epochs in which lr rises on a line from 0, before the schedule takes over."""
    min_lr: float = Field(default=0.0, ge=0, le=1e30)
    """Where schedule cosine ends, and below which step and plateau do not fall."""
    label_smoothing: Share = 0.0
    """Share of a label that is spread over all classes, in the classification loss."""
    mixup_alpha: float = Field(default=0.0, ge=0, le=1000)
    """Parameter of the Beta distribution that MixUp draws its shares from; 0 is off. Not every method is defined for
    mixed images: its card says so (mixed_labels)."""
    cutmix_alpha: float = Field(default=0.0, ge=0, le=1000)
    """The same for CutMix, which has priority over MixUp when both are on."""
    augmentation: Augmentation = Augmentation()
    """What happens to a training image before it is normalised."""
    grad_clip: Weight = 0.0
    """Largest global gradient norm; 0 is off."""
    grad_clip_final: Weight | None = None
    """Norm that grad_clip moves to on a line once its share grad_clip_hold of training is over; null keeps it."""
    grad_clip_hold: Share = 0.5
    """Share of training before grad_clip begins to move to grad_clip_final."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential moving average of the student's weights, which is then what is validated and kept;
    null: none."""
    ema_every: Literal["step", "epoch"] = "step"
    """How often the average takes a step."""
    ema_start_decay: float | None = Field(default=None, ge=0, lt=1)
    """Decay at the start, from where it goes to ema_decay on a line over ema_warmup_epochs; null is ema_decay."""
    ema_warmup_epochs: float = Field(default=5.0, gt=0, le=100_000)
    """Epochs from ema_start_decay to ema_decay."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """Number format. fp32: float32, on a GPU too; tf32: a GPU's products of float32 rounded to 10 bits; auto: what is
    fastest here of fp32 and bf16 (fp16 on older GPUs), found for each network by the rule `tune` where a training is
    long enough to pay for it (50,000 image passes), else fp32."""
    channels_last: bool | Literal["auto"] = "auto"
    """Memory layout of images and features; auto: measured with precision auto, else true."""
    kernels: Literal["auto", "torch", "winograd", "compiled"] = "auto"
    """How networks run. torch: as is; winograd: 3x3 convolutions of float32 on a CPU in fewer multiplications, built by
    the C compiler here; compiled: torch.compile; auto: measured with precision auto, else torch."""
    capture: Literal["auto", "on", "off"] = "auto"
    """Replay whole training steps as CUDA graphs, several times faster on a GPU, the numbers the same. auto: on a GPU,
    wherever a method allows it; on: fail where it cannot be done; off: launch every kernel of every step."""
    teacher_view: Literal["live", "fixed"] = "live"
    """live: frozen teachers see the images that the student sees; fixed: one augmented view of each, drawn once."""
    track_test: bool = False
    """Read the test split every epoch, for a column of its own that nothing selects on."""
    eval_batch_size: int = Field(default=500, ge=1, le=1_000_000)
    """Images per batch where nothing is trained."""
    workers: int = Field(default=2, ge=0, le=1024)
    """Reader processes for data sets that do not fit on the device (see resident_limit_mb)."""
    deterministic: bool = True
    """Ask torch for kernels that give the same bits each time, as far as there are any; resuming bit by bit
    needs them."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.milestones and self.schedule != "step":
            raise ValueError(f"milestones belong to schedule step, found schedule {self.schedule}")
        if (self.patience is not None) != (self.schedule == "plateau"):
            raise ValueError(f"patience belongs to schedule plateau, which needs it; found schedule {self.schedule}")
        if self.teacher_view == "fixed" and (self.mixup_alpha > 0 or self.cutmix_alpha > 0):
            raise ValueError("teacher_view fixed needs mixup_alpha and cutmix_alpha 0: it knows no mixed images")
        if self.grad_clip_final is not None and self.grad_clip == 0:
            raise ValueError("grad_clip_final needs a grad_clip above 0")
        if self.ema_start_decay is not None and self.ema_decay is None:
            raise ValueError("ema_start_decay needs ema_decay")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be below epochs ({self.epochs})")
        return self


class ClassShare(Strict):
    """The classes that one of two teachers learns: those that both learn, and its half of the others.

    The teacher trains and selects its epoch on images of its classes; its head and its test have all of them.
    """

    overlap: float = Field(ge=0, le=1)
    """Share of all classes that both teachers learn; each seed draws which."""
    side: Literal["first", "second"]
    """Which half of the other classes; an odd one goes to the first."""


Channels = Annotated[tuple[Share, Share, Share], Field(strict=False)]


class Normalisation(Strict):
    """Statistics of images, red, green and blue, of values from 0 to 1: (x - mean) / std is what a network sees."""

    mean: Channels
    """Means."""
    std: Annotated[tuple[Deviation, Deviation, Deviation], Field(strict=False)]
    """Standard deviations."""


class ModelSettings(Strict):
    """One network: architecture, initial weights, what of it is trained. A network that needs none of this is called by
    its architecture's name and has no entry."""

    arch: Annotated[str, Field(max_length=200)]
    """A small-image net (`resnet8x4`; the names stand in kd/schema/architectures.py), any timm model
    (`timm:resnet18`), or your own (`PATH.py:FUNCTION`: called with the number of classes it returns a module from
    images to logits, whose taps are named as its modules are)."""
    pretrained: bool | PathText = False
    """true: timm's own weights, which are fetched; a path: a .safetensors or torch file, in which nothing is run. What
    could not be used as it is stands in train.log and run.json."""
    small_input: bool = True
    """Give timm models a stem that keeps the resolution of small images; a pretrained first kernel is resampled. false
    takes the network as timm has it, for images of about 128 pixels and more."""
    train: bool = True
    """For teachers: false uses the weights of `pretrained` as they are, those of a finished teacher. Its classes must
    be the data set's, in the order of the packed manifest (of class folders: by name)."""
    normalisation: Literal["dataset", "timm"] | Normalisation | None = None
    """With train false: by what images were normalised when it was trained. dataset: the statistics of the data that it
    teaches on; timm: those of the timm model; or statistics. null: as its file says (those of this project do), else
    timm for a timm model and dataset for any other. What is trained here sees the data set's."""
    freeze: int = Field(default=-1, ge=-1, le=200)
    """k: the last k blocks and the head train; 0: the head only; -1: everything. Stem and stages are the blocks."""
    freeze_bn: bool = False
    """Keep every BatchNorm as it was loaded, statistics included, in trained blocks too."""
    classes: ClassShare | None = None
    """For teachers: learn only these; see `report.analysis`, kind overlap. null: all."""
    recipe: dict[str, Any] = {}
    """Recipe keys that differ for this network, such as `{lr: 0.01}` for MobileNetV2."""

    @model_validator(mode="after")
    def _finished(self) -> Self:
        if self.normalisation == "timm" and not is_timm(self.arch):
            raise ValueError(f"normalisation timm is that of a timm model, found arch {shown(self.arch)}")
        if self.train:
            if self.normalisation is not None:
                raise ValueError("normalisation belongs to a network that is used as it is (train: false)")
            return self
        if not self.pretrained:
            raise ValueError("train: false uses a finished network as it is: give its weights as pretrained")
        if is_timm(self.arch) and "small_input" not in self.model_fields_set:
            # the weights of most families fit either stem, and answer otherwise behind the wrong one
            raise ValueError("train: false uses a finished network as it is: say small_input as it was trained with")
        training = {"freeze": self.freeze != -1, "freeze_bn": self.freeze_bn, "classes": self.classes is not None}
        for key, given in {**training, "recipe": bool(self.recipe)}.items():
            if given:
                raise ValueError(f"train: false uses a finished network as it is, {key} does not belong to it")
        return self


class Pair(Strict):
    """A comparison group: within it methods are compared, seed by seed."""

    teachers: list[Name] = Field(min_length=1)
    """Networks, by their key in `models` or their architecture's name. Methods with one teacher take the first, unless
    they say `teacher: NAME`; methods of several take all."""
    student: Name
    """The network that every method of the pair trains, from the same initial weights within a seed."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.teachers)) != len(self.teachers):
            raise ValueError(f"teachers of a pair must differ, found {self.teachers}")
        return self

    @property
    def name(self) -> str:
        """Return the name of the comparison group."""
        return f"{'+'.join(self.teachers)}--{self.student}"


class Analysis(Strict):
    """One question of its own to the runs, answered by a table and a figure beside the comparison."""

    kind: Literal["factors", "ladder", "sweep", "overlap", "synergy"]
    """factors: each variant against the first one, which has everything on; ladder: each against the one before;
    sweep: accuracy over a setting; overlap: accuracy over the share of classes that the pairs' teachers both learn;
    synergy: what each half-stage of ASIB makes of training and validation images, beside its teachers' average."""
    variants: list[Name] = Field(min_length=1)
    """Methods shown, in this order; differences are to the first one, in a ladder to the one before. At least two; for
    synergy variants of ASIB, of which one is enough: differences are to the average of the teachers' logits."""
    setting: Name | None = None
    """What a sweep changes: a setting that is a number and that every variant has."""
    temperature: Temperature = 4.0
    """Kind synergy: the one at which it is measured how much of a target is off the label."""
    reached: dict[Name, Name] = {}
    """Kind synergy: which method's student learned from what under the same schedule: `average`, `certainty` (the
    average weighted by certainty), `synergy` or a teacher's name, each with a method of the experiment; differences are
    to the first one."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.setting is not None) != (self.kind == "sweep"):
            raise ValueError(f"setting belongs to kind sweep, which needs it; found kind {self.kind}")
        if self.kind != "synergy":
            if len(self.variants) < 2:
                raise ValueError(f"variants must be a list of 2 or more for kind {self.kind}, found {self.variants}")
            for key in ("temperature", "reached"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} belongs to kind synergy, found kind {self.kind}")
        for key, listed in (("variants", self.variants), ("reached", list(self.reached.values()))):
            if len(set(listed)) != len(listed):
                raise ValueError(f"{key} must differ, found {listed}")
        return self


Ends = Annotated[tuple[float, float], Field(strict=False)]


class Range(Strict):
    """What a search draws a hyper-parameter from: give one scale. Drawn numbers have three digits."""

    log: Ends | None = None
    """From and to, evenly in the logarithm: for what is right to within a factor, such as weights."""
    linear: Ends | None = None
    """From and to, evenly; of a whole number every value is as likely."""
    times: Ends | None = None
    """As log, in multiples of the value that it has without the search."""
    choices: Annotated[list[bool | int | float | str], Field(min_length=1, max_length=100)] | None = None
    """Values, each as likely."""

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        given = {key: value for key, value in self if value is not None}
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(type(self).model_fields)}, found {', '.join(given) or 'none'}")
        ((scale, ends),) = given.items()
        if scale != "choices" and not ends[0] < ends[1]:
            raise ValueError(f"{scale} goes from a number to a larger one, found {shown(ends)}")
        if scale in {"log", "times"} and ends[0] <= 0:
            raise ValueError(f"{scale} begins above 0, found {shown(ends)}")
        if scale == "choices" and len({(type(one), one) for one in ends}) < len(ends):
            raise ValueError(f"choices must differ, found {shown(ends)}")
        return self


class RecipeRanges(Strict):
    """What of the recipe a search draws for every method, so that each has it searched; null: it is not."""

    lr: Range | None = Range(times=(0.25, 4.0))
    """Learning rate."""
    weight_decay: Range | None = Range(times=(0.25, 4.0))
    """Weight decay."""
    label_smoothing: Range | None = None
    """Label smoothing."""


class Search(Strict):
    """A search of hyper-parameters, the same number of random trials for every method; {} has the defaults."""

    trials: int = Field(default=8, ge=2, le=100)
    """Trainings per method, data set and pair. The first is the method as it stands in `methods`; those after it draw
    what is searched, each by its own name and the trial's number, so that more trials or another hyper-parameter leave
    every other draw as it was."""
    seed: Seed = 1000
    """Of all trials: their draws, split, initialisation and teacher. None of `seeds`, with which the settings that
    reach the highest validation accuracy are then trained anew, as the row NAME_searched."""
    methods: list[Name] = []
    """Those that are searched; []: all of them."""
    recipe: RecipeRanges = RecipeRanges()
    """What of the recipe is searched for every method, unless its entry gives it."""
    ranges: dict[Name, dict[Name, Range]] = {}
    """By card and setting, in place of the card's own ranges or beside them. A setting that an entry gives is not
    searched there."""


Sink = Literal["tensorboard", "wandb", "results_list"]


class Reporting(Strict):
    """What the tables and figures show."""

    weights: Literal["best", "last"] = "best"
    """Which weights the numbers are of. best: the epoch selected on validation; last: the last epoch."""
    references: list[Name] = ["kd", "ce"]
    """Methods that paired differences are taken to; those of the default count where the experiment has them."""
    confidence: float = Field(default=0.95, gt=0.5, le=0.9999)
    """Of every interval, and of the tests that decide what is bold."""
    rope: float = Field(default=0.5, ge=0, le=100)
    """Points of accuracy that make no difference in practice: methods whose whole interval lies that near are called
    equal, and better or worse is what lies beyond it; 0: every difference counts."""
    detect: float = Field(default=1.0, ge=0.01, le=100)
    """Points of accuracy: tables and answer say how many seeds would tell a difference of this size from none."""
    analysis: Analysis | None = None
    """One question of the experiment's own: sensitivity, ladder, sweep of a setting, overlap of the teachers, synergy
    of the teachers."""
    sinks: list[Sink] = []
    """What else is written of all finished runs, into results/EXPERIMENT/sinks/. tensorboard: every epoch of every run,
    for `tensorboard --logdir`; wandb: the same for Weights & Biases, offline unless WANDB_MODE says otherwise, and sent
    by `wandb sync`; results_list: one plain row per method, the teacher's lead in points and percent, and a summary."""
    wandb_project: str | None = Field(default=None, min_length=1, max_length=128)
    """The project that sink wandb names; null: the experiment's name."""
    wandb_entity: str | None = Field(default=None, min_length=1, max_length=128)
    """The user or team that sink wandb names; null: whose key it is."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key in ("references", "sinks"):
            if len(set(getattr(self, key))) != len(getattr(self, key)):
                raise ValueError(f"{key} must differ, found {getattr(self, key)}")
        if (self.wandb_project or self.wandb_entity) and "wandb" not in self.sinks:
            raise ValueError(f"wandb_project and wandb_entity belong to sink wandb, found sinks {self.sinks}")
        return self


class Experiment(Strict):
    """A whole experiment file."""

    experiment: Name
    """Name of the experiment and of its folder in results/; a file that has it is complete and takes nothing from the
    quick start."""
    description: str = ""
    """What the tables and the page say about it."""
    datasets: dict[Name, DatasetSettings] = Field(min_length=1, max_length=1000)
    """By a name of your own. Every pair and method runs on each of them."""
    teacher_dataset: Name | None = None
    """The one of `datasets` that all teachers are trained on, which then has no students; null: each has its own."""
    models: dict[Name, ModelSettings] = {}
    """Networks that need more than their architecture's name, by a name of your own."""
    pairs: list[Pair] = []
    """Who teaches whom."""
    methods: list[str | dict[str, Any]] = []
    """Names of cards, or entries with settings."""
    seeds: list[Seed] = Field(min_length=1, max_length=1000)
    """A seed fixes split, student initialisation, data order, augmentation draws and teacher."""
    teacher_seed: Seed | Literal["same"] = "same"
    """same: seed k distils the teacher of seed k; a number: one teacher (and one split) for all seeds."""
    recipe: Recipe
    """How students are trained."""
    teacher_recipe: Recipe | None = None
    """How teachers are trained, as a whole; null: as students are."""
    report: Reporting = Reporting()
    """What tables and figures show."""
    search: Search | None = None
    """Search hyper-parameters on validation, with one budget for all methods; null: train them as they stand."""
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    """Devices that a training job asks for; 0 trains on the CPU (or on a GPU that is simply there)."""
    jobs_per_gpu: int = Field(default=1, ge=1, le=100)
    """How many jobs share a device: small nets leave most of it idle. Needs gpus 1; Slurm gives whole devices only."""
    threads: int = Field(default=1, ge=1, le=4096)
    """Cores that a training job asks for."""
    cache: PathText = "results/.cache"
    """Folder of what compilers make, and of how fast networks run here, shared by all jobs and experiments; deleting it
    costs time only."""
    co_train: list[Name] = []
    """Methods with the same teachers whose students are trained side by side, one job per seed: they share images and
    their teachers' passes, and the results are those of separate jobs, bit for bit."""
    students_per_job: int | None = Field(default=None, ge=2, le=1000)
    """How many students of `co_train` one job trains at most. null: all of a seed. With a number for `teacher_seed`, a
    job that may have more than all of a seed takes further seeds too; a single method in `co_train` then is enough."""
    continual: dict[str, Any] | None = None
    """Class-incremental runs; pairs and methods may be left out beside them. null: none."""
    strict_environment: bool = False
    """Let another torch, torchvision or timm version make results stale."""

    @model_validator(mode="after")
    def _whole_devices_or_shares(self) -> Self:
        if self.jobs_per_gpu > 1 and self.gpus != 1:
            raise ValueError(f"jobs_per_gpu {self.jobs_per_gpu} needs gpus 1, found gpus {self.gpus}")
        return self

    @model_validator(mode="after")
    def _has_runs(self) -> Self:
        absent = [key for key in ("pairs", "methods") if not getattr(self, key)]
        if absent and (self.continual is None or len(absent) == 1):
            raise ValueError(f"{absent[0]} must list at least one, found none")
        return self

    @model_validator(mode="after")
    def _co_trained_distinct(self) -> Self:
        alone = len(self.co_train) == 1 and not (self.students_per_job and self.teacher_seed != "same")
        if alone or len(set(self.co_train)) != len(self.co_train):
            raise ValueError(
                f"co_train names two methods or more, each once, found {self.co_train}; one is enough where "
                "students_per_job and a number for teacher_seed let its seeds share a job"
            )
        return self

    @model_validator(mode="after")
    def _bounds_what_there_is(self) -> Self:
        if self.students_per_job is not None and not self.co_train:
            raise ValueError(
                f"students_per_job bounds the students of co_train, found {self.students_per_job} without co_train"
            )
        return self

    @model_validator(mode="after")
    def _teachers_know_the_students_images(self) -> Self:
        if self.teacher_dataset is None:
            return self
        if self.teacher_dataset not in self.datasets or len(self.datasets) < 2:
            names = ", ".join(self.datasets)
            raise ValueError(f"teacher_dataset must be one of several datasets ({names}), found {self.teacher_dataset}")
        theirs = self.datasets[self.teacher_dataset]
        for name, dataset in self.datasets.items():
            if (dataset.packing(), dataset.class_subset) != (theirs.packing(), theirs.class_subset):
                raise ValueError(
                    f"datasets.{name} must have the images and classes of teacher_dataset {self.teacher_dataset}: "
                    "they may differ in subset_size, subset, validation and resident_limit_mb only"
                )
        return self

    @model_validator(mode="after")
    def _pairs_distinct(self) -> Self:
        names = [pair.name for pair in self.pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"pairs: {twice} is listed twice, drop one of them")
        return self

    @model_validator(mode="after")
    def _seeds_distinct(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, found {self.seeds}")
        return self
