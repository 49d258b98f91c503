"""What labels, masks, patients and splits are found in the layouts that people have."""

import csv
import random
from collections import Counter
from pathlib import Path

import pytest

from medshield.dataset.annotation_options import AnnotationOptions
from medshield.dataset.annotations import annotate, natural_key
from medshield.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".nii", ".nii.gz", ".gif", ".tif")
SECRET = "Q7SECRET"


def no_tag(path, tag):
    raise AssertionError("no header should be read")


def find(source, *, read_tag=no_tag, shuffle=None, **options):
    """Annotate everything under a folder."""
    files = [p.relative_to(source).as_posix() for p in Path(source).rglob("*") if p.is_file()]
    if shuffle is not None:
        random.Random(shuffle).shuffle(files)
    images = [f for f in files if f.lower().endswith(IMAGE_SUFFIXES)]
    return annotate(source, files, images, AnnotationOptions(**options), read_tag)


@pytest.fixture
def tree(tmp_path):
    """A function that makes empty files, and files with text, in the source `set`."""

    def make(*names, at="set", **_):
        for name in names:
            path = tmp_path / at / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / at

    return make


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def labels(found):
    """Class name by path."""
    return {path: found.classes[a.label] for path, a in found.by_path.items()}


def findings(found):
    """Positive classes by path."""
    return {
        path: {c for c, value in zip(found.classes, a.findings, strict=True) if value}
        for path, a in found.by_path.items()
    }


def refusal(source, **options):
    """The message of the InputError, which is one line."""
    with pytest.raises(InputError) as caught:
        find(source, **options)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


FOUR = ("img/a.png", "img/b.png", "img/c.png", "img/d.png")
EXPECTED = {"img/a.png": "x", "img/b.png": "y", "img/c.png": "x", "img/d.png": "y"}
CLASSES = ("x", "y", "x", "y")


def table_of(paths, header="filename,label", delimiter=","):
    rows = [f"{path}{delimiter}{name}" for path, name in zip(paths, CLASSES, strict=True)]
    return "\n".join([header.replace(",", delimiter), *rows]) + "\n"


@pytest.mark.parametrize(
    "paths",
    [
        FOUR,
        ("a.png", "b.png", "c.png", "d.png"),
        ("a", "b", "c", "d"),
        ("img\\a.png", "img\\b.png", "img\\c.png", "img\\d.png"),
        ("./img/a.png", "img//b.png", "img/../img/c.png", "img/d.png"),
        ("set/img/a.png", "set/img/b.png", "set/img/c.png", "set/img/d.png"),
        ("Other-v1/img/a.png", "Other-v1/img/b.png", "Other-v1/img/c.png", "Other-v1/img/d.png"),
        ("/d/e/img/a.png", "/d/e/img/b.png", "/d/img/c.png", "C:\\d\\img\\d.png"),
        ("IMG/A.PNG", "img/B.png", "img/c.PNG", "img/d.png"),
        ("a.jpg", "b.jpg", "c.jpg", "d.jpg"),
    ],
)
def test_paths_are_matched_however_they_are_written(tree, paths):
    source = tree(*FOUR)
    write(source / "labels.csv", table_of(paths))
    found = find(source)
    assert labels(found) == EXPECTED
    assert found.task == "classification"
    assert found.classes == ("x", "y")
    assert found.tables == {"labels.csv"}
    assert found.unlabelled == ()
    assert "labels: labels.csv, column 'label' (2 classes), 4 of 4 rows matched" in found.notes


def test_absolute_paths_are_matched(tree):
    source = tree(*FOUR)
    write(source / "labels.csv", table_of([str(source / path) for path in FOUR]))
    assert labels(find(source)) == EXPECTED


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_delimiters_and_encodings(tree, delimiter, encoding):
    source = tree(*FOUR)
    header = "filename,label,größe"
    text = table_of(FOUR, header, delimiter).replace(
        f"{delimiter}x\n", f"{delimiter}x{delimiter}ü\n"
    )
    text = text.replace(f"{delimiter}y\n", f"{delimiter}y{delimiter}é\n")
    write(source / "labels.csv", text.replace("\n", "\r\n"), encoding)
    assert labels(find(source)) == EXPECTED


