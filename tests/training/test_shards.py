"""Shards written by the webdataset library are read as the library reads them, and train as class folders do."""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("webdataset", reason="webdataset is not installed (extra test)")

import webdataset

from aps_deploy.errors import InputError
from aps_deploy.models import create_model, save_checkpoint
from aps_deploy.preprocessing import CIFAR10
from aps_deploy.training.data import find_data, load_data
from aps_deploy.training.evaluate import EvaluateSettings, evaluate
from aps_deploy.training.image_files import FileImages
from aps_deploy.training.loop import run_training
from aps_deploy.training.metrics import TIMED, read_metrics
from aps_deploy.training.recipes import RECIPES
from aps_deploy.training.shards import find_shards, labels_for, read_shards
from aps_deploy.training.sources import Member
from tests.training.conftest import CLASSES, Settings

RECIPE = dataclasses.replace(RECIPES["fast"], workers=0)


def write_shards(source: Path, target: Path, *, per_shard: int) -> None:
    """Write the images of class folders as shards, in the order of the folders."""
    target.mkdir(parents=True)
    paths = sorted(source.rglob("*.png"))
    for number, start in enumerate(range(0, len(paths), per_shard)):
        with webdataset.TarWriter(str(target / f"{number:04d}.tar")) as writer:
            for path in paths[start : start + per_shard]:
                key = f"{path.parent.name}/{path.stem}"
                label = CLASSES.index(path.parent.name)
                writer.write({"__key__": key, "png": path.read_bytes(), "cls": label, "json": {"from": path.name}})


