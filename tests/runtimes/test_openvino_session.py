"""OpenVINO, where it is installed: files without wrapping pads, float32, any number of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aps_deploy.errors import InputError
from aps_deploy.export.circular_padding import with_concatenations
from aps_deploy.export.onnx_export import finish_onnx
from aps_deploy.runtimes import open_session
from tests.export.engines.toys import legacy_toy, narrowed_toy
from tests.runtimes.graphs import CLASS_NAMES, classifier, expected, images, make_model, save

pytest.importorskip("openvino")


def test_it_computes_what_numpy_computes(tmp_path: Path) -> None:
    file = save(with_concatenations(classifier()), tmp_path / "net.onnx")
    with open_session(file, runtime="openvino", num_threads=1) as session:
        assert (session.runtime, session.device, session.providers) == ("openvino", "cpu", ("CPU",))
        assert session.metadata.class_names == CLASS_NAMES
        for count, height, width in ((1, 8, 8), (5, 8, 8), (2, 12, 16)):
            batch = images(count, height, width, seed=count)
            logits, indices = expected(batch)
            outputs = session.run(batch)
            assert outputs["logits"].dtype == np.float32 and outputs["polyphase_indices"].dtype == np.int64
            np.testing.assert_allclose(outputs["logits"], logits, atol=1e-5)
            np.testing.assert_array_equal(outputs["polyphase_indices"], indices)
        kept, before = outputs["logits"], outputs["logits"].copy()
        session.run(batch + 1)
        np.testing.assert_array_equal(kept, before)


def test_a_fixed_batch_and_a_model_in_memory() -> None:
    model = with_concatenations(classifier(shape=(2, 3, 8, 8), with_indices=False))
    with open_session(model, runtime="ov") as session:
        assert session.input_spec.batch == 2 and session.output_names == ("logits",)
        np.testing.assert_allclose(session.run(images(3))["logits"], expected(images(3))[0], atol=1e-5)


def test_wrapping_pads_are_refused_with_the_way_out(tmp_path: Path) -> None:
    file = save(classifier(), tmp_path / "net.onnx")
    with pytest.raises(InputError, match="--circular-pad concat"):
        open_session(file, runtime="openvino")


def test_sums_beyond_32_bits_are_wrong_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Where this fails OpenVINO has learned to add: the warning and what the documents say of it can go."""
    model = make_model(
        [
            helper.make_node("Cast", ["images"], ["whole"], to=TensorProto.INT64),
            helper.make_node("ReduceSum", ["whole", "axes"], ["sums"], keepdims=0),
            helper.make_node("Cast", ["sums"], ["logits"], to=TensorProto.FLOAT),
        ],
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        {"axes": np.array([2, 3], np.int64)},
    )
    small, large = (np.full((1, 3, 2, 2), 2.0**power, np.float32) for power in (28, 30))
    with open_session(model, runtime="openvino") as session:
        assert "in 32 bits" in caplog.text
        np.testing.assert_array_equal(session.run(small)["logits"], 2.0**30)
        assert (session.run(large)["logits"] != 2.0**32).all()
    with open_session(model, runtime="onnxruntime", device="cpu") as session:
        np.testing.assert_array_equal(session.run(large)["logits"], 2.0**32)


def test_sums_of_limbs_are_right_and_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """The file for TensorRT 8 chooses as in ONNX Runtime, where the 64-bit sums of the other form overflow."""
    batch = images(32, seed=5)
    with open_session(legacy_toy(), runtime="openvino") as session:
        narrow = session.run(batch)
    assert "in 32 bits" not in caplog.text
    with open_session(finish_onnx(narrowed_toy("fp32"), "where", "concat"), runtime="openvino") as session:
        wide = session.run(batch)
    with open_session(legacy_toy(), runtime="onnxruntime", device="cpu") as session:
        right = session.run(batch)
    np.testing.assert_array_equal(narrow["polyphase_indices"], right["polyphase_indices"])
    np.testing.assert_allclose(narrow["logits"], right["logits"], rtol=1e-4, atol=1e-5)
    assert (wide["polyphase_indices"] != right["polyphase_indices"]).any()


def test_what_it_cannot_run_is_an_input_error(tmp_path: Path) -> None:
    unknown = with_concatenations(classifier())
    unknown.graph.node[-1].op_type, unknown.graph.node[-1].domain = "NoSuchOperator", "some.where"
    unknown.opset_import.append(onnx.helper.make_opsetid("some.where", 1))
    with pytest.raises(InputError, match="OpenVINO"):
        open_session(unknown, runtime="openvino")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(InputError, match=r"text\.onnx"):
        open_session(tmp_path / "text.onnx", runtime="openvino")
    with pytest.raises(InputError, match="threads"):
        open_session(with_concatenations(classifier()), runtime="openvino", num_threads=0)
    with pytest.raises(InputError, match="cuda"):
        open_session(with_concatenations(classifier()), runtime="openvino", device="cuda")
