"""Sessions of engines: their logic against a stand-in for TensorRT and CUDA, their refusals against the real one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes import open_session
from aps_deploy.runtimes.tensorrt import toolkit as toolkits
from aps_deploy.runtimes.tensorrt.gpu import Gpu
from aps_deploy.runtimes.tensorrt.lanes import MAX_SHAPES
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit
from aps_deploy.runtimes.tensorrt_session import TensorRtSession
from tests.export.engines.toys import CLASSES, toy
from tests.gpus import needs_torch_cuda, skip_unless_engines_run, toolkit_here
from tests.runtimes.tensorrt import fake_engine
from tests.runtimes.tensorrt.fake_cuda import FakeGraph
from tests.runtimes.tensorrt.fake_engine import FakeContext, FakeEngine, fake_toolkit, plan_bytes, write_plan

Images = npt.NDArray[np.float32]


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write_plan(tmp_path / "toy.plan", toy())


@pytest.fixture
def session(plan: Path, fake_cuda: None) -> TensorRtSession:
    return TensorRtSession(plan, toolkit=fake_toolkit())


def _images(count: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def _expected(images: Images) -> dict[str, Any]:
    peer = onnxruntime.InferenceSession(toy().SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in peer.get_outputs()]
    return dict(zip(names, peer.run(None, {"images": images}), strict=True))


def _engine(session: TensorRtSession) -> FakeEngine:
    engine: FakeEngine = session._loaded.engine
    return engine


def test_what_it_says_of_itself(session: TensorRtSession) -> None:
    assert (session.runtime, session.device, session.providers) == ("tensorrt", "cuda", ("TensorRT 10.9.0.34",))
    assert session.metadata.class_names == CLASSES
    # The engine's own order is another.
    assert session.output_names == ("logits", "polyphase_indices")
    spec = session.input_spec
    assert (spec.name, spec.batch, spec.channels, spec.height, spec.width) == ("images", None, 3, 8, 8)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7, 8, 19])
def test_any_batch_gives_what_the_network_gives(session: TensorRtSession, count: int) -> None:
    images = _images(count)
    outputs, expected = session.run(images), _expected(images)
    assert outputs.keys() == expected.keys()
    for name, values in expected.items():
        assert outputs[name].dtype == values.dtype
        np.testing.assert_array_equal(outputs[name], values)


def test_a_graph_takes_over_from_the_second_run_on(session: TensorRtSession) -> None:
    for seed in range(4):
        images = _images(3, seed)
        np.testing.assert_array_equal(session.run(images)["logits"], _expected(images)["logits"])
    (context,) = _engine(session).contexts
    # Once by itself, once to be recorded; the recording itself computes nothing.
    assert context.num_enqueued == 2
    assert FakeGraph.num_replays == 3


def test_each_shape_has_a_context_and_a_graph_of_its_own(session: TensorRtSession) -> None:
    for _ in range(3):
        for count in (2, 8):
            images = _images(count, count)
            np.testing.assert_array_equal(session.run(images)["logits"], _expected(images)["logits"])
    contexts = _engine(session).contexts
    assert [(context.profile, context.shape) for context in contexts] == [(0, (2, 3, 8, 8)), (1, (8, 3, 8, 8))]
    assert [context.num_enqueued for context in contexts] == [2, 2]
    assert len({address for context in contexts for address in context.addresses.values()}) == 6


def _wide_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int) -> TensorRtSession:
    """A session of an engine for 1 to ``largest`` images, best at 8; its other profile is out of reach."""
    monkeypatch.setattr(fake_engine, "PROFILES", ((1, 8, largest), (1000, 1000, 1000)))
    return TensorRtSession(write_plan(tmp_path / "wide.plan", toy()), toolkit=fake_toolkit())


def test_the_shape_unused_for_longest_makes_room(
    tmp_path: Path, fake_cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _wide_session(tmp_path, monkeypatch, 256)
    counts = [1 << power for power in range(9)]
    assert len(counts) == MAX_SHAPES + 1
    for count in (*counts, *counts[1:], counts[0]):
        session.run(_images(count))
    # The last is the only one made twice.
    assert [context.shape[0] for context in _engine(session).contexts if context.shape] == [*counts, counts[0]]


def test_batches_of_all_sizes_run_in_shapes_that_are_ready(
    tmp_path: Path, fake_cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _wide_session(tmp_path, monkeypatch, 16)
    images, sizes = _images(16), np.random.default_rng(0)
    expected = _expected(images)
    for _ in range(300):
        first = int(sizes.integers(16))
        part = slice(first, first + 1 + int(sizes.integers(16 - first)))
        for name, values in session.run(images[part]).items():
            np.testing.assert_array_equal(values, expected[name][part])
    contexts = _engine(session).contexts
    assert sorted(context.shape[0] for context in contexts if context.shape) == [1, 2, 4, 8, 16]
    # Once by itself, once to be recorded, and replayed ever after.
    assert {context.num_enqueued for context in contexts} == {2}


def test_a_run_is_filled_up_with_its_last_image(session: TensorRtSession, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Images] = []
    compute = FakeContext.compute

    def noted(context: FakeContext) -> None:
        seen.append(context._at("images").copy())
        compute(context)

    monkeypatch.setattr(FakeContext, "compute", noted)
    images = _images(7)
    session.run(images)
    (taken,) = seen
    np.testing.assert_array_equal(taken, np.concatenate([images, images[-1:]]))


def test_where_nothing_can_be_recorded_the_engine_is_queued(
    session: TensorRtSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeContext, "captures", False)
    images = _images(3)
    for _ in range(3):
        np.testing.assert_array_equal(session.run(images)["logits"], _expected(images)["logits"])
    (context,) = _engine(session).contexts
    assert FakeGraph.num_replays == 0 and context.num_enqueued == 4  # one of them the vain attempt


def test_a_stream_that_cannot_be_recorded_is_asked_first(
    session: TensorRtSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeContext, "is_stream_capturable", lambda self, stream: False, raising=False)
    for _ in range(3):
        session.run(_images(3))
    assert FakeGraph.num_replays == 0 and _engine(session).contexts[0].num_enqueued == 3


def test_outputs_belong_to_the_caller(session: TensorRtSession) -> None:
    images = _images(3)
    kept = images.copy()
    first = session.run(images)
    before = {name: values.copy() for name, values in first.items()}
    session.run(_images(3, 1))
    for name, values in first.items():
        np.testing.assert_array_equal(values, before[name])
        values[...] = 0  # and nothing of the session's is written to
    np.testing.assert_array_equal(session.run(images)["logits"], before["logits"])
    np.testing.assert_array_equal(images, kept)


def test_threads_run_side_by_side_in_as_many_contexts(plan: Path, fake_cuda: None) -> None:
    session = TensorRtSession(plan, num_contexts=2, toolkit=fake_toolkit())
    together = threading.Barrier(2, timeout=30)
    compute = FakeContext.compute

    def meeting(self: FakeContext) -> None:
        together.wait()  # goes on only when both are in
        compute(self)

    found: dict[int, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeContext, "compute", meeting)
        threads = [
            threading.Thread(target=lambda seed=seed: found.update({seed: session.run(_images(3, seed))}))
            for seed in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for seed in range(2):
        np.testing.assert_array_equal(found[seed]["logits"], _expected(_images(3, seed))["logits"])
    assert len(_engine(session).contexts) == 2


def test_a_failing_run_is_one_sentence_and_leaves_the_lane_free(session: TensorRtSession) -> None:
    _engine(session).fails = True
    for _ in range(2):
        with pytest.raises(ApsError, match=r"the engine failed on images of shape \(3, 3, 8, 8\)\.$"):
            session.run(_images(3))
    _engine(session).fails = False
    np.testing.assert_array_equal(session.run(_images(3))["logits"], _expected(_images(3))["logits"])


def test_other_sizes_are_refused(session: TensorRtSession) -> None:
    with pytest.raises(InputError, match="images are 16x16; this file takes only 8x8"):
        session.run(np.zeros((1, 3, 16, 16), np.float32))


def test_closed_is_closed(session: TensorRtSession) -> None:
    session.run(_images(2))
    session.close()
    session.close()
    with pytest.raises(ApsError, match="is closed"):
        session.run(_images(2))


def test_a_plan_finds_its_runtime_by_itself(plan: Path, fake_cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aps_deploy.runtimes.tensorrt_session.load_toolkit", lambda kind, **_: fake_toolkit())
    for runtime in (None, "tensorrt", "TRT"):
        with open_session(plan, runtime=runtime) as session:
            assert session.runtime == "tensorrt"
    with pytest.raises(InputError, match="which TensorRT for RTX does not run; use --runtime tensorrt"):
        open_session(plan, runtime="tensorrt-rtx")
    with pytest.raises(InputError, match="accepted for engines: tensorrt, tensorrt-rtx"):
        open_session(plan, runtime="onnxruntime")
    with pytest.raises(InputError, match=r"cannot run on 'cpu'; accepted: cuda"):
        open_session(plan, device="cpu")


def test_an_onnx_file_is_no_plan(tmp_path: Path) -> None:
    for runtime, engine in (("tensorrt", "trt"), ("tensorrt-rtx", "trt-rtx")):
        with pytest.raises(InputError, match=f"it runs engines: compile one with .* --engine {engine}`"):
            open_session(tmp_path / "net.onnx", runtime=runtime)


@pytest.mark.parametrize(("kind", "extra"), [("trt", "tensorrt"), ("trt-rtx", "rtx")])
def test_a_missing_toolkit_is_named(kind: Any, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkits, "_is_installed", lambda _: False)
    with pytest.raises(InputError, match=rf"^net.plan needs TensorRT.* is not installed; pip install .*\[{extra}\]"):
        toolkits.load_toolkit(kind, wanted_by="net.plan", builds=False)


def test_a_missing_gpu_is_named(rtx_plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkits, "first_gpu", lambda: None)
    with pytest.raises(InputError, match=r"toy.plan needs a GPU, and no CUDA device is found .*--runtime onnxruntime"):
        open_session(rtx_plan)


@pytest.mark.parametrize("command", [["predict"], ["evaluate", "--data"], ["verify", "--data"]])
def test_without_a_gpu_the_commands_end_in_one_sentence(
    command: list[str], rtx_plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image
    from typer.testing import CliRunner

    from aps_deploy.cli import app

    monkeypatch.setattr(toolkits, "first_gpu", lambda: None)
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (8, 8)).save(images / "0.png")
    prepared = ["--preprocessing", "cifar10"]
    result = CliRunner().invoke(app, [command[0], str(rtx_plan), *command[1:], str(images), *prepared])
    assert result.exit_code == 2
    assert "toy.plan needs a GPU, and no CUDA device is found" in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_a_pytorch_without_cuda_is_named(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"PyTorch .* finds no CUDA device; install a build of PyTorch for CUDA"):
        TensorRtSession(plan, toolkit=fake_toolkit())


def test_what_the_runtime_refuses_is_one_sentence(tmp_path: Path, fake_cuda: None) -> None:
    content = plan_bytes(toy()) + b"not for this GPU"
    plan = write_plan(tmp_path / "toy.plan", toy(), content=content)
    with pytest.raises(InputError, match=r"toy.plan was not compiled for the GPU of this machine; export it again on"):
        TensorRtSession(plan, toolkit=fake_toolkit())


def test_a_plan_of_another_gpu_is_refused_before_it_is_loaded(plan: Path, fake_cuda: None) -> None:
    toolkit = fake_toolkit(gpu=Gpu("another", "8.6", "13.0"))
    with pytest.raises(InputError, match=r"of compute capability 9\.0, and this machine has another"):
        TensorRtSession(plan, toolkit=toolkit)


def test_the_number_of_contexts_is_checked(plan: Path) -> None:
    with pytest.raises(InputError, match="number of contexts is 0"):
        TensorRtSession(plan, num_contexts=0)


@pytest.mark.gpu
@needs_torch_cuda
def test_a_real_plan_answers_as_the_network_does(rtx: Toolkit, rtx_plan: Path) -> None:
    skip_unless_engines_run(rtx)
    with open_session(rtx_plan) as session:
        assert session.runtime == "tensorrt-rtx"
        for seed in range(3):  # by itself, recorded, replayed
            for count in (1, 3, 16, 21):
                images = _images(count, seed)
                outputs, expected = session.run(images), _expected(images)
                np.testing.assert_array_equal(outputs["polyphase_indices"], expected["polyphase_indices"])
                np.testing.assert_allclose(outputs["logits"], expected["logits"], atol=1e-4, rtol=1e-3)


@pytest.mark.gpu
@needs_torch_cuda
def test_tensorrt_builds_and_runs_a_plan(tmp_path: Path) -> None:
    toolkit_here("trt")
    from aps_deploy.export.engines import EngineSettings, export_engine
    from tests.export.engines.toys import write_toy

    built = export_engine(write_toy(tmp_path / "toy.onnx"), tmp_path / "toy.plan", EngineSettings("trt"))
    images = _images(5)
    with open_session(built.path) as session:
        for _ in range(3):
            outputs, expected = session.run(images), _expected(images)
            np.testing.assert_array_equal(outputs["polyphase_indices"], expected["polyphase_indices"])
            np.testing.assert_allclose(outputs["logits"], expected["logits"], atol=1e-4, rtol=1e-3)