@pytest.fixture
def shards(data_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    for name in ("train", "test"):
        write_shards(data_folder / name, folder / name, per_shard=10)
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    return folder


def test_the_library_reads_the_same(shards: Path) -> None:
    names = [str(path) for path in find_shards(shards / "train")]
    members, labels = read_shards([Path(name) for name in names])
    images = FileImages(members, torch.from_numpy(labels), find_data(shards, RECIPE).preprocessing, workers=0)
    ((ours, our_labels),) = images.batches([torch.arange(len(images))])
    samples = list(webdataset.WebDataset(names, shardshuffle=False).decode("rgb8").to_tuple("png", "cls"))
    assert len(samples) == len(images) == 48 and len(names) == 5
    assert torch.equal(ours, torch.from_numpy(np.stack([image for image, _ in samples])).permute(0, 3, 1, 2))
    assert our_labels.tolist() == [label for _, label in samples]


def test_shards_train_as_class_folders_do(shards: Path, data_folder: Path, settings: Settings, tmp_path: Path) -> None:
    data = load_data(shards, RECIPE)
    assert data.class_names == list(CLASSES) and data.test is not None and len(data.test) == 12
    for name, folder in (("folders", data_folder), ("shards", shards)):
        run_training(settings(arch="resnet20", epochs=1, data=folder, out_dir=tmp_path / f"run-{name}"))
    one, other = (read_metrics(tmp_path / f"run-{name}" / "metrics.jsonl")[0] for name in ("folders", "shards"))
    assert {key: one[key] for key in one if key not in TIMED} == {key: other[key] for key in other if key not in TIMED}


def test_a_few_shards_are_shuffled_at_a_time() -> None:
    sources = [Member(Path(f"{shard:02d}.tar"), f"{number}.png", 0, 1) for shard in range(40) for number in range(5)]
    images = FileImages(sources, torch.zeros(200, dtype=torch.int64), find_preprocessing(), workers=0)
    order = images.order(torch.Generator().manual_seed(1))
    assert torch.equal(order.sort().values, torch.arange(200))
    shards = order // 5
    pieces = [set(shards[start : start + 80].tolist()) for start in (0, 80, 160)]
    assert [len(piece) for piece in pieces] == [16, 16, 8] and len(set.union(*pieces)) == 40
    assert len(set(shards[:16].tolist())) > 8, "images of all shards of a group are mixed"
    again = images.order(torch.Generator().manual_seed(1))
    other = images.order(torch.Generator().manual_seed(2))
    assert torch.equal(order, again) and not torch.equal(order, other)


def find_preprocessing() -> object:
    from aps_deploy.training.data import preprocessing_of

    return preprocessing_of(RECIPE)


def add(shard: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    shard.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(shard, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return shard


@pytest.mark.parametrize(
    ("members", "mode", "message"),
    [
        ({"a.png": b"x"}, "w", r"sample a of .* has no a\.cls"),
        ({"a.cls": b"1"}, "w", r"sample a of .* has no image"),
        ({"a.png": b"x", "b.png": b"x", "a.cls": b"1"}, "w", r"sample a of .* has no a\.cls"),
        ({"a.png": b"x", "a.cls": b"cat"}, "w", r"a\.cls holds b'cat'; a label is the number"),
        ({"a.png": b"x", "a.cls": b"-1"}, "w", r"a label is the number of the class, from 0 on"),
        ({"a.png": b"x", "a.cls": b"1"}, "w:gz", r"accepted are whole tar files that are not compressed"),
        ({"a.png": b"x", "a.cls": b"9"}, "w", r"classes\.txt names 3 classes, but the shards hold a label 9"),
        ({}, "w", "1 shards without a sample"),
    ],
)
def test_wrong_shards(members: dict[str, bytes], mode: str, message: str, tmp_path: Path) -> None:
    add(tmp_path / "train" / "0.tar", members, mode)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    with pytest.raises(InputError, match=message):
        find_data(tmp_path, RECIPE)


def test_keys_end_at_the_first_dot_of_the_name(tmp_path: Path) -> None:
    shard = add(tmp_path / "0.tar", {"v1.0/a.png": b"x", "v1.0/a.mask.png": b"y", "v1.0/a.cls": b"4\n"})
    members, labels = read_shards([shard])
    assert [member.name for member in members] == ["v1.0/a.png"] and labels.tolist() == [4]


def test_a_truncated_shard(shards: Path) -> None:
    shard = find_shards(shards / "train")[2]
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"shard .*0002\.tar cannot be read"):
        find_data(shards, RECIPE)


def ten_samples(path: Path, *, writer: str) -> list[int]:
    """Write ten samples; return where their headers begin, and where the archive ends."""
    samples = {f"{number:02d}": (bytes([65 + number]) * (400 + 200 * number), number) for number in range(10)}
    if writer == "webdataset":
        with webdataset.TarWriter(str(path)) as archive:
            for key, (image, label) in samples.items():
                archive.write({"__key__": key, "png": image, "cls": label})
    else:
        content = {}
        for key, (image, label) in samples.items():
            content |= {f"{key}.png": image, f"{key}.cls": str(label).encode()}
        add(path, content)
        if writer == "tar":  # GNU tar, where there is one, or bsdtar
            names = subprocess.run(
                ["tar", "-xvf", path, "-C", path.parent], capture_output=True, text=True, check=True
            ).stdout.split()
            subprocess.run(["tar", "-cf", path, "-C", path.parent, *names], check=True)
    with tarfile.open(path) as archive:
        return [*(entry.offset for entry in archive), archive.offset]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("zeroed", "is damaged or cut off at byte {0}: neither the header of a file nor the end"),
        ("zeroed, and the image too", "ends at byte {0}, but more than zeros follow: a header is damaged"),
        ("scrambled", "is damaged or cut off at byte {0}"),
        ("cut before", "is damaged or cut off at byte {0}"),
        ("cut inside", "is damaged or cut off at byte {0}"),
        ("cut before the end", "is damaged or cut off at byte {1}"),
        ("cut inside the end", "is damaged or cut off at byte {1}"),
        ("joined by cat", "ends at byte {1}, but more than zeros follow"),
    ],
)
@pytest.mark.parametrize("writer", ["tarfile", "webdataset"])
def test_no_sample_of_a_damaged_shard_is_left_out_in_silence(
    damage: str, message: str, writer: str, tmp_path: Path
) -> None:
    shard = tmp_path / "0.tar"
    *headers, end = ten_samples(shard, writer=writer)
    content = bytearray(shard.read_bytes())
    place = headers[10]  # of the sixth sample's first file: whole samples lie before it
    if damage.startswith("zeroed"):
        size = headers[11] - place if damage.endswith("too") else 512
        content[place : place + size] = bytes(size)
    elif damage == "scrambled":
        content[place + 100 : place + 200] = np.random.default_rng(0).bytes(100)
    elif damage == "joined by cat":
        content = content * 2
    else:
        where = {"cut before": place, "cut inside": place + 200, "cut before the end": end}.get(damage, end + 600)
        del content[where:]
    shard.write_bytes(content)
    with pytest.raises(InputError, match="shard .*0.tar " + message.format(place, end)) as caught:
        read_shards([shard])
    assert str(caught.value).count(". ") == 0, "one sentence"


