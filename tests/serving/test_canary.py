"""The canary through the live endpoint: what it exports, what it calls a failure, and whom it never disturbs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from aps_deploy.errors import InputError
from aps_deploy.models import create_model
from aps_deploy.runtimes import METADATA_KEY, ModelMetadata
from aps_deploy.serving.canary import compare
from aps_deploy.serving.canary_record import Promise, promise_of
from tests.concurrency import wait_until
from tests.runtimes import graphs
from tests.serving.support import Running, float_list, running

NOTHING_PROMISED = replace(graphs.METADATA, selection=None, selection_layers=())


def network(*nodes: onnx.NodeProto, metadata: ModelMetadata | None = graphs.METADATA) -> onnx.ModelProto:
    """Return ``nodes``, which make (N, 3) ``pooled`` of the images, and a linear head."""
    head = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    model = graphs.make_model(
        [*nodes, helper.make_node("MatMul", ["pooled", "head"], ["logits"])],
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, list(graphs.DYNAMIC))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        {"axes": np.array([2, 3], np.int64), "corner": np.array([0, 0], np.int64), "head": head},
    )
    if metadata is not None:
        helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
    return model


def invariant(metadata: ModelMetadata | None = graphs.METADATA) -> onnx.ModelProto:
    """Return a network that keeps every bit under every shift: it sees the largest value of each channel."""
    return network(helper.make_node("ReduceMax", ["images", "axes"], ["pooled"], keepdims=0), metadata=metadata)


def looking_at_a_corner(metadata: ModelMetadata | None = graphs.METADATA) -> onnx.ModelProto:
    """Return a network whose class changes with the shift: it sees one pixel."""
    corner = [
        helper.make_node("Gather", ["images", "first"], ["row"], axis=2),
        helper.make_node("Gather", ["row", "first"], ["pooled"], axis=2),
    ]
    first = helper.make_node("Constant", [], ["first"], value_int=0)
    return network(first, *corner, metadata=metadata)


def picture(path: Path) -> Path:
    """Write an image of pixels that have nothing in common, so that one pixel says nothing of the next."""
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def values(server: Running, name: str) -> dict[tuple[str, str], float]:
    """Return a family of the page of metrics, by model and version."""
    page = server.request("GET", "/metrics")[2].decode()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return {(s.labels["model"], s.labels["version"]): s.value for s in samples if s.name == name}


def runs(server: Running, model: tuple[str, str], count: int) -> Callable[[], bool]:
    return lambda: values(server, "aps_canary_runs_total").get(model, 0) >= count


def records(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.message == message]  # type: ignore[attr-defined]


def test_a_network_that_keeps_its_promise(tmp_path: Path) -> None:
    file = graphs.save(invariant(), tmp_path / "net.onnx")
    before = time.time()
    with running(file, canary_s=0.01, canary_unready=True) as server:
        net = ("net", "1")
        wait_until(runs(server, net, 3))
        assert values(server, "aps_shift_consistency") == {net: 1}
        assert values(server, "aps_shift_bit_identity") == {net: 1}
        assert values(server, "aps_canary_held") == {net: 1}
        assert values(server, "aps_canary_failures_total") == values(server, "aps_canary_skipped_total") == {net: 0}
        assert before < values(server, "aps_canary_last_run_timestamp_seconds")[net] < time.time() + 1
        assert server.request("GET", "/v2/health/ready")[0] == 200
        # The copies share runs with each other, and are no requests.
        (statistics,) = server.json("GET", "/v2/models/net/stats")[1]["model_stats"]
        assert max(entry["batch_size"] for entry in statistics["batch_stats"]) > 1
        assert statistics["inference_stats"]["success"]["count"] == statistics["inference_count"] == 0
        assert statistics["execution_count"] > 0


def test_without_the_option_there_is_no_canary(server: Running) -> None:
    assert b"aps_canary" not in server.request("GET", "/metrics")[2]


def test_a_failure_is_logged_with_its_shift_and_ends_readiness_until_it_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aps_deploy.serving")
    file = tmp_path / "models" / "net" / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    graphs.save(looking_at_a_corner(), file)
    image, net = picture(tmp_path / "picture.png"), ("net", "1")
    options: dict[str, Any] = {"canary_s": 0.01, "canary_image": image, "canary_unready": True, "allow_control": True}
    with running(tmp_path / "models", **options) as server:
        wait_until(lambda: server.request("GET", "/v2/health/ready")[0] == 400)
        assert values(server, "aps_canary_failures_total")[net] >= 1
        assert values(server, "aps_shift_consistency")[net] < 1
        assert values(server, "aps_shift_bit_identity")[net] < 1
        status, answer = server.json("GET", "/v2/models/net/ready")
        assert status == 400 and "failed its canary" in answer["error"]
        with server.client("grpc") as client:
            assert not client.is_server_ready() and not client.is_model_ready("net") and client.is_server_live()
        # Whoever asks all the same is answered.
        assert infer(server)[0] == 200
        first = records(caplog, "the canary failed")[0]
        assert (first["model"], first["version"], first["promise"]) == ("net", "1", "bits")
        dy, dx = first["shift"]
        assert (0 <= dy < 8 and 0 <= dx < 8) and (dy, dx) != (0, 0)
        assert 0 < first["broken_shifts"] <= first["num_shifts"] == 8 and first["max_logit_change"] > 0
        graphs.save(invariant(), file)
        assert server.request("POST", "/v2/repository/models/net/load")[0] == 200
        wait_until(runs(server, net, 1))
        assert server.request("GET", "/v2/health/ready")[0] == 200
        assert values(server, "aps_shift_consistency") == {net: 1}


def infer(server: Running) -> tuple[int, Any]:
    data = float_list(graphs.images(1))
    entry = {"name": "images", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": data}
    return server.json("POST", "/v2/models/net/infer", {"inputs": [entry]})


def test_a_failure_leaves_readiness_alone_unless_asked(tmp_path: Path) -> None:
    file = graphs.save(looking_at_a_corner(), tmp_path / "net.onnx")
    with running(file, canary_s=0.01, canary_image=picture(tmp_path / "picture.png")) as server:
        wait_until(lambda: values(server, "aps_canary_failures_total")[("net", "1")] >= 2)
        assert server.request("GET", "/v2/health/ready")[0] == 200
        assert server.request("GET", "/v2/models/net/ready")[0] == 200


@pytest.mark.parametrize("metadata", [NOTHING_PROMISED, None])
def test_a_network_that_promises_nothing_is_reported(tmp_path: Path, metadata: ModelMetadata | None) -> None:
    file = graphs.save(looking_at_a_corner(metadata), tmp_path / "net.onnx")
    net, image = ("net", "1"), picture(tmp_path / "picture.png")
    with running(file, canary_s=0.01, canary_image=image, canary_unready=True) as server:
        wait_until(runs(server, net, 3))
        assert values(server, "aps_shift_consistency")[net] < 1
        assert values(server, "aps_canary_held") == values(server, "aps_canary_failures_total") == {net: 0}
        assert server.request("GET", "/v2/health/ready")[0] == 200


def test_it_passes_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers wrongly for a while: hardware does so."""
    caplog.set_level(logging.INFO, "aps_deploy.serving")
    from aps_deploy.serving.engine import OnnxEngine

    run, is_broken = OnnxEngine.run, [False]

    def run_badly(engine: OnnxEngine, tensors: Any) -> list[npt.NDArray[Any]]:
        outputs = run(engine, tensors)
        if is_broken[0]:
            return [np.where(np.isfinite(value), np.float32(np.nan), value) for value in outputs]
        return outputs

    monkeypatch.setattr(OnnxEngine, "run", run_badly)
    file = graphs.save(invariant(), tmp_path / "net.onnx")
    with running(file, canary_s=0.01, canary_unready=True) as server:
        for breaks, status in ((False, 200), (True, 400), (False, 200), (True, 400)):
            is_broken[0] = breaks
            count = values(server, "aps_canary_runs_total").get(("net", "1"), 0)
            wait_until(runs(server, ("net", "1"), int(count) + 2))
            assert server.request("GET", "/v2/health/ready")[0] == status
    assert len(records(caplog, "the canary passes again")) == 1
    assert records(caplog, "the canary failed")[0]["max_logit_change"] is None


