"""What a toolkit says while it works: kept for those who read it, passed on to people as it comes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from aps_deploy.runtimes.tensorrt.toolkit import Toolkit

_LOGGER = logging.getLogger(__name__)
_LEVELS = {"INTERNAL_ERROR": logging.DEBUG, "ERROR": logging.DEBUG, "WARNING": logging.INFO, "INFO": logging.DEBUG}

MAX_ERRORS = 32
"""Errors kept of a loaded engine: more than a refusal or a failing refit brings."""


@dataclass
class ToolkitLog:
    """The messages of one build, in order.

    Attributes:
        messages: (severity, text) of each, severities being TensorRT's own names.
    """

    messages: list[tuple[str, str]] = field(default_factory=list)

    def add(self, severity: str, text: str) -> None:
        """Keep a message and pass it to the logger of this module; the verbose ones are kept only."""
        self._keep(severity, text)
        # Errors end in one sentence of ours, so their text is for whoever asks for more (-vv).
        if severity in _LEVELS:
            _LOGGER.log(_LEVELS[severity], "%s", text)

    def _keep(self, severity: str, text: str) -> None:
        self.messages.append((severity, text))

    @property
    def errors(self) -> list[str]:
        """The error messages."""
        return [text for severity, text in self.messages if severity.endswith("ERROR")]

    @property
    def warnings(self) -> list[str]:
        """The warnings."""
        return [text for severity, text in self.messages if severity == "WARNING"]


class ErrorLog(ToolkitLog):
    """The last errors of one loaded engine, in order.

    A session may be open for months, and the toolkit talks all the time: of the rest nobody reads a word.
    """

    def _keep(self, severity: str, text: str) -> None:
        if severity.endswith("ERROR"):
            super()._keep(severity, text)
            del self.messages[:-MAX_ERRORS]


def new_logger(toolkit: Toolkit, log: ToolkitLog) -> Any:
    """Return a TensorRT logger that writes into ``log``; it must outlive every object made with it."""
    base = toolkit.module.ILogger

    class Logger(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)  # pybind asks for its own constructor, not for super()

        def log(self, severity: Any, text: str) -> None:
            log.add(severity.name, text)

    return Logger()
