"""The unmodified `tritonclient`, over HTTP and gRPC, against values computed in numpy."""

from __future__ import annotations

import asyncio
import queue
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

import aps_deploy
from tests.runtimes import graphs
from tests.serving.support import CLIENTS, Running, tensor

TRANSPORTS = sorted(CLIENTS)
TOLERANCE = 1e-4  # float32 against float64
HALF_TOLERANCE = 0.1  # ten bits of mantissa through 27 products


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(server: Running, transport: str) -> Any:
    with server.client(transport) as client:
        yield client


def plain(answer: Any) -> Any:
    """Return an answer of either transport as plain values."""
    if not hasattr(answer, "DESCRIPTOR"):
        return answer
    from google.protobuf import json_format

    return json_format.MessageToDict(answer, preserving_proto_field_name=True)


class TestState:
    def test_live_and_ready(self, client: Any) -> None:
        assert client.is_server_live() and client.is_server_ready()
        assert client.is_model_ready("tiny") and client.is_model_ready("grown", "2")
        assert not client.is_model_ready("nothing") and not client.is_model_ready("grown", "1")

    def test_server_metadata(self, client: Any) -> None:
        metadata = plain(client.get_server_metadata())
        assert (metadata["name"], metadata["version"]) == ("aps-deploy", aps_deploy.__version__)
        assert {"binary_tensor_data", "classification", "statistics"} <= set(metadata["extensions"])

    def test_model_metadata(self, client: Any) -> None:
        metadata = plain(client.get_model_metadata("tiny"))
        assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("tiny", ["1"], "onnxruntime_onnx")
        described = [(t["name"], t["datatype"], [int(d) for d in t["shape"]]) for t in metadata["inputs"]]
        assert described == [("images", "FP32", [-1, 3, -1, -1])]
        assert [t["datatype"] for t in metadata["outputs"]] == ["FP32", "INT64"]
        assert plain(client.get_model_metadata("grown"))["versions"] == ["2", "10"]

    def test_model_configuration(self, client: Any) -> None:
        config = plain(client.get_model_config("half"))
        config = config.get("config", config)  # gRPC wraps it
        assert config["max_batch_size"] == 4
        assert int(config["dynamic_batching"]["max_queue_delay_microseconds"]) == 500
        assert config["input"][0]["data_type"] == "TYPE_FP16"
        assert [int(size) for size in config["input"][0]["dims"]] == [3, 8, 8]
        assert config["output"][0]["label_filename"] == "labels.txt"

    def test_repository_index(self, client: Any) -> None:
        index = plain(client.get_model_repository_index())
        entries = index["models"] if isinstance(index, dict) else index
        assert [(entry["name"], entry["version"], entry["state"]) for entry in entries] == [
            ("fixed", "1", "READY"),
            ("grown", "2", "READY"),
            ("grown", "10", "READY"),
            ("half", "1", "READY"),
            ("tiny", "1", "READY"),
        ]


