"""What one image forward and back costs a model on this CPU, with lean convolutions and without.

python -m tests.tools.passes resnet18 --side 32
"""

import argparse
import sys
import time
from statistics import median

import torch
from torch import nn

from medshield import models
from medshield.models import LeanConv2d

ROUNDS = 7


def milliseconds(model: nn.Module, images: torch.Tensor) -> float:
    """The median over ROUNDS, by image."""
    spent = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        model.zero_grad()
        model(images).sum().backward()
        spent.append(time.perf_counter() - started)
    return 1000 * median(spent[1:]) / len(images)


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", choices=[*models.CLASSIFIERS, *models.SEGMENTERS])
    parser.add_argument("--side", type=int, default=32, help="px")
    parser.add_argument("--batch", type=int, default=41, help="images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.rand(options.batch, 1, options.side, options.side)
    for name in options.models:
        model = models.build(name, 1, 2)
        lean = milliseconds(model, images)
        for module in model.modules():
            if isinstance(module, LeanConv2d):
                module.__class__ = nn.Conv2d
        plain = milliseconds(model, images)
        sys.stdout.write(f"{name}: {lean:.1f} ms, with plain convolutions {plain:.1f} ms\n")


if __name__ == "__main__":
    main()
