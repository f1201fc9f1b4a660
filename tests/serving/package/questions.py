"""What is asked of two servers: plain requests, and every call of the unmodified `tritonclient`."""

from __future__ import annotations

import dataclasses
import http.client
import json
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

from tests.runtimes import graphs
from tests.serving.support import tensor

INFER = "/v2/models/tiny/infer"
Plain = tuple[str, str, object]


def entry(**changes: Any) -> dict[str, Any]:
    """Return the JSON input of one image for ``tiny``; keyword arguments replace its fields."""
    data = graphs.images(1).ravel().astype(float).tolist()
    return {"name": "images", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": data, **changes}


def request(**changes: Any) -> dict[str, Any]:
    """Return the JSON request of one image; keyword arguments are its further fields."""
    return {"inputs": [entry()], **changes}


def _classes(count: int) -> dict[str, Any]:
    return request(outputs=[{"name": "logits", "parameters": {"classification": count}}])


SHARED = {"shared_memory_region": "region", "shared_memory_byte_size": 768}
PLAIN: dict[str, Plain] = {
    "live": ("GET", "/v2/health/live", None),
    "ready": ("GET", "/v2/health/ready", None),
    "server": ("GET", "/v2", None),
    "model": ("GET", "/v2/models/tiny", None),
    "model of a version": ("GET", "/v2/models/tiny/versions/1", None),
    "no model": ("GET", "/v2/models/nothing", None),
    "no version": ("GET", "/v2/models/tiny/versions/9", None),
    "version that is no number": ("GET", "/v2/models/tiny/versions/x", None),
    "model ready": ("GET", "/v2/models/tiny/ready", None),
    "no model ready": ("GET", "/v2/models/nothing/ready", None),
    "no version ready": ("GET", "/v2/models/tiny/versions/9/ready", None),
    "configuration": ("GET", "/v2/models/tiny/config", None),
    "no configuration": ("GET", "/v2/models/nothing/config", None),
    "statistics": ("GET", "/v2/models/tiny/stats", None),
    "all statistics": ("GET", "/v2/models/stats", None),
    "no statistics": ("GET", "/v2/models/nothing/stats", None),
    "no statistics of a version": ("GET", "/v2/models/tiny/versions/9/stats", None),
    "index": ("POST", "/v2/repository/index", None),
    "ready index": ("POST", "/v2/repository/index", {"ready": True}),
    "index by another method": ("GET", "/v2/repository/index", None),
    "inference by another method": ("DELETE", INFER, None),
    "no route": ("GET", "/v3", None),
    "inference": ("POST", INFER, request()),
    "inference with an ID": ("POST", INFER, request(id="seven")),
    "inference of a version": ("POST", "/v2/models/tiny/versions/1/infer", request()),
    "inference of no model": ("POST", "/v2/models/nothing/infer", request()),
    "inference of no version": ("POST", "/v2/models/tiny/versions/9/infer", request()),
    "nested data": ("POST", INFER, request(inputs=[entry(data=graphs.images(1).astype(float).tolist())])),
    "no body": ("POST", INFER, ""),
    "no inputs": ("POST", INFER, {"inputs": []}),
    "an input twice": ("POST", INFER, {"inputs": [entry(), entry()]}),
    "another input": ("POST", INFER, request(inputs=[entry(name="x")])),
    "another datatype": ("POST", INFER, request(inputs=[entry(datatype="FP64")])),
    "no datatype": ("POST", INFER, request(inputs=[entry(datatype="FP8")])),
    "another rank": ("POST", INFER, request(inputs=[entry(shape=[3, 8, 8])])),
    "too large a batch": ("POST", INFER, request(inputs=[entry(shape=[5, 3, 8, 8], data=[0.5] * 960)])),
    "another batch than the file's": ("POST", "/v2/models/fixed/infer", request()),
    "one output": ("POST", INFER, request(outputs=[{"name": "logits"}])),
    "an output twice": ("POST", INFER, request(outputs=[{"name": "logits"}, {"name": "logits"}])),
    "another output": ("POST", INFER, request(outputs=[{"name": "nothing"}])),
    "two classes": ("POST", INFER, _classes(2)),
    "more classes than there are": ("POST", INFER, _classes(99)),
    "raw outputs": ("POST", INFER, request(parameters={"binary_data_output": True})),
    "half precision as JSON": ("POST", "/v2/models/half/infer", request(inputs=[entry(datatype="FP16")])),
    # Where ours differs.
    "no object": ("POST", INFER, [1]),
    "no list of inputs": ("POST", INFER, {}),
    "no JSON": ("POST", INFER, "{"),
    "another shape": ("POST", INFER, request(inputs=[entry(shape=[1, 3, 8, 9])])),
    "a negative shape": ("POST", INFER, request(inputs=[entry(shape=[1, 3, -8, -8])])),
    "too few numbers": ("POST", INFER, request(inputs=[entry(data=[1.0])])),
    "words": ("POST", INFER, request(inputs=[entry(data=["a"] * 192)])),
    "a negative number of classes": ("POST", INFER, _classes(-1)),
    "a negative timeout": ("POST", INFER, request(parameters={"timeout": -1})),
    "server with a slash": ("GET", "/v2/", None),
    "load": ("POST", "/v2/repository/models/tiny/load", {}),
    "unload": ("POST", "/v2/repository/models/tiny/unload", {}),
    "load of no model": ("POST", "/v2/repository/models/nothing/load", {}),
    "trace": ("GET", "/v2/models/tiny/trace/setting", None),
    "page": ("GET", "/openapi.json", None),
}
MALFORMED = (
    *("no object", "no list of inputs", "no JSON", "another shape", "a negative shape", "too few numbers", "words"),
    *("a negative number of classes", "a negative timeout"),
)
DIFFERENT: dict[str, tuple[int, int]] = {
    **{name: (500, 400) for name in MALFORMED},  # Triton calls a request that it cannot parse its own failure
    # With 503 a client would try again.
    **{name: (503, 403) for name in ("load", "unload", "load of no model")},
    "trace": (200, 404),  # an extension of Triton's that is not spoken here
    "server with a slash": (404, 200),  # curl users type it
    "page": (404, 200),  # ours alone
}
"""Statuses that are not the same, Triton's first; every other one is."""

OURS_ALONE = {"classes of float16": "400 StatusCode.INVALID_ARGUMENT"}
"""Calls of the client that our server answers and Triton refuses, with its statuses over HTTP and gRPC."""


def send(port: int, question: Plain) -> tuple[int, bytes]:
    """Send a plain request, and return status and body."""
    method, path, body = question
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body if body is None or isinstance(body, str) else json.dumps(body))
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, data


