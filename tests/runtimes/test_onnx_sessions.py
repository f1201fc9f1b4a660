"""One contract for the sessions of ONNX files, against values computed by rolling in numpy."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes import METADATA_KEY, ModelMetadata, Session, onnxruntime_session, open_session
from aps_deploy.runtimes.availability import num_cuda_devices
from aps_deploy.runtimes.session import Session as SessionProtocol
from tests.gpus import needs_cuda
from tests.runtimes import graphs
from tests.runtimes.providers import needs_cuda_provider

RUNTIMES = ("onnxruntime", "onnx-reference")
TOLERANCE = 2e-5
"""Sums of 108 float32 products of order one, in another order than the float64 reference."""

Opener = Callable[..., Session]


@pytest.fixture(params=RUNTIMES)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Return a function that saves a model and opens it on this runtime."""

    def open_saved(model: onnx.ModelProto, **options: object) -> Session:
        path = graphs.save(model, tmp_path / "tiny.onnx")
        return open_session(path, runtime=request.param, **options)  # type: ignore[arg-type]

    return open_saved


class TestContract:
    @pytest.mark.parametrize(("count", "height", "width"), [(1, 8, 8), (2, 8, 12), (5, 4, 16), (7, 12, 4)])
    def test_values(self, opened: Opener, count: int, height: int, width: int) -> None:
        images = graphs.images(count, height, width)
        logits, indices = graphs.expected(images)
        with opened(graphs.classifier()) as session:
            outputs = session.run(images)
        assert set(outputs) == {"logits", "polyphase_indices"} == set(session.output_names)
        assert outputs["logits"].dtype == np.float32
        assert outputs["polyphase_indices"].dtype == np.int64
        np.testing.assert_allclose(outputs["logits"], logits, atol=TOLERANCE, rtol=TOLERANCE)
        np.testing.assert_array_equal(outputs["polyphase_indices"], indices)

    def test_describes_itself(self, opened: Opener, tmp_path: Path) -> None:
        with opened(graphs.classifier()) as session:
            assert isinstance(session, SessionProtocol)
            assert session.metadata == graphs.METADATA
            assert session.runtime in RUNTIMES
            assert session.device == ("cuda" if "CUDAExecutionProvider" in session.providers else "cpu")
            assert len(session.providers) >= 1
            assert session.source == str(tmp_path / "tiny.onnx")
            assert session.input_spec.batch is None
            assert session.input_spec.channels == 3

    def test_outputs_belong_to_the_caller(self, opened: Opener) -> None:
        images = graphs.images(3)
        with opened(graphs.classifier()) as session:
            first = session.run(images)
            kept = first["logits"].copy()
            session.run(graphs.images(3, seed=9))
            np.testing.assert_array_equal(first["logits"], kept)
            first["logits"][...] = 0
            np.testing.assert_array_equal(session.run(images)["logits"], kept)

    def test_an_input_passed_through_is_no_view_of_the_callers_images(self, opened: Opener) -> None:
        value = helper.make_tensor_value_info("y", TensorProto.FLOAT, list(graphs.DYNAMIC))
        source = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(graphs.DYNAMIC))
        model = graphs.make_model([helper.make_node("Identity", ["x"], ["y"])], [source], [value])
        images = graphs.images(2)
        with opened(model) as session:
            outputs = session.run(images)
        assert not np.may_share_memory(outputs["logits"], images)
        outputs["logits"][...] = 7
        assert not (images == 7).any()

    def test_images_are_left_as_they_were(self, opened: Opener) -> None:
        images = graphs.images(4)
        before = images.copy()
        images.setflags(write=False)
        with opened(graphs.classifier()) as session:
            session.run(images)
        np.testing.assert_array_equal(images, before)

    def test_strided_views_are_accepted(self, opened: Opener) -> None:
        images = graphs.images(4, 16, 16)[::2, :, ::2, ::-2]
        with opened(graphs.classifier()) as session:
            np.testing.assert_array_equal(
                session.run(images)["logits"], session.run(np.ascontiguousarray(images))["logits"]
            )

    def test_batch_of_one_is_a_row_of_a_larger_batch(self, opened: Opener) -> None:
        images = graphs.images(6)
        with opened(graphs.classifier()) as session:
            together = session.run(images)["logits"]
            for row in range(6):
                single = session.run(images[row : row + 1])["logits"][0]
                np.testing.assert_allclose(single, together[row], atol=TOLERANCE)

    @pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9])
    def test_fixed_batch_is_filled_and_trimmed(self, opened: Opener, count: int) -> None:
        images = graphs.images(count)
        with opened(graphs.classifier(shape=(4, 3, 8, 8))) as session:
            outputs = session.run(images)
        logits, indices = graphs.expected(images)
        assert outputs["logits"].shape == (count, 5)
        np.testing.assert_allclose(outputs["logits"], logits, atol=TOLERANCE, rtol=TOLERANCE)
        np.testing.assert_array_equal(outputs["polyphase_indices"], indices)

    def test_file_of_another_tool(self, opened: Opener) -> None:
        model = graphs.classifier(input_name="data:0", output_names=["prob"], metadata=None, with_indices=False)
        images = graphs.images(2, 7, 9)
        with opened(model) as session:
            outputs = session.run(images)
        assert session.metadata == ModelMetadata()
        assert not session.metadata.is_known
        assert set(outputs) == {"logits"}
        np.testing.assert_allclose(outputs["logits"], graphs.expected(images)[0], atol=TOLERANCE, rtol=TOLERANCE)

    def test_input_without_a_shape(self, opened: Opener) -> None:
        # The checker asks for a shape; ONNX Runtime does not, and some tools leave it out.
        model = graphs.classifier(metadata=None)
        model.graph.input[0].type.tensor_type.ClearField("shape")
        with opened(model) as session:
            logits = session.run(graphs.images(2))["logits"]
            assert session.input_spec.channels is None
        np.testing.assert_allclose(logits, graphs.expected(graphs.images(2))[0], atol=TOLERANCE, rtol=TOLERANCE)

    def test_an_output_named_logits_need_not_be_first(self, opened: Opener) -> None:
        model = graphs.classifier()
        first, second = model.graph.output
        reordered = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in (second, first)]
        del model.graph.output[:]
        model.graph.output.extend(reordered)
        with opened(model) as session:
            outputs = session.run(graphs.images(2))
        assert outputs["logits"].dtype == np.float32
        assert outputs["polyphase_indices"].dtype == np.int64

    def test_further_outputs_keep_their_names(self, opened: Opener) -> None:
        model = graphs.classifier()
        model.graph.output.append(helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["N", 4]))
        with opened(model) as session:
            outputs = session.run(graphs.images(2))
        assert outputs["pooled"].shape == (2, 4)

    def test_an_output_without_a_row_per_image_is_left_out(self, opened: Opener) -> None:
        model = graphs.classifier()
        model.graph.node.append(helper.make_node("ReduceMax", ["pooled"], ["largest"], keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info("largest", TensorProto.FLOAT, []))
        with opened(model) as session:
            assert set(session.run(graphs.images(2))) == {"logits", "polyphase_indices"}

    def test_logits_without_a_row_per_image_are_refused(self, opened: Opener) -> None:
        model = graphs.classifier()
        made = next(node for node in model.graph.node if "logits" in node.output)
        made.output[list(made.output).index("logits")] = "rows"
        model.graph.node.append(helper.make_node("ReduceMax", ["rows"], ["logits"], keepdims=0))
        model.graph.output[0].type.tensor_type.shape.Clear()
        with opened(model) as session, pytest.raises(ApsError, match=r"output logits is float32 \(\) for 2 images"):
            session.run(graphs.images(2))

    def test_half_precision_file_takes_and_returns_float32(self, opened: Opener) -> None:
        images = graphs.images(2)
        with opened(graphs.classifier(dtype=TensorProto.FLOAT16)) as session:
            logits = session.run(images)["logits"]
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, graphs.expected(images)[0], atol=2e-2)

    def test_local_functions_run(self, opened: Opener) -> None:
        function = helper.make_function(
            "aps",
            "PolyphaseTake0",
            ["X"],
            ["Y"],
            [
                helper.make_node("Constant", [], ["starts"], value_ints=[0, 0]),
                helper.make_node("Constant", [], ["ends"], value_ints=[1 << 40, 1 << 40]),
                helper.make_node("Constant", [], ["axes"], value_ints=[2, 3]),
                helper.make_node("Constant", [], ["steps"], value_ints=[2, 2]),
                helper.make_node("Slice", ["X", "starts", "ends", "axes", "steps"], ["Y"]),
            ],
            [helper.make_opsetid("", 20)],
        )
        model = graphs.make_model(
            [helper.make_node("PolyphaseTake0", ["x"], ["y"], domain="aps")],
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(graphs.DYNAMIC))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, "H2", "W2"])],
            functions=[function],
        )
        images = graphs.images(2, 8, 12)
        with opened(model) as session:
            np.testing.assert_array_equal(session.run(images)["logits"], images[:, :, ::2, ::2])

    def test_circular_shift_moves_no_logit(self, opened: Opener) -> None:
        images = graphs.images(2)
        with opened(graphs.classifier()) as session:
            still = session.run(images)["logits"]
            for shift in ((1, 0), (3, 5), (-2, 7)):
                moved = session.run(np.roll(images, shift, axis=(2, 3)))["logits"]
                np.testing.assert_allclose(moved, still, atol=TOLERANCE)

    def test_nan_reaches_the_logits(self, opened: Opener) -> None:
        images = graphs.images(2)
        images[1, 0, 0, 0] = np.nan
        with opened(graphs.classifier()) as session:
            logits = session.run(images)["logits"]
        assert np.isfinite(logits[0]).all()
        assert np.isnan(logits[1]).all()

    def test_threads_share_a_session(self, opened: Opener) -> None:
        batches = [graphs.images(2, seed=seed) for seed in range(4)]
        results: dict[int, np.ndarray] = {}
        with opened(graphs.classifier()) as session:
            expected = [session.run(batch)["logits"] for batch in batches]

            def work(position: int) -> None:
                for _ in range(5):
                    results[position] = session.run(batches[position])["logits"]

            threads = [threading.Thread(target=work, args=(position,)) for position in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        for position, logits in enumerate(expected):
            np.testing.assert_array_equal(results[position], logits)

    def test_closed_session_refuses_to_run(self, opened: Opener) -> None:
        session = opened(graphs.classifier())
        with session:
            pass
        session.close()
        with pytest.raises(ApsError, match="is closed"):
            session.run(graphs.images(1))

    @pytest.mark.parametrize(
        ("images", "named"),
        [
            (graphs.images(1).astype(np.float64), "float64"),
            (graphs.images(1)[0], r"\(3, 8, 8\)"),
            (graphs.images(1)[:0], "no images"),
            (graphs.images(1)[:, :1], "1 channels; accepted: 3"),
            (graphs.images(1).transpose(0, 2, 3, 1), "8 channels; accepted: 3"),
            (graphs.images(1, 9, 8), r"9x8.*multiples of 4.*next valid size is 12x8\."),
            (graphs.images(1, 8, 0), "8x4"),
            ([[1.0]], "list"),
        ],
        ids=["float64", "rank", "empty", "grey", "channels-last", "odd", "no-width", "list"],
    )
    def test_wrong_images_are_refused(self, opened: Opener, images: np.ndarray, named: str) -> None:
        with opened(graphs.classifier()) as session, pytest.raises(InputError, match=named):
            session.run(images)

    def test_fixed_size_is_named(self, opened: Opener) -> None:
        with (
            opened(graphs.classifier(shape=("N", 3, 8, 12))) as session,
            pytest.raises(InputError, match=r"images are 8x8; this file takes only 8x12\."),
        ):
            session.run(graphs.images(1))

    def test_failure_inside_the_runtime_is_one_sentence(self, opened: Opener) -> None:
        model = graphs.make_model(
            [helper.make_node("Reshape", ["x", "shape"], ["y"])],
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(graphs.DYNAMIC))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["A", "B"])],
            {"shape": np.array([7, -1], np.int64)},
        )
        with opened(model) as session, pytest.raises(ApsError, match=r"images of shape \(1, 3, 8, 8\)") as caught:
            session.run(graphs.images(1))
        assert "\n" not in str(caught.value)


