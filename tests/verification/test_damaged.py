"""Whatever stands in a certificate's file, it is read and shown, or refused in a sentence."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from aps_deploy.errors import InputError
from aps_deploy.verification.certificate import Certificate
from aps_deploy.verification.junit import junit_xml
from aps_deploy.verification.report import report_html
from aps_deploy.verification.table import certificate_table
from tests.verification.samples import make_certificate

_JUNK = (
    st.sampled_from(
        [None, True, 0, -1, 1, 3, 10**12, 10**400, 0.5, -2.5, 1e300, 1e-300, "", "x", "\x00", [], [1], {}, {"a": 1}]
    )
    | st.floats()
)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    certificate = make_certificate(tmp_path_factory.mktemp("sample"), count=6)
    plain: dict[str, Any] = json.loads(certificate.to_json())
    return plain


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_member_is_shown_or_refused(data: st.DataObject, document: dict[str, Any]) -> None:
    damaged: Any = copy.deepcopy(document)
    place = damaged
    while True:
        keys = list(range(len(place))) if isinstance(place, list) else list(place)
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.integers(0, 5)) == 0:
            break
        place = inner
    if data.draw(st.booleans()):
        place[key] = data.draw(_JUNK)
    else:
        del place[key]
    try:
        certificate = Certificate.from_dict(damaged)
        report_html(certificate)
    except InputError as error:
        assert "verify the file again" in str(error) or "not a certificate" in str(error)
        return
    junit_xml(certificate)
    Console(file=io.StringIO(), width=100).print(certificate_table(certificate))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": ' * 100_000, "1" * 10_000, "NaN", '"\\ud800"', b"\xff\xfe", b"", b"\x00" * 50]
)
def test_other_bytes_are_refused(text: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=r"c\.json"):
        Certificate.from_json(path)