class TestInference:
    @pytest.mark.parametrize("count", [1, 3])
    @pytest.mark.parametrize("as_json", [False, True])
    def test_values(self, client: Any, transport: str, count: int, as_json: bool) -> None:
        module, images = CLIENTS[transport], graphs.images(count)
        # Over gRPC the client has one way of sending them.
        options = {"binary_data": not as_json} if transport == "http" else {}
        outputs = [module.InferRequestedOutput(name, **options) for name in ("logits", "polyphase_indices")]
        result = client.infer(
            "tiny", [tensor(module, "images", images, "FP32", **options)], outputs=outputs, request_id="seven"
        )
        logits, indices = graphs.expected(images)
        np.testing.assert_allclose(result.as_numpy("logits"), logits, atol=TOLERANCE)
        np.testing.assert_array_equal(result.as_numpy("polyphase_indices"), indices)
        answer = plain(result.get_response())
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("seven", "tiny", "1")

    def test_all_outputs_by_default_and_any_size(self, client: Any, transport: str) -> None:
        images = graphs.images(2, 12, 16)
        result = client.infer("tiny", [tensor(CLIENTS[transport], "images", images, "FP32")])
        np.testing.assert_allclose(result.as_numpy("logits"), graphs.expected(images)[0], atol=TOLERANCE)
        assert result.as_numpy("polyphase_indices").dtype == np.int64

    def test_half_precision(self, client: Any, transport: str) -> None:
        images = graphs.images(2).astype(np.float16)
        result = client.infer("half", [tensor(CLIENTS[transport], "images", images, "FP16")])
        logits = result.as_numpy("logits")
        assert logits.dtype == np.float16
        np.testing.assert_allclose(logits, graphs.expected(images.astype(np.float32))[0], atol=HALF_TOLERANCE)

    def test_a_model_of_a_fixed_batch(self, client: Any, transport: str) -> None:
        images = graphs.images(2)
        result = client.infer("fixed", [tensor(CLIENTS[transport], "images", images, "FP32")])
        np.testing.assert_allclose(result.as_numpy("logits"), graphs.expected(images)[0], atol=TOLERANCE)

    def test_versions(self, client: Any, transport: str) -> None:
        values = tensor(CLIENTS[transport], "x", np.zeros((1, 2), np.float32), "FP32")
        assert client.infer("grown", [values]).as_numpy("y").tolist() == [[10, 10]]
        assert client.infer("grown", [values], model_version="2").as_numpy("y").tolist() == [[2, 2]]

    @pytest.mark.parametrize("classes", [1, 3, 99])
    def test_classification(self, client: Any, transport: str, classes: int) -> None:
        module, images = CLIENTS[transport], graphs.images(3)
        outputs = [module.InferRequestedOutput("logits", class_count=classes)]
        rows = client.infer("tiny", [tensor(module, "images", images, "FP32")], outputs=outputs).as_numpy("logits")
        logits, _ = graphs.expected(images)
        assert rows.shape == (3, min(classes, 5))
        for row, values in zip(rows, logits, strict=True):
            order = np.argsort(-values)[:classes]
            parsed = [text.decode().split(":") for text in row]
            assert [(int(index), name) for _, index, name in parsed] == [(i, graphs.CLASS_NAMES[i]) for i in order]
            np.testing.assert_allclose([float(value) for value, _, _ in parsed], values[order], atol=TOLERANCE)

    def test_labels_of_the_repository(self, client: Any, transport: str) -> None:
        module, images = CLIENTS[transport], graphs.images(1).astype(np.float16)
        outputs = [module.InferRequestedOutput("logits", class_count=1)]
        ((text,),) = client.infer("half", [tensor(module, "images", images, "FP16")], outputs=outputs).as_numpy(
            "logits"
        )
        _, index, label = text.decode().split(":")
        assert label == ("one", "two", "three", "four", "five")[int(index)]

    @pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
    def test_compression(self, client: Any, transport: str, algorithm: str) -> None:
        module, images = CLIENTS[transport], graphs.images(3)
        if transport == "http":
            options = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
        else:
            options = {"compression_algorithm": algorithm}
        result = client.infer("tiny", [tensor(module, "images", images, "FP32")], **options)
        np.testing.assert_allclose(result.as_numpy("logits"), graphs.expected(images)[0], atol=TOLERANCE)

    def test_asynchronous_calls_of_the_client(self, client: Any, transport: str) -> None:
        module, images = CLIENTS[transport], graphs.images(4)
        inputs = [[tensor(module, "images", images[row : row + 1], "FP32")] for row in range(4)]
        if transport == "http":
            results = [call.get_result() for call in [client.async_infer("tiny", each) for each in inputs]]
        else:
            answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
            for row, each in enumerate(inputs):
                client.async_infer(
                    "tiny", each, lambda result, error: answers.put((result, error)), request_id=str(row)
                )
            received = [answers.get(timeout=60) for _ in inputs]
            assert all(error is None for _, error in received)
            results = sorted((result for result, _ in received), key=lambda result: result.get_response().id)
        found = np.concatenate([result.as_numpy("logits") for result in results])
        np.testing.assert_allclose(found, graphs.expected(images)[0], atol=TOLERANCE)


class TestStatistics:
    def test_counts_follow_the_requests(self, client: Any, transport: str) -> None:
        def counted() -> dict[str, Any]:
            (model,) = plain(client.get_inference_statistics("fixed"))["model_stats"]
            return dict(model)

        before = counted()
        client.infer("fixed", [tensor(CLIENTS[transport], "images", graphs.images(2), "FP32")])
        after = counted()
        assert int(after["inference_count"]) == int(before.get("inference_count", 0)) + 1
        assert int(after["execution_count"]) == int(before.get("execution_count", 0)) + 1
        success = after["inference_stats"]["success"]
        assert int(success["count"]) == int(before["inference_stats"]["success"].get("count", 0)) + 1
        parts = ("queue", "compute_input", "compute_infer", "compute_output")
        assert int(success["ns"]) >= sum(int(after["inference_stats"][part].get("ns", 0)) for part in parts)

    def test_of_every_model(self, client: Any) -> None:
        models = plain(client.get_inference_statistics())["model_stats"]
        assert {(model["name"], model["version"]) for model in models} >= {("tiny", "1"), ("grown", "2")}


