"""The models of the server: loading, finding, listing, replacing and unloading them."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Literal

from aps_deploy.errors import ApsError
from aps_deploy.serving.errors import (
    InvalidRequestError,
    NotFoundError,
    ServingError,
    UnavailableError,
    serving_error_of,
)
from aps_deploy.serving.model import LoadedModel, ServedModel, load_model
from aps_deploy.serving.repository import FoundVersion, Repository
from aps_deploy.serving.settings import ServeSettings

logger = logging.getLogger(__name__)

State = Literal["LOADING", "READY", "UNAVAILABLE"]


@dataclasses.dataclass(frozen=True)
class IndexEntry:
    """One line of the repository index.

    Attributes:
        name: the model's name.
        version: the version; empty where the model has none that can be read.
        state: whether it answers requests.
        reason: why it does not.
    """

    name: str
    version: str
    state: State
    reason: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the entry as the repository extension shows it; what is empty is left out."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value}


class Registry:
    """The models of the server.

    Args:
        repository: where they are on disk.
        settings: the server's.
    """

    def __init__(self, repository: Repository, settings: ServeSettings) -> None:
        self._repository = repository
        self._settings = settings
        self._served: dict[str, dict[str, ServedModel]] = {}
        self._index: dict[tuple[str, str], IndexEntry] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self.is_draining = False
        for name in repository.names():
            self._set(IndexEntry(name, "", "LOADING"))

    @property
    def is_ready(self) -> bool:
        """Whether every model answers and the server is not about to stop; a model unloaded on request is no fault."""
        states = {(entry.state, entry.reason) for entry in self._index.values()}
        all_answer = all(state == "READY" or reason == "unloaded" for state, reason in states)
        return all_answer and not self.is_draining and all(self.is_trusted(model) for model in self.models())

    def is_trusted(self, model: ServedModel) -> bool:
        """Return whether a model may be called ready: always, unless its canary failed and that was asked to matter."""
        return not (self._settings.canary_unready and model.canary is not None and model.canary.has_failed)

    def find_ready(self, name: str, version: str = "") -> ServedModel:
        """Return a version of a model that may be called ready; see `find`.

        Raises:
            NotFoundError: there is no such model or version.
            UnavailableError: it does not answer, or its canary failed and that was asked to matter.
        """
        model = self.find(name, version)
        if not self.is_trusted(model):
            raise UnavailableError(f"model '{name}' version {model.version} failed its canary; it still answers.")
        return model

    def index(self, *, only_ready: bool = False) -> list[IndexEntry]:
        """Return every version that is served or should be, by name and version."""
        entries = sorted(self._index.values(), key=lambda entry: (entry.name, int(entry.version or 0)))
        return [entry for entry in entries if entry.state == "READY" or not only_ready]

    def models(self) -> list[ServedModel]:
        """Return every version that answers, by name and version."""
        return [self._served[name][number] for name in sorted(self._served) for number in self.versions(name)]

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model that answer, oldest first."""
        return sorted(self._served.get(name, {}), key=int)

    def find(self, name: str, version: str = "") -> ServedModel:
        """Return a version of a model; the latest where none is given.

        Raises:
            InvalidRequestError: the version is no number.
            NotFoundError: there is no such model or version.
            UnavailableError: it is there and does not answer, or not yet.
        """
        if version and not (version.isascii() and version.isdigit()):
            raise InvalidRequestError(f"the version of model '{name}' is {version!r}; it must be a positive number.")
        versions = self._served.get(name)
        if not versions:
            entries = [entry for entry in self._index.values() if entry.name == name]
            if not entries:
                raise NotFoundError(f"Request for unknown model: '{name}' is not found")
            why = f": {entries[-1].reason}" if entries[-1].reason else ""
            raise UnavailableError(f"Request for unknown model: '{name}' is {entries[-1].state.lower()}{why}")
        model = versions.get(version or max(versions, key=int))
        if model is None:
            raise NotFoundError(f"Request for unknown model: '{name}' version {version} is not found")
        return model

    def all(self, name: str, version: str | None = None) -> list[ServedModel]:
        """Return one version of a model, or every one that answers where none is given.

        Raises:
            InvalidRequestError: none answers: what Triton says, for every reason, where statistics are asked for.
        """
        try:
            found = self.find(name, version or "")
        except (NotFoundError, UnavailableError) as error:
            raise InvalidRequestError(str(error)) from None
        return [found] if version else [self._served[name][number] for number in self.versions(name)]

    async def load_all(self) -> dict[str, ApsError]:
        """Load every model, one after the other; return why those that cannot be loaded, by name, are not served."""
        failures: dict[str, ApsError] = {}
        for name in self._repository.names():
            try:
                await self._load(name)
            except ApsError as error:
                failures[name] = error
        return failures

    async def load(self, name: str) -> None:
        """Load a model for a client, or load it anew: the old versions answer until the new ones are warm.

        Raises:
            NotFoundError: the repository has no such model.
            InvalidRequestError: it cannot be loaded; older versions of it go on answering.
            ServingError: it fails on its first run.
        """
        try:
            await self._load(name)
        except ServingError:
            raise
        except ApsError as error:
            told = type(serving_error_of(error))
            raise told(self._repository.without_place(str(error))) from error

    async def _load(self, name: str) -> None:
        async with self._changing:
            if name not in self._repository.names():
                raise NotFoundError(f"failed to load '{name}', no such model in the repository")
            try:
                found = self._repository.versions(name)
                loaded = [await self._load_version(version) for version in found]  # all or none
            except ApsError as error:
                if name not in self._served:
                    self._forget(name)
                    # Clients read the reason, and where the files are is none of their business.
                    self._set(IndexEntry(name, "", "UNAVAILABLE", self._repository.without_place(str(error))))
                raise
            old = self._served.get(name, {})
            models = [ServedModel(version, self._settings) for version in loaded]
            self._served[name] = {model.version: model for model in models}
            self._forget(name)
            for model in models:
                self._set(IndexEntry(name, model.version, "READY"))
                providers = " and ".join(model.engine.providers)
                logger.info("model %s version %s is ready on %s", name, model.version, providers)
            self._retire(list(old.values()))

    async def unload(self, name: str) -> None:
        """Stop serving a model; requests that it accepted are answered.

        Raises:
            InvalidRequestError: it is not served.
        """
        async with self._changing:
            if name not in self._served:
                raise InvalidRequestError(f"failed to unload '{name}', model is not loaded")
            old = self._served.pop(name)
            self._forget(name)
            for version in old:
                self._set(IndexEntry(name, version, "UNAVAILABLE", "unloaded"))
            self._retire(list(old.values()))

    async def close(self) -> None:
        """Answer what was accepted and end every worker."""
        self.is_draining = True
        models = self.models()
        self._served.clear()
        await asyncio.gather(*(model.batcher.close() for model in models), *self._retiring)

    async def _load_version(self, found: FoundVersion) -> LoadedModel:
        return await asyncio.to_thread(
            load_model, found.name, found.version, found.file, found.folder, found.config, self._settings
        )

    def _retire(self, models: list[ServedModel]) -> None:
        for model in models:
            # Nobody finds it any more: what was submitted before is answered, then its workers end.
            task = asyncio.create_task(model.batcher.close())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def _set(self, entry: IndexEntry) -> None:
        self._index[(entry.name, entry.version)] = entry

    def _forget(self, name: str) -> None:
        self._index = {key: entry for key, entry in self._index.items() if key[0] != name}
