"""Preprocessing with Pillow and numpy against torchvision's transforms, bit for bit."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.datasets.folder import default_loader

from aps_deploy.errors import InputError
from aps_deploy.preprocessing import CIFAR10, IMAGENET, Preprocessing, load_image

SIZES = [(32, 32), (33, 47), (47, 33), (31, 31), (256, 256), (257, 301), (500, 375), (375, 500), (64, 9), (1, 1)]


def torchvision_pipeline(preprocessing: Preprocessing) -> transforms.Compose:
    modes = transforms.InterpolationMode
    steps: list[object] = []
    if preprocessing.resize is not None:
        steps.append(transforms.Resize(preprocessing.resize, modes(preprocessing.interpolation)))
    steps += [
        transforms.CenterCrop(preprocessing.image_size),
        transforms.ToTensor(),
        transforms.Normalize(preprocessing.mean, preprocessing.std),
    ]
    return transforms.Compose(steps)


def random_image(size: tuple[int, int], seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    assert actual.flags.c_contiguous
    assert actual.tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "preprocessing",
    [
        CIFAR10,
        IMAGENET,
        Preprocessing(33, 37, IMAGENET.mean, IMAGENET.std),
        Preprocessing(40, 33, IMAGENET.mean, IMAGENET.std),
        Preprocessing(45, 50, IMAGENET.mean, IMAGENET.std, interpolation="bicubic"),
    ],
    ids=["cifar10", "imagenet", "odd", "padded", "bicubic"],
)
def test_equals_torchvision(preprocessing: Preprocessing, size: tuple[int, int]) -> None:
    image = random_image(size)
    assert_same_bits(preprocessing.apply(image), torchvision_pipeline(preprocessing)(image).numpy())


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    resize=st.none() | st.integers(1, 70),
    crop=st.integers(1, 100),
)
def test_equals_torchvision_at_any_size(width: int, height: int, resize: int | None, crop: int) -> None:
    preprocessing = Preprocessing(crop, resize, CIFAR10.mean, CIFAR10.std)
    image = random_image((width, height), seed=width + 91 * height)
    assert_same_bits(preprocessing.apply(image), torchvision_pipeline(preprocessing)(image).numpy())


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_equals_torchvision_for_every_interpolation(interpolation: str) -> None:
    preprocessing = Preprocessing(30, 41, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), interpolation=interpolation)  # type: ignore[arg-type]
    image = random_image((73, 59))
    assert_same_bits(preprocessing.apply(image), torchvision_pipeline(preprocessing)(image).numpy())


def test_equals_torchvision_for_every_byte_value() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([ramp, ramp[::-1], ramp.T], axis=-1))
    for base in (CIFAR10, IMAGENET):
        preprocessing = Preprocessing(16, None, base.mean, base.std)
        assert_same_bits(preprocessing.apply(image), torchvision_pipeline(preprocessing)(image).numpy())


def saved_images(folder: Path) -> list[Path]:
    """Write one file per mode and format a user may have."""
    colour = random_image((53, 41), seed=3)
    wide = np.random.default_rng(4).integers(0, 65536, (41, 53), dtype=np.uint16)
    alpha = colour.convert("RGBA")
    alpha.putalpha(Image.fromarray(np.random.default_rng(5).integers(0, 256, (41, 53), dtype=np.uint8)))
    transparent = colour.convert("P")
    transparent.info["transparency"] = 3
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees when shown
    images = {
        "grey.png": colour.convert("L"),
        "grey.jpg": colour.convert("L"),
        "bilevel.png": colour.convert("1"),
        "rgba.png": alpha,
        "grey-alpha.png": alpha.convert("LA"),
        "palette.png": colour.convert("P"),
        "palette-transparent.png": transparent,
        "cmyk.jpg": colour.convert("CMYK"),
        "wide.png": Image.fromarray(wide),
        "wide.tif": Image.fromarray(wide),
        "float.tif": Image.fromarray(np.linspace(-10, 300, 41 * 53, dtype=np.float32).reshape(41, 53)),
        "lossless.webp": colour,
        "plain.bmp": colour,
        "plain.ppm": colour,
        "progressive.jpg": colour,
        "rotated.jpg": colour,
    }
    options: dict[str, dict[str, object]] = {
        "lossless.webp": {"lossless": True},
        "progressive.jpg": {"progressive": True, "quality": 71},
        "rotated.jpg": {"exif": exif},
    }
    for name, image in images.items():
        image.save(folder / name, **options.get(name, {}))
    return sorted(folder / name for name in images)


def test_files_of_every_mode_equal_torchvisions_loader(tmp_path: Path) -> None:
    preprocessing = Preprocessing(28, 32, IMAGENET.mean, IMAGENET.std)
    pipeline = torchvision_pipeline(preprocessing)
    for path in saved_images(tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow advises RGBA for palettes with transparency
            ours, theirs = load_image(path), default_loader(str(path))
        assert ours.mode == "RGB", path.name
        assert ours.tobytes() == theirs.tobytes(), path.name
        assert_same_bits(preprocessing.apply(ours), pipeline(theirs).numpy())


def test_exif_orientation_is_ignored_as_in_torchvision(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    random_image((50, 20)).save(tmp_path / "rotated.jpg", exif=exif)
    assert load_image(tmp_path / "rotated.jpg").size == (50, 20)


def test_apply_converts_images_of_other_modes() -> None:
    image = random_image((40, 40)).convert("L")
    assert_same_bits(CIFAR10.apply(image), CIFAR10.apply(image.convert("RGB")))


def test_bgr_swaps_the_channels_before_the_normalisation() -> None:
    image = random_image((32, 32))
    swapped = Image.fromarray(np.asarray(image)[:, :, ::-1].copy())
    bgr = Preprocessing(32, None, CIFAR10.mean, CIFAR10.std, channel_order="BGR")
    assert_same_bits(bgr.apply(image), CIFAR10.apply(swapped))


def test_result_is_owned_by_the_caller() -> None:
    image = random_image((32, 32))
    before = image.tobytes()
    CIFAR10.apply(image)[...] = 0
    assert image.tobytes() == before


@pytest.mark.parametrize("preprocessing", [CIFAR10, IMAGENET], ids=["cifar10", "imagenet"])
def test_round_trip_through_json(preprocessing: Preprocessing) -> None:
    document = json.loads(json.dumps(preprocessing.to_dict()))
    assert Preprocessing.from_dict({**document, "added_by_a_newer_version": 1}) == preprocessing


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image_size": 0}, "image_size"),
        ({"image_size": 32.5}, "image_size"),
        ({"resize": -1}, "resize"),
        ({"mean": [0.5]}, "mean"),
        ({"std": [0.1, 0.0, 0.1]}, "std"),
        ({"std": [0.1, float("nan"), 0.1]}, "std"),
        ({"channel_order": "GBR"}, "RGB, BGR"),
        ({"interpolation": "area"}, "bilinear"),
        ({"mean": "bright"}, "mean"),
        ({"mean": None}, "mean"),
    ],
    ids=lambda value: str(value),
)
def test_wrong_values_are_refused(change: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Preprocessing.from_dict({**CIFAR10.to_dict(), **change})


def test_missing_fields_are_named() -> None:
    with pytest.raises(InputError, match="std"):
        Preprocessing.from_dict({"image_size": 32, "resize": None, "mean": [0, 0, 0]})


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.webp", "photo.bmp", "photo.tif"])
def test_truncated_files_are_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    random_image((64, 64)).save(path)
    whole = path.read_bytes()
    for keep in (0, 1, 10, len(whole) // 2, len(whole) - len(whole) // 8):
        path.write_bytes(whole[:keep])
        with pytest.raises(InputError) as caught:
            load_image(path)
        message = str(caught.value)
        assert message.count(str(path)) == 1
        assert "\n" not in message
        assert "JPEG" in message


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.webp", "photo.tif", "photo.ppm", "photo.bmp"])
def test_damaged_files_are_read_or_refused_but_never_crash(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    random_image((40, 40)).save(path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    generator = np.random.default_rng(1)
    for _ in range(60):
        damaged = whole.copy()
        damaged[generator.integers(0, min(len(whole), 200), 6)] = generator.integers(0, 256, 6)
        path.write_bytes(damaged.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert load_image(path).mode == "RGB"
            except InputError as error:
                assert str(path) in str(error)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder"):
        load_image(tmp_path)


def test_text_with_an_image_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("not an image")
    with pytest.raises(InputError, match="cannot be read"):
        load_image(path)
