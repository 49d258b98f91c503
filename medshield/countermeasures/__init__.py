"""What a trainer may do to images to get rid of a perturbation."""

from medshield.countermeasures.base import Countermeasure
from medshield.countermeasures.filters import (
    Bilateral,
    BitDepth,
    Blur,
    Grey,
    Jpeg,
    Median,
    Wavelet,
)
from medshield.countermeasures.mixing import CutMix, Cutout, Mixup
from medshield.countermeasures.projection import Projection
from medshield.countermeasures.purification import Purified
from medshield.countermeasures.sampling import Crop, Resize
from medshield.countermeasures.statistics import ClassMeans, ClassSpectra, Notch
from medshield.countermeasures.strong import Strong
from medshield.countermeasures.ueraser import UEraser

COUNTERMEASURES: dict[str, Countermeasure] = {
    countermeasure.name: countermeasure
    for countermeasure in (
        Grey(),
        Blur(),
        Jpeg(75),
        Jpeg(50),
        Jpeg(30),
        Jpeg(10),
        BitDepth(),
        Median(),
        Bilateral(),
        Wavelet(),
        Resize(),
        Crop(),
        Cutout(),
        Mixup(),
        CutMix(),
        Notch(),
        ClassMeans(),
        ClassSpectra(),
        Strong(),
        Projection(),
        UEraser(),
        Purified(),
    )
}

__all__ = ["COUNTERMEASURES", "Countermeasure"]