def test_quoted_fields(tree):
    source = tree("a, 1.png", "b.png", "c.png", "d.png")
    rows = [["image", "note", "dx"], ["a, 1.png", 'two\n"lines"', "p, q"], ["b.png", "", "r"]]
    rows += [["c.png", "", "r"], ["d.png", "", "p, q"]]
    with (source / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert labels(find(source)) == {"a, 1.png": "p, q", "b.png": "r", "c.png": "r", "d.png": "p, q"}


def test_uids_without_extension_are_not_cut(tree):
    names = ("1.2.840.1.dcm", "1.2.840.2.dcm")
    source = tree(*names)
    write(source / "t.csv", "SOPInstanceUID,label\n1.2.840.1,x\n1.2.840.2,y\n")
    assert labels(find(source)) == dict(zip(names, "xy", strict=True))


def test_a_table_beside_the_source_counts_only_where_it_points_into_it(tree):
    source = tree("1.png", "2.png", at="data/set")
    tree("1.png", "3.png", at="data/other")
    text = "path,label\nset/1.png,x\nset/2.png,y\nother/1.png,z\nother/3.png,z\n"
    write(source.parent / "all.csv", text)
    found = find(source)
    assert labels(found) == {"1.png": "x", "2.png": "y"}
    assert found.tables == frozenset()
    assert any("2 of 4 rows matched" in note for note in found.notes)


def test_a_table_in_the_source_wins_over_one_beside_it(tree):
    source = tree(*FOUR)
    write(source / "labels.csv", table_of(FOUR))
    write(source.parent / "labels.csv", table_of(reversed(FOUR)))
    assert labels(find(source)) == EXPECTED


def test_the_named_table_wins(tree, tmp_path):
    source = tree(*FOUR)
    write(source / "labels.csv", table_of(reversed(FOUR)))
    write(tmp_path / "elsewhere" / "mine.txt", table_of(FOUR))
    assert labels(find(source, labels=tmp_path / "elsewhere" / "mine.txt")) == EXPECTED
    assert labels(find(source, labels=Path("labels.csv")))["img/a.png"] == "y"


def test_tables_in_each_folder_are_merged(tree):
    source = tree("a/1.png", "a/2.png", "b/1.png", "b/2.png")
    write(source / "a" / "labels.csv", "file,label\n1.png,x\n2.png,y\n")
    write(source / "b" / "labels.csv", "file,label\n1.png,y\n2.png,z\n")
    found = find(source)
    assert labels(found) == {"a/1.png": "x", "a/2.png": "y", "b/1.png": "y", "b/2.png": "z"}
    assert found.tables == {"a/labels.csv", "b/labels.csv"}


def test_tables_named_by_split_and_a_table_of_patients(tree):
    source = tree(*FOUR)
    write(source / "train.csv", "file,label\na.png,x\nb.png,y\n")
    write(source / "test_labels.csv", "file,label\nc.png,x\nd.png,y\n")
    write(source / "people.csv", "image,age,patient_id\na,1,p\nb,2,p\nc,3,q\nd,4,r\n")
    found = find(source)
    assert labels(found) == EXPECTED
    assert [a.split for a in found.by_path.values()] == ["train", "train", "test", "test"]
    assert [a.patient for a in found.by_path.values()] == ["p", "p", "q", "r"]


def test_unrelated_tables_are_ignored_with_a_note(tree):
    source = tree(*FOUR)
    write(source / "labels.csv", table_of(FOUR))
    write(source / "pixels.csv", "pixel0,pixel1,label\n12,13,7\n14,15,7\n")
    write(source / "empty.csv", "")
    found = find(source)
    assert found.tables == {"labels.csv"}
    assert any("pixels.csv" in note for note in found.notes)


@pytest.mark.parametrize(
    "path", ["filename", "file_name", "Path", "image_id", "Image Index", "id", "img", "colour"]
)
@pytest.mark.parametrize("label", ["label", "Labels", "class", "target", "dx", "y", "category"])
def test_columns_by_name(tree, path, label):
    source = tree(*FOUR)
    rows = [f"{i},{name},{CLASSES[i]},{40 + i}" for i, name in enumerate(FOUR)]
    write(source / "t.csv", "\n".join([f"number,{path},{label},age", *rows]))
    assert labels(find(source)) == EXPECTED


def test_the_only_other_column_is_the_label(tree):
    source = tree(*FOUR)
    write(source / "t.csv", table_of(FOUR, "filename,tumour kind"))
    assert labels(find(source)) == EXPECTED


def test_named_columns(tree):
    source = tree(*FOUR)
    rows = [f"{n},{n[4]},w{i},{CLASSES[i]},g{i % 2},{'train' if i < 2 else 'test'}"
            for i, n in enumerate(FOUR)]  # fmt: skip
    write(source / "t.csv", "\n".join(["filename,short,label,mine,who,when", *rows]))
    options = {"label_column": "mine", "patient_column": "who", "split_column": "when"}
    found = find(source, path_column="short", **options)
    assert labels(found) == EXPECTED
    assert [a.patient for a in found.by_path.values()] == ["g0", "g1", "g0", "g1"]
    assert [a.split for a in found.by_path.values()] == ["train", "train", "test", "test"]


def test_chexpert(tree):
    paths = [f"train/patient0000{i}/study1/view1_frontal.jpg" for i in range(1, 4)]
    paths.append("valid/patient00009/study1/view1_frontal.jpg")
    source = tree(*paths, at="CheXpert-v1.0-small")
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Fracture\n"
    cells = [
        "Female,68,Frontal,AP,1.0,,",
        "Male,1,Frontal,PA,,-1.0,1.0",
        "Male,0,Lateral,,,1.0,0.0",
    ]
    rows = [f"CheXpert-v1.0-small/{p},{c}\n" for p, c in zip(paths, cells, strict=False)]
    write(source / "train.csv", header + "".join(rows))
    write(source / "valid.csv", f"{header}CheXpert-v1.0-small/{paths[3]},Male,1,Frontal,AP,0,1,1\n")
    found = find(source)
    assert found.task == "multilabel"
    assert found.classes == ("Edema", "Fracture", "No Finding")
    assert list(findings(found).values()) == [
        {"No Finding"}, {"Fracture"}, {"Edema"}, {"Edema", "Fracture"}
    ]  # fmt: skip
    assert [a.patient for a in found.by_path.values()] == [p.split("/")[1] for p in paths]
    assert [a.split for a in found.by_path.values()] == ["train", "train", "train", "val"]
    assert any("1 uncertain (-1) and 4 blank findings count as 0" in note for note in found.notes)


def test_a_renamed_chexpert_with_its_table_outside(tree):
    source = tree("train/patient00001/a.jpg", "train/patient00002/a.jpg", at="data/renamed")
    rows = "".join(f"CheXpert/train/patient0000{i}/a.jpg,{i % 2},1\n" for i in (1, 2))
    write(source.parent / "train.csv", f"Path,Edema,Fracture\n{rows}")
    assert list(findings(find(source)).values()) == [{"Edema", "Fracture"}, {"Fracture"}]


def test_nih_finding_labels(tree):
    names = [f"0000000{i}_000.png" for i in range(3)]
    source = tree(*[f"images_00{i}/images/{name}" for i, name in enumerate(names)])
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,View Position,Original[Width,Height],"
    )
    values = ["Edema|Mass,0,1,PA,5,5,", "No Finding,1,2,AP,5,5,", "Mass,2,2,PA,5,5,"]
    rows = [f"{name},{value}" for name, value in zip(names, values, strict=True)]
    write(source / "Data_Entry_2017.csv", "\n".join([header, *rows]))
    found = find(source)
    assert found.task == "multilabel"
    assert found.classes == ("Edema", "Mass")
    assert list(findings(found).values()) == [{"Edema", "Mass"}, set(), {"Mass"}]
    assert [a.patient for a in found.by_path.values()] == ["1", "2", "2"]