@dataclasses.dataclass(frozen=True)
class Inference:
    """One call of the client's ``infer``.

    Attributes:
        model: the model.
        shape: of the images.
        datatype: theirs.
        name: the input's.
        as_json: whether tensors go and come as JSON; HTTP only.
        num_classes: classes to return in place of the logits; 0 for the logits.
        output: the only output to ask for; None for all.
        options: further arguments of the client.
    """

    model: str = "tiny"
    shape: tuple[int, ...] = (3, 3, 8, 8)
    datatype: str = "FP32"
    name: str = "images"
    as_json: bool = False
    num_classes: int = 0
    output: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def arguments(self, client: ModuleType, transport: str) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional and the named arguments of ``infer``."""
        kind = {"FP32": np.float32, "FP16": np.float16, "FP64": np.float64}[self.datatype]
        generator = np.random.default_rng(0)
        values = generator.standard_normal(self.shape).astype(kind)
        how = {"binary_data": not self.as_json} if transport == "http" else {}
        named = dict(self.options)
        if self.output or self.num_classes:
            chosen = client.InferRequestedOutput(self.output or "logits", class_count=self.num_classes, **how)
            named["outputs"] = [chosen]
        elif self.as_json:
            names = ("logits", "polyphase_indices")
            named["outputs"] = [client.InferRequestedOutput(name, **how) for name in names]
        return [self.model, [tensor(client, self.name, values, self.datatype, **how)]], named


INFERENCES: dict[str, Inference] = {
    "float32": Inference(),
    "float32, one image": Inference(shape=(1, 3, 8, 8)),
    "float32 as JSON": Inference(as_json=True),
    "float16": Inference("half", datatype="FP16"),
    "float16 as JSON": Inference("half", datatype="FP16", as_json=True),
    "a fixed batch": Inference("fixed", shape=(2, 3, 8, 8)),
    "one class": Inference(num_classes=1),
    "three classes as JSON": Inference(num_classes=3, as_json=True),
    "more classes than there are": Inference(num_classes=99),
    "classes of float16": Inference("half", datatype="FP16", num_classes=2),
    "one output": Inference(output="polyphase_indices"),
    "an ID": Inference(options={"request_id": "seven"}),
    "a version": Inference(options={"model_version": "1"}),
    "a long timeout": Inference(options={"timeout": 30_000_000}),
    "a priority": Inference(options={"priority": 1}),
    "a parameter": Inference(options={"parameters": {"customer": "seven"}}),
    "no model": Inference("nothing"),
    "no version": Inference(options={"model_version": "9"}),
    "a version that is no number": Inference(options={"model_version": "x"}),
    "another input": Inference(name="x"),
    "another datatype": Inference(datatype="FP64"),
    "another shape": Inference(shape=(1, 3, 8, 9)),
    "another rank": Inference(shape=(3, 8, 8)),
    "too large a batch": Inference(shape=(5, 3, 8, 8)),
    "another batch than the file's": Inference("fixed", shape=(1, 3, 8, 8)),
    "another output": Inference(output="nothing"),
}


def answered(result: Any) -> dict[str, Any]:
    """Return a result of the client as what can be compared: names, shapes, types and bytes."""
    response = result.get_response()
    is_json = isinstance(response, dict)
    outputs = response["outputs"] if is_json else response.outputs
    found: dict[str, Any] = {"id": (response.get("id", "") if is_json else response.id)}
    for output in outputs:
        name = output["name"] if is_json else output.name
        values = result.as_numpy(name)
        found[name] = (values.dtype, values.shape, values.tolist() if values.dtype == object else values.tobytes())
        found[f"type of {name}"] = output["datatype"] if is_json else output.datatype
    return found


def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    """Return what a call answers, or the status with which it fails."""
    try:
        return "answer", answered(call())
    except InferenceServerException as error:
        return "refusal", error.status()


def questions_about(client: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Return the calls that ask for facts of a server and of its models."""
    for model, version in (("tiny", ""), ("half", "1"), ("nothing", ""), ("tiny", "9")):
        yield f"ready {model} {version}", lambda m=model, v=version: client.is_model_ready(m, v)
        yield f"metadata {model} {version}", lambda m=model, v=version: client.get_model_metadata(m, v)
        yield f"configuration {model} {version}", lambda m=model, v=version: client.get_model_config(m, v)
        yield f"statistics {model} {version}", lambda m=model, v=version: client.get_inference_statistics(m, v)
    yield "live", client.is_server_live
    yield "ready", client.is_server_ready
    yield "metadata", client.get_server_metadata
    yield "index", client.get_model_repository_index
