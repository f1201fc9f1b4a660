"""One replica on a host of the cluster: models, routes and canary of the embedded server, in a process of Ray's."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from aps_deploy.errors import ApsError
from aps_deploy.serving.canary import canary_picture, watched
from aps_deploy.serving.cluster.grpc_methods import method, name_messages
from aps_deploy.serving.grpc_service import UNARY_METHODS, GrpcService
from aps_deploy.serving.http_app import HttpApp
from aps_deploy.serving.http_messages import Receive, Send
from aps_deploy.serving.registry import Registry
from aps_deploy.serving.repository import Repository
from aps_deploy.serving.running import load_models
from aps_deploy.serving.settings import ServeSettings


class Application:
    """The ASGI application with an end.

    Args:
        http: what answers requests.
        close: awaited when no more of them come.
    """

    def __init__(self, http: HttpApp, close: Callable[[], Awaitable[None]]) -> None:
        self._http = http
        self._close = close

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or follow ASGI's lifespan, before whose beginning everything was loaded."""
        if scope["type"] != "lifespan":
            await self._http(scope, receive, send)
            return
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await self._close()
        await send({"type": "lifespan.shutdown.complete"})


class Replica:
    """What Ray Serve makes on each host; its class there also inherits from Ray's own.

    Args:
        settings: the server's, from `aps_deploy.serving.cluster.settings.replica_settings`.

    Attributes:
        grpc: answers the protocol's gRPC methods.

    Raises:
        InputError: there is nothing to serve on this host, or a certificate that is asked for did not pass.
    """

    # Ray awaits it, on the event loop on which the requests will come.
    async def __init__(self, settings: ServeSettings) -> None:  # type: ignore[misc]
        self._settings = settings
        self._registry = Registry(Repository(settings.target), settings)
        name_messages()
        self.grpc = GrpcService(self._registry, settings)
        self._watching = contextlib.AsyncExitStack()
        picture = canary_picture(settings)
        await load_models(self._registry)
        await self._watching.enter_async_context(watched(self._registry, settings, picture))

    def __serve_build_asgi_app__(self) -> Application:
        """Return the ASGI application; Ray calls it once, and runs its lifespan."""
        return Application(HttpApp(self._registry, self._settings), self._close)

    def check_health(self) -> None:
        """Do nothing where this replica is well; Ray asks every few seconds, and replaces it after three refusals.

        Raises:
            ApsError: a model failed its canary, and that was asked to matter.
        """
        for model in self._registry.models():
            if not self._registry.is_trusted(model):
                raise ApsError(f"model '{model.name}' version {model.version} failed its canary.")

    async def _close(self) -> None:
        """Answer what was accepted."""
        await self._watching.aclose()
        await self._registry.close()


for _name in UNARY_METHODS:
    setattr(Replica, _name, method(_name))
