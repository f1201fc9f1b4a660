"""Engines with plugin kernels: when plugins are registered, when not, and what the document says."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from aps_deploy.cli import app
from aps_deploy.errors import ApsError, InputError
from aps_deploy.export.engines import engine_export, plugins
from aps_deploy.export.engines.cache import cache_key
from aps_deploy.export.engines.engine_export import export_engine
from aps_deploy.export.engines.plugins import PluginBuild, plugin_build, ptx_version_of
from aps_deploy.export.engines.settings import EngineSettings
from aps_deploy.runtimes import Session, open_session
from aps_deploy.runtimes.tensorrt.gpu import Gpu
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit
from tests.export.engines import fake_plugins, fake_tensorrt
from tests.export.engines.fake_tensorrt import fake_toolkit
from tests.export.engines.toys import toy, write_toy
from tests.gpus import needs_torch_cuda, toolkit_here

pytest.importorskip("triton", reason="Triton, which compiles the kernels, is not installed")

TRT = EngineSettings("trt")
NODES = {"PolyphaseBest": 1, "PolyphaseEnergy_L2": 1, "PolyphaseScore": 1}


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Toolkit]:
    """The stand-in for TensorRT with its part for plugins, nothing registered, where commands find it."""
    toolkit = fake_toolkit()
    monkeypatch.setitem(sys.modules, f"{fake_tensorrt.__name__}.plugin", fake_plugins)
    monkeypatch.setattr(plugins, "_libraries", {})
    monkeypatch.setattr(engine_export, "check_toolkit", lambda _: None)
    monkeypatch.setattr(engine_export, "load_toolkit", lambda _: toolkit)
    yield toolkit
    for table in (fake_plugins.INTERFACES, fake_plugins.LAYOUTS, fake_plugins.KERNELS):
        table.clear()


def test_the_command_registers_the_plugins_and_says_so(tensorrt: Toolkit, tmp_path: Path) -> None:
    source, plan = write_toy(tmp_path / "toy.onnx", "fp32", "plugin"), tmp_path / "toy.plan"
    result = CliRunner().invoke(app, ["export", str(source), "-o", str(plan), "--engine", "trt"])
    assert result.exit_code == 0, result.output
    assert "3 of them are this project's, from TensorRT plugins" in result.stdout
    assert json.loads(plan.read_text())["plugins"] == 3
    document = json.loads(plan.with_suffix(".json").read_text())
    triton = document["engine"]["plugins"].pop("triton")
    assert triton.split(".")[0] == "3"
    assert document["engine"]["plugins"] == {"kernels": NODES, "compute_capability": "9.0", "ptx_version": "9.0"}
    assert set(fake_plugins.KERNELS) == {f"aps::{name}" for name in NODES}
    assert set(fake_plugins.INTERFACES) == set(fake_plugins.LAYOUTS) == set(fake_plugins.KERNELS)


@pytest.mark.parametrize("form", ["where", "gather", "custom-op"])
def test_other_forms_register_nothing(tensorrt: Toolkit, tmp_path: Path, form: Any) -> None:
    source = write_toy(tmp_path / "toy.onnx", "fp32", form)
    document = export_engine(source, tmp_path / "toy.plan", TRT).document
    assert document["engine"]["plugins"] is None
    assert not fake_plugins.INTERFACES


def test_a_second_engine_takes_the_plugins_of_the_first(tensorrt: Toolkit, tmp_path: Path) -> None:
    """TensorRT knows a plugin until the process ends; what it compiles for changes with each build."""
    source = write_toy(tmp_path / "toy.onnx", "fp32", "plugin")
    export_engine(source, tmp_path / "first.plan", TRT)
    (library,) = plugins._libraries.values()
    assert library.target is not None and library.target.compute_capability == 90
    settings = dataclasses.replace(TRT, hardware_compatibility="ampere-plus")
    document = export_engine(source, tmp_path / "second.plan", settings).document
    assert library.target.compute_capability == 80
    assert document["engine"]["plugins"]["compute_capability"] == "8.0"
    assert library.registered == set(NODES)


def test_an_engine_without_its_plugins_is_not_written(
    tensorrt: Toolkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older parser takes the bodies; the document would claim kernels that are not there."""
    monkeypatch.setattr(fake_tensorrt, "_has_plugin", lambda op_type: op_type == "PolyphaseScore")
    source = write_toy(tmp_path / "toy.onnx", "fp32", "plugin")
    with pytest.raises(ApsError, match="took 1 of the file's 3 plugin operators as plugins; nothing was written"):
        export_engine(source, tmp_path / "toy.plan", TRT)
    assert [path.name for path in tmp_path.iterdir()] == ["toy.onnx"]


def test_tensorrt_without_its_part_for_plugins(
    tensorrt: Toolkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"{fake_tensorrt.__name__}.plugin")
    source = write_toy(tmp_path / "toy.onnx", "fp32", "plugin")
    with pytest.raises(ApsError, match="came without its Python interface for plugins"):
        export_engine(source, tmp_path / "toy.plan", TRT)


