"""Whatever is given to `verify`, the answer is a sentence or a failed gate: never a pass of a damaged file, never a
traceback."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from aps_deploy.errors import InputError
from aps_deploy.models import ResNet, load_checkpoint
from aps_deploy.runtimes import open_session
from aps_deploy.verification import verify_path
from tests.verification import damage
from tests.verification.conftest import make_images
from tests.verification.damage import DamagedFiles, outcome

# The same examples in every run.
FAST = settings(max_examples=20, deadline=None, derandomize=True, database=None,
                suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip
MANY = settings(FAST, max_examples=600)

SHARES = st.floats(0, 1, exclude_max=True)
FLIPS = st.lists(st.tuples(st.integers(0, 9).map(lambda k: k > 0), SHARES, st.integers(1, 255)), min_size=1, max_size=4)
JUNK = st.sampled_from([None, True, 0, -1, 4, 10**12, 0.5, "", "x", "\x00", "fp16", [], [1], {}, {"a": 1}, [[]]])


@pytest.fixture(scope="module")
def judge(exports: dict[str, Path]) -> ResNet:
    return load_checkpoint(exports["checkpoint"])


@pytest.fixture(scope="module")
def damaged(exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, DamagedFiles]:
    folder = tmp_path_factory.mktemp("damaged")
    return {form: DamagedFiles(exports[form], folder) for form in ("where", "custom-op")}


@pytest.fixture(scope="module")
def model(exports: dict[str, Path]) -> onnx.ModelProto:
    return onnx.load(exports["where"])


IMAGES = make_images(2)
FORMS = st.sampled_from(["where", "custom-op"])


def _check_truncated(files: DamagedFiles, judge: ResNet, in_structure: bool, share: float, beside: bool) -> None:
    places = files.structure if in_structure else range(len(files.content))
    end = int(places[int(share * len(places))])
    assert outcome(files.write(files.content[:end], with_document=beside), judge, IMAGES) != "passed"


def _check_flipped(files: DamagedFiles, judge: ResNet, flips: list[tuple[bool, float, int]], beside: bool) -> None:
    content = files.flipped(flips)
    if content == files.content:  # the second flip undid the first
        return
    path = files.write(content, with_document=beside)
    if outcome(path, judge, IMAGES) != "passed":
        return
    # Nothing says that these bytes are others, so they may pass: if nobody can tell the files apart by running them.
    assert not beside
    fresh = make_images(4, seed=9)
    with open_session(path) as session, open_session(onnx.load_from_string(files.content)) as good:
        ours, theirs = (each.run(fresh) for each in (session, good))
    np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=1e-2, atol=1e-3)
    np.testing.assert_array_equal(ours["polyphase_indices"], theirs["polyphase_indices"])


@FAST
@given(form=FORMS, in_structure=st.booleans(), share=SHARES, beside=st.booleans())
def test_a_truncated_file_never_passes(
    form: str, in_structure: bool, share: float, beside: bool, damaged: dict[str, DamagedFiles], judge: ResNet
) -> None:
    _check_truncated(damaged[form], judge, in_structure, share, beside)


@FAST
@given(form=FORMS, flips=FLIPS, beside=st.booleans())
def test_a_file_with_flipped_bits_passes_only_where_nobody_can_tell(
    form: str,
    flips: list[tuple[bool, float, int]],
    beside: bool,
    damaged: dict[str, DamagedFiles],
    judge: ResNet,
) -> None:
    _check_flipped(damaged[form], judge, flips, beside)


@pytest.mark.slow
@MANY
@given(form=FORMS, in_structure=st.booleans(), share=SHARES, beside=st.booleans())
def test_no_truncated_file_passes(
    form: str, in_structure: bool, share: float, beside: bool, damaged: dict[str, DamagedFiles], judge: ResNet
) -> None:
    _check_truncated(damaged[form], judge, in_structure, share, beside)


@pytest.mark.slow
@MANY
@given(form=FORMS, flips=FLIPS, beside=st.booleans())
def test_no_file_with_flipped_bits_passes(
    form: str,
    flips: list[tuple[bool, float, int]],
    beside: bool,
    damaged: dict[str, DamagedFiles],
    judge: ResNet,
) -> None:
    _check_flipped(damaged[form], judge, flips, beside)


@settings(FAST, max_examples=8)
@given(data=st.data(), place=SHARES, value=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_a_weight_that_is_no_number_never_passes(
    data: st.DataObject,
    place: float,
    value: float,
    damaged: dict[str, DamagedFiles],
    model: onnx.ModelProto,
    judge: ResNet,
) -> None:
    name = data.draw(st.sampled_from(damage.float_initializers(model)))
    bad = damage.with_value(model, name, place, value)
    assert outcome(damaged["where"].write_model(bad), judge, IMAGES) == "failed"


@settings(FAST, max_examples=20)
@given(data=st.data())
def test_damaged_metadata_never_passes_for_something_else(
    data: st.DataObject, damaged: dict[str, DamagedFiles], model: onnx.ModelProto, judge: ResNet
) -> None:
    document = damage.metadata_of(model)
    changed: Any = copy.deepcopy(document)
    place = changed
    while True:
        keys = list(range(len(place))) if isinstance(place, list) else list(place)
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.integers(0, 3)) == 0:
            break
        place = place[key]
    place[key] = data.draw(JUNK)
    file = damaged["where"].write_model(damage.with_metadata(model, json.dumps(changed)))
    if outcome(file, judge, IMAGES) == "passed":
        # What verification does not judge by may say what it likes; what it promises may not.
        with open_session(file) as session:
            found = session.metadata
        for name in ("padding", "pool_only", "selection", "criterion", "odd_maps"):
            assert found.arguments[name] == document["arguments"][name]
        assert found.precision in ("fp32", None)
        assert [entry.layer for entry in found.selections] == ["layer2.0.pool", "layer3.0.pool"]


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"a": NaN}', "\x00", "1" * 5000])
def test_metadata_that_is_none_never_passes(
    text: str, damaged: dict[str, DamagedFiles], model: onnx.ModelProto, judge: ResNet
) -> None:
    assert outcome(damaged["where"].write_model(damage.with_metadata(model, text)), judge, IMAGES) != "passed"


@pytest.mark.parametrize("name", [name for name, _ in damage.foreign_graphs()])
def test_a_graph_of_something_else_never_passes(name: str, damaged: dict[str, DamagedFiles], judge: ResNet) -> None:
    graph = dict(damage.foreign_graphs())[name]
    assert outcome(damaged["where"].write_model(graph), judge, IMAGES) != "passed"


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x00" * 1000, b"\x08\x0a", b"PK\x03\x04", b"\xff" * 64])
def test_other_bytes_are_refused(content: bytes, damaged: dict[str, DamagedFiles], judge: ResNet) -> None:
    for beside in (False, True):
        assert outcome(damaged["where"].write(content, with_document=beside), judge, IMAGES) == "refused"


@settings(FAST, max_examples=60)
@given(
    images=arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_, np.complex64]),
        arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
        fill=st.nothing(),
        elements=st.just(1),
    )
)
def test_images_of_another_shape_or_dtype_are_refused(images: Any, exports: dict[str, Path], judge: ResNet) -> None:
    assert outcome(exports["where"], judge, images) == "refused"


@pytest.mark.parametrize(
    "images",
    [
        make_images(2)[:0],
        make_images(2)[:, :, :0],
        make_images(2)[..., :15],
        make_images(2, size=24),
        make_images(2)[:, :2],
        np.full((1, 3, 16, 16), np.nan, np.float32),
        np.full((1, 3, 16, 16), "a"),
        [[1.0]],
        None,
        "images",
    ],
    ids=["none", "zero rows", "odd", "larger", "two channels", "NaN", "text", "list", "None", "str"],
)
def test_other_images_are_refused(images: Any, exports: dict[str, Path], judge: ResNet) -> None:
    assert outcome(exports["where"], judge, images) == "refused"


def _good_png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)).save(stream, "PNG")
    return stream.getvalue()


FOLDERS: dict[str, dict[str, bytes]] = {
    "empty": {},
    "text": {"a.txt": b"hello"},
    "empty image": {"a.png": b""},
    "text as image": {"a.png": b"hello"},
    "half an image": {"a.png": _good_png()[:60]},
    "a good and a bad image": {"a.png": _good_png(), "b.jpg": b"\xff\xd8\xff\xe0" + b"\x00" * 50},
    "an empty class": {"class 0/a.png": _good_png(), "class 1/readme.txt": b""},
    "classes of other names": {"cat/a.png": _good_png(), "dog/a.png": _good_png()},
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_without_usable_images_is_refused(name: str, exports: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for place, content in FOLDERS[name].items():
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_bytes(content)
    for data in (folder, tmp_path / "nowhere", exports["where"]):
        with pytest.raises(InputError) as caught:
            verify_path(exports["where"], exports["checkpoint"], data, output=tmp_path / "c.json", shifts=1)
        damage.assert_one_sentence(str(caught.value))
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("options", [{"shifts": "many"}, {"shifts": 0}, {"shifts": -1}, {"shifts": True},
                                     {"batch_size": 0}, {"runtime": "abacus"}, {"device": "tpu"},
                                     {"gates": {"top1_consistency": float("nan")}}, {"gates": {"": 1.0}},
                                     {"precision": "fp8"}])  # fmt: skip
def test_options_that_mean_nothing_are_refused(
    options: dict[str, Any], exports: dict[str, Path], judge: ResNet
) -> None:
    assert outcome(exports["where"], judge, IMAGES, **options) == "refused"
