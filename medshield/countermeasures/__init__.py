"""What a trainer may do to images to get rid of a perturbation."""

from medshield.countermeasures.base import Countermeasure
from medshield.countermeasures.filters import Blur, Grey, Jpeg

COUNTERMEASURES: dict[str, Countermeasure] = {
    countermeasure.name: countermeasure for countermeasure in (Grey(), Blur(), Jpeg())
}

__all__ = ["COUNTERMEASURES", "Blur", "Countermeasure", "Grey", "Jpeg"]