def test_values_with_bars_are_findings(tree):
    source = tree(*FOUR)
    write(source / "t.csv", "file,diagnosis\na.png,p|q\nb.png,p\nc.png,q\nd.png,p\n")
    found = find(source)
    assert found.task == "multilabel"
    assert findings(found)["img/a.png"] == {"p", "q"}


def test_one_hot_columns_are_classes(tree):
    source = tree(*[f"ISIC_{i}.jpg" for i in range(4)])
    rows = ["ISIC_0,1.0,0.0,0.0,0.0", "ISIC_1,0,1,0,0", "ISIC_2,0,0,1,0", "ISIC_3,1,0,0,0"]
    write(source / "GroundTruth.csv", "\n".join(["image,MEL,NV,BCC,UNK", *rows]))
    found = find(source)
    assert found.task == "classification"
    assert list(labels(found).values()) == ["MEL", "NV", "BCC", "MEL"]
    assert found.classes == ("BCC", "MEL", "NV")


def test_several_named_finding_columns(tree):
    source = tree(*FOUR)
    rows = ["a.png,1,0,1,u", "b.png,1,1,1,v", "c.png,0,0,0,u", "d.png,0,1,1,u"]
    write(source / "t.csv", "\n".join(["file,p,q,r,label", *rows]))
    found = find(source, label_column="p, q")
    assert found.classes == ("p", "q")
    assert list(findings(found).values()) == [{"p"}, {"p", "q"}, set(), {"q"}]


def save_like_medmnist(folder, flag, cells):
    """Images and the header-less table that the package's `save` writes."""
    for i, label in enumerate(cells):
        part, word = [("train", "TRAIN"), ("val", "VALIDATION"), ("test", "TEST")][i % 3]
        name = f"{part}{i}_{'_'.join(map(str, label))}.png"
        (folder / flag).mkdir(parents=True, exist_ok=True)
        (folder / flag / name).touch()
        with (folder / f"{flag}.csv").open("a") as file:
            file.write(f"{word},{name},{','.join(map(str, label))}\n")


@pytest.mark.parametrize("inside", [True, False])
def test_medmnist_as_its_package_saves_it(tmp_path, inside):
    save_like_medmnist(tmp_path, "bloodmnist", [[i % 11] for i in range(33)])
    found = find(tmp_path if inside else tmp_path / "bloodmnist")
    assert found.task == "classification"
    assert found.classes == tuple(str(i) for i in range(11))
    assert Counter(a.split for a in found.by_path.values()) == {"train": 11, "val": 11, "test": 11}
    assert all(path.endswith(f"_{name}.png") for path, name in labels(found).items())


