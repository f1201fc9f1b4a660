"""The OpenAPI document is true: it names the routes, and schemathesis finds no answer that it does not allow."""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from aps_deploy.serving.http_app import HttpApp
from aps_deploy.serving.openapi import openapi_document
from aps_deploy.serving.registry import Registry
from aps_deploy.serving.repository import Repository
from aps_deploy.serving.settings import ServeSettings
from tests.serving.fuzz.watching import Watched, check_refusal, seed_of

USUAL, NIGHTLY = 700, 30_000
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
    checks.allow_header_conformance,
]
REJECTIONS = [checks.negative_data_rejection, checks.missing_required_header]


def described() -> set[tuple[str, str]]:
    """Return the methods and the paths of the document, its parameters filled in."""
    found = set()
    for path, item in openapi_document()["paths"].items():
        filled = path.replace("{name}", "some").replace("{version}", "1")
        found |= {(method.upper(), filled) for method in item if method in METHODS}
    return found


def test_the_document_and_the_routes_are_the_same(repository: Path) -> None:
    own = ServeSettings(repository)
    routes = [(method, pattern) for method, pattern, _ in HttpApp(Registry(Repository(repository), own), own).routes]
    for method, path in described():
        assert any(method == known and pattern.fullmatch(path) for known, pattern in routes), (method, path)
    for method, pattern in routes:
        assert any(method == known and pattern.fullmatch(path) for known, path in described()), (
            method,
            pattern.pattern,
        )


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(openapi_document())
    parts = openapi_document()["components"]
    for kind, name in re.findall(r'"#/components/(\w+)/(\w+)"', text):
        assert name in parts[kind]
    names = [
        operation["operationId"]
        for item in openapi_document()["paths"].values()
        for method, operation in item.items()
        if method in METHODS
    ]
    assert len(names) == len(set(names))


def test_the_server_hands_it_out(server: Watched) -> None:
    answer = requests.get(f"http://127.0.0.1:{server.port}/openapi.json", timeout=30)
    assert answer.status_code == 200 and answer.json() == openapi_document()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


RIGHT = {"name": "images", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0.5] * 192, "parameters": {}}
MODELS = [{"name": name, "version": version} for name, version in (("tiny", "1"), ("half", "1"), ("grown", "2"))]
Planned = tuple[Any, bool, list[str]]


def planned(document: Any) -> st.SearchStrategy[Planned]:
    """Return requests for every operation, both as the document says and against it, for served models and for none.

    Beside each: whether it is as schemathesis made it, and else the fields of its first input to put right, without
    which no request would ever reach a model.
    """
    strategies = []
    for operation in [found.ok() for found in document.get_all_operations()]:
        for mode in GenerationMode:
            strategies.append(operation.as_strategy(generation_mode=mode))
            known = [{key: one[key] for key in one if f"{{{key}}}" in operation.path} for one in MODELS]
            strategies += [operation.as_strategy(generation_mode=mode, path_parameters=one) for one in known if one]
            if operation.path.endswith("/infer"):
                known = [{key: MODELS[0][key] for key in MODELS[0] if f"{{{key}}}" in operation.path}]
                body = {"inputs": [dict(RIGHT)]}
                strategies += [
                    operation.as_strategy(path_parameters=known[0], body=body, media_type="application/json")
                ]
    fields = st.lists(st.sampled_from(sorted(RIGHT)), unique=True)
    return st.tuples(st.one_of(strategies), st.booleans(), fields)


def put_right(case: Any, fields: list[str]) -> None:
    """Leave a request one input, with these fields of it as the model ``tiny`` takes them."""
    if isinstance(case.body, dict) and isinstance(case.body.get("inputs"), list):
        given = [entry for entry in case.body["inputs"] if isinstance(entry, dict)] or [{}]
        case.body["inputs"] = [{**given[0], **{field: RIGHT[field] for field in fields}}]
    case.headers.pop("Inference-Header-Content-Length", None)


@pytest.mark.parametrize("path", [path for path, item in openapi_document()["paths"].items() if "get" in item])
def test_what_is_asked_for_without_parameters(server: Watched, path: str) -> None:
    filled = path.replace("{name}", "tiny").replace("{version}", "1")
    url = f"http://127.0.0.1:{server.port}"
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[path]["GET"]
    response = requests.get(f"{url}{filled}", timeout=30)
    operation.validate_response(response)
    assert response.status_code == 200


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("num_requests", [USUAL, pytest.param(NIGHTLY, marks=pytest.mark.slow)])
def test_answers_are_those_of_the_document(server: Watched, session: requests.Session, num_requests: int) -> None:
    url = f"http://127.0.0.1:{server.port}"
    strategy = planned(schemathesis.openapi.from_url(f"{url}/openapi.json"))
    statuses: collections.Counter[tuple[str, int]] = collections.Counter()

    def send(plan: Planned) -> None:
        case, is_own, fields = plan
        if not is_own:
            put_right(case, fields)
        response = case.call(base_url=url, session=session, timeout=30)
        statuses[case.operation.path, response.status_code] += 1
        if response.status_code != 200 and case.operation.path != "/v2/health/ready":
            check_refusal(response.status_code, response.content, sent=case.as_curl_command())
        case.validate_response(response, checks=[*CHECKS, *(REJECTIONS if is_own else ())])

    def send_many(count: int, number: int) -> None:
        limits = settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        seed(number)(limits(given(plan=strategy)(send)))()

    number = seed_of(num_requests, USUAL)
    send_many(num_requests // 10, number + 1)
    with server.keeps_its_size(num_requests):
        send_many(num_requests, number)
    assert statuses.total() >= num_requests
    answered = {path for path, status in statuses if status == 200}
    assert {path for path in openapi_document()["paths"] if path.startswith("/v2/models/{name}")} <= answered
