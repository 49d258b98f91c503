"""What a trainer may do to images to get rid of a perturbation."""

from medshield.countermeasures.base import Countermeasure
from medshield.countermeasures.filters import Blur, Grey, Jpeg

COUNTERMEASURES: dict[str, Countermeasure] = {
    countermeasure.name: countermeasure
    for countermeasure in (Grey(), Blur(), Jpeg(75), Jpeg(50), Jpeg(30), Jpeg(10))
}

__all__ = ["COUNTERMEASURES", "Countermeasure"]