def test_medmnist_sets_side_by_side_do_not_mix(tmp_path):
    save_like_medmnist(tmp_path, "pneumoniamnist", [[i % 2] for i in range(12)])
    save_like_medmnist(tmp_path, "breastmnist", [[i % 2] for i in range(24)])
    assert len(find(tmp_path / "pneumoniamnist").by_path) == 12


def test_medmnist_with_findings(tmp_path):
    save_like_medmnist(tmp_path, "chestmnist", [[i % 2, i % 3 % 2, 1] for i in range(12)])
    found = find(tmp_path)
    assert found.task == "multilabel"
    assert found.by_path["chestmnist/train3_1_0_1.png"].findings == (1, 0, 1)


def test_a_folder_for_each_class(tree):
    names = [f"{c}/{i}.png" for c in ("2", "10", "1") for i in range(3)]
    found = find(tree(*names))
    assert found.classes == ("1", "2", "10")
    assert labels(found)["10/1.png"] == "10"
    assert all(a.split is None for a in found.by_path.values())


def test_class_folders_below_splits_and_a_common_folder(tree):
    names = [f"xray/{s}/{c}/{i}.jpg" for s in ("train", "val", "test")
             for c in ("NORMAL", "PNEUMONIA") for i in range(2)]  # fmt: skip
    found = find(tree(*names))
    assert found.classes == ("NORMAL", "PNEUMONIA")
    assert Counter(a.split for a in found.by_path.values()) == {"train": 4, "val": 4, "test": 4}


def test_class_folders_above_patients(tree):
    names = [f"{c}/patient{i}{k}/{s}.png" for k, c in enumerate(("benign", "malignant"))
             for i in range(3) for s in "ab"]  # fmt: skip
    found = find(tree(*names))
    assert found.classes == ("benign", "malignant")
    assert len({a.patient for a in found.by_path.values()}) == 6


@pytest.mark.parametrize(
    "names",
    [
        [f"patient{i}/{k}.png" for i in range(3) for k in range(5)],
        [f"images_part_{i}/{k}.png" for i in range(2) for k in range(5)],
        [f"case-{i}/1.png" for i in range(5)],
        [f"{word}/1.png" for word in ("ann", "bob", "eve")],
        [f"train/{i}.png" for i in range(3)] + [f"test/{i}.png" for i in range(3)],
    ],
)
def test_folders_of_people_and_batches_are_no_classes(tree, names):
    assert "no labels and no masks were found" in refusal(tree(*names))


@pytest.mark.parametrize(
    ("folders", "warns"),
    [
        (["T001", "T002", "T117"], True),
        (["10023", "10040", "20001"], True),
        ([f"P{i}" for i in range(21)], True),
        (["T001", "T002", "control"], False),
        (["0", "1", "2", "10"], False),
        (["grade1", "grade2", "grade3"], False),
        (["benign", "malignant"], False),
    ],
)
def test_class_folders_that_are_numbered_as_patients_are_told_of(tree, folders, warns):
    found = find(tree(*(f"{folder}/{i}.png" for folder in folders for i in range(2))))
    assert len(found.classes) == len(folders)
    assert any("if they are patients or studies" in note for note in found.notes) == warns


def test_a_dicom_tag_is_the_class(tree):
    source = tree("1.dcm", "2.dcm", "3.dcm")
    values = {"1.dcm": "CT ", "2.dcm": "MR", "3.dcm": "CT"}
    found = find(source, label_tag="0008,0060", read_tag=lambda path, tag: values[path.name])
    assert labels(found) == {"1.dcm": "CT", "2.dcm": "MR", "3.dcm": "CT"}
    assert any("(0008,0060)" in note for note in found.notes)


@pytest.mark.parametrize(
    "pairs",
    [
        {"images/1.png": "masks/1.png", "images/2.jpg": "masks/2.png"},
        {"images/1.nii.gz": "labels/1.nii.gz", "images/2.nii.gz": "labels/2.nii"},
        {"train/images/1.png": "train/masks/1.png", "test/images/1.png": "test/masks/1.png"},
        {"images/train/1.png": "masks/train/1.png", "images/val/1.png": "masks/val/1.png"},
        {"JPEGImages/a.jpg": "SegmentationClass/a.png"},
        {"imgs/a.png": "annotations/a.png", "imgs/b.png": "annotations/b_gt.png"},
        {"a.png": "a_mask.png", "b.png": "b-mask.png", "c.png": "c_segmentation.png"},
        {"p/a.nii.gz": "p/a_seg.nii.gz", "p/b.nii.gz": "p/b_label.nii.gz"},
        {"x/a.png": "x/masks/a.png", "y/a.png": "y/masks/a.png"},
        {"train/a.jpg": "train_masks/a_mask.gif", "train/b.jpg": "train_masks/b_mask.gif"},
        {"volume-1.nii": "segmentation-1.nii", "volume-10.nii": "segmentation-10.nii"},
        {"1/imaging.nii.gz": "1/segmentation.nii.gz", "2/imaging.nii": "2/segmentation.nii.gz"},
        {"B/B_t1.nii": "B/B_seg.nii", "B/B_t1ce.nii": "B/B_seg.nii"},
        {"Training_Input/I_1.jpg": "Training_GroundTruth/I_1_segmentation.png"},
        {"labels_task/images/1.png": "labels_task/masks/1.png"},
    ],
)  # fmt: skip
def test_masks(tree, pairs):
    found = find(tree(*pairs, *pairs.values()))
    assert found.task == "segmentation"
    assert found.classes == ("foreground",)
    assert {path: a.mask for path, a in found.by_path.items()} == pairs
    assert found.masks == set(pairs.values())


