from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aps_deploy.verification.certificate import CERTIFICATE_VERSION, Certificate, Check
from aps_deploy.verification.schema import KEYWORDS, Schema, certificate_schema, first_fault, resolved
from tests.verification.document import DOCUMENT, with_tables
from tests.verification.fakes import invariant
from tests.verification.samples import bare_certificate, make_certificate

Edit = Callable[[dict[str, Any]], None]
SCHEMA = certificate_schema()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("sample"))


def _undescribed(value: Any, schema: Schema, where: str = "") -> Iterator[str]:
    """Yield the members of ``value`` that the schema does not describe."""
    schema = resolved(schema, SCHEMA)
    if "anyOf" in schema and value is not None:
        schema = resolved(schema["anyOf"][-1], SCHEMA)
    if isinstance(value, dict) and "properties" in schema:
        others = schema.get("additionalProperties")
        for name, each in value.items():
            if name not in schema["properties"] and others is None:
                yield f"{where}.{name}"
            else:
                yield from _undescribed(each, schema["properties"].get(name, others), f"{where}.{name}")
    elif isinstance(value, list) and "items" in schema:
        for each in value:
            yield from _undescribed(each, schema["items"], f"{where}[]")


def test_everything_that_the_code_writes_is_described(certificate: Certificate) -> None:
    document = certificate.to_dict()
    assert first_fault(document, SCHEMA) is None
    assert list(_undescribed(document, SCHEMA)) == []
    details = SCHEMA["$defs"]["details"]["properties"]
    assert set(document["details"]) == set(details)
    assert all(document["details"][name] is not None for name in details)


def test_everything_that_is_required_is_a_field() -> None:
    computed = {"certificate_version", "passed", "failed"}
    fields = {field.name for field in dataclasses.fields(Certificate)}
    assert set(SCHEMA["required"]) == fields | computed
    assert set(SCHEMA["$defs"]["check"]["required"]) == {field.name for field in dataclasses.fields(Check)}
    assert SCHEMA["properties"]["certificate_version"]["const"] == CERTIFICATE_VERSION


def test_an_unchanging_file_and_a_bare_certificate_fit_too(tmp_path: Path) -> None:
    assert first_fault(make_certificate(tmp_path, invariant).to_dict(), SCHEMA) is None
    assert first_fault(bare_certificate().to_dict(), SCHEMA) is None


def _schemas(schema: Schema) -> Iterator[Schema]:
    yield schema
    for name in ("properties", "$defs"):
        for each in schema.get(name, {}).values():
            yield from _schemas(each)
    for each in (schema.get("items"), schema.get("additionalProperties"), *schema.get("anyOf", ())):
        if isinstance(each, dict):
            yield from _schemas(each)


def test_the_schema_uses_only_what_the_check_understands() -> None:
    used = set().union(*(set(each) for each in _schemas(SCHEMA)))
    assert used <= KEYWORDS
    for each in _schemas(SCHEMA):
        if "$ref" in each:
            assert each["$ref"].removeprefix("#/$defs/") in SCHEMA["$defs"]


def _put(path: str, value: Any) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        *names, last = path.split(".")
        for name in names:
            document = document[name]
        document[last] = value

    return edit


def _drop(path: str) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        *names, last = path.split(".")
        for name in names:
            document = document[name]
        del document[last]

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_drop("environment.runtime"), "environment.runtime is missing"),
        (_put("data.num_images", 0), "data.num_images is 0; it must be at least 1"),
        (_put("data.num_images", True), "data.num_images is true; it must be integer"),
        (_put("data.height", 1.5), "data.height is 1.5; it must be integer"),
        (_put("file.sha256", None), "file.sha256 is null; it must be string"),
        (_put("limits.parity_atol", "off"), 'limits.parity_atol is "off"; it must be number or null'),
        (_put("details.consistency.shifts.dy", [0, "1"]), 'details.consistency.shifts.dy[1] is "1"'),
        (_put("details.consistency", None), "details.consistency is null; it must be object"),
        (_put("details.worst_case.reference", []), "details.worst_case.reference is an array; it must be object"),
        (_put("shift_set.offsets", [[0, 1], [1]]), "shift_set.offsets[1] has 1 items"),
        (_put("checks", {}), "checks is an object; it must be array"),
        (_put("certificate_version", 3), "certificate_version is 3; it must be 2"),
    ],
)
def test_what_does_not_fit_is_named(edit: Edit, words: str, certificate: Certificate) -> None:
    document = copy.deepcopy(certificate.to_dict())
    edit(document)
    fault = first_fault(document, SCHEMA)
    assert fault is not None and words in fault


def test_statuses_are_those_of_the_schema(certificate: Certificate) -> None:
    document = json.loads(certificate.to_json())
    document["checks"][0]["status"] = "fine"
    assert 'checks[0].status is "fine"; it must be one of' in str(first_fault(document, SCHEMA))


def test_the_document_has_the_tables_of_the_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert with_tables(text) == text, "write the tables anew: python -m tests.verification.document"
