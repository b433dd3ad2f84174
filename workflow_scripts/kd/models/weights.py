"""Reading and writing weights: strictly for this project's checkpoints, by name or by order for foreign ones."""

import hashlib
import importlib
import json
import logging
import re
import zlib
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kd.models.base import Normalisation, Origin, TappedModel
from kd.schema.architectures import is_timm, module_of
from kd.schema.config import ModelSettings
from kd.study.options import TORCH_FILES, option
from kd.tools.errors import UserError, shown
from kd.tools.files import atomic_path

log = logging.getLogger(__name__)

State = dict[str, Tensor]

_ABOUT = "about"  # the one key of metadata, which holds notes and checksum
_PREFIXES = ("module.", "_orig_mod.", "net.", "model.", "backbone.")  # of DataParallel, torch.compile, wrappers
_NAMED_DIGEST = re.compile(r"-(?=\d*[a-f])([\da-f]{8,64})$")  # as torch.hub's; digits alone may be a date
_NORMALISED, _OURS = "normalised", "num_classes"  # notes: statistics of the images; what only this project writes
_COUNTER = "num_batches_tracked"  # absent from old checkpoints, and not needed to classify


def save_weights(model: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write parameters and buffers as safetensors, with the metadata and the architecture's name and class count."""
    notes = dict(metadata or {})
    if isinstance(model, TappedModel):
        notes |= {"arch": model.arch, "num_classes": str(model.num_classes)}
    # Cloned, because safetensors refuses tensors that share memory.
    state = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in _state(model)}
    save_tensors(path, state, notes)