def test_nnunet_channels_and_test_images(tree):
    source = tree("imagesTr/c_001_0000.nii.gz", "imagesTr/c_001_0001.nii.gz",
                  "labelsTr/c_001.nii.gz", "imagesTs/c_002_0000.nii.gz")  # fmt: skip
    assert "1 of 3 images have no mask, such as imagesTs/c_002_0000.nii.gz" in refusal(source)
    found = find(source, allow_missing=True)
    assert {a.mask for a in found.by_path.values()} == {"labelsTr/c_001.nii.gz"}
    assert found.unlabelled == ("imagesTs/c_002_0000.nii.gz",)
    tree("labelsTs/c_002.nii.gz")
    assert [a.split for a in find(source).by_path.values()] == ["train", "train", "test"]


def test_the_named_folder_of_masks(tree):
    source = tree("pics/a.png", "left_mask/a.png", "right_mask/a.png", "truths/a.png")
    found = find(source, masks=Path("truths"))
    assert found.by_path["pics/a.png"].mask == "truths/a.png"
    assert found.masks == {"truths/a.png", "left_mask/a.png", "right_mask/a.png"}
    found = find(source, masks=source / "left_mask", allow_missing=True)
    assert found.by_path["pics/a.png"].mask == "left_mask/a.png"


def test_further_masks_of_one_image_are_copied(tree):
    found = find(tree("b (1).png", "b (1)_mask.png", "b (1)_mask_1.png"))
    assert found.by_path["b (1).png"].mask == "b (1)_mask.png"
    assert "b (1)_mask_1.png" in found.masks


@pytest.mark.parametrize(
    "names", [["with_mask/1.png", "without_mask/1.png"], ["label_0/1.png", "label_1/1.png"]]
)
def test_mask_words_alone_make_no_mask(tree, names):
    names += [name.replace("1.png", "2.png") for name in names]
    found = find(tree(*names))
    assert found.task == "classification"
    assert found.masks == frozenset()


def test_files_that_a_label_table_names_are_no_masks(tree):
    names = ["mask/1.png", "mask/2.png", "normal/1.png", "normal/2.png"]
    source = tree(*names)
    write(source / "t.csv", "path,label\n" + "".join(f"{n},{n.split('/')[0]}\n" for n in names))
    found = find(source)
    assert found.masks == frozenset()
    assert found.classes == ("mask", "normal")
    assert len(found.by_path) == 4


def test_masks_and_a_table(tree):
    source = tree(*FOUR, *[f"masks/{name[4:]}" for name in FOUR])
    write(source / "t.csv", table_of(FOUR))
    assert find(source).task == "segmentation"
    found = find(source, task="classification")
    assert labels(found) == EXPECTED
    assert len(found.masks) == 4
    (source / "masks" / "a.png").unlink()
    assert find(source).task == "classification"


def test_masks_of_nearly_all_images_in_class_folders(tree):
    names = [f"{c}/{i}.png" for c in ("covid", "normal") for i in range(10)]
    masks = [name.replace(".png", "_mask.png") for name in names]
    assert find(tree(*names, *masks[1:]), allow_missing=True).task == "segmentation"
    assert find(tree(*names, *masks[10:], at="other")).task == "classification"


def test_task_multilabel_takes_single_classes(tree):
    source = tree(*FOUR)
    write(source / "t.csv", table_of(FOUR))
    assert findings(find(source, task="multilabel"))["img/a.png"] == {"x"}


def test_order_of_files_changes_nothing(tree):
    source = tree(*[f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "abc" for i in range(5)])
    for i in range(5):
        write(source / f"t{i}.csv", f"file,patient\ntrain/a/{i}.png,p{i}\ntest/b/{i}.png,p{i}\n")
    expected = find(source, shuffle=0)
    assert all(find(source, shuffle=i) == expected for i in range(1, 5))