@pytest.mark.parametrize("writer", ["tarfile", "webdataset", "tar"])
def test_whole_shards_end_in_many_ways(writer: str, tmp_path: Path) -> None:
    if writer == "tar" and shutil.which("tar") is None:
        pytest.skip("there is no tar here")
    shard = tmp_path / "0.tar"
    *_, end = ten_samples(shard, writer=writer)
    whole = shard.read_bytes()
    assert whole[end:] == bytes(len(whole) - end) and len(whole) - end >= 1024, "what the check rests on"
    for content in (whole, whole[: end + 1024], whole + bytes(3 << 20)):
        shard.write_bytes(content)
        assert read_shards([shard])[1].tolist() == list(range(10))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("network") / "network.safetensors"
    model = create_model("resnet20", num_classes=3).eval()
    return save_checkpoint(path, model, preprocessing=CIFAR10, class_names=CLASSES)


def evaluation(model: Path, data: Path, **more: object) -> dict[str, object]:
    chosen = {"device": "cpu", "shifts": 2, "shift_images": 3, "progress": False, **more}
    return evaluate(EvaluateSettings(model=model, data=data, **chosen)).to_dict()  # type: ignore[arg-type]


def test_shards_are_evaluated_as_class_folders_are(network: Path, shards: Path, data_folder: Path) -> None:
    expected = evaluation(network, data_folder)
    assert evaluation(network, shards) == expected and expected["num_images"] == 12
    assert {**evaluation(network, shards / "test"), "split": "test"} == expected, "numbers alone"
    assert evaluation(network, shards, images=6) == evaluation(network, data_folder, images=6)


def test_classes_of_shards_that_do_not_fit(shards: Path) -> None:
    numbers = np.array([0, 2])
    assert labels_for(shards, numbers, ("red", "blue", "green"), None).tolist() == [1, 0]
    assert labels_for(shards, numbers, None, 3).tolist() == [0, 2]
    assert labels_for(shards, numbers, None, 1000) is None
    with pytest.raises(InputError, match=r"classes\.txt names red, which is none of the model's 2 classes"):
        labels_for(shards, numbers, ("blue", "green"), None)
    with pytest.raises(InputError, match="hold a label 2, but the model has 2 classes"):
        labels_for(shards / "test", numbers, None, 2)


def test_unreadable_images_are_left_out_of_an_evaluation(network: Path, shards: Path) -> None:
    shard = find_shards(shards / "test")[0]
    members, _ = read_shards([shard])
    content = bytearray(shard.read_bytes())
    for place in (members[1], members[4]):
        content[place.offset : place.offset + place.size] = bytes(place.size)
    shard.write_bytes(content)
    found = evaluation(network, shards, max_unreadable_images=2)
    assert (found["num_images"], found["num_unreadable"]) == (10, 2)
    for limit, message in ((1, "more than 1 images cannot be read"), (None, f"image {members[1]} cannot be read")):
        with pytest.raises(InputError, match=re.escape(message)):
            evaluation(network, shards, max_unreadable_images=limit)