class TestFilesThatAreRefused:
    @pytest.mark.parametrize(
        "content",
        [b"", b"not a model", bytes(range(256)) * 8, b"\x08\x0a\x12\x07by hand"],
        ids=["empty", "text", "bytes", "no-graph"],
    )
    @pytest.mark.parametrize("runtime", RUNTIMES)
    def test_damaged(self, tmp_path: Path, runtime: str, content: bytes) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            open_session(path, runtime=runtime)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("runtime", RUNTIMES)
    def test_truncated(self, tmp_path: Path, runtime: str) -> None:
        path = graphs.save(graphs.classifier(), tmp_path / "model.onnx")
        whole = path.read_bytes()
        for keep in (10, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:keep])
            with pytest.raises(InputError, match=r"model\.onnx"):
                open_session(path, runtime=runtime)

    def test_two_inputs(self, opened: Opener) -> None:
        entries = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(graphs.DYNAMIC)) for name in "ab"]
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, list(graphs.DYNAMIC))
        model = graphs.make_model([helper.make_node("Add", ["a", "b"], ["y"])], entries, [output])
        with pytest.raises(InputError, match=r"2 inputs \('a', 'b'\).*one input"):
            opened(model)

    @pytest.mark.parametrize(
        ("dtype", "shape", "named"),
        [
            (TensorProto.UINT8, ["N", 3, 8, 8], "uint8"),
            (TensorProto.DOUBLE, ["N", 3, 8, 8], "double|float64"),
            (TensorProto.FLOAT, ["N", 192], "2 dimensions"),
        ],
    )
    def test_inputs_that_are_no_images(self, opened: Opener, dtype: int, shape: list[int | str], named: str) -> None:
        entry, output = (helper.make_tensor_value_info(name, dtype, shape) for name in "xy")
        model = graphs.make_model([helper.make_node("Identity", ["x"], ["y"])], [entry], [output])
        with pytest.raises(InputError, match=named):
            opened(model)

    def test_unknown_operator(self, opened: Opener) -> None:
        entry, output = (helper.make_tensor_value_info(n, TensorProto.FLOAT, list(graphs.DYNAMIC)) for n in "xy")
        graph = helper.make_graph([helper.make_node("Nothing", ["x"], ["y"], domain="com.x")], "g", [entry], [output])
        imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.x", 1)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        with pytest.raises(InputError, match="Nothing"):
            opened(model)


