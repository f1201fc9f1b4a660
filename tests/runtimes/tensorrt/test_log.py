"""What sessions keep of the toolkit's messages; the builder's log is tested where engines are built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aps_deploy.errors import ApsError
from aps_deploy.runtimes.tensorrt.log import MAX_ERRORS, ErrorLog, ToolkitLog, new_logger
from aps_deploy.runtimes.tensorrt_session import TensorRtSession
from tests.export.engines.toys import toy
from tests.runtimes.tensorrt.fake_engine import FakeContext, Severity, fake_toolkit, write_plan

IMAGES = np.zeros((3, 3, 8, 8), np.float32)


def test_an_open_session_keeps_nothing_but_its_last_errors(
    tmp_path: Path, fake_cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each run is queued, and told, where nothing is recorded.
    monkeypatch.setattr(FakeContext, "is_stream_capturable", lambda self, stream: False, raising=False)
    session = TensorRtSession(write_plan(tmp_path / "toy.plan", toy()), toolkit=fake_toolkit())
    for _ in range(50):
        session.run(IMAGES)
    log = session._loaded.log
    assert log.messages == []
    engine = session._loaded.engine
    for number in range(MAX_ERRORS + 5):
        engine.say(Severity.ERROR, f"error {number}")
        engine.say(Severity.WARNING, "a warning")
    assert log.errors == [f"error {number}" for number in range(5, MAX_ERRORS + 5)]
    assert len(log.messages) == MAX_ERRORS
    engine.fails = True
    with pytest.raises(ApsError, match=rf"the engine failed on images .* \(error {MAX_ERRORS + 4}\)"):
        session.run(IMAGES)


@pytest.mark.parametrize(("log", "kept"), [(ToolkitLog(), 3), (ErrorLog(), 1)])
def test_both_logs_pass_on_what_people_may_want(log: ToolkitLog, kept: int, caplog: pytest.LogCaptureFixture) -> None:
    logger = new_logger(fake_toolkit(), log)
    with caplog.at_level("DEBUG", logger="aps_deploy"):
        for severity in (Severity.ERROR, Severity.WARNING, Severity.VERBOSE):
            logger.log(severity, severity.name)
    assert caplog.messages == ["ERROR", "WARNING"]
    assert len(log.messages) == kept and log.errors == ["ERROR"]
