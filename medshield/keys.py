"""One secret key, and the named streams of randomness that hang on it.

Everything random in a release comes from here. A stream depends on the key, a purpose and the
names it is for, never on the order in which things are asked, so file order and the number of
workers change nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

KEY_BYTES = 32


@dataclass(frozen=True)
class Key:
    """A secret of 32 bytes. Whoever has it can compute the perturbation and take it away."""

    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> Key:
        """A fresh key from the operating system's randomness."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def from_seed(cls, seed: int) -> Key:
        """The key of `--seed`: repeatable, and only as secret as the number itself."""
        message = f"medshield seed {seed}".encode()
        return cls(hashlib.blake2b(message, digest_size=KEY_BYTES).digest())

    def number(self, *names: str) -> int:
        """A 63-bit number for these names (the largest that every generator takes as a seed)."""
        message = "\0".join(names).encode("utf-8", "surrogateescape")
        digest = hashlib.blake2b(message, key=self.secret, digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1

    def secret_for(self, *names: str) -> bytes:
        """16 bytes for these names, which nobody without the key can tell from random ones."""
        message = "\0".join(names).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(message, key=self.secret, digest_size=16).digest()

    def numpy(self, *names: str) -> np.random.Generator:
        """NumPy's generator for these names."""
        return np.random.Generator(np.random.Philox(self.number(*names)))

    def torch(self, *names: str) -> torch.Generator:
        """PyTorch's CPU generator for these names."""
        import torch

        return torch.Generator().manual_seed(self.number(*names))
