"""Models that start from ImageNet, as medical ones are usually made: weights, and wrapper.

Weights come from files that the user has, or from where timm publishes them. A file that other
code wrote names its tensors differently; what it must have is the same tensors in the same order.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from medshield.errors import InputError
from medshield.models import TIMM_NAMES, Headed, Standardise
from medshield.private import make_private_folder, write_private

SMALLEST_SIDE = 128
"""Smaller images are enlarged to this side, px: backbones trained at 224 px see little below."""
HEAD_TENSORS = 2
"""Weight and bias of ImageNet's own last layer, which a file may hold and a model leaves out."""
COUNTER = "num_batches_tracked"
"""Batch norm's count of steps: older files lack it, and nothing here reads it."""
SAFETENSORS = ".safetensors"
EXPECTED = "give a state dict of tensors alone, as .pth or .safetensors"

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Weights:
    """ImageNet weights of one backbone.

    Attributes:
        path: a state dict on disk.
        sha256: of that file.
    """

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Weights:
        """The weights in a file."""
        return cls(path, hashlib.sha256(path.read_bytes()).hexdigest())

    def facts(self) -> dict[str, str]:
        """For the report, which names no folder."""
        return {"file": self.path.name, "sha256": self.sha256}


@dataclass(frozen=True)
class Backbone:
    """An architecture with its ImageNet weights.

    Attributes:
        name: a key of TIMM_NAMES.
        weights: None where a saved state brings them.
    """

    name: str
    weights: Weights | None = None