class TestOnnxRuntime:
    def test_threads_can_be_set(self, tmp_path: Path) -> None:
        path = graphs.save(graphs.classifier(), tmp_path / "tiny.onnx")
        images = graphs.images(3)
        with open_session(path, num_threads=1) as one, open_session(path, num_threads=2) as two:
            np.testing.assert_array_equal(one.run(images)["logits"], two.run(images)["logits"])
        for number in (0, 10**11):
            with pytest.raises(InputError, match=f"threads is {number}; accepted: 1 to 4096"):
                open_session(path, num_threads=number)

    @pytest.mark.skipif(num_cuda_devices() > 0, reason="there is a CUDA device")
    def test_cuda_that_is_not_there_names_requested_and_available(self, tmp_path: Path) -> None:
        path = graphs.save(graphs.classifier(), tmp_path / "tiny.onnx")
        with pytest.raises(InputError, match=r"CUDAExecutionProvider.*available: CPUExecutionProvider") as refused:
            open_session(path, device="cuda")
        assert "pip install" not in str(refused.value)  # there is no GPU to install anything for
        with open_session(path) as session:
            assert session.device == "cpu"
            assert session.providers == ("CPUExecutionProvider",)

    @pytest.mark.skipif(num_cuda_devices() > 0, reason="there is a CUDA device")
    def test_cuda_provider_that_does_not_start_is_no_cuda(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        # A driver that reports a device, on a machine where the provider cannot start: ONNX Runtime lists it as
        # available all the same.
        monkeypatch.setattr(onnxruntime_session, "num_cuda_devices", lambda: 1)
        path = graphs.save(graphs.classifier(), tmp_path / "tiny.onnx")
        with open_session(path) as session:
            assert session.device == "cpu"
            assert session.providers == ("CPUExecutionProvider",)
            session.run(graphs.images(1))
        refusal = r'CUDAExecutionProvider.*available: CPUExecutionProvider.*pip install "aps-deploy\[gpu\]"'
        with pytest.raises(InputError, match=refusal):
            open_session(path, device="cuda")
        path.write_bytes(b"damaged")
        with pytest.raises(InputError, match="is not an ONNX file"):
            open_session(path, device="cuda")
        assert capfd.readouterr().out == ""
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            assert "runs on the CPU although there is a CUDA device" in caplog.text

    @pytest.mark.gpu
    @needs_cuda
    @needs_cuda_provider
    def test_cuda_agrees_with_the_cpu(self, tmp_path: Path) -> None:
        path = graphs.save(graphs.classifier(), tmp_path / "tiny.onnx")
        images = graphs.images(3)
        with open_session(path, device="cuda") as session:
            assert session.device == "cuda"
            assert session.providers[0] == "CUDAExecutionProvider"
            np.testing.assert_allclose(session.run(images)["logits"], graphs.expected(images)[0], atol=1e-4)

    def test_an_operator_without_a_cpu_kernel_is_one_sentence(self, tmp_path: Path) -> None:
        """As in every bf16 file: ONNX Runtime's CPU provider has no bf16 Pad, Conv or Relu."""
        element = TensorProto.BFLOAT16
        kernel, head = graphs.weights()
        narrow = helper.tensor_dtype_to_np_dtype(element)
        nodes = [
            helper.make_node("Cast", ["images"], ["narrow"], to=element),
            helper.make_node("Conv", ["narrow", "kernel"], ["map"]),
            helper.make_node("Cast", ["map"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["wide", "axes"], ["pooled"], keepdims=0),
            helper.make_node("MatMul", ["pooled", "head"], ["logits"]),
        ]
        model = graphs.make_model(
            nodes,
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
            {"kernel": kernel.astype(narrow), "head": head, "axes": np.array([2, 3], np.int64)},
            opset=22,
        )
        metadata = dataclasses.replace(graphs.METADATA, precision="bf16")
        helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
        path = graphs.save(model, tmp_path / "tiny.onnx")
        with pytest.raises(InputError, match=r"tiny.onnx is a bf16 file.*no CPU kernel.*onnx-reference") as caught:
            open_session(path, device="cpu")
        assert "\n" not in str(caught.value)
        with open_session(path, runtime="onnx-reference") as session:
            assert session.run(graphs.images(2))["logits"].shape == (2, 5)


class TestReference:
    def test_cuda_is_refused(self, tmp_path: Path) -> None:
        path = graphs.save(graphs.classifier(), tmp_path / "tiny.onnx")
        with pytest.raises(InputError, match="ReferenceEvaluator cannot run on 'cuda'; accepted: cpu"):
            open_session(path, runtime="reference", device="cuda")

    @pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 0, 1, 1), (3, 3, 3, 3), (2, 0, 1, 3)], ids=str)
    @pytest.mark.parametrize("size", [(8, 8), (4, 12), (2, 6)], ids=str)
    def test_wrap_padding_equals_onnx_runtimes_and_numpys(
        self, pads: tuple[int, int, int, int], size: tuple[int, int]
    ) -> None:
        top, left, bottom, right = pads
        model = graphs.make_model(
            [helper.make_node("Pad", ["x", "pads"], ["y"], mode="wrap")],
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(graphs.DYNAMIC))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, "A", "B"])],
            {"pads": np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)},
        )
        images = graphs.images(2, *size)
        expected = np.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right)), mode="wrap")
        # ONNX Runtime 1.30 wraps wrongly by more than the map's own side; our layers refuse to.
        fits = max(top, bottom) <= size[0] and max(left, right) <= size[1]
        for runtime in RUNTIMES if fits else ["onnx-reference"]:
            with open_session(model, runtime=runtime) as session:
                np.testing.assert_array_equal(session.run(images)["logits"], expected, err_msg=runtime)
