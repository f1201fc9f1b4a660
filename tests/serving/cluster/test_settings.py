"""What a cluster is asked for, and what is refused before Ray is needed at all."""

from __future__ import annotations

import importlib
import inspect
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aps_deploy.cli import app
from aps_deploy.errors import ApsError, InputError
from aps_deploy.serving.cluster import running
from aps_deploy.serving.cluster.replica import Replica
from aps_deploy.serving.cluster.settings import (
    ClusterSettings,
    deployment_options,
    environment,
    grpc_options,
    parse_replicas,
    replica_settings,
)
from aps_deploy.serving.grpc_service import UNARY_METHODS
from aps_deploy.serving.settings import ServeSettings
from tests.serving.ports import free_ports


def test_a_fixed_number_of_replicas(tmp_path: Path) -> None:
    settings = ServeSettings(tmp_path, drain_s=7, max_connections=99)
    options = deployment_options(settings, ClusterSettings(min_replicas=3, max_replicas=3, cpus_per_replica=2))
    assert options["num_replicas"] == 3 and "autoscaling_config" not in options
    assert options["ray_actor_options"] == {"num_cpus": 2, "num_gpus": 0}
    assert (options["graceful_shutdown_timeout_s"], options["max_ongoing_requests"]) == (7, 99)
    assert options["logging_config"] == {"enable_access_log": False}


def test_grpc(tmp_path: Path) -> None:
    options = grpc_options(ServeSettings(tmp_path, grpc_port=8001))
    assert options is not None and options["port"] == 8001
    (name,) = options["grpc_servicer_functions"]
    module, _, function = name.rpartition(".")
    assert callable(getattr(importlib.import_module(module), function))
    assert grpc_options(ServeSettings(tmp_path, grpc_port=None)) is None
    assert all(inspect.iscoroutinefunction(getattr(Replica, name)) for name in UNARY_METHODS)


def test_replicas_that_follow_the_load(tmp_path: Path) -> None:
    cluster = ClusterSettings(min_replicas=1, max_replicas=4, gpus_per_replica=0.5, target_requests=8)
    options = deployment_options(ServeSettings(tmp_path), cluster)
    assert options["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 8}
    assert "num_replicas" not in options and options["ray_actor_options"]["num_gpus"] == 0.5


def test_what_a_replica_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ServeSettings(Path("models"), canary_s=5, canary_image=Path("picture.jpg"), instances=2)
    own = replica_settings(given, ClusterSettings(cpus_per_replica=4))
    assert own.target == tmp_path / "models" and own.canary_image == tmp_path / "picture.jpg"
    assert (own.device, own.threads) == ("cpu", 2)
    assert replica_settings(given, ClusterSettings(gpus_per_replica=1)).device == "cuda"
    assert replica_settings(given, ClusterSettings(cpus_per_replica=0.5)).threads == 1


def test_the_front_door_is_the_fast_one_and_waits_as_long_as_a_request_may() -> None:
    variables = environment(ServeSettings(Path(), deadline_ms=2500))
    assert variables["RAY_SERVE_ENABLE_HA_PROXY"] == variables["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    assert variables["RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"] == "13"
    assert "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S" not in environment(ServeSettings(Path(), deadline_ms=None))


@pytest.mark.parametrize(("text", "expected"), [("1", (1, 1)), ("12", (12, 12)), ("2:8", (2, 8))])
def test_replicas(text: str, expected: tuple[int, int]) -> None:
    assert parse_replicas(text) == expected


@pytest.mark.parametrize("text", ["", "-1", "1:", ":2", "1:2:3", "two", "1.5"])
def test_replicas_that_are_no_number(text: str) -> None:
    with pytest.raises(InputError, match="accepted: a number, or MIN:MAX"):
        parse_replicas(text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_replicas": 0}, "--replicas is 0:1"),
        ({"min_replicas": 3, "max_replicas": 2}, "--replicas is 3:2"),
        ({"cpus_per_replica": 0}, "--cpus-per-replica is 0"),
        ({"gpus_per_replica": -1}, "--gpus-per-replica is -1"),
        ({"gpus_per_replica": 1.5}, "0 to 1, or a whole number"),
        ({"target_requests": 0}, "--target-requests is 0"),
        ({"address": "somewhere"}, "accepted: HOST:PORT"),
    ],
)
def test_clusters_that_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        ClusterSettings(**changes)
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"port": 0}, "--port is 0"),
        ({"grpc_port": 0}, "--grpc-port is 0"),
        ({"tls_cert": Path("c"), "tls_key": Path("k")}, "--tls-cert is not for --engine ray"),
        ({"allow_control": True}, "--allow-control is not for --engine ray"),
        ({"device": "cuda"}, "needs --gpus-per-replica"),
    ],
)
def test_what_many_replicas_cannot_do(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        replica_settings(ServeSettings(tmp_path, **changes), ClusterSettings())
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["serve", *arguments, "--engine", "ray"])
    return result.exit_code, result.output


def test_ray_is_not_installed(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = running.importlib.util.find_spec
    monkeypatch.setattr(running.importlib.util, "find_spec", lambda name: None if name == "ray" else find_spec(name))
    code, output = run(str(repository))
    assert code == 2 and 'pip install "aps-deploy[ray]"' in output and len(output.strip().splitlines()) == 1


def test_ray_serve_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'cannot be imported .* pip install "aps-deploy\[ray\]"'):
        running.import_serve()


@pytest.fixture
def with_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the checks before the first use of Ray pass where it is not installed."""
    monkeypatch.setattr(running, "check_ray", lambda: None)
    for name, value in environment(ServeSettings(Path())).items():
        monkeypatch.setenv(name, value)  # so that what the command sets is taken back


@pytest.mark.usefixtures("with_ray")
def test_no_cluster_at_the_address(repository: Path) -> None:
    (port,) = free_ports(1)
    code, output = run(str(repository), "--ray-address", f"127.0.0.1:{port}")
    assert code == 2 and f"there is no Ray cluster at 127.0.0.1:{port} (Connection refused)" in output
    assert "`ray start --head`" in output and len(output.strip().splitlines()) == 1


@pytest.mark.usefixtures("with_ray")
def test_nothing_to_serve(tmp_path: Path) -> None:
    code, output = run(str(tmp_path / "nothing"), "--ray-address", "127.0.0.1:1")
    assert code == 2 and "does not exist" in output


def test_an_address_that_accepts_is_taken_for_a_cluster() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running.check_reach(f"127.0.0.1:{listener.getsockname()[1]}")


def test_a_replica_s_own_sentence_is_told() -> None:
    reasons = "ray::ServeReplica ...\n  File ...\naps_deploy.errors.InputError: models/net has no certificate.\n\nmore"
    told = running.readable(RuntimeError("Deploying application failed"), reasons)
    assert isinstance(told, InputError) and str(told) == "models/net has no certificate."
    told = running.readable(RuntimeError("Deploying application failed\nmore"), "Traceback\n  in file\nKilled by 9\n")
    assert type(told) is ApsError and str(told).endswith("(Deploying application failed: Killed by 9).")
