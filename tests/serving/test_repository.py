"""What is found on disk, what its configuration means, and what is said of models that cannot be served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from aps_deploy.errors import InputError
from aps_deploy.files import sha256_of
from aps_deploy.serving.model import load_model
from aps_deploy.serving.model_config import batch_policy
from aps_deploy.serving.repository import Repository
from aps_deploy.serving.settings import ServeSettings
from tests.runtimes import graphs
from tests.serving.support import Running, running


def load(repository: Path, name: str, **settings: Any) -> Any:
    """Return the latest version of a model, loaded."""
    found = Repository(repository).versions(name)[-1]
    chosen = ServeSettings(repository, threads=1, **settings)
    return load_model(found.name, found.version, found.file, found.folder, found.config, chosen)


class TestFinding:
    def test_names_and_versions(self, repository: Path) -> None:
        found = Repository(repository)
        assert found.names() == ["fixed", "grown", "half", "tiny"]
        assert [version.version for version in found.versions("grown")] == [2, 10]
        assert not found.is_single_file

    @pytest.mark.parametrize(
        ("policy", "wanted"),
        [
            ("", [10]),
            ("version_policy { latest { num_versions: 2 } }", [2, 10]),
            ("version_policy { all { } }", [1, 2, 10]),
            ("version_policy { specific { versions: 1 } }", [1]),
        ],
    )
    def test_version_policies(self, own_repository: Path, policy: str, wanted: list[int]) -> None:
        (own_repository / "grown" / "config.pbtxt").write_text(policy)
        (own_repository / "grown" / "007").mkdir()
        (own_repository / "grown" / "notes").mkdir()
        assert [version.version for version in Repository(own_repository).versions("grown")] == wanted

    def test_a_single_file(self, repository: Path) -> None:
        found = Repository(repository / "tiny" / "1" / "model.onnx")
        assert found.names() == ["model"] and found.is_single_file
        assert [version.version for version in found.versions("model")] == [1]

    def test_names_are_compared_and_never_made_into_paths(self, repository: Path) -> None:
        for name in ("../models/tiny", "tiny/1", ".", ""):
            with pytest.raises(InputError, match="there is no model"):
                Repository(repository).versions(name)

    def test_what_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not exist"):
            Repository(tmp_path / "nothing")
        with pytest.raises(InputError, match="holds no model"):
            Repository(tmp_path)
        (tmp_path / "net.pt").touch()
        with pytest.raises(InputError, match="is no ONNX file"):
            Repository(tmp_path / "net.pt")


class TestConfiguration:
    def test_without_one_the_file_and_the_settings_say_everything(self, repository: Path) -> None:
        loaded = load(repository, "tiny", max_batch=8, batch_delay_ms=1.5, instances=2)
        assert loaded.config.max_batch_size == 8
        assert loaded.config.dynamic_batching.max_queue_delay_microseconds == 1500
        assert len(loaded.engines) == 2
        assert loaded.labels == {"logits": graphs.CLASS_NAMES}
        assert load(repository, "fixed").config.max_batch_size == 0

    def test_what_it_says_holds(self, own_repository: Path) -> None:
        (own_repository / "tiny" / "config.pbtxt").write_text(
            "max_batch_size: 3 instance_group [{ count: 2 kind: KIND_CPU }]\n"
            "dynamic_batching { max_queue_delay_microseconds: 70 default_queue_policy {\n"
            "  max_queue_size: 9 default_timeout_microseconds: 80 } }\n"
        )
        settings = ServeSettings(own_repository)
        loaded = load(own_repository, "tiny")
        assert len(loaded.engines) == 2
        policy = batch_policy(loaded.config, settings, joins=True)
        assert (policy.max_rows, policy.joins, policy.delay_ns) == (3, True, 70_000)
        assert (policy.max_queue, policy.deadline_ns) == (9, 80_000)

    def test_without_dynamic_batching_nothing_is_joined(self, own_repository: Path) -> None:
        (own_repository / "tiny" / "config.pbtxt").write_text("max_batch_size: 4\n")
        policy = batch_policy(load(own_repository, "tiny").config, ServeSettings(own_repository), joins=True)
        assert (policy.max_rows, policy.joins) == (4, False)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("max_batch: 3", 'no field named "max_batch"'),
            ('name: "other"', "the folder is 'tiny'"),
            ('backend: "pytorch"', "the backend is 'pytorch'"),
            ('platform: "pytorch_libtorch"', "the backend is 'pytorch_libtorch'"),
            ('platform: "onnxruntime_onnx" backend: "tensorrt"', "is 'onnxruntime_onnx and tensorrt'"),
            ('platform: "tensorrt_plan" default_model_filename: "model.onnx"', "model.onnx is for onnxruntime"),
            ("max_batch_size: -1", "must be 0 or more"),
            ('default_model_filename: "../model.onnx"', "without a path"),
            ('default_model_filename: "other.onnx"', "does not exist"),
            ('input [{ name: "pixels" data_type: TYPE_FP32 dims: [3, 8, 8] }]', "no input 'pixels'"),
            ('input [{ name: "images" data_type: TYPE_INT8 dims: [-1, 3, -1, -1] }]', "is TYPE_INT8"),
            ('output [{ name: "logits" data_type: TYPE_FP32 dims: [-1, 6] }]', "has dims [-1, 6], the file [-1, 5]"),
            (
                'output [{ name: "logits" data_type: TYPE_FP32 dims: [-1, 5] label_filename: "../half/labels.txt" }]',
                "is not in",
            ),
            ("version_policy { specific { versions: 4 } }", "no version to serve"),
        ],
    )
    def test_what_does_not_fit(self, own_repository: Path, text: str, words: str) -> None:
        (own_repository / "tiny" / "config.pbtxt").write_text(text)
        with pytest.raises(InputError) as caught:
            load(own_repository, "tiny")
        assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1

    def test_a_batch_that_the_file_does_not_take(self, own_repository: Path) -> None:
        (own_repository / "fixed" / "config.pbtxt").write_text("max_batch_size: 2\n")
        with pytest.raises(InputError, match="set max_batch_size: 0"):
            load(own_repository, "fixed")


class TestJoining:
    def make(self, repository: Path, name: str, nodes: list[Any], **constants: Any) -> None:
        model = graphs.make_model(
            nodes,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
            constants,
        )
        folder = repository / name / "1"
        folder.mkdir(parents=True)
        graphs.save(model, folder / "model.onnx")

    def test_requests_are_joined_where_that_changes_no_bit(
        self, own_repository: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.make(own_repository, "rows", [helper.make_node("Relu", ["x"], ["y"])])
        axes = np.array([0], np.int64)
        mixing = [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"]),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ]
        self.make(own_repository, "mixing", mixing, axes=axes)
        assert load(own_repository, "rows").joins
        assert not caplog.records
        assert not load(own_repository, "mixing").joins
        assert "answers depend on the other images" in caplog.text
        assert load(own_repository, "mixing", batching="always").joins
        assert not load(own_repository, "rows", batching="never").joins

    def test_a_model_that_returns_other_rows_is_not_joined(self, own_repository: Path) -> None:
        node = helper.make_node("Concat", ["x", "x"], ["y"], axis=0)
        self.make(own_repository, "twice", [node])
        assert not load(own_repository, "twice").joins


@pytest.fixture
def damaged(own_repository: Path) -> Path:
    """A repository with two models that cannot be served."""
    (own_repository / "tiny" / "1" / "model.onnx").write_bytes(b"no model")
    (own_repository / "half" / "config.pbtxt").write_text("nonsense")
    return own_repository


def test_every_model_is_listed_with_the_reason(damaged: Path) -> None:
    with running(damaged) as server:
        index = {entry["name"]: entry for entry in server.json("POST", "/v2/repository/index")[1]}
        assert index["tiny"]["state"] == index["half"]["state"] == "UNAVAILABLE"
        assert "is not an ONNX file that ONNX Runtime can load" in index["tiny"]["reason"]
        assert "is no model configuration" in index["half"]["reason"]
        assert all(str(damaged) not in index[name]["reason"] for name in ("tiny", "half"))
        assert index["tiny"]["reason"].startswith("tiny/1/model.onnx")
        assert index["fixed"] == {"name": "fixed", "version": "1", "state": "READY"}
        ready = server.json("POST", "/v2/repository/index", {"ready": True})[1]
        assert {entry["name"] for entry in ready} == {"fixed", "grown"}
        # As with Triton: one model that should be there and is not, and the server is not ready, but alive.
        assert server.request("GET", "/v2/health/ready")[0] == 400
        assert server.request("GET", "/v2/health/live")[0] == 200
        assert server.request("GET", "/v2/models/grown/ready")[0] == 200
        status, answer = server.json("GET", "/v2/models/tiny/ready")
        assert status == 400 and "can load" in answer["error"]


def test_a_server_with_no_model_at_all_does_not_start(damaged: Path) -> None:
    for name in ("fixed", "grown"):
        (damaged / name / "config.pbtxt").write_text("nonsense")
    with pytest.raises(InputError, match="no model can be served; the first: "), running(damaged):
        pass


def test_a_file_that_changed_since_its_export_is_refused(tmp_path: Path) -> None:
    file = graphs.save(graphs.classifier(), tmp_path / "net.onnx")
    file.with_suffix(".json").write_text(json.dumps({"file": "net.onnx", "sha256": sha256_of(file)}))
    with running(file) as server:
        assert server.request("GET", "/v2/models/net/ready")[0] == 200
    graphs.save(graphs.classifier(with_indices=False), file)
    with pytest.raises(InputError, match="changed since it was exported"), running(file):
        pass


class TestControl:
    def infer(self, server: Running) -> tuple[int, Any]:
        entry = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0, 0]}
        status, answer = server.json("POST", "/v2/models/grown/infer", {"inputs": [entry]})
        return status, answer["outputs"][0]["data"] if status == 200 else answer["error"]

    def test_unload_and_load(self, own_repository: Path) -> None:
        with running(own_repository, allow_control=True) as server:
            assert self.infer(server) == (200, [10, 10])
            assert server.request("POST", "/v2/repository/models/grown/unload")[0] == 200
            status, words = self.infer(server)
            assert status == 503 and "unloaded" in words
            assert server.request("GET", "/v2/health/ready")[0] == 200
            (own_repository / "grown" / "config.pbtxt").write_text("version_policy { specific { versions: 1 } }")
            with server.client("grpc") as client:
                client.load_model("grown")
            assert self.infer(server) == (200, [1, 1])
            assert server.json("POST", "/v2/repository/models/nothing/load")[0] == 404
            assert server.json("POST", "/v2/repository/models/nothing/unload")[0] == 400
            override = {"parameters": {"config": "{}"}}
            assert server.json("POST", "/v2/repository/models/grown/load", override)[0] == 403

    def test_a_replacement_that_does_not_load_changes_nothing(self, own_repository: Path) -> None:
        with running(own_repository, allow_control=True) as server:
            (own_repository / "grown" / "10" / "model.onnx").write_bytes(b"no model")
            status, answer = server.json("POST", "/v2/repository/models/grown/load")
            assert status == 400 and "can load" in answer["error"]
            assert "grown/10/model.onnx" in answer["error"] and str(own_repository) not in answer["error"]
            assert self.infer(server) == (200, [10, 10])
