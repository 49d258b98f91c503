"""Nested states, such as those of optimisers, as one file: tensors, and the rest as JSON.

A file of safetensors is read without running what is in it, unlike a pickle.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medshield.private import private_file

FACTS = "facts"
"""The entry of the header that holds all but the tensors."""
UNREADABLE = (SafetensorError, ValueError, KeyError, TypeError)


def write_state(state: Any, path: Path) -> None:
    """Write a state for its owner's eyes only, whole or not at all.

    Args:
        state: dicts, lists and tuples of tensors, numbers, texts and None, one in another.
        path: the file, whose folder is there.

    Raises:
        TypeError: something else is in it.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[Any, str] = {}

    def packed(value: Any) -> Any:
        if isinstance(value, Tensor):  # one that several parts share is kept once
            memory = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
            name = names.setdefault(memory, str(len(names)))
            tensors.setdefault(name, value.detach().contiguous())
            return {"tensor": name}
        if isinstance(value, dict):  # as pairs, since the keys of JSON's own are texts
            return {"dict": [[key, packed(each)] for key, each in value.items()]}
        if isinstance(value, tuple):
            return {"tuple": [packed(each) for each in value]}
        return [packed(each) for each in value] if isinstance(value, list) else value

    facts = json.dumps(packed(state))
    with private_file(path) as file:
        file.write(save(tensors, {FACTS: facts}))


def read_state(path: Path) -> Any:
    """What `write_state` wrote, its tensors on the CPU.

    Raises:
        ValueError: there is no such state in the file.
        OSError: it can't be read.
    """

    def unpacked(value: Any) -> Any:
        if isinstance(value, list):
            return [unpacked(each) for each in value]
        if not isinstance(value, dict):
            return value
        ((kind, held),) = value.items()
        if kind == "tensor":
            return file.get_tensor(held)
        if kind == "tuple":
            return tuple(unpacked(each) for each in held)
        return {key: unpacked(each) for key, each in held}

    try:
        with safe_open(path, framework="pt") as file:
            return unpacked(json.loads(file.metadata()[FACTS]))
    except UNREADABLE as error:
        raise ValueError(f"{path}: not a state that was kept ({type(error).__name__})") from error
