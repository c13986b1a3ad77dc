"""This package and `yard` make one version of a folder, whatever plain form it has; what is not plain is refused."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from tests.cluster import yard
from trainyard import InvalidArgument, _packing
from trainyard._hashing import Hashing
from trainyard._report import Report
from trainyard._stopping import Stop

#: The usual one.
PLAIN = "train: images/train\nval: images/val\nnames: [circle, rectangle, triangle]\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with 6 images to train on and 3 to validate."""
    folder = tmp_path_factory.mktemp("made") / "cells"
    yard("demo-data", folder, "--train", "6", "--val", "3", "--size", "64", config=folder.parent)
    return folder


@pytest.fixture
def cells(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "cells"))


def version_here(path: Path) -> str:
    """The version that this package makes."""
    bundle = _packing.data_set(path, None)
    hashing = Hashing(bundle, Report(None), Stop())
    assert hashing.wait_for(len(bundle.paths), lambda: False, 120)
    return hashing.version()


def check_same(path: Path) -> None:
    """Both make one version, with the same words about it."""
    text = yard("data", "push", path, "--dry-run", "-o", "json", config=path.parent)
    told = json.loads(text)
    bundle = _packing.data_set(path, None)
    assert (told["name"], told["description"]) == (bundle.name, bundle.description)
    assert (int(told["files"]), int(told["sizeBytes"])) == (len(bundle.paths), bundle.total_bytes)
    assert told["version"] == version_here(path)


def refusal(path: Path) -> str:
    """What this package says against a data set, if anything."""
    try:
        version_here(path)
    except InvalidArgument as error:
        return str(error)
    return ""


NAMES = "names: [circle, rectangle, triangle]\n"
FORMS = {
    "as it is made": "",
    "a path": f"path: .\n{PLAIN}",
    "an absolute path": f"path: HERE\n{PLAIN}",
    "a map of names": (
        "train: images/train   # those to train on\nval: 'images/val'\nnc: 3\n"
        'names:\n  0: no\n  1: "a \\"b\\" \\u00e9"\n  # not this one\n  2: 1.10\n'
    ),
    "a map in brackets": "train: images/train/\nval: ./images/val\nnames: {0: 'it''s', 1: b c, 2: d:e}\n",
    "a list over lines": "train: images/train\nval: images/val\nnames: [a, # one\n  'b, c',\n  d\n]\n",
    "a block list": "train:\n- images/train\nval:\n  - images/val\nnames:\n  - a\n  - b\n  - c\n",
    "a count": "train: images/train\nval: images/val\nnc: 3\n",
    "Roboflow's": (
        "train: ../images/train\nval: ../images/val\ntest: ../images/test\n\nnc: 3\nnames: ['a', 'b', 'c']\n\n"
        "roboflow:\n  workspace: lab\n  version: 1\n  url: https://lab.example/x\n"
    ),
    "with a script": f"---\n# made by hand\n{PLAIN}download: |\n  import os\n  names = [1]\n\n  os.remove('x')\n",
    "several folders": f"train: [images/train, images/val]\nval: images/val\ntest: images/train\n{NAMES}",
    "the second name of val": f"train: images/train\nvalid: images/val\n{NAMES}",
    "an image": f"train: [images/train/000001.jpg, images/train]\nval: images/val\n{NAMES}",
    "an end": f"{PLAIN}...\n---\n\n",
    "keypoints": f"{PLAIN}kpt_shape: [5, 3]\n",
    "lines of Windows": PLAIN.replace("\n", "\r\n"),
    "a mark of UTF-8": f"\ufeff{PLAIN}",
    "its own folders in path": f"path: images\ntrain: train\nval: val\n{NAMES}",
}


