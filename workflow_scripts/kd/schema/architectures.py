"""The names of networks and where each is built, known without importing torch or timm."""

import functools
import importlib.util
import re
from pathlib import Path

from kd.tools.errors import UserError, nearest, shown, unknown
from kd.tools.own_code import SUFFIX, defined_in

TIMM_PREFIX = "timm:"

_FAMILIES: dict[str, tuple[str, ...]] = {
    "resnet_cifar": (
        "resnet8",
        "resnet14",
        "resnet20",
        "resnet32",
        "resnet44",
        "resnet56",
        "resnet110",
        "resnet8x4",
        "resnet32x4",
    ),
    "resnet_imagenet": ("ResNet50",),
    "wrn": ("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"),
    "vgg": ("vgg8", "vgg11", "vgg13", "vgg16", "vgg19"),
    "mobilenetv2": ("MobileNetV2",),
    "shufflenetv1": ("ShuffleV1",),
    "shufflenetv2": ("ShuffleV2",),
    "multibranch": ("MultiBranchNet",),
}

SMALL_NETS: dict[str, str] = {arch: module for module, archs in _FAMILIES.items() for arch in archs}
"""Architecture name -> module of kd.models that builds it."""

_BLOCKS = {
    **dict.fromkeys(("resnet_cifar", "wrn", "shufflenetv1", "shufflenetv2", "multibranch"), 4),
    **dict.fromkeys(("resnet_imagenet", "vgg", "mobilenetv2"), 5),
}
"""What freezing counts as blocks of the networks of a module: stem, where there is one, and stages."""

_REGISTERED = re.compile(r"^@register_model\b[^\n]*\n(?:@[^\n]*\n)*def (\w+)\(", re.MULTILINE)
_DEPRECATED = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)^\}\)", re.MULTILINE | re.DOTALL)
_QUOTED_KEY = re.compile(r"""['"]([\w.]+)['"]\s*:""")
_TAGGED = re.compile(r"""['"](\w+\.\w+)['"]""")


def is_timm(arch: str) -> bool:
    """Return whether the name asks for a timm model."""
    return arch.startswith(TIMM_PREFIX)


def own_factory(arch: str) -> tuple[str, str] | None:
    """Return file and function of a user's own network, named 'PATH.py:function'; None for any other name."""
    path, colon, function = arch.rpartition(":")
    return (path, function) if colon and path.endswith(SUFFIX) else None


def module_of(arch: str) -> str:
    """Return the module that builds an architecture, e.g. 'kd.models.wrn'; an unknown name is a UserError."""
    check_architecture(arch)
    if own_factory(arch):
        return "kd.models.own"
    return "kd.models.timm_adapter" if is_timm(arch) else f"kd.models.{SMALL_NETS[arch]}"


def modules_of(arch: str) -> set[str]:
    """Return the modules that decide what an architecture is: the one that builds it, and a user's own file."""
    own = own_factory(arch)
    return {module_of(arch), *([own[0]] if own else [])}


def check_architecture(arch: str) -> None:
    """Raise a UserError with the nearest right name unless the architecture exists."""
    own = own_factory(arch)
    if own:
        path, function = own
        if function not in defined_in(path):
            raise unknown(f"function or class of {path}", function, defined_in(path))
    elif is_timm(arch):
        _check_timm_name(arch.removeprefix(TIMM_PREFIX))
    elif arch not in SMALL_NETS:
        raise _unknown_small_net(arch)


def blocks_of(arch: str) -> int | None:
    """Return how many blocks freezing knows in a network, None where only building it tells."""
    return _BLOCKS[SMALL_NETS[arch]] if arch in SMALL_NETS else None


@functools.cache
def timm_names() -> frozenset[str]:
    """Return timm's model names (with and without tag of pretrained weights), read from its source text."""
    names: set[str] = set()
    for text in _timm_sources():
        names.update(_REGISTERED.findall(text))
        names.update(_TAGGED.findall(text))
        for block in _DEPRECATED.findall(text):
            names.update(_QUOTED_KEY.findall(block))
    return frozenset(names)


def _timm_sources() -> list[str]:
    # find_spec locates a top-level package without running it: importing timm would cost a second or more.
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise UserError("architectures that begin with 'timm:' need the package timm, which is not installed")
    folder = Path(spec.origin).parent / "models"
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("[a-z]*.py"))]


def _check_timm_name(name: str) -> None:
    names = timm_names()
    base, dot, _ = name.partition(".")
    if name in names:
        return
    if dot and base in names:
        tags = [known for known in names if known.startswith(f"{base}.")]
        if tags:  # some of timm's tags are made by loops and do not stand in its text
            raise unknown("weights tag of a timm model", name, [base, *tags])
        return
    near = nearest(name, names)
    hint = f"did you mean '{TIMM_PREFIX}{near}'? " if near else ""
    raise UserError(
        f"unknown architecture {shown(TIMM_PREFIX + name)}: {hint}allowed are the names of timm.list_models()"
    )


def _unknown_small_net(arch: str) -> UserError:
    # A missing prefix or wrong capitals are likelier than a letter or two that differ.
    meant = [known for known in SMALL_NETS if known.lower() == arch.lower()]
    if importlib.util.find_spec("timm") is not None and arch in timm_names():
        meant.append(TIMM_PREFIX + arch)
    listed = ", ".join(sorted(SMALL_NETS))
    allowed = f"allowed are {listed}, any timm model, written timm:NAME, and your own, written PATH.py:FUNCTION"
    if not meant:
        meant = [near for near in [nearest(arch, SMALL_NETS)] if near is not None]
    hint = " or ".join(f"'{name}'" for name in meant)
    return UserError(f"unknown architecture {shown(arch)}: {f'did you mean {hint}? ' if hint else ''}{allowed}")
