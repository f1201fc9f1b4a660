"""Which clock tells a run's time, when times have settled, and that a GPU's events are read outside the run."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from aps_deploy.bench.files import FileSettings, measure_files
from aps_deploy.bench.stopwatch import Stopwatch, run_until_stable
from aps_deploy.bench.table import files_table
from aps_deploy.runtimes import open_session, tensorrt_session
from aps_deploy.runtimes.device_span import device_work, measured_span
from tests.export.engines.toys import toy, write_toy
from tests.gpus import needs_torch_cuda
from tests.runtimes import graphs
from tests.runtimes.tensorrt.fake_cuda import CALLER, FakeEvent, FakeStream, install_fake_cuda
from tests.runtimes.tensorrt.fake_engine import FakeContext, fake_toolkit, write_plan

IMAGES = np.zeros((2, 3, 8, 8), np.float32)
GPU_MS = 5.0
COLUMNS = ("model", "runtime", "device", "clock", "p50 ms", "p90 ms", "p99 ms", "images/s", "ratio", "")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU and TensorRT as far as a session asks; the GPU is busy for `GPU_MS` in every run of an engine."""
    install_fake_cuda(monkeypatch)
    monkeypatch.setattr(tensorrt_session, "load_toolkit", lambda *_, **__: fake_toolkit())
    compute = FakeContext.compute

    def busy(context: FakeContext) -> None:
        compute(context)
        FakeEvent.now_ms += GPU_MS

    monkeypatch.setattr(FakeContext, "compute", busy)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "toy.onnx")


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write_plan(tmp_path / "net.plan", toy())


def test_nothing_is_recorded_unless_somebody_measures(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeEvent] = []
    record = FakeEvent.record
    monkeypatch.setattr(FakeEvent, "record", lambda self, stream: (made.append(self), record(self, stream)))
    with device_work("cuda"):
        pass
    with measured_span() as span, device_work("cpu"):
        pass
    assert made == [] and span.seconds() is None
    stream = FakeStream()
    with measured_span() as span:
        for where in (None, stream):
            with device_work("cuda", where):
                FakeEvent.now_ms += 2.0
            FakeEvent.now_ms += 100.0  # between two pieces of a batch the GPU waits for the host
    assert [event.recorded and event.recorded[0] for event in made] == [CALLER, CALLER, stream, stream]
    assert not any(event.is_awaited for event in made)  # nothing waits inside the run
    assert span.seconds() == pytest.approx(4e-3) and made[-1].is_awaited
    with measured_span() as outer, measured_span(), device_work("cuda"):
        FakeEvent.now_ms += 1.0
    assert outer.seconds() is None


def test_a_failed_run_leaves_no_span(gpu: None) -> None:
    with measured_span() as span, pytest.raises(RuntimeError), device_work("cuda"):
        raise RuntimeError
    assert span.seconds() is None