@pytest.mark.parametrize("form", FORMS)
def test_both_make_one_version(form: str, cells: Path) -> None:
    if form == "keypoints":
        for label in cells.glob("labels/*/*.txt"):
            label.write_text("0 .5 .5 .2 .2" + " .5 .5 1" * 5 + "\n")
    if form == "its own folders in path":
        # Labels are then looked for beside the images, since `images` lies above.
        for label in cells.glob("labels/*/*.txt"):
            label.rename(cells / "images" / label.parent.name / label.name)
    image = min(cells.glob("images/train/*"))
    if text := FORMS[form]:
        text = text.replace("HERE", str(cells)).replace("000001.jpg", image.name)
        (cells / "data.yaml").write_bytes(text.encode())
    check_same(cells / "data.yaml")


def test_lists_keep_their_order_and_repeats(cells: Path) -> None:
    names = sorted(image.name for image in cells.glob("images/train/*"))
    lines = [
        f"./images/train/{names[3]}",
        "# a comment",
        "",
        f'"images/train/{names[1]}"',
        f"  {cells}/images/train/{names[2]}",
        f"data/images/train/{names[0]}",
        f"./images/train/{names[3]}",
        f"lists/../images/train/{names[4]}",
    ]
    (cells / "lists").mkdir()
    (cells / "lists" / "train.txt").write_text("\r\n".join(lines))
    (cells / "data.yaml").write_text("train: lists/train.txt\nval: [images/val]\nnames: [a, b, c]\n")
    check_same(cells)


def test_images_elsewhere_are_taken_along(cells: Path, made: Path, tmp_path: Path) -> None:
    other, apart = shutil.copytree(made, tmp_path / "other" / "more"), tmp_path / "apart" / "pictures"
    shutil.copytree(made / "images" / "val", apart)
    for label in made.glob("labels/val/*"):
        shutil.copy(label, apart)
    # One of its own is called so.
    shutil.copytree(made / "images" / "val", cells / "Outside" / "x")
    text = f"train: [images/train, {other}/images/train, Outside/x, {apart}]\nval: ../other/more/images/val\n"
    (cells / "data.yaml").write_text(f"{text}names: [a, b, c]\n")
    check_same(cells)
    notes = _packing.data_set(cells, None).notes
    assert notes == [f"taken along from {other}, as outside-2/0/", f"taken along from {apart.parent}, as outside-2/1/"]
    (cells / "configs").mkdir()
    (cells / "configs" / "cells.yaml").write_text("path: ..\ntrain: images/train\nval: images/val\nnames: [a, b, c]\n")
    check_same(cells / "configs")


def test_links_are_followed_and_loops_are_not(cells: Path, made: Path) -> None:
    (cells / "images" / "train" / "far").symlink_to(made / "images" / "val")
    (cells / "images" / "train" / "up").symlink_to(cells / "images")
    (cells / "images" / "train" / "zz.jpg").symlink_to(min(made.glob("images/val/*")))
    for name in (".hidden.jpg", "@eaDir", "._a.jpg", "notes.md"):
        (cells / "images" / "train" / name).mkdir() if name[0] == "@" else (cells / "images" / "train" / name).touch()
    check_same(cells)


def test_labels_are_found_where_the_trainer_finds_them(cells: Path) -> None:
    images = sorted(cells.glob("images/train/*"))
    labels = [cells / "labels" / "train" / f"{image.stem}.txt" for image in images]
    labels[0].rename(images[0].with_suffix(".txt"))
    labels[1].unlink()
    (cells / "Labels" / "train").mkdir(parents=True)
    labels[2].rename(cells / "Labels" / "train" / labels[2].name)
    check_same(cells)
    for folder in ("images", "JPEGImages"):
        (cells / "train" / folder).mkdir(parents=True)
    shutil.copy(images[3], cells / "train" / "images" / "a.b.jpg")
    shutil.copy(images[4], cells / "train" / "JPEGImages" / "é.jpg")
    (cells / "train" / "labels").mkdir()
    shutil.copy(labels[3], cells / "train" / "labels" / "a.b.txt")
    shutil.copy(labels[4], cells / "train" / "labels" / "é.txt")
    (cells / "data.yaml").write_text("train: [train/images, train/JPEGImages]\nval: images/val\nnames: [a, b, c]\n")
    check_same(cells)


