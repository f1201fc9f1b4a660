from __future__ import annotations

from pathlib import Path

import pytest

from aps_deploy.errors import InputError
from aps_deploy.preprocessing import CIFAR10, IMAGENET, Preprocessing
from aps_deploy.verification.preparing import Preparation, facts_of, numbers_of
from tests.verification.foreign import CLASSES, SIDE, write_average_colour

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    ("said", "carried", "fixed", "expected"),
    [
        (Preparation(), CIFAR10, 32, CIFAR10),
        (Preparation(name="imagenet"), CIFAR10, None, IMAGENET),
        # The file takes one size only: the preset gives way, its resize in proportion.
        (Preparation(name="imagenet"), None, 112, Preprocessing(112, 128, IMAGENET.mean, IMAGENET.std)),
        (Preparation(name="imagenet", image_size=96), None, None, Preprocessing(96, 110, IMAGENET.mean, IMAGENET.std)),
        (Preparation(name="imagenet", resize=0), None, None, Preprocessing(224, None, IMAGENET.mean, IMAGENET.std)),
        (Preparation(mean=MEAN, std=STD), None, 48, Preprocessing(48, None, MEAN, STD)),
        (Preparation(mean=MEAN, std=STD, image_size=40, resize=44), None, None, Preprocessing(40, 44, MEAN, STD)),
        (Preparation(mean=MEAN), CIFAR10, 32, Preprocessing(32, None, MEAN, CIFAR10.std)),
        (Preparation(image_size=64), CIFAR10, None, Preprocessing(64, None, CIFAR10.mean, CIFAR10.std)),
    ],
)
def test_what_is_said_goes_before_what_is_carried(
    said: Preparation, carried: Preprocessing | None, fixed: int | None, expected: Preprocessing
) -> None:
    assert said.resolve(carried, fixed, "net.onnx") == expected


@pytest.mark.parametrize(
    ("said", "fixed", "words"),
    [
        (Preparation(), 32, "give --mean and --std."),
        (Preparation(mean=MEAN, std=STD), None, "and --image-size, for it takes any size"),
        (Preparation(mean=MEAN, image_size=32), None, "--preprocessing (cifar10, imagenet)"),
        (Preparation(name="imagnet"), 32, "did you mean imagenet"),
        (Preparation(mean=MEAN, std=(0.0, 1.0, 1.0)), 32, "std positive"),
    ],
)
def test_nothing_is_guessed(said: Preparation, fixed: int | None, words: str) -> None:
    with pytest.raises(InputError) as caught:
        said.resolve(None, fixed, "net.onnx")
    assert words in str(caught.value)


def test_numbers_are_read_and_repeated_in_commands() -> None:
    assert numbers_of(None, "--mean") is None
    assert numbers_of("0.5", "--mean") == (0.5, 0.5, 0.5)
    assert numbers_of("0.485, 0.456,0.406", "--mean") == IMAGENET.mean
    for text in ("", "1,2", "a,b,c", "1,2,3,4"):
        with pytest.raises(InputError, match="--std"):
            numbers_of(text, "--std")
    said = Preparation("imagenet", 96, 0, MEAN, STD)
    assert said.words() == [
        *("--preprocessing", "imagenet", "--image-size", "96", "--resize", "0"),
        *("--mean", "0.1,0.2,0.3", "--std", "0.4,0.5,0.6"),
    ]
    assert numbers_of(said.words()[7], "--mean") == MEAN


def test_what_files_say(exports: dict[str, Path], tmp_path: Path) -> None:
    fixed = facts_of(write_average_colour(tmp_path / "fixed.onnx"))
    assert (fixed.side, fixed.num_classes, fixed.metadata.is_known) == (SIDE, CLASSES, False)
    free = facts_of(write_average_colour(tmp_path / "free.onnx", "side"))
    assert (free.side, free.num_classes) == (None, CLASSES)
    ours = facts_of(exports["where"])
    assert ours.num_classes == 7 and ours.metadata.preprocessing is not None
    assert facts_of(exports["checkpoint"]).metadata.preprocessing == ours.metadata.preprocessing