def test_identical_rows_are_fine_and_patients_are_not_shown(tree):
    source = tree(*FOUR)
    rows = "".join(f"{n},{c},{SECRET}\n" for n, c in zip(FOUR, CLASSES, strict=True))
    write(source / "t.csv", f"filename,label,patient\n{rows}{rows}")
    found = find(source)
    assert labels(found) == EXPECTED
    assert found.by_path["img/a.png"].patient == SECRET
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a,x,p\nb,y,p\nc,x,p\nd,y,p\na,y,p\n", "1 images have rows with different labels"),
        (f"a,x,{SECRET}\nb,y,p\nc,x,p\nd,y,p\na,x,q\n", "different patients, such as img/a.png"),
        ("a,x,p\nb,x,p\nc,x,p\nd,x,p\n", "all 4 labelled images are of one class"),
        (f"a,x,p\nb,y,p\nc,x,p\nd,y,p\nz,{SECRET},p\n", "1 rows name no image in the source"),
        ("a,x,p\nb,y,p\n", "2 of 4 images have no label, such as img/c.png, img/d.png"),
        (f"a,x,p\nb,y,p\nc,,p\nd,y,{SECRET}\n", "1 of 4 images have no label, such as img/c.png"),
        (f"a,x,{SECRET},{SECRET}\n", "data row 1 has 4 cells where the first row has 3"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(tree, rows, said):
    source = tree(*FOUR)
    write(source / "t.csv", f"image,label,patient_id\n{rows}")
    assert said in refusal(source)


def test_patients_that_name_files_are_not_shown(tree):
    source = tree(*FOUR)
    write(source / "t.csv", f"patientId,Target\na,x\nb,y\nc,x\nd,y\n{SECRET},x\n")
    assert "1 rows name no image in the source, such as a row of t.csv" in refusal(source)


def test_folds_are_no_split(tree):
    source = tree(*FOUR)
    rows = "".join(f"{n},{c},{i % 3}\n" for i, (n, c) in enumerate(EXPECTED.items()))
    write(source / "t.csv", f"filename,label,fold\n{rows}")
    found = find(source)
    assert all(a.split is None for a in found.by_path.values())
    assert any("'fold' is no split" in note for note in found.notes)


def test_a_relative_source(tree, monkeypatch):
    source = tree(*FOUR)
    write(source.parent / "labels.csv", table_of([f"set/{path}" for path in FOUR]))
    monkeypatch.chdir(source)
    assert labels(find(Path())) == EXPECTED


def test_allow_missing(tree):
    source = tree(*FOUR)
    write(source / "t.csv", "image,label\na,x\nb,y\nz,x\n")
    found = find(source, allow_missing=True)
    assert list(found.by_path) == ["img/a.png", "img/b.png"]
    assert found.unlabelled == ("img/c.png", "img/d.png")
    assert "1 table rows name no image, such as z" in found.notes


def test_bare_names_that_fit_several_images_are_refused(tree):
    source = tree("p/1.png", "q/1.png", "q/2.png")
    write(source / "t.csv", "file,label\n1.png,x\n2.png,y\n")
    assert "t.csv: 1 rows fit more than one image, such as 1.png" in refusal(source)


def test_tables_of_different_kinds_are_refused(tree):
    source = tree(*FOUR)
    write(source / "s.csv", "file,label\na.png,x\nb.png,y\n")
    write(source / "t.csv", "file,p,q\nc.png,1,1\nd.png,0,1\n")
    assert "s.csv, t.csv label in different ways" in refusal(source)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": Path("none.csv")}, "--labels: none.csv is not a file"),
        ({"labels": Path("odd.csv")}, "--labels: odd.csv names no image; name the column"),
        ({"labels": Path("gone.csv")}, "--labels: gone.csv names no image; name the column"),
        ({"path_column": "nope"}, "--path-col: no label table has a column 'nope'"),
        ({"label_column": "nope"}, "--label-col: no label table has a column 'nope' (columns: "),
        ({"label_column": "label,age"}, "column 'label' holds other values than 0, 1, -1"),
        ({"split_column": "age"}, "--split-col: column 'age' holds other values than train"),
        ({"masks": Path("none")}, "--masks: none: no such folder; name the one of the masks"),
        ({"masks": Path("..")}, "--masks: .. is not a folder inside the source"),
        ({"masks": Path("img")}, "no mask fits any of 4 images"),
        ({"task": "segmentation"}, "no mask fits any of 4 images"),
        ({"task": "dance"}, "--task: 'dance' is none of auto, classification"),
        ({"label_tag": "x"}, "--label-tag: 'x' is no DICOM tag"),
        ({"label_tag": "0008,0060", "read_tag": lambda *_: None}, "none of 4 images has a value"),
    ],
)
def test_options_that_cannot_be_followed(tree, options, said):
    source = tree(*FOUR)
    write(source / "t.csv", "file,label,age\na.png,x,3\nb.png,y,4\nc.png,x,3\nd.png,y,4\n")
    write(source / "odd.csv", "a,b\n1,2\n")
    write(source / "gone.csv", "file,label\nw.png,x\nv.png,y\n")
    assert said in refusal(source, **options)