def test_random_trees_are_one_version(made: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    images = sorted(made.glob("images/*/*"))
    for number in range(8):
        top = tmp_path / f"set {number}"
        folders = ["images", "img", "a/images/b", "JPEGImages", "b", "a/b-c", "a/b", "labels/images"]
        names = ["1.jpg", "1.png", "2.jpg", "a b.JPG", "x.y.jpeg", "-.jpg", "ü.jpg"]
        splits: dict[str, list[str]] = {"train": [], "val": []}
        for folder in chance.sample(folders, 5):
            split = "train" if not splits["train"] else "val" if not splits["val"] else chance.choice(list(splits))
            splits[split].append(folder)
            for name in chance.sample(names, chance.randint(1, 4)):
                image = top / folder / name
                image.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(chance.choice(images), image)
                beside = chance.random() < 0.3 or "images" not in folder
                label = Path(str(image) if beside else f"labels{str(image).rpartition('images')[2]}")
                label = label if beside else Path(str(image).rpartition("images")[0]) / label
                label.parent.mkdir(parents=True, exist_ok=True)
                label.with_suffix(".txt").write_text(f"{chance.randint(0, 2)} .5 .5 .{number + 1} .2\n")
        text = "".join(f"{split}: {json.dumps(folders)}\n" for split, folders in splits.items())
        (top / "data.yaml").write_text(f"{text}names: [a, b, c]\n")
        if not refusal(top):
            check_same(top)
        else:
            # Labels that would meet others are `yard`'s to sort out.
            assert "rename" in refusal(top)


REFUSED = {
    "train: images/tr*\nval: images/val\nnames: [a]\n": "`train: images/tr*` is a pattern",
    "train: images/none\nval: images/val\nnames: [a]\n": "`train: images/none` was not found; tried ",
    "train: &x images/train\nval: *x\nnames: [a]\n": "data.yaml:1: `&x images/train` is no plain text",
    "train: images/train\n  more\nval: images/val\nnames: [a]\n": "data.yaml:2: the value goes on over several lines",
    "train: [images/train\nval: images/val\nnames: [a]\n": "data.yaml:1: the list or map in brackets has something",
    "train: images/train\nval: images/val\nnames: [[a]]\n": "data.yaml:3: the list or map in brackets has something",
    "train: images/train\nval: images/val\nnames: a, b\n": "`names: a, b` is one text; write a list",
    "train: images/train\nval: images/val\nnames: {1: a, 2: b}\n": "leaves class ids out",
    "train: images/train\nval: images/val\nnc: 2\nnames: [a]\n": "`nc` is 2, but `names` has 1 names",
    "train: images/train\nval: images/val\nnames: [a]\nnames: [b]\n": "data.yaml:4: `names` comes twice",
    "train: images/train\n---\nval: images/val\nnames: [a]\n": "data.yaml:3: a second document begins",
    "train: images/train\nnames: [a]\n": "`val` is missing",
    "train: images/train\nval: images/val\n": "`names` is missing",
    "train: yes.txt\nval: images/val\nnames: [a]\n": "yes.txt:1: `images/gone.jpg` is an image that is not there",
    "train: images\\train\nval: images/val\nnames: [a]\n": "a path of Windows",
    "train: images/train\nval: images/val\nnames:\n\t- a\n": "it is no `key: value`",
    "train: images/train\nval: 12\nnames: [a]\n": "`val: 12` may be no text; put it in quotes",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_plain_is_refused_by_name(text: str, cells: Path) -> None:
    (cells / "data.yaml").write_text(text)
    (cells / "yes.txt").write_text("images/gone.jpg\n")
    with pytest.raises(InvalidArgument) as raised:
        _packing.data_set(cells, None)
    assert REFUSED[text] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_would_become_another_data_set_is_refused(cells: Path) -> None:
    image = min(cells.glob("images/train/*"))
    label = cells / "labels" / "train" / f"{image.stem}.txt"

    def refused() -> str:
        return refusal(cells)

    label.rename(label.with_suffix(".TXT"))
    assert "call it `" in refused()
    assert "`yard data push` takes more forms" in refused()
    label.with_suffix(".TXT").rename(label)
    (image.parent / "phone.heic").touch()
    assert "phone.heic` is no image that a training reads" in refused()
    (image.parent / "phone.heic").rename(image.parent / "page.jpg")
    assert "page.jpg` is no image, by its first bytes" in refused()
    (image.parent / "page.jpg").write_text("<html>404</html>")
    assert "page.jpg` is no image, by its first bytes" in refused()
    (image.parent / "page.jpg").unlink()
    (image.parent / "gone.jpg").symlink_to(cells / "nowhere")
    assert "gone.jpg` cannot be read: No such file" in refused()
    (image.parent / "gone.jpg").unlink()
    os.mkfifo(image.parent / "pipe.jpg")
    assert "pipe.jpg` is no regular file" in refused()
    (image.parent / "pipe.jpg").unlink()
    shutil.rmtree(cells / "labels" / "train")
    assert "no image of `train` has a label file" in refused()
    shutil.rmtree(cells / "images" / "val")
    (cells / "images" / "val").mkdir()
    assert "`val` has no image" in refused()


def test_what_is_too_large_to_be_read_is_refused_by_name(cells: Path) -> None:
    label = next((cells / "labels/train").iterdir())
    image = next((cells / "images/val").iterdir())
    for file, limit in (
        (label, "16.0 MiB that are read of a label file"),
        (image, "256.0 MiB that are read of an image"),
        (cells / "data.yaml", "4.0 MiB that are read of a data.yaml"),
    ):
        size = file.stat().st_size
        # Nothing of it is on the disk.
        os.truncate(file, 50 << 30)
        assert f"`{file}` has 50.0 GiB, more than the {limit}; " in refusal(cells)
        os.truncate(file, size)
    assert refusal(cells) == ""
    data_yaml = cells / "data.yaml"
    data_yaml.write_text("train: images/train\nval: images/val\nnc: 400000000\n")
    assert "a data set has at most 100000 classes" in refusal(cells)
    data_yaml.unlink()
    os.mkfifo(data_yaml)
    assert "data.yaml` is no regular file" in refusal(cells)


def test_weights_that_are_cut_off_are_refused(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "__metadata__": {"model": "yolov8n"},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        }
    ).encode()
    tensors = len(header).to_bytes(8, "little") + header + bytes(12)
    archive = b"PK\x03\x04" + bytes(100_000) + b"PK\x05\x06" + bytes(18)

    def said(name: str, content: bytes) -> str:
        file = tmp_path / name
        file.write_bytes(content)
        try:
            _packing.weights(file, None)
        except InvalidArgument as error:
            return str(error)
        return ""

    assert said("a.safetensors", tensors) == said("a.pt", archive) == said("b.pt", b"\x80\x02old") == ""
    whole = f"a.safetensors` is not whole: by its header it has {len(tensors)} bytes, and there are "
    for wrong in (tensors[:-1], tensors + b"x"):
        assert whole + str(len(wrong)) in said("a.safetensors", wrong)
    assert "its header ends at byte" in said("a.safetensors", tensors[:40])
    assert "the list of contents at its end is missing" in said("a.pt", archive[:-22])
    for name, content in (("a.pt", b"<html>"), ("a.safetensors", b"\2\0\0\0\0\0\0\0{]"), ("a.safetensors", b"")):
        assert "holds no weights" in said(name, content)


def test_what_comes_through_links_is_said(cells: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for kind, ending in (("images", ".jpg"), ("labels", ".txt")):
        (elsewhere / kind).mkdir(parents=True)
        for file in sorted((cells / kind / "train").glob(f"*{ending}"))[:2]:
            shutil.move(file, elsewhere / kind / file.name)
            file.symlink_to(elsewhere / kind / file.name)
    shutil.move(cells / "images" / "val", elsewhere / "val")
    (cells / "images" / "val").symlink_to(elsewhere / "val")
    check_same(cells)
    said = [f"taken along from {(elsewhere / part).resolve()}, through links" for part in ("images", "labels", "val")]
    assert _packing.data_set(cells, None).notes == said