def save_tensors(path: str | Path, state: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write tensors and notes as safetensors with a checksum: the same bytes whenever both are the same."""
    kept = {"notes": dict(notes or {}), "checksum": _checksum(state, notes or {})}
    # one entry of metadata, because safetensors writes several in an order that changes from process to process
    metadata = {_ABOUT: json.dumps(kept, sort_keys=True)}
    with atomic_path(path) as temporary:
        save_file(dict(state), temporary, metadata=metadata)


def _checksum(state: Mapping[str, Tensor], notes: Mapping[str, str]) -> int:
    """Return a CRC-32 of notes and of every tensor's name, type, shape and bytes."""
    found = zlib.crc32(json.dumps(dict(notes), sort_keys=True).encode())
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        found = zlib.crc32(f"{name} {value.dtype} {list(value.shape)}".encode(), found)
        if value.numel():
            found = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def load_weights(model: nn.Module, path: str | Path) -> dict[str, str]:
    """Load a checkpoint that `save_weights` wrote and return its metadata; one of another network is a UserError."""
    state, metadata = read_state(path)
    expected = dict(_state(model))
    difference = first_difference(expected, state)
    if difference:
        raise misfit(path, _name(model), difference, metadata)
    model.load_state_dict(state)
    return metadata


def load_trained(model: TappedModel, path: str | Path, given: Normalisation) -> None:
    """Load weights that this project wrote, and let the network see the images that it is given as it was trained."""
    model.see_as(_noted(load_weights(model, path), path) or given, given)


def normalisation_notes(model: TappedModel, given: Normalisation) -> dict[str, str]:
    """Return the note beside weights that says how the network's images were normalised."""
    return {_NORMALISED: json.dumps(asdict(model.normalised or given))}


def _noted(notes: Mapping[str, str], path: str | Path) -> Normalisation | None:
    """Return what the notes beside weights say of that, None where they say nothing."""
    if _NORMALISED not in notes:
        return None
    try:
        found = json.loads(notes[_NORMALISED])
        mean, std = (tuple(map(float, found[key])) for key in ("mean", "std"))
    except (ValueError, TypeError, KeyError) as error:
        found = notes[_NORMALISED][:60]
        raise UserError(f"{path} does not say how images are normalised, found {shown(found)}") from error
    return Normalisation(mean, std)


def finished_normalisation(settings: ModelSettings, given: Normalisation) -> Normalisation:
    """Return how the images of a network that is used as it is were normalised, as far as anybody says.

    The experiment's file says it, or the weights' own notes; timm's weights are of the timm model's configuration. Else
    it is the data set's way, `given`.
    """
    said = settings.normalisation
    if said == "dataset":
        return given
    if said is not None and said != "timm":
        return Normalisation(tuple(said.mean), tuple(said.std))
    if said is None and isinstance(settings.pretrained, str):
        notes = read_state(settings.pretrained)[1]
        # this project's older files say nothing, and their networks saw the data set's statistics
        if (noted := _noted(notes, settings.pretrained)) is not None or _OURS in notes:
            return noted or given
    if is_timm(settings.arch):
        return Normalisation(*importlib.import_module(module_of(settings.arch)).normalisation(settings.arch))
    return given


def load_pretrained(model: TappedModel, path: str | Path) -> None:
    """Start a network from a file: this project's checkpoint, or a foreign one with the same layers in the same order.

    A head for another number of classes stays as initialised; any other difference is a UserError. What was loaded and
    what was not is told in the log and kept as `model.origin`.
    """
    state, metadata = read_state(path)
    names = head_names(model, model.head())
    fitted = fit(model, state, names)
    if fitted is None:
        difference = first_difference(dict(_state(model)), state, names)
        raise misfit(path, model.arch, difference, metadata)
    model.origin = load_fitted(model, fitted, path, metadata)


def read_state(path: str | Path) -> tuple[State, dict[str, str]]:
    """Return the tensors and the notes of a .safetensors or torch file; nothing is unpickled but weights.

    Of a torch file with several entries it is the averaged weights; the notes then say which, as 'entry'.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of weights")
    if path.suffix != ".safetensors" and not _looks_like_safetensors(path):
        state, entry = option(TORCH_FILES).read_torch_file(path)
        return state, {"entry": entry} if entry else {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        return _checked(load_file(path), metadata, path)
    except UserError:
        raise
    except Exception as error:  # a damaged header raises almost anything
        reason = " ".join(str(error).split()) or repr(error)
        raise UserError(
            f"{path} cannot be read as weights (.safetensors, or a torch file of tensors): {reason}"
        ) from error


def notes_of(path: Path) -> dict[str, str]:
    """Return the notes of weights that `save_weights` wrote, without reading these."""
    try:
        with safe_open(path, framework="pt") as file:
            notes: dict[str, str] = json.loads(file.metadata()[_ABOUT])["notes"]
    except Exception as error:  # a damaged header raises almost anything
        reason = " ".join(str(error).split()) or repr(error)
        raise UserError(f"{path} cannot be read as weights of this project: {reason}") from error
    return notes


def _looks_like_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: with the length of a header within the file, and a brace."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and 8 + int.from_bytes(start[:8], "little") <= path.stat().st_size


def _checked(state: State, metadata: dict[str, str], path: Path) -> tuple[State, dict[str, str]]:
    """Return tensors and notes of a file; one of this project's whose checksum differs is a UserError."""
    if _ABOUT not in metadata:
        return state, metadata
    kept = json.loads(metadata[_ABOUT])
    if kept["checksum"] != _checksum(state, kept["notes"]):
        raise UserError(f"{path} is damaged, its content is not what was written: delete it and run again")
    return state, kept["notes"]


def fit(model: nn.Module, state: State, optional: set[str]) -> State | None:
    """Return the state under the model's own names, or None if it belongs to another network.

    Names are tried first (with known prefixes removed), then order: the same shapes and the same kinds of tensor in the
    same sequence. Entries in `optional` (the head) may differ in shape; they are then left out.
    """
    expected = dict(_state(model))
    for candidate in without_prefixes(state):
        if not first_difference(expected, candidate, optional):
            return _usable(expected, candidate)
    paired = _pair_by_order(expected, state, optional)
    if paired is None:
        return None
    log.info("weights matched by order and shape, since their names differ from the network's")
    return _usable(expected, paired)


def load_fitted(
    model: nn.Module, fitted: State, path: str | Path, metadata: Mapping[str, str], adapted: Collection[str] = ()
) -> Origin:
    """Copy a state that `fit` returned into the model, and say what of the model it was, in the log too."""
    expected = dict(_state(model))
    for name, value in fitted.items():
        if expected[name].is_floating_point() and not value.is_floating_point():
            raise UserError(f"{path}: '{name}' holds {value.dtype} and no fractions, so it is no weight as it is")
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{path}: '{name}' holds values that are not finite")
    model.load_state_dict(fitted, strict=False)
    names = [name for name, _ in _state(model) if not name.endswith(_COUNTER)]
    fresh = sorted(name for name in names if name not in fitted)
    digest = _digest_of(Path(path))
    origin = Origin(
        file=str(path),
        digest=digest,
        entry=metadata.get("entry", ""),
        loaded=len(names) - len(fresh),
        not_loaded=tuple(fresh),
        adapted=tuple(adapted),
    )
    log.info("%s: %d parameters and buffers loaded", path, origin.loaded)
    types = {value.dtype for value in fitted.values() if value.is_floating_point()} - {torch.float32}
    if types:
        log.info("%s: stored as %s, used as float32", path, ", ".join(sorted(map(str, types))))
    if fresh:
        log.warning("%s: %s not loaded (another number of classes), initialised afresh", path, ", ".join(fresh))
    return origin


def _digest_of(path: Path) -> str:
    """Return a file's SHA-256; say so where its name, as that of published files, holds another one's beginning."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    named = _NAMED_DIGEST.search(path.stem)
    if named and not digest.startswith(named[1]):
        log.warning("%s is named after %s, but its SHA-256 begins with %s: is it damaged?", path, named[1], digest[:8])
    return digest


def first_difference(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], optional: Collection[str] = ()
) -> str:
    """Describe the first entry in which two states differ; empty if `found` fits."""
    for name, value in expected.items():
        if name in optional or (name not in found and name.endswith(_COUNTER)):
            continue
        if name not in found:
            return f"it lacks '{name}'"
        if found[name].shape != value.shape:
            return f"'{name}' has shape {_shape(found[name])} there and {_shape(value)} here"
    extra = [name for name in found if name not in expected]
    return f"it holds '{extra[0]}', which the network does not have" if extra else ""


def misfit(path: str | Path, arch: str, difference: str, metadata: Mapping[str, str]) -> UserError:
    """Return the error for weights of another network, naming both where the file says what it is."""
    holds = metadata.get("arch")
    same = holds in (None, arch)
    origin = "" if same else f" (the file holds {holds} with {metadata.get('num_classes', 'unknown')} classes)"
    return UserError(f"{path} does not fit {arch}{origin}: {difference or 'its tensors differ in order or shape'}")


def head_names(model: nn.Module, head: nn.Module) -> set[str]:
    """Return the names within the model of the parameters and buffers of its head."""
    own = {id(value) for _, value in _state(head)}
    return {name for name, value in _state(model) if id(value) in own}


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    return list(model.state_dict(keep_vars=True).items())


def _name(model: nn.Module) -> str:
    return model.arch if isinstance(model, TappedModel) else type(model).__name__


def _shape(value: Tensor) -> str:
    return "x".join(str(side) for side in value.shape) or "scalar"


def without_prefixes(state: State) -> list[State]:
    """Return the state as it is, then with each known prefix removed that all its names share."""
    candidates = [state]
    while prefix := next((known for known in _PREFIXES if all(name.startswith(known) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        candidates.append(state)
    return candidates


def _pair_by_order(expected: State, found: State, optional: set[str]) -> State | None:
    """Give foreign tensors the model's names if both sequences agree in shape and in the last part of the name."""
    ours = [(name, value) for name, value in expected.items() if not name.endswith(_COUNTER)]
    theirs = [(name, value) for name, value in found.items() if not name.endswith(_COUNTER)]
    if len(ours) != len(theirs):
        return None
    for (own, wanted), (foreign, value) in zip(ours, theirs, strict=True):
        # Weight and bias, or a mean and a variance, have one shape: their kinds must agree as well.
        same_kind = own.rpartition(".")[2] == foreign.rpartition(".")[2]
        if not same_kind or (value.shape != wanted.shape and own not in optional):
            return None
    return {own: value for (own, _), (_, value) in zip(ours, theirs, strict=True)}


def _usable(expected: State, found: State) -> State:
    return {name: value for name, value in found.items() if value.shape == expected[name].shape}
