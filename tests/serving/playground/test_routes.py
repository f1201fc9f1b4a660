"""What the page is made of and asks for, as plain requests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aps_deploy.serving.playground.pages import NUM_WAVERING, SAMPLES
from tests.serving.playground import networks
from tests.serving.support import Running, running

BINARY = "inference-header-content-length"


class TestFiles:
    def test_the_page_and_everything_it_names(self, pages: Running) -> None:
        status, headers, body = pages.request("GET", "/")
        assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
        text = body.decode()
        assert "http://" not in text and "https://" not in text
        for name, kind in (("page.css", "text/css"), ("main.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
            assert f'"playground/{name}"' in text
            status, headers, _ = pages.request("GET", f"/playground/{name}")
            assert status == 200 and headers["content-type"].startswith(kind)

    @pytest.mark.parametrize("path", ["/", "/playground/main.js", f"/playground/samples/{SAMPLES[0]}.jpg"])
    def test_what_the_policy_allows(self, pages: Running, path: str) -> None:
        _, headers, _ = pages.request("GET", path)
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"] and "*" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"

    def test_the_samples(self, pages: Running) -> None:
        samples = json.loads(pages.request("GET", "/playground/samples.json")[2])["samples"]
        assert [sample["wavers"] for sample in samples] == [place < NUM_WAVERING for place in range(len(SAMPLES))]
        for sample in samples:
            status, headers, body = pages.request("GET", "/" + sample["address"])
            assert status == 200 and headers["content-type"] == "image/jpeg" and body.startswith(b"\xff\xd8")

    @pytest.mark.parametrize("name", ["", "index.html", "pages.py", "../pages.py", "..%2fpages.py", "samples/", "%00"])
    def test_there_is_nothing_else(self, pages: Running, name: str) -> None:
        status, answer = pages.json("GET", f"/playground/{name}")
        assert status == 404 and list(answer) == ["error"]
        assert pages.json("POST", "/", {})[0] == 405

    def test_without_the_page(self, pages: Running, tmp_path: Path) -> None:
        repository = networks.write_repository(tmp_path / "models")
        with running(repository / "corner" / "1" / "model.onnx", page=False) as server:
            assert server.request("GET", "/")[0] == server.request("GET", "/playground/main.js")[0] == 404

    def test_the_page_is_open_and_the_models_are_not(self, tmp_path: Path, png: bytes) -> None:
        repository = networks.write_repository(tmp_path / "models")
        with running(repository / "corner" / "1" / "model.onnx", token="sesame") as server:
            assert server.request("GET", "/")[0] == server.request("GET", "/playground/samples.json")[0] == 200
            for method, path in (("GET", "/v1/models/model"), ("POST", "/v1/models/model/prepare")):
                assert server.request(method, path, png if method == "POST" else None)[0] == 401
                headers = {"Authorization": "Bearer sesame"}
                assert server.request(method, path, png if method == "POST" else None, headers)[0] == 200


class TestPreparing:
    @pytest.mark.parametrize(("name", "dtype"), [("corner", "<f4"), ("largest", "<f2")])
    def test_the_tensor_is_the_preprocessing_of_the_file(
        self, pages: Running, png: bytes, name: str, dtype: str
    ) -> None:
        status, headers, body = pages.request("POST", f"/v1/models/{name}/versions/1/prepare", png)
        assert status == 200
        length = int(headers[BINARY])
        (described,) = json.loads(body[:length])["inputs"]
        side = networks.LARGEST_SIDE if name == "largest" else networks.CORNER_SIDE
        assert described["shape"] == [1, 3, side, side]
        expected = networks.preprocessing(side).apply(networks.picture()).astype(dtype)
        assert body[length:] == expected.tobytes()

    def test_what_comes_back_is_an_inference_request(self, pages: Running, png: bytes) -> None:
        """Sent on as it is, it gets the logits that the same picture gets from the route for pictures."""
        _, headers, body = pages.request("POST", "/v1/models/corner/prepare", png)
        forward = {"Inference-Header-Content-Length": headers[BINARY]}
        status, headers, answer = pages.request("POST", "/v2/models/corner/infer", body, forward)
        assert status == 200
        logits = np.frombuffer(answer[int(headers[BINARY]) :], "<f4")
        _, _, classified = pages.request("POST", "/v1/models/corner/classify", png)
        scores = {score["index"]: score["logit"] for score in json.loads(classified)["scores"]}
        assert logits.tolist() == [scores[index] for index in range(3)]

    def test_a_fixed_batch_is_filled(self, server: Running, png: bytes) -> None:
        _, headers, body = server.request("POST", "/v1/models/fixed/prepare", png)
        first, second = np.frombuffer(body[int(headers[BINARY]) :], "<f4").reshape(2, -1)
        assert first.tobytes() == second.tobytes()
        forward = {"Inference-Header-Content-Length": headers[BINARY]}
        assert server.request("POST", "/v2/models/fixed/infer", body, forward)[0] == 200

    def test_refusals(self, server: Running, pages: Running, png: bytes) -> None:
        assert pages.request("POST", "/v1/models/corner/prepare", b"no picture")[0] == 415
        assert pages.request("POST", "/v1/models/nothing/prepare", png)[0] == 404
        assert pages.request("POST", "/v1/models/broken/prepare", png)[0] == 503
        status, _, body = server.request("POST", "/v1/models/grown/prepare", png)
        assert status == 400 and b"takes no images" in body


def test_what_a_file_says_of_itself(server: Running, pages: Running) -> None:
    status, document = pages.json("GET", "/v1/models/largest/versions/1")
    assert status == 200
    assert document == {
        "name": "largest",
        "version": "1",
        "architecture": "by_hand",
        "precision": "fp32",
        "preprocessing": networks.preprocessing(networks.LARGEST_SIDE).to_dict(),
        "labels": list(networks.COLOURS),
        "scores": "logits",
        "promise": "bits",
        "shift_step": 1,
    }
    assert pages.json("GET", "/v1/models/corner")[1]["promise"] == "nothing"
    status, document = server.json("GET", "/v1/models/grown")
    assert (document["scores"], document["preprocessing"], document["labels"]) == ("y", None, None)
    assert document["promise"] == "nothing"
