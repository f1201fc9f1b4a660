"""A repository of small models written by hand, and one server for all tests that leave it as it was."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aps_deploy.serving.execution import WORKER
from tests.runtimes import graphs

if TYPE_CHECKING:
    from tests.serving.support import Running


def write_repository(root: Path) -> Path:
    """Write the models: ``tiny`` (float32), ``half`` (float16), ``fixed`` (two images), ``grown`` (versions)."""
    for name in ("tiny", "half", "fixed", "grown"):
        (root / name / "1").mkdir(parents=True)
    graphs.save(graphs.classifier(), root / "tiny" / "1" / "model.onnx")
    half = graphs.classifier(dtype=TensorProto.FLOAT16, shape=("N", 3, 8, 8))
    graphs.save(half, root / "half" / "1" / "model.onnx")
    (root / "half" / "config.pbtxt").write_text(
        'name: "half" platform: "onnxruntime_onnx" max_batch_size: 4\n'
        "dynamic_batching { max_queue_delay_microseconds: 500 }\n"
        'output [{ name: "logits" data_type: TYPE_FP16 dims: [5] label_filename: "labels.txt" }]\n'
    )
    (root / "half" / "labels.txt").write_text("one\ntwo\nthree\nfour\nfive\n")
    graphs.save(graphs.classifier(shape=(2, 3, 8, 8)), root / "fixed" / "1" / "model.onnx")
    for version in (2, 10):
        (root / "grown" / str(version)).mkdir()
    for version in (1, 2, 10):
        graphs.save(add_constant(version), root / "grown" / str(version) / "model.onnx")
    (root / "grown" / "config.pbtxt").write_text("version_policy { specific { versions: [2, 10] } }\n")
    return root


def add_constant(number: float) -> onnx.ModelProto:
    """Return a model that adds a number to every element."""
    return graphs.make_model(
        [helper.make_node("Add", ["x", "number"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        {"number": np.array(number, np.float32)},
    )


@pytest.fixture(scope="package")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("repository") / "models")


@pytest.fixture
def own_repository(repository: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(repository, tmp_path / "models"))


@pytest.fixture(scope="package")
def server(repository: Path) -> Iterator[Running]:
    # Only here: a test is skipped without the server's packages, and pytest ends where a conftest cannot be imported.
    from tests.serving.support import running

    with running(repository) as server:
        yield server


@pytest.fixture(autouse=True)
def no_worker_left() -> Iterator[None]:
    """What a test starts ends with it; servers of a whole module or package are older than its tests."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 10
    while left := [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith(WORKER)]:
        assert time.monotonic() < deadline, f"worker threads are left: {left}"
        time.sleep(0.01)
