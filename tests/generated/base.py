"""What a generated file is, and values to fill it with."""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st


@dataclass(frozen=True)
class Generated:
    """A file of a known kind.

    Attributes:
        name: of the file; its end is the format's.
        content: its bytes.
        what: the kind in words, for a failing example.
        values: (frames, height, width, channels) as stored, or None where the coding is lossy.
        exact: what is written is what was wanted; False where a quantiser or a palette is between.
        same_bytes: no change gives the source's bytes again.
        refusable: words of the reasons for which it may be refused; "" where it must be protected.
        companions: other files that belong to it, by name.
    """

    name: str
    content: bytes = field(repr=False)
    what: str
    values: np.ndarray | None = field(default=None, repr=False)
    exact: bool = True
    same_bytes: bool = True
    refusable: str = ""
    companions: dict[str, bytes] = field(default_factory=dict, repr=False)

    def _repr_pretty_(self, printer, _):
        """Hypothesis shows a failing example by what it is: its bytes tell nobody anything."""
        printer.text(f"<{self.what}>")

    def put(self, folder):
        """Write it, and what belongs to it, into a folder; returns the path."""
        folder.mkdir(exist_ok=True)
        for name, content in self.companions.items():
            (folder / name).write_bytes(content)
        path = folder / self.name
        path.write_bytes(self.content)
        return path


SIDES = st.one_of(st.integers(1, 9), st.sampled_from([16, 17, 24, 33]))
SEEDS = st.integers(0, 2**32 - 1)


def integers(seed, shape, low, high, dtype):
    """Whole numbers between two limits: noise, a ramp, two values, or mostly one value."""
    random = np.random.default_rng(seed)
    low, high = int(low), int(high)
    noise = random.integers(
        low, high, shape, dtype=np.int64 if low < 0 else np.uint64, endpoint=True
    )
    form = seed % 4
    if form == 1:  # smooth, as images are
        ramp = np.add.outer(np.arange(shape[1]), np.arange(shape[2]))[None, :, :, None]
        share = ramp / max(1, ramp.max()) * random.uniform(0.2, 1)
        noise = np.broadcast_to(low + share * (float(high) - low), shape)
        noise = np.minimum(noise, np.nextafter(float(high), low)) if high > 2**53 else noise
    elif form == 2:
        noise = np.where(random.random(shape) < 0.5, low, high)
    elif form == 3:
        noise = np.where(random.random(shape) < 0.6, low, noise)
    return noise.astype(dtype)


def floats(seed, shape, dtype):
    """Numbers of many sizes, some of them NaN, infinite or negative zero."""
    random = np.random.default_rng(seed)
    values = random.normal(0, 10.0 ** random.integers(-3, 4), shape)
    for odd in (np.nan, np.inf, -np.inf, -0.0):
        if random.random() < 0.4:
            values[random.random(shape) < 0.1] = odd
    return values.astype(dtype)
