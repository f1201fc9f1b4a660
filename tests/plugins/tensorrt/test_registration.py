"""The plugins in the hands of TensorRT's real Python part: shapes, types, layouts and launches, without an engine.

And what the kernels compute when they are launched so, in Triton's interpreter, against the bodies in the ONNX file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from aps_deploy.plugins.tensorrt.interfaces import BLOCK_PIXELS, BLOCK_VALUES, PARTS
from aps_deploy.plugins.tensorrt.operators import PluginOperator
from tests.export.support import run
from tests.plugins.tensorrt.bindings import make_importable
from tests.plugins.tensorrt.selections import selection_model, three_operators

Answers = dict[str, Any]

# Maps with fewer pixels than a block, with whole blocks and more, of a number of channels that fills no tile.
SHAPES = {2: (5, 24, 14, 10), 3: (2, 20, 9, 12), 4: (3, 3, 40, 36)}
# Types by stride and criterion: every kernel of stride 2, and enough of the others.
TYPES = {
    (2, "l2"): ("FLOAT", "HALF", "BF16"),
    (2, "l1"): ("FLOAT",),
    (2, "l2_min"): ("FLOAT",),
    (3, "l2"): ("FLOAT", "HALF"),
    (4, "l1_min"): ("FLOAT",),
}
ALL = [(stride, criterion, kind) for (stride, criterion), kinds in TYPES.items() for kind in kinds]


def _cases() -> list[dict[str, Any]]:
    found = []
    for (stride, criterion), kinds in TYPES.items():
        batch, _, height, width = shape = SHAPES[stride]
        blocks = -(-height * width // BLOCK_PIXELS)
        between = {"score": [[batch, height, width], [batch, blocks]], "select": [shape, [batch, PARTS, stride**2]]}
        energy, score, select = three_operators(criterion, stride)
        for kind in kinds:
            found.append({"op_type": energy.op_type, "types": [kind], "shapes": [shape]})
            found.append({"op_type": select.op_type, "types": [kind, "INT64"], "shapes": between["select"]})
        found.append({"op_type": score.op_type, "types": ["FLOAT"] * 2, "shapes": between["score"]})
    return [case for number, case in enumerate(found) if case not in found[:number]]


def _key(case: dict[str, Any]) -> str:
    return json.dumps([case["op_type"], case["types"][0], case["shapes"][0]])


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What the plugins answered to every case."""
    pytest.importorskip("triton", reason="Triton, which compiles the kernels, is not installed")
    environment = make_importable(tmp_path_factory.mktemp("tensorrt"))
    request = json.dumps({"compute_capability": 90, "cases": _cases()})
    command = [sys.executable, str(Path(__file__).with_name("driving.py"))]
    result = subprocess.run(command, input=request, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def answers(driven: Answers) -> Answers:
    """The answers by case."""
    return {_key(case): answer for case, answer in zip(_cases(), driven["cases"], strict=True)}


def _answer(answers: Answers, operator: PluginOperator, kind: str, shape: Any) -> Answers:
    return dict(answers[json.dumps([operator.op_type, kind, list(shape)])])


def test_each_operator_is_a_plugin_of_the_namespace_that_nodes_name(driven: Answers) -> None:
    op_types = sorted({case["op_type"] for case in _cases()})
    assert op_types == sorted({operator.op_type for choice in TYPES for operator in three_operators(*choice[::-1])})
    assert driven["registered"] == driven["defined"] == op_types
    assert driven["namespaces"] == ["aps"]
    assert driven["version"].split(".")[0] in ("10", "11")


@pytest.mark.parametrize(("stride", "criterion", "kind"), ALL)
def test_shapes_and_types(answers: Answers, stride: int, criterion: str, kind: str) -> None:
    batch, channels, height, width = shape = SHAPES[stride]
    energy, score, select = three_operators(criterion, stride)
    blocks = -(-height * width // BLOCK_PIXELS)
    answer = _answer(answers, energy, kind, shape)
    assert answer["types"] == ["FLOAT", "FLOAT"]
    assert answer["shapes"] == [[batch, height, width], [batch, blocks]]
    answer = _answer(answers, score, "FLOAT", (batch, height, width))
    assert (answer["types"], answer["shapes"]) == (["INT64"], [[batch, PARTS, stride**2]])
    answer = _answer(answers, select, kind, shape)
    assert answer["types"] == [kind, "INT64"]
    assert answer["shapes"] == [[batch, channels, height // stride, width // stride], [batch]]


@pytest.mark.parametrize(("stride", "criterion"), TYPES)
def test_launches_cover_the_map(answers: Answers, stride: int, criterion: str) -> None:
    batch, channels, height, width = shape = SHAPES[stride]
    energy, score, select = three_operators(criterion, stride)
    values = channels * (height // stride) * (width // stride)
    expected = {
        energy.op_type: (-(-height * width // BLOCK_PIXELS), [channels, height * width]),
        score.op_type: (PARTS, [height, width]),
        select.op_type: (-(-values // BLOCK_VALUES), [channels, height, width]),
    }
    for operator in (energy, score, select):
        first = (batch, height, width) if operator is score else shape
        blocks, integers = expected[operator.op_type]
        for launch in _answer(answers, operator, "FLOAT", first)["launches"]:
            grid = [launch["launch"][f"grid_{axis}"] for axis in "xyz"]
            block = [launch["launch"][f"block_{axis}"] for axis in "xyz"]
            assert grid == [blocks, batch, 1]
            assert block == [launch["num_threads"], 1, 1]
            assert launch["integers"] == integers
            assert 0 <= launch["launch"]["shared_mem"] <= 48 * 1024  # more must be asked for, which nobody does


def test_kernels_take_what_tensorrt_hands_over(driven: Answers) -> None:
    for case, answer in zip(_cases(), driven["cases"], strict=True):
        for launch in answer["launches"]:
            handed = ["u64"] * len(case["types"]) + ["u32"] * len(launch["integers"]) + ["u64"] * len(answer["types"])
            assert launch["parameters"] == handed
            assert launch["target"] == "sm_90a"


def test_no_two_kernels_share_a_name(driven: Answers) -> None:
    seen: dict[str, Any] = {}
    for case, answer in zip(_cases(), driven["cases"], strict=True):
        for launch in answer["launches"]:
            of_kernel = [case["op_type"], *launch["types"], launch["layouts"][0]]
            # Energies are added in an order that depends on the number of channels.
            channels = case["shapes"][0][1] if "Energy" in case["op_type"] else None
            assert seen.setdefault(launch["kernel"], [of_kernel, channels])[0] == of_kernel


@pytest.mark.parametrize(
    ("kind", "stride", "layouts"),
    [
        ("FLOAT", 2, ["LINEAR", "HWC"]),
        ("FLOAT", 3, ["LINEAR", "HWC"]),
        ("HALF", 2, ["LINEAR", "HWC8"]),
        ("BF16", 2, ["LINEAR", "HWC8"]),
        # 20 channels: that layout would pad them.
        ("HALF", 3, ["LINEAR"]),
    ],
)
def test_layouts_are_those_that_hold_nothing_but_the_map(
    answers: Answers, kind: str, stride: int, layouts: list[str]
) -> None:
    energy, _, select = three_operators("l1_min" if stride == 4 else "l2", stride)
    launches = _answer(answers, energy, kind, SHAPES[stride])["launches"]
    assert [launch["layouts"] for launch in launches] == [[layout, "LINEAR", "LINEAR"] for layout in layouts]
    launches = _answer(answers, select, kind, SHAPES[stride])["launches"]
    assert [launch["layouts"] for launch in launches] == [[layout, "LINEAR", layout, "LINEAR"] for layout in layouts]
    assert [launch["types"] for launch in launches] == [[kind, "INT64", kind, "INT64"]] * len(layouts)
    assert {launch["kernel"].endswith("channels_last") for launch in launches} == {name != "LINEAR" for name in layouts}


# numpy knows no bfloat16.
SELECTIONS = [each for each in ALL if each[2] != "BF16"]


@pytest.fixture(scope="module")
def interpreted(answers: Answers, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the kernels compute, launched as TensorRT was told, for every selection and layout."""
    folder = tmp_path_factory.mktemp("interpreted")
    selections = [_selection(answers, *each) for each in SELECTIONS]
    (folder / "selections.json").write_text(json.dumps(selections))
    np.savez(
        folder / "maps.npz",
        **{str(number): _images(stride, kind) for number, (stride, _, kind) in enumerate(SELECTIONS)},
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    command = [sys.executable, str(Path(__file__).with_name("interpreting.py")), str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return np.load(folder / "results.npz")


@pytest.mark.parametrize("number", range(len(SELECTIONS)), ids=["-".join(map(str, each)) for each in SELECTIONS])
def test_kernels_launched_so_compute_what_the_bodies_do(interpreted: Any, answers: Answers, number: int) -> None:
    stride, criterion, kind = SELECTIONS[number]
    element = TensorProto.FLOAT if kind == "FLOAT" else TensorProto.FLOAT16
    kept, index, scores = run(selection_model(criterion, stride, element), _images(stride, kind))
    layouts = [launch["layouts"][0] for launch in _selection(answers, stride, criterion, kind)[0]["launches"]]
    for layout in layouts:
        np.testing.assert_array_equal(interpreted[f"{number} {layout} scores"], scores)
        np.testing.assert_array_equal(interpreted[f"{number} {layout} index"], index)
        assert interpreted[f"{number} {layout} kept"].tobytes() == kept.tobytes()
    assert len(set(index.tolist())) > 1
    assert index[0] == 0 and np.isnan(kept[0]).any()


def _selection(answers: Answers, stride: int, criterion: str, kind: str) -> list[Answers]:
    """Return the steps of a selection: each operator with its launches and the shapes of what it gives."""
    batch, _, height, width = shape = SHAPES[stride]
    steps = []
    for operator in three_operators(criterion, stride):
        of_map = operator.kind != "score"
        answer = _answer(answers, operator, kind if of_map else "FLOAT", shape if of_map else (batch, height, width))
        steps.append({"op_type": operator.op_type, "launches": answer["launches"], "shapes": answer["shapes"]})
    return steps


def _images(stride: int, kind: str) -> np.ndarray:
    """Small whole numbers, so that every order of adding energies gives the same; the first image holds a NaN."""
    rng = np.random.default_rng(stride)
    images = rng.integers(-8, 9, SHAPES[stride])
    images[1, :, 1::stride] = 0
    maps = images.astype(np.float32 if kind == "FLOAT" else np.float16)
    maps[0, 0, 0, 0] = np.nan
    return maps