class AsTrained(Standardise):
    """By the mean and deviation of each channel that the weights were trained with."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.deviation


class Pretrained(Headed):
    """A backbone that knows ImageNet, and a new linear layer on its pooled features.

    Takes (n, channels, side, side) in [0, 1]: grey is repeated to three channels, images smaller
    than SMALLEST_SIDE are enlarged bilinearly to it, so that a data set keeps its working size,
    and intensities are normalised by the mean and deviation that the weights were trained with.
    """

    def __init__(self, name: str, outputs: int) -> None:
        backbone = _backbone(name)
        statistics = backbone.pretrained_cfg
        standardise = AsTrained(statistics["mean"], statistics["std"])
        super().__init__(standardise, backbone, backbone.head_hidden_size, outputs)

    def features_of_part(self, images: Tensor) -> Tensor:
        images = images.expand(-1, 3, -1, -1)
        if images.shape[-1] < SMALLEST_SIDE:
            images = F.interpolate(images, (SMALLEST_SIDE, SMALLEST_SIDE), mode="bilinear")
        return super().features_of_part(images)


def build(name: str, outputs: int, weights: Weights | None = None) -> Pretrained:
    """A model whose head is drawn from PyTorch's global randomness.

    Args:
        name: a key of TIMM_NAMES.
        outputs: logits.
        weights: of the backbone; None where a whole state is loaded afterwards.

    Raises:
        InputError: the weights are not this backbone's.
    """
    model = Pretrained(name, outputs)
    if weights:
        state = read_state(weights.path)
        by_order = weights.path.suffix != SAFETENSORS
        fitting = _fitting(state, model.backbone.state_dict(), by_order=by_order)
        if isinstance(fitting, str):
            raise InputError(f"{weights.path}: weights do not fit {name}: {fitting}")
        model.backbone.load_state_dict(fitting, strict=False)  # all but the counters
    return model


def find_weights(
    names: Iterable[str], given: Sequence[Path], folder: Path, *, fetch: bool = True
) -> tuple[dict[str, Weights], dict[str, str]]:
    """Weights of backbones: from the files that were given, else from where timm has them.

    Args:
        names: keys of TIMM_NAMES.
        given: FILE or NAME=FILE, as in `--weights`.
        folder: keeps what was downloaded.
        fetch: whether to download what is not there.

    Returns:
        Weights by name, and for every other name why there are none; nothing of those that were
        not to be downloaded.

    Raises:
        InputError: a file that was given can't be used.
    """
    found: dict[str, Weights] = {}
    lacking: dict[str, str] = {}
    if names := sorted(names):
        found = _given_weights(given)
    for name in names:
        path = _place(name, folder)
        if name in found or not (fetch or path.is_file()):
            continue
        try:
            if not path.is_file():
                _fetch(name, path)
            found[name] = Weights.of(path)
        except InputError as error:
            lacking[name] = str(error)
    return {name: found[name] for name in names if name in found}, lacking


def read_state(path: Path) -> State:
    """Tensors by name, in the file's order.

    Raises:
        InputError: it is not a state dict.
    """
    try:
        if path.suffix == SAFETENSORS:
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        what = getattr(error, "strerror", None) or "damaged, or not PyTorch's"
        raise InputError(f"{path}: weights can't be read ({what}); {EXPECTED}") from error
    except (pickle.UnpicklingError, SafetensorError) as error:
        raise InputError(f"{path}: weights are no state dict; {EXPECTED}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: weights are no state dict; {EXPECTED}")
    return state


def read_backbone(given: Path) -> Backbone:
    """The backbone whose weights are in a file, by name where one is given, as in NAME=FILE.

    Raises:
        InputError: the file can't be read, or fits no backbone.
    """
    ((name, weights),) = _given_weights([given]).items()
    return Backbone(name, weights)


def _given_weights(given: Sequence[Path]) -> dict[str, Weights]:
    """The weights in files, by the backbone that is named or, of all, fits.

    Raises:
        InputError: a file can't be read, or fits no backbone.
    """
    found = {}
    for text in given:
        name, path = _named(text)
        state = read_state(path)
        refusals = {}
        for candidate in [name] if name else TIMM_NAMES:
            with torch.device("meta"):  # shapes alone
                expected = _backbone(candidate).state_dict()
            fitting = _fitting(state, expected, by_order=path.suffix != SAFETENSORS)
            if not isinstance(fitting, str):
                found[candidate] = Weights.of(path)
                break
            refusals[candidate] = fitting
        else:
            why = f" {name}: {refusals[name]}" if name else f" any of {', '.join(TIMM_NAMES)}"
            raise InputError(f"{path}: weights do not fit{why}")
    return found


def _named(text: Path) -> tuple[str, Path]:
    """NAME=FILE in its parts; the name of a plain FILE is empty."""
    name, equals, path = str(text).partition("=")
    return (name, Path(path)) if equals and name in TIMM_NAMES else ("", text)


def _fitting(state: State, expected: State, *, by_order: bool) -> dict[str, Tensor] | str:
    """The tensors of `state` under the names of `expected`, or why they don't fit.

    Names count if they are all there, else the order does, where what a tensor is (the last word
    of its name) and its shape must agree all the way.
    """
    wanted = {name: value for name, value in expected.items() if not name.endswith(COUNTER)}
    if all(name in state and state[name].shape == wanted[name].shape for name in wanted):
        return {name: state[name] for name in wanted}
    if not by_order:
        return "its tensors have other names, and .safetensors keeps no order; give a .pth"
    given = [(name, value) for name, value in state.items() if not name.endswith(COUNTER)]
    if not len(wanted) <= len(given) <= len(wanted) + HEAD_TENSORS:
        return f"it holds {len(given)} tensors, expected {len(wanted)} and a head's"
    for (name, value), place in zip(given, wanted, strict=False):
        if _kind(name, value) != _kind(place, wanted[place]):
            shapes = [tuple(value.shape), tuple(wanted[place].shape)]
            return f"{name} {shapes[0]} is where timm has {place} {shapes[1]}"
    return {place: value for place, (_, value) in zip(wanted, given, strict=False)}


def _kind(name: str, value: Tensor) -> tuple[str, torch.Size]:
    return name.rpartition(".")[2], value.shape


def _backbone(name: str, *, pretrained: bool = False) -> Any:
    """The module that timm builds, without its last layer.

    Where timm knows an address beside the Hugging Face hub, that is taken: without a network it
    fails at once, and the hub only after a minute of trying.
    """
    import timm

    elsewhere = {"hf_hub_id": None} if _published_facts(name).url else None
    return timm.create_model(
        TIMM_NAMES[name], pretrained=pretrained, num_classes=0, pretrained_cfg_overlay=elsewhere
    )


def _published_facts(name: str) -> Any:
    """Where timm has a backbone's weights, and what they are called."""
    import timm

    return timm.get_pretrained_cfg(TIMM_NAMES[name])


def _place(name: str, folder: Path) -> Path:
    """Where the weights that timm publishes are kept."""
    return folder / f"{TIMM_NAMES[name]}.{_published_facts(name).tag}{SAFETENSORS}"


def _fetch(name: str, path: Path) -> None:
    """Download the weights that timm publishes.

    Raises:
        InputError: they can't be had.
    """
    try:
        with redirect_stdout(sys.stderr):  # where the libraries' progress belongs
            state = _backbone(name, pretrained=True).state_dict()
    except Exception as error:  # of any of the libraries that fetch
        raise InputError(
            f"the ImageNet weights of {name} could not be fetched ({type(error).__name__}); "
            "give them with --weights FILE, or leave the cell out"
        ) from error
    make_private_folder(path.parent)
    write_private(path, save({key: value.contiguous() for key, value in state.items()}))