def test_models_of_every_kind(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    """FP16, a fixed batch of two, and a model that takes no images."""
    caplog.set_level(logging.INFO, "aps_deploy.serving")
    with running(repository, canary_s=0.01) as server:
        for name in ("tiny", "half", "fixed"):
            wait_until(runs(server, (name, "1"), 2))
            assert values(server, "aps_shift_consistency")[(name, "1")] == 1
        assert ("grown", "10") not in values(server, "aps_shift_consistency")
    without = records(caplog, "no canary watches the model: it takes no RGB images")
    assert [(fields["model"], fields["version"]) for fields in without] == [("grown", "2"), ("grown", "10")]


def test_a_full_queue_skips_it_and_requests_go_first(tmp_path: Path) -> None:
    """With a queue of one and a delay that keeps its request there, the canary never gets through."""
    file = graphs.save(invariant(), tmp_path / "net.onnx")
    with running(file, canary_s=0.01, max_queue=1, batch_delay_ms=300.0) as server:
        wait_until(lambda: values(server, "aps_canary_skipped_total")[("net", "1")] >= 3)
        assert infer(server)[0] == 200
        assert values(server, "aps_canary_runs_total") == {("net", "1"): 0}
        assert "aps_shift_consistency{" not in server.request("GET", "/metrics")[2].decode()
        page = server.request("GET", "/metrics")[2].decode()
        assert 'nv_inference_request_failure{model="net",version="1",reason="REJECTED"} 0' in page
        assert 'nv_inference_request_failure{model="net",version="1",reason="CANCELED"} 0' in page


def test_the_image_packaged_with_the_model_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is of another size than the file's own preprocessing makes."""
    caplog.set_level(logging.INFO, "aps_deploy.serving")
    folder = tmp_path / "models" / "net"
    (folder / "1").mkdir(parents=True)
    graphs.save(invariant(), folder / "1" / "model.onnx")
    (folder / "warmup").mkdir()
    graphs.images(1, 12, 16)[0].tofile(folder / "warmup" / "image")
    (folder / "config.pbtxt").write_text(
        'max_batch_size: 4\nmodel_warmup { name: "one" batch_size: 1 inputs { key: "images" value '
        '{ data_type: TYPE_FP32 dims: [3, 12, 16] input_data_file: "image" } } }\n'
    )
    with running(tmp_path / "models", canary_s=0.01) as server:
        wait_until(runs(server, ("net", "1"), 1))
    (watched,) = records(caplog, "a canary watches the model")
    assert watched == {"model": "net", "version": "1", "promise": "bits", "image_size": [12, 16]}


def test_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    file = graphs.save(invariant(), tmp_path / "net.onnx")
    with pytest.raises(InputError, match="does not exist"), running(file, canary_s=1.0, canary_image=tmp_path / "no"):
        pass


@pytest.mark.parametrize(
    ("name", "options", "side", "promise"),
    [
        ("resnet20_aps3", {}, 32, "bits"),
        ("resnet20_aps1", {}, 16, "bits"),
        ("resnet18_aps3", {"pool_only": True}, 64, "bits"),
        ("resnet20_aps3", {"selection": "float"}, 32, "nothing"),
        ("resnet20_aps3", {"padding": "zeros"}, 32, "nothing"),
        ("resnet20_aps3", {"odd_maps": "pad"}, 30, "nothing"),
        ("resnet20_aps3", {"odd_maps": "pad"}, 32, "bits"),
        ("resnet20_lpf3", {}, 32, "nothing"),
        ("resnet20", {}, 32, "nothing"),
    ],
)
def test_what_a_network_promises(name: str, options: dict[str, Any], side: int, promise: Promise) -> None:
    metadata = ModelMetadata.from_model(create_model(name, num_classes=2, **options))
    assert promise_of(metadata, side, side, on_cpu=True) == promise
    assert promise_of(metadata, side, side, on_cpu=False) == ("class" if promise == "bits" else "nothing")


def test_another_tools_file_promises_nothing() -> None:
    assert promise_of(ModelMetadata(), 32, 32, on_cpu=True) == "nothing"


@pytest.mark.parametrize(
    ("shifted", "agrees", "is_identical", "kept"),
    [
        ([1.0, 2.0, 3.0], True, True, {"bits", "class", "nothing"}),
        ([1.0, 2.0, 3.0000002], True, False, {"class", "nothing"}),
        ([3.0, 2.0, 1.0], False, False, {"nothing"}),
        ([1.0, float("nan"), 3.0], False, False, {"nothing"}),
        ([1.0, 2.0, float("inf")], False, False, {"nothing"}),
    ],
)
def test_comparing(shifted: Sequence[float], agrees: bool, is_identical: bool, kept: set[str]) -> None:
    finding = compare((1, 2), np.array([[1.0, 2.0, 3.0]], np.float32), np.array([shifted], np.float32))
    assert (finding.shift, finding.agrees, finding.is_identical) == ((1, 2), agrees, is_identical)
    promises: tuple[Promise, ...] = ("bits", "class", "nothing")
    assert {promise for promise in promises if finding.keeps(promise)} == kept


def test_equal_nans_are_no_agreement() -> None:
    logits = np.full((1, 3), np.nan, np.float32)
    finding = compare((1, 0), logits, logits.copy())
    assert not finding.agrees and not finding.is_identical and finding.max_logit_change == float("inf")
