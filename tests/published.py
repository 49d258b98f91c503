"""Small folders in the layouts in which CheXpert and Kvasir-SEG are published."""

import csv
import json

import numpy as np
from PIL import Image

FINDINGS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion"),
    *("Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices"),
)
RARE = FINDINGS.index("Pleural Other")


def chexpert(root, patients=30, *, side=40):
    """CheXpert-v1.0-small: train.csv and valid.csv, one or two studies of one or two views."""
    rng = np.random.default_rng(0)
    for part, first, count in (("train", 1, patients), ("valid", 64541, 4)):
        rows = []
        for patient in range(first, first + count):
            for study in range(1, 1 + rng.integers(1, 3)):
                for view, name in ((1, "frontal"), (2, "lateral"))[: rng.integers(1, 3)]:
                    path = f"{part}/patient{patient:05d}/study{study}/view{view}_{name}.jpg"
                    values = rng.choice(["", "1.0", "0.0", "-1.0"], len(FINDINGS))
                    if part == "valid":
                        values = rng.choice(["1.0", "0.0"], len(FINDINGS))
                    values[RARE] = "1.0" if patient % 10 == 3 else "0.0"
                    image = rng.normal(90, 25, (side, side + 8))
                    image[8:20, 8:20] += 60 * (values[10] == "1.0")
                    (root / path).parent.mkdir(parents=True, exist_ok=True)
                    pixels = Image.fromarray(image.clip(0, 255).astype(np.uint8))
                    pixels.save(root / path, quality=90)
                    facts = ["Female", "68", name.title(), "AP" if name == "frontal" else ""]
                    rows.append([f"CheXpert-v1.0-small/{path}", *facts, *values])
        with (root / f"{part}.csv").open("w", newline="") as file:
            header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS]
            csv.writer(file).writerows([header, *rows])
    return root


def kvasir(root, count=16):
    """Kvasir-SEG: JPEG images and JPEG masks of the same names and several sizes, and boxes."""
    rng = np.random.default_rng(0)
    boxes = {}
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        name = f"cju{number:02d}qkwl35piu0993l0dewei2"
        height, width = 40 + number % 5, 48
        image = rng.integers(0, 120, (height, width, 3)).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        y, x = map(int, rng.integers(4, 20, 2))
        mask[y : y + 16, x : x + 18] = 255
        image[mask > 0] += 100
        Image.fromarray(image).save(root / "images" / f"{name}.jpg", quality=92)
        Image.fromarray(np.stack([mask] * 3, -1)).save(root / "masks" / f"{name}.jpg", quality=92)
        box = {"label": "polyp", "xmin": x, "ymin": y, "xmax": x + 18, "ymax": y + 16}
        boxes[name] = {"height": height, "width": width, "bbox": [box]}
    (root / "kavsir_bboxes.json").write_text(json.dumps(boxes))
    return root
