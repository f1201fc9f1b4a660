"""What a URL says, and what is said of a wrong one."""

from __future__ import annotations

import pytest

from aps_deploy.bench.payloads import make_payloads
from aps_deploy.bench.target import Address, Input, model_path, parse_address
from aps_deploy.errors import InputError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://here:80", Address("http", "here", 80, None, None)),
        ("http://here", Address("http", "here", 8000, None, None)),
        ("https://here:1/v2/models/a%20b", Address("https", "here", 1, "a b", None)),
        ("grpc://[::1]/v2/models/a/versions/3", Address("grpc", "::1", 8001, "a", "3")),
        ("http://here/v2/models/a/infer", Address("http", "here", 8000, "a", None)),
    ],
)
def test_what_a_url_says(url: str, expected: Address) -> None:
    assert parse_address(url) == expected


def test_names_are_quoted_and_addresses_bracketed() -> None:
    address = parse_address("grpc://[::1]:5/v2/models/a%2Fb/versions/3")
    assert (model_path(address), address.authority) == ("/v2/models/a%2Fb/versions/3", "[::1]:5")


@pytest.mark.parametrize(
    "url", ["here:80", "ftp://here", "http://", "http://here:x", "http://here/v1/models/a", "http://here?a=b", "a.onnx"]
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InputError, match="accepted: http://HOST:PORT"):
        parse_address(url)


@pytest.mark.parametrize(
    ("entry", "arguments", "message"),
    [
        (Input("x", "FP32", (4, 3)), {}, "takes 4 images, not 1; give --batch-size 4"),
        (Input("x", "FP32", (-1, 3, -1, -1)), {}, "leaves sizes free .* give --image-size N"),
        (Input("x", "BYTES", (-1, 1)), {}, "takes BYTES"),
        (Input("x", "FP32", (-1, 3)), {"batch_size": 10**20}, f"requests of {10**20} images do not fit"),
    ],
)
def test_inputs_that_cannot_be_made_up(entry: Input, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_payloads([entry], 1, **{"batch_size": 1, "image_size": None, "seed": 0, **arguments})


@pytest.mark.parametrize("datatype", ["FP32", "FP16", "INT64", "UINT8", "BOOL"])
def test_payloads_are_different_and_as_long_as_their_shape_says(datatype: str) -> None:
    payloads = make_payloads([Input("x", datatype, (-1, 3, -1, 9))], 4, batch_size=2, image_size=8, seed=0)
    sizes = {"FP32": 4, "FP16": 2, "INT64": 8, "UINT8": 1, "BOOL": 1}
    assert {len(payload.tensors[0]) for payload in payloads} == {2 * 3 * 8 * 9 * sizes[datatype]}
    assert len({payload.tensors[0] for payload in payloads}) == 4
    assert payloads[0].inputs[0].shape == (2, 3, 8, 9)