def test_findings_are_no_classes(tree):
    source = tree(*FOUR)
    write(source / "t.csv", "file,p,q\na,1,1\nb,0,0\nc,1,0\nd,0,1\n")
    assert "2 images have several findings or none" in refusal(source, task="classification")


def test_tables_without_a_plain_label_are_named(tree):
    source = tree(*FOUR)
    rows = "".join(f"{n},{i}.5,{i}.7\n" for i, n in enumerate(FOUR))
    write(source / "t.csv", f"file,width,height\n{rows}")
    said = refusal(source)
    assert "t.csv has no column that is plainly the label" in said
    assert "width, height" in said


def test_several_masks_and_masks_without_image_are_refused(tree):
    source = tree("CXR/a.png", "Mask/leftMask/a.png", "Mask/rightMask/a.png")
    assert "1 images have more than one mask, such as CXR/a.png" in refusal(source)
    source = tree("images/a.png", "masks/a.png", "masks/b.png", at="other")
    assert "1 masks have no image, such as masks/b.png" in refusal(source)
    assert find(source, allow_missing=True).masks == {"masks/a.png", "masks/b.png"}


def test_an_empty_folder_is_refused(tmp_path):
    assert "no image was found" in refusal(tmp_path)


def test_natural_order():
    names = ["grade 10", "grade 2", "-1", "10", "2.5", "b", "A"]
    assert sorted(names, key=natural_key) == ["-1", "2.5", "10", "A", "b", "grade 2", "grade 10"]


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "task", "images", "classes", "grouped"),
    [
        ("nih-cxr64", "multilabel", 508, 14, True),
        ("ham10000-224", "classification", 934, 7, True),
        ("bccd-cells", "classification", 775, 3, True),
        ("kvasir-seg-352", "segmentation", 300, 1, False),
        ("hippocampus-nifti", "segmentation", 60, 1, False),
    ],
)
def test_real_folders(real_data, folder, task, images, classes, grouped):
    found = find(real_data / folder)
    assert (found.task, len(found.by_path), len(found.classes)) == (task, images, classes)
    patients = {a.patient for a in found.by_path.values()}
    assert (None not in patients and 1 < len(patients) <= images) if grouped else patients == {None}
    assert all(a.split is None for a in found.by_path.values())
    if task == "segmentation":
        assert len(found.masks) == images
        assert all(Path(path).stem == Path(a.mask).stem for path, a in found.by_path.items())


SUBJECTS = ("sub-01", "sub-02", "sub-03", "sub-04")


def people(tree):
    """Folders of people with two images each, as BIDS has them."""
    return tree(*(f"{n}/{part}/{n}_{part}.nii.gz" for n in SUBJECTS for part in ("anat", "func")))


PEOPLE = "participant_id\tage\tdiagnosis\nsub-01\t50\tAD\nsub-02\t51\tCN\nsub-03\t52\tAD\n"


def test_a_table_of_people_labels_every_image_in_their_folders(tree):
    source = people(tree)
    write(source / "participants.tsv", PEOPLE + "sub-04\t53\tCN\n")
    found = find(source)
    assert labels(found) == {
        f"{name}/{part}/{name}_{part}.nii.gz": label
        for name, label in zip(SUBJECTS, ("AD", "CN") * 2, strict=True)
        for part in ("anat", "func")
    }
    assert {a.patient for a in found.by_path.values()} == {*SUBJECTS}
    assert found.tables == {"participants.tsv"}
    assert (
        "labels: participants.tsv, column 'diagnosis' (2 classes), 8 images in the folders of 4 of "
        "4 rows" in found.notes
    )


def test_people_without_folders_and_folders_without_people_are_told_of(tree):
    source = people(tree)
    write(source / "participants.tsv", PEOPLE)
    assert refusal(source).startswith("2 of 8 images have no label, such as sub-04/")
    write(source / "participants.tsv", PEOPLE + f"sub-04\t53\tCN\n{SECRET}\t53\tCN\n")
    assert refusal(source).startswith("1 rows name no image in the source, such as a row of")
    assert len(find(source, allow_missing=True).by_path) == 8


def test_people_whose_label_is_blank_have_none(tree):
    source = people(tree)
    write(source / "participants.tsv", PEOPLE + "sub-04\t53\tn/a\n")
    assert refusal(source).startswith("2 of 8 images have no label")
    assert len(find(source, allow_missing=True).by_path) == 6


def test_a_table_of_people_may_lie_elsewhere_and_be_named_like_anything(tree, tmp_path):
    source = people(tree)
    write(tmp_path / "who.csv", "pat_no,outcome\nsub-01,1\nsub-02,0\nsub-03,1\nsub-04,0\n")
    found = find(source, labels=tmp_path / "who.csv", path_column="pat_no", label_column="outcome")
    assert labels(found)["sub-03/func/sub-03_func.nii.gz"] == "1"
    assert found.by_path["sub-03/func/sub-03_func.nii.gz"].patient == "sub-03"


