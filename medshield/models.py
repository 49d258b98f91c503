"""Surrogates and victims by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medshield import processes
from medshield.errors import InputError

SIZE_STEP = 32
LARGEST_SIZE = 2048
"""Every model takes images whose sides are multiples of this."""


class Standardise(nn.Module):
    """Maps [0, 1] to about zero mean and unit variance, so that every model sees the same input."""

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) in [0, 1] to the same shape around 0."""
        return (images - 0.5) / 0.25


class LeanConv2d(nn.Conv2d):
    """A convolution that on a CPU does not multiply by its own padding where one pixel comes out.

    The deep layers of a network that was made for 224 px see small images as one pixel, and eight
    ninths of a 3x3 kernel meet nothing but zeros. Without them it is a linear layer: the same
    numbers but for rounding, and a ResNet-18 at 32 px trains almost twice as fast.
    """

    def forward(self, images: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        if images.device.type != "cpu" or not self._gives_one_pixel(images.shape[-2:]):
            return super().forward(images)
        above, left = map(int, self.padding)
        high, wide = self.kernel_size
        seen = images[..., : high - above, : wide - left]
        kernel = self.weight[..., above : above + seen.shape[-2], left : left + seen.shape[-1]]
        return F.linear(seen.flatten(1), kernel.flatten(1), self.bias)[..., None, None]

    def _gives_one_pixel(self, sides: torch.Size) -> bool:
        if isinstance(self.padding, str) or self.padding_mode != "zeros":
            return False
        along = zip(sides, self.kernel_size, self.padding, self.stride, strict=True)
        return (self.groups, *self.dilation) == (1, 1, 1) and all(
            padding < kernel and side + 2 * padding - kernel < step
            for side, kernel, padding, step in along
        )

    @classmethod
    def throughout(cls, model: nn.Module) -> nn.Module:
        """The same model with its plain convolutions turned into these."""
        for module in model.modules():
            if type(module) is nn.Conv2d:
                module.__class__ = cls
        return model


PART = 32
"""Images whose features are computed at a time without batch norm's statistics of a batch: enlarged
ones outgrow a processor's cache soon."""


class Headed(nn.Module):
    """A backbone and a linear layer on its pooled features, which can be trained apart.

    Attributes:
        standardise: what comes first in every model.
        backbone: standardised images to (n, features).
        head: (n, features) to (n, outputs).
    """

    def __init__(
        self, standardise: Standardise, backbone: nn.Module, features: int, outputs: int
    ) -> None:
        super().__init__()
        self.standardise = standardise
        self.backbone = backbone
        self.head = nn.Linear(features, outputs)

    def features(self, images: Tensor) -> Tensor:
        """(n, channels, side, side) in [0, 1] to (n, features)."""
        if self.training:
            return self.features_of_part(images)
        return torch.cat([self.features_of_part(part) for part in torch.split(images, PART)])

    def features_of_part(self, images: Tensor) -> Tensor:
        """As `features`, of so many images that they may be held at once."""
        found: Tensor = self.backbone(self.standardise(images))
        return found

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def small_convnet(channels: int, outputs: int) -> nn.Module:
    """Four strided 3x3 convolutions, batch norm, ReLU, average pool: 240,000 parameters."""
    layers: list[nn.Module] = []
    for width, stride in ((32, 1), (64, 2), (128, 2), (128, 2)):
        layers += [
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        channels = width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs)
    )


def _timm(name: str) -> Callable[[int, int], nn.Module]:
    def build(channels: int, outputs: int) -> nn.Module:
        import timm

        model: nn.Module = timm.create_model(name, in_chans=channels, num_classes=outputs)
        return model

    return build


def vit_tiny(channels: int, outputs: int) -> nn.Module:
    """A vision transformer of 5.4 million parameters (Touvron et al. 2021, DeiT-Tiny).

    Its patches of 8 px make 16 tokens of an image of 32 px. The position embeddings are those of
    64 px, and are interpolated for images of other sizes.
    """
    import timm

    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224",
        in_chans=channels,
        num_classes=outputs,
        patch_size=8,
        img_size=64,
        dynamic_img_size=True,
    )
    return model


def _unet(encoder: str) -> Callable[[int, int], nn.Module]:
    def build(channels: int, outputs: int) -> nn.Module:
        import segmentation_models_pytorch as smp

        model: nn.Module = smp.Unet(
            encoder, encoder_weights=None, in_channels=channels, classes=outputs
        )
        return model

    return build


TIMM_NAMES = {
    "resnet18": "resnet18",
    "densenet121": "densenet121",
    "convnext_atto": "convnext_atto",
    "vgg11_bn": "vgg11_bn",
    "efficientnet_b0": "efficientnet_b0",
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "efficientnet_lite1": "tf_efficientnet_lite1",
    "mobilenetv3_small_100": "mobilenetv3_small_100",
}
"""Classifiers that timm builds, and has ImageNet weights for, by the name that they have here."""
CLASSIFIERS: dict[str, Callable[[int, int], nn.Module]] = {
    "small_convnet": small_convnet,
    **{name: _timm(timm_name) for name, timm_name in TIMM_NAMES.items()},
    "vit_tiny": vit_tiny,
}
SEGMENTERS: dict[str, Callable[[int, int], nn.Module]] = {
    "unet_resnet18": _unet("resnet18"),
    "unet_mobilenet": _unet("mobilenet_v2"),
}


def build(name: str, channels: int, outputs: int) -> nn.Module:
    """A model with fresh weights, drawn from PyTorch's global randomness.

    Args:
        name: a key of CLASSIFIERS (output (n, outputs)) or SEGMENTERS (output (n, outputs, height,
            width)).
        channels: of the images, which are (n, channels, side, side) in [0, 1] with the side a
            multiple of 32.
        outputs: logits.

    Raises:
        InputError: no model of that name.
    """
    factory = {**CLASSIFIERS, **SEGMENTERS}.get(name)
    if factory is None:
        choices = ", ".join([*CLASSIFIERS, *SEGMENTERS])
        raise InputError(f"no model is called {name!r}; choose from {choices}")
    return nn.Sequential(Standardise(), LeanConv2d.throughout(factory(channels, outputs)))


def build_headed(name: str, channels: int, outputs: int) -> Headed:
    """As `build`, in two parts; only classifiers come so.

    A network's own layers between its features and its last one are the backbone's.
    """
    backbone: Any = CLASSIFIERS[name](channels, outputs)
    if name == "small_convnet":
        features: int = backbone[-1].in_features
        backbone = backbone[:-1]
    else:  # timm's
        features = backbone.head_hidden_size
        backbone.reset_classifier(0)
    return Headed(Standardise(), LeanConv2d.throughout(backbone), features, outputs)


def pick_device(name: str) -> torch.device:
    """The device of `--device`: auto takes a GPU where there is one, and each process its own.

    Raises:
        InputError: cuda was asked for and there is none, or too few for the processes.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("--device cuda: PyTorch finds no GPU here; use --device cpu")
    if name == "cpu" or not available:
        return torch.device("cpu")
    team = processes.current()
    if team.count == 1:
        return torch.device("cuda")
    if team.local_rank >= torch.cuda.device_count():
        raise InputError(
            f"{team.local_count} processes on a machine with {torch.cuda.device_count()} GPUs; "
            "start one for each GPU, or use --device cpu"
        )
    return torch.device("cuda", team.local_rank)
