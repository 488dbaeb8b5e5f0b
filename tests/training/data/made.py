"""Data sets of a few flat pictures in the formats that training reads, and the real ones where they are there."""

import csv
import json
import pickle
from pathlib import Path

import pytest
from PIL import Image

SHARED = Path(__file__).parents[3].parent / "shared" / "data"

CUB_CLASSES = ("001.Red_Bird", "002.Blue_Bird", "003.Green_Bird")


def shared(name: str) -> Path:
    """The folder of a real data set next to the checkout; skips the test if there is none."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the data set {name} is not in a folder `shared/data` beside the checkout")
    return folder


def picture(file: Path, colour: str = "red", size: tuple[int, int] = (60, 40)) -> Path:
    """Writes a flat picture."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)
    return file


def make_cub(folder: Path, pictures: int = 4, captioned: tuple[str, ...] = CUB_CLASSES) -> Path:
    """CUB with two classes to train with and one to test with; classes not `captioned` have no human captions."""
    names = [f"{kind}/{kind[4:]}_{number:04d}_{number}" for kind in CUB_CLASSES for number in range(pictures)]
    root = folder / "CUB_200_2011"
    for name in names:
        picture(root / "images" / f"{name}.jpg", name[4:].split("_")[0].lower())
        if name.split("/")[0] in captioned:
            text = folder / "text" / f"{name}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            colour = name[4:].split("_")[0].lower()
            text.write_text(f"this bird is {colour}.\na {colour} bird\n\n", encoding="utf-8")
    lines = {
        "images.txt": [f"{number} {name}.jpg" for number, name in enumerate(names, 1)],
        "bounding_boxes.txt": [f"{number} 10.0 10.0 20.0 20.0" for number in range(1, len(names) + 1)],
    }
    for file, content in lines.items():
        (root / file).write_text("\n".join(content) + "\n", encoding="utf-8")
    for split, kinds in (("train", CUB_CLASSES[:2]), ("test", CUB_CLASSES[2:])):
        (folder / split).mkdir()
        listed = [name for name in names if name.split("/")[0] in kinds]
        (folder / split / "filenames.pickle").write_bytes(pickle.dumps(listed, protocol=2))
    return folder


def make_coco(folder: Path, pictures: int = 4, year: str = "2014") -> Path:
    """COCO's captions with this many pictures in each split, two captions each."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        names = [f"COCO_{split}{year}_{number:012d}.jpg" for number in range(pictures)]
        for number, name in enumerate(names):
            picture(folder / f"{split}{year}" / name, ("red", "green", "blue", "white")[number % 4])
        content = {
            "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
            "annotations": [
                {"id": 10 * number + i, "image_id": number, "caption": f"a picture w{number}\n" + " again" * i}
                for number in range(pictures)
                for i in range(2)
            ],
        }
        (folder / "annotations" / f"captions_{split}{year}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def make_folder(folder: Path, metadata: str = "metadata.jsonl", pictures: int = 4) -> Path:
    """Pictures with two captions each, in `metadata.jsonl`, `metadata.csv` or text files next to them (`.txt`)."""
    rows = []
    for number in range(pictures):
        file = picture(folder / "train" / f"{number}.png", ("red", "green", "blue", "white")[number % 4])
        rows += [{"file_name": file.name, "text": f"a picture w{number}{end}"} for end in ("", ", again")]
        if metadata == ".txt":
            file.with_suffix(".txt").write_text("\n".join(row["text"] for row in rows[-2:]), encoding="utf-8")
    if metadata.endswith(".jsonl"):
        lines = "\n".join(json.dumps(row) for row in rows)
        (folder / "train" / metadata).write_text(lines + "\n", encoding="utf-8")
    elif metadata.endswith(".csv"):
        with (folder / "train" / metadata).open("w", encoding="utf-8", newline="") as file_of_rows:
            writer = csv.DictWriter(file_of_rows, ["file_name", "text"])
            writer.writeheader()
            writer.writerows(rows)
    return folder