def test_without_triton_the_way_out_is_named(
    tensorrt: Toolkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_toy(tmp_path / "toy.onnx", "fp32", "plugin")
    monkeypatch.setattr("aps_deploy.plugins.tensorrt.kernels.importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="export with --polyphase where"):
        export_engine(source, tmp_path / "toy.plan", TRT)


def test_a_gpu_that_the_kernels_do_not_run_on(tensorrt: Toolkit) -> None:
    old = dataclasses.replace(tensorrt, gpu=Gpu("a T4", "7.5", "13.0"))
    with pytest.raises(InputError, match=r"of compute capability 8\.0 and newer, and a T4 has 7\.5; export with"):
        plugin_build(toy("fp32", "plugin"), TRT, old)


def test_tensorrt_for_rtx_is_given_none(rtx: Toolkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parser ends the process where one is registered."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a plugin was registered with TensorRT for RTX")

    monkeypatch.setattr(plugins, "register_plugins", refuse)
    monkeypatch.setattr("aps_deploy.export.engines.building.register_plugins", refuse)
    source = write_toy(tmp_path / "toy.onnx", "fp16", "plugin")
    document = export_engine(source, tmp_path / "toy.plan", EngineSettings("trt-rtx")).document
    assert document["engine"]["plugins"] is None
    assert document["engine"]["precision"]["precision"] == "fp16"


def test_the_key_of_a_plan_changes_with_what_its_kernels_are_made_of(tensorrt: Toolkit) -> None:
    build = plugin_build(toy("fp32", "plugin"), TRT, tensorrt)
    assert build is not None and build.num_nodes == 3
    keys = {cache_key("0" * 64, TRT, tensorrt, each) for each in (None, build)}
    for change in ({"triton": "3.7.0"}, {"ptx_version": 88}, {"compute_capability": 80}):
        keys.add(cache_key("0" * 64, TRT, tensorrt, dataclasses.replace(build, **change)))
    assert len(keys) == 5
    assert cache_key("0" * 64, TRT, tensorrt) in keys
    assert cache_key("0" * 64, TRT, tensorrt, PluginBuild(**vars(build))) in keys


@pytest.mark.parametrize(
    ("driver", "version"),
    [("12.0", 80), ("12.4", 84), ("12.5", 85), ("12.6", 85), ("12.8", 87), ("12.9", 88), ("13.0", 90), ("13.2", 92)],
)
def test_drivers_read_ptx_up_to_a_version(driver: str, version: int) -> None:
    assert ptx_version_of(Gpu("a GPU", "9.0", driver)) == version


def write_whole_toy(path: Path, precision: Any) -> Path:
    """The toy with small whole numbers as weights: every order of adding its products gives the same bits."""
    model = onnx.load(write_toy(path, precision, "plugin"))
    for weight in model.graph.initializer:
        if weight.name in ("first.weight", "second.weight", "fc.weight", "fc.bias"):
            values = np.rint(2 * numpy_helper.to_array(weight))
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)
    return path


def check_shifts(session: Session) -> None:
    """On whole numbers a session's logits keep every bit under shifts, and its indices move by them."""
    images = np.random.default_rng(0).integers(-2, 3, (5, 3, 8, 8)).astype(np.float32)
    outputs = session.run(images)
    row, column = outputs["polyphase_indices"] % 2, outputs["polyphase_indices"] // 2
    for down, right in ((1, 0), (0, 1), (3, 6), (5, 7)):
        moved = session.run(np.roll(images, (down, right), axis=(2, 3)))
        np.testing.assert_array_equal(moved["polyphase_indices"], (row + down) % 2 + 2 * ((column + right) % 2))
        np.testing.assert_array_equal(moved["logits"], outputs["logits"])


class Unsteady:
    """A session that adds up in another order for some images: the last bit of one of their logits is another."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = dict(self._session.run(images))
        if images[0, 0, 0, 0] > images[0, 0, 0, 1]:
            outputs["logits"] = np.nextafter(outputs["logits"], np.float32(np.inf))
        return outputs


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_whole_numbers_keep_their_bits_where_the_selection_does(precision: Any, tmp_path: Path) -> None:
    """What is asked of an engine below, of the same file in ONNX Runtime, by the bodies of its operators."""
    with open_session(write_whole_toy(tmp_path / "toy.onnx", precision), device="cpu") as session:
        check_shifts(session)
        with pytest.raises(AssertionError):
            check_shifts(cast(Session, Unsteady(session)))


@pytest.mark.gpu
@needs_torch_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_builds_and_runs_the_kernels(precision: Any, tmp_path: Path) -> None:
    """The engine runs in a session that registers no plugin, and answers as the bodies do in ONNX Runtime."""
    toolkit_here("trt")
    source = write_toy(tmp_path / "toy.onnx", precision, "plugin")
    artifact = export_engine(source, tmp_path / "toy.plan", TRT)
    assert artifact.document["engine"]["plugins"]["kernels"] == NODES
    images = np.random.default_rng(0).standard_normal((5, 3, 8, 8)).astype(np.float32)
    tolerance = 1e-4 if precision == "fp32" else 1e-2
    with open_session(artifact.path) as session, open_session(source, device="cpu") as reference:
        outputs, expected = session.run(images), reference.run(images)
        if precision == "fp32":
            np.testing.assert_array_equal(outputs["polyphase_indices"], expected["polyphase_indices"])
        np.testing.assert_allclose(outputs["logits"], expected["logits"], atol=tolerance, rtol=1e-3)


@pytest.mark.gpu
@needs_torch_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_kernels_in_an_engine_keep_every_bit_under_shifts(precision: Any, tmp_path: Path) -> None:
    """Of whole numbers, so that it is the selection that is asked, and not in which order TensorRT's products add."""
    toolkit_here("trt")
    source = write_whole_toy(tmp_path / "toy.onnx", precision)
    artifact = export_engine(source, tmp_path / "toy.plan", TRT)
    assert artifact.document["engine"]["plugins"]["kernels"] == NODES
    with open_session(artifact.path) as session:
        check_shifts(session)
