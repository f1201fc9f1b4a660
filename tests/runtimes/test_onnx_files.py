from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from aps_deploy.errors import InputError
from aps_deploy.runtimes.onnx_files import load_onnx


def written(path: Path, *, node: str = "layer", tensor: str = "image", producer: str = "", in_branch: str = "") -> Path:
    """Write a file of one node, and one within a branch where `in_branch` is its name."""
    nodes = [helper.make_node("Identity", [tensor], ["logits"], name=node)]
    if in_branch:
        inner = [helper.make_node("Identity", [tensor], ["inner"], name=in_branch)]
        branch = helper.make_graph(
            inner, "branch", [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1])]
        )
        nodes.append(helper.make_node("If", ["choice"], ["either"], then_branch=branch, else_branch=branch))
    inputs = [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [1])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1])]
    model = helper.make_model(helper.make_graph(nodes, "graph", inputs, outputs), producer_name=producer)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("place", ["node", "tensor", "producer", "in_branch"])
def test_a_text_that_is_no_text_is_damage(place: str, tmp_path: Path) -> None:
    path = written(tmp_path / "file.onnx", **{place: "some#name"})
    assert load_onnx(path).graph.output[0].name == "logits"
    path.write_bytes(path.read_bytes().replace(b"some#name", b"some\xffname"))
    assert onnx.load(path), "the package reads it"
    with pytest.raises(
        InputError, match=r"file\.onnx is damaged: b'some\\xffname' in it is no UTF-8, .*export it again\."
    ):
        load_onnx(path)


def test_text_in_any_script(tmp_path: Path) -> None:
    assert load_onnx(written(tmp_path / "file.onnx", node="слой/層")).graph.node[0].name == "слой/層"