class TestErrors:
    @pytest.mark.parametrize(
        ("model", "name", "shape", "datatype", "words"),
        [
            ("nothing", "images", (1, 3, 8, 8), "FP32", "unknown model: 'nothing'"),
            ("tiny", "pictures", (1, 3, 8, 8), "FP32", "unexpected inference input 'pictures'"),
            ("tiny", "images", (1, 3, 8, 8), "FP64", "data-type is 'FP64', but model 'tiny' expects 'FP32'"),
            ("tiny", "images", (1, 4, 8, 8), "FP32", "unexpected shape for input 'images'"),
            ("tiny", "images", (3, 8, 8), "FP32", "unexpected shape for input 'images'"),
            ("tiny", "images", (17, 3, 8, 8), "FP32", "batch-size must be 1 to 16"),
            ("tiny", "images", (1, 3, 8, 9), "FP32", "multiples of 4; the next valid size is 8x12"),
            ("half", "images", (1, 3, 8, 8), "FP32", "data-type is 'FP32', but model 'half' expects 'FP16'"),
            ("fixed", "images", (1, 3, 8, 8), "FP32", "Expected [2, 3, 8, 8], got [1, 3, 8, 8]"),
        ],
    )
    def test_what_does_not_fit(
        self,
        client: Any,
        transport: str,
        model: str,
        name: str,
        shape: tuple[int, ...],
        datatype: str,
        words: str,
    ) -> None:
        values = np.zeros(shape, {"FP32": np.float32, "FP64": np.float64}[datatype])
        with pytest.raises(InferenceServerException) as caught:
            client.infer(model, [tensor(CLIENTS[transport], name, values, datatype)])
        assert words in str(caught.value)
        if transport == "grpc":
            wanted = "NOT_FOUND" if model == "nothing" else "INVALID_ARGUMENT"
            assert caught.value.status() == f"StatusCode.{wanted}"

    def test_an_unknown_output_and_an_unknown_version(self, client: Any, transport: str) -> None:
        module = CLIENTS[transport]
        images = tensor(module, "images", graphs.images(1), "FP32")
        with pytest.raises(InferenceServerException, match="unexpected inference output 'words'"):
            client.infer("tiny", [images], outputs=[module.InferRequestedOutput("words")])
        with pytest.raises(InferenceServerException, match="'tiny' version 9 is not found"):
            client.infer("tiny", [images], model_version="9")

    def test_loading_is_off_unless_enabled(self, client: Any) -> None:
        for change in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException, match="--allow-control"):
                change("tiny")

    def test_shared_memory_is_refused(self, client: Any, transport: str) -> None:
        images = CLIENTS[transport].InferInput("images", [1, 3, 8, 8], "FP32")
        images.set_shared_memory("region", 768)
        with pytest.raises(InferenceServerException, match="shared memory is not supported"):
            client.infer("tiny", [images])


AIO: dict[str, ModuleType] = {"http": tritonclient.http.aio, "grpc": tritonclient.grpc.aio}


def test_asyncio_clients(server: Running, transport: str) -> None:
    module, images = AIO[transport], graphs.images(12)
    port = server.where.port if transport == "http" else server.where.grpc_port

    async def run() -> list[Any]:
        async with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
            assert await client.is_server_ready()
            calls = [
                client.infer("tiny", [tensor(module, "images", images[row : row + 1], "FP32")]) for row in range(12)
            ]
            return list(await asyncio.gather(*calls))

    found = np.concatenate([result.as_numpy("logits") for result in asyncio.run(run())])
    np.testing.assert_allclose(found, graphs.expected(images)[0], atol=TOLERANCE)


def test_a_stream_answers_in_order_and_survives_errors(server: Running) -> None:
    module, images = CLIENTS["grpc"], graphs.images(6)
    answers: list[tuple[Any, Any]] = []
    with server.client("grpc") as client:
        client.start_stream(lambda result, error: answers.append((result, error)))
        for row in range(6):
            name = "images" if row != 2 else "pictures"
            client.async_stream_infer(
                "tiny", [tensor(module, name, images[row : row + 1], "FP32")], request_id=str(row)
            )
        client.stop_stream()
    logits, _ = graphs.expected(images)
    assert len(answers) == 6
    for row, (result, error) in enumerate(answers):
        if row == 2:
            assert "unexpected inference input 'pictures'" in str(error)
            continue
        assert error is None and result.get_response().id == str(row)
        np.testing.assert_allclose(result.as_numpy("logits"), logits[row : row + 1], atol=TOLERANCE)