def test_an_engine_is_timed_by_events_on_its_own_stream(
    gpu: None, plan: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("aps_deploy.bench.stopwatch.time.perf_counter", lambda: next(ticks) / 1e3)  # 1 ms a call
    result = measure_files(
        FileSettings((str(plan), str(file)), batch_size=19, rounds=2, runtimes=("all",), device=None)
    )
    engine, *others = result.measured
    # 19 images are three runs: two of eight, and one of three.
    assert (engine.clock, engine.runtime, engine.device) == ("CUDA events", "tensorrt", "cuda")
    assert engine.p50_ms == engine.p99_ms == pytest.approx(3 * GPU_MS)
    assert engine.images_per_s == pytest.approx(19e3 / (3 * GPU_MS))
    assert engine.is_stable and len(engine.window_medians_ms) == result.windows
    assert others and engine.host_p50_ms == pytest.approx(1.0)
    for entry in others:
        assert entry.clock == entry.ratio_clock == "host" and entry.p50_ms == pytest.approx(1.0)
        # A call on a CPU is not held against what a GPU was busy (1/15), but against the whole call.
        assert entry.ratio["median"] == pytest.approx(1.0)
    cells = {name: list(column.cells) for name, column in zip(COLUMNS, files_table(result).columns, strict=True)}
    assert cells["clock"] == ["CUDA events", *["host"] * len(others)]
    assert cells["p50 ms"][0] == "15.00"
    assert "different clocks: by the host's" in str(files_table(result).caption)


def test_two_engines_are_compared_by_events(gpu: None, plan: Path, tmp_path: Path) -> None:
    other = write_plan(tmp_path / "other.plan", toy())
    result = measure_files(FileSettings((str(other),), against=str(plan), batch_size=4, rounds=3))
    assert [entry.ratio_clock for entry in result.measured] == ["CUDA events"] * 2
    assert [entry.p50_ms for entry in result.measured] == pytest.approx([GPU_MS] * 2)
    assert result.measured[1].ratio["median"] == pytest.approx(1.0)


def test_a_runtime_with_a_stream_of_its_own_is_timed_around_its_call(gpu: None, file: Path) -> None:
    with open_session(file, runtime="onnxruntime", device="cpu") as session:
        watch = Stopwatch(session, IMAGES, rounds=1)
        watch()
        assert watch.clock == "host" and len(watch.host_s) == 1
        session.device = "cuda"  # type: ignore[misc]  # as where CUDA's provider started
        watch()
        assert watch.clock == "CUDA events" and len(watch.device_s) == 1 and len(watch.host_s) == 2


def test_windows_are_run_until_three_agree(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    now = [0.0]
    durations = iter([9.0, 9.0] + [5.0, 5.0, 3.0, 3.0] + [1.0] * 6)
    with open_session(file, runtime="onnxruntime", device="cpu") as session:
        run = session.run

        def slow_at_first(images: np.ndarray) -> object:
            now[0] += next(durations)
            return run(images)

        monkeypatch.setattr(session, "run", slow_at_first)
        monkeypatch.setattr("aps_deploy.bench.stopwatch.time.perf_counter", lambda: now[0])
        watch = Stopwatch(session, IMAGES, rounds=2)
        windows = run_until_stable([watch], 2, warm_up=2, max_windows=10)
    assert windows == 5 and watch.is_stable
    assert watch.window_medians_s == [5.0, 3.0, 1.0, 1.0, 1.0]


def test_what_never_settles_is_said_to_be_unstable(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    now = [0.0]

    def ever_slower() -> float:
        now[0] = 2.0 * now[0] + 1.0
        return now[0]

    monkeypatch.setattr("aps_deploy.bench.stopwatch.time.perf_counter", ever_slower)
    result = measure_files(FileSettings((str(file),), rounds=1, max_windows=4))
    (entry,) = result.measured
    assert result.windows == 4 and not entry.is_stable and len(entry.window_medians_ms) == 4
    assert list(files_table(result).columns[-1].cells) == ["unstable"]


@pytest.mark.gpu
@needs_torch_cuda
def test_real_events_tell_no_more_than_the_host_waited(tmp_path: Path) -> None:
    from aps_deploy.models import create_model, save_checkpoint
    from aps_deploy.preprocessing import CIFAR10

    checkpoint = save_checkpoint(tmp_path / "net.safetensors", create_model("resnet20_aps3"), preprocessing=CIFAR10)
    settings = FileSettings((str(checkpoint),), batch_size=64, runtimes=("torch", "torch-compiled"), device="cuda")
    for entry in measure_files(settings).measured:
        assert entry.clock == "CUDA events" and entry.device == "cuda"
        assert 0 < entry.p50_ms <= 1.05 * entry.host_p50_ms
    graphs.save(graphs.classifier(), tmp_path / "any.onnx")
    with open_session(tmp_path / "any.onnx") as session:
        watch = Stopwatch(session, IMAGES, rounds=1)
        watch()
        assert bool(watch.device_s) == (session.device == "cuda")