def test_other_columns_of_people_are_no_labels_unless_named(tree):
    source = people(tree)
    rows = "".join(f"sub-0{n}\t{20 + n}\n" for n in range(1, 5))
    write(source / "phenotype/moca.tsv", "participant_id\tmoca\n" + rows)
    write(source / "participants.tsv", PEOPLE + "sub-04\t53\tCN\n")
    assert set(labels(find(source)).values()) == {"AD", "CN"}
    assert set(labels(find(source, label_column="age")).values()) == {"50", "51", "52", "53"}


def test_findings_of_people_are_read_where_they_are_named(tree):
    source = people(tree)
    write(source / "p.csv", "patient,a,b\nsub-01,1,0\nsub-02,0,1\nsub-03,1,1\nsub-04,0,0\n")
    found = find(source, label_column="a,b")
    assert found.task == "multilabel"
    assert findings(found)["sub-03/anat/sub-03_anat.nii.gz"] == {"a", "b"}


def test_scans_of_a_person_are_no_labels_by_their_time(tree):
    source = people(tree)
    write(source / "participants.tsv", PEOPLE + "sub-04\t53\tCN\n")
    for name in SUBJECTS:
        rows = "".join(
            f"{part}/{name}_{part}.nii.gz\t1877-06-15T13:45:{name[-2:]}\n"
            for part in ("anat", "func")
        )
        write(source / name / f"{name}_scans.tsv", "filename\tacq_time\n" + rows)
    assert set(labels(find(source)).values()) == {"AD", "CN"}


def test_a_table_of_classes_is_not_one_of_people(tree):
    """Folders are classes here, and a table describes them."""
    source = tree(*(f"{name}/{n}.png" for name in ("x", "y") for n in range(3)))
    write(source / "classes.csv", "class,meaning\nx,one\ny,two\n")
    found = find(source)
    assert labels(found)["x/0.png"] == "x"
    assert all(a.patient is None for a in found.by_path.values())


def test_a_table_of_files_is_one_of_files_though_it_names_people_too(tree):
    source = people(tree)
    images = [f"{n}/anat/{n}_anat.nii.gz" for n in SUBJECTS]
    rows = "".join(f"{i},{i[:6]},{c}\n" for i, c in zip(images, CLASSES, strict=True))
    write(source / "t.csv", "filename,subject,label\n" + rows)
    assert len(find(source, allow_missing=True).by_path) == 4


def test_the_column_of_the_label_is_not_taken_for_the_patient(tree):
    source = tree(*FOUR)
    write(source / "t.csv", table_of(FOUR, "filename,group"))
    found = find(source, label_column="group")
    assert labels(found) == EXPECTED
    assert all(a.patient is None for a in found.by_path.values())


def test_a_named_table_needs_no_name_for_its_column_of_folders(tree, tmp_path):
    source = people(tree)
    write(tmp_path / "who.csv", "code,outcome\nsub-01,1\nsub-02,0\nsub-03,1\nsub-04,0\n")
    found = find(source, labels=tmp_path / "who.csv", label_column="outcome")
    assert labels(found)["sub-03/func/sub-03_func.nii.gz"] == "1"
    assert found.by_path["sub-03/func/sub-03_func.nii.gz"].patient == "sub-03"


def test_a_named_table_that_names_nothing_says_which_columns_it_has(tree, tmp_path):
    source = people(tree)
    write(tmp_path / "who.csv", f"code,age,outcome\n{SECRET},50,1\nB,60,0\n")
    assert refusal(source, labels=tmp_path / "who.csv", label_column="outcome") == (
        "--labels: who.csv names no image; name the column of file names with --path-col, or that "
        "of patients' folders with --patient-col (columns: code, age, outcome)"
    )


@pytest.mark.parametrize("options", [{}, {"label_column": "outcome"}])
def test_a_first_row_that_may_be_of_a_patient_is_not_printed(tree, tmp_path, options):
    write(tmp_path / "who.csv", f"{SECRET},AD\nB,CN\n")
    said = refusal(people(tree), labels=tmp_path / "who.csv", **options)
    assert "2 columns; the first row has to hold their names" in said
    write(tmp_path / "who.csv", f"sub-01,{SECRET}\nsub-02,CN\nsub-03,AD\n")
    said = refusal(people(tree), labels=tmp_path / "who.csv", **options)
    assert "2 columns; the first row has to hold their names" in said


def test_a_named_table_of_nothing_is_one_line(tree, tmp_path):
    write(tmp_path / "who.csv", "\n\n")
    assert refusal(people(tree), labels=tmp_path / "who.csv").startswith("who.csv: holds nothing;")
