"""What an import costs and what it needs: optional runtimes stay optional, and help does not wait for torch."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Folders whose modules are importable as aps_deploy.<folder> although they stand beside the package.
BESIDE_THE_PACKAGE = ("training", "export", "plugins")

# None of these may be loaded by --help, nor by naming a verb.
HEAVY = (
    *("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "tensorrt", "tensorrt_rtx", "matplotlib"),
    *("grpc", "tritonclient", "google.protobuf", "uvicorn", "uvloop", "ray", "opentelemetry"),
)

# What a plain `predict` has no use for, beyond what NumPy and ONNX Runtime load themselves.
NOT_FOR_PREDICT = (
    *("typer", "click", "pydantic", "rich", "aps_deploy.cli", "aps_deploy.console", "aps_deploy.verification"),
    *("importlib.metadata", "difflib", "tempfile", "concurrent.futures"),
)

# Runtimes a machine may lack.
OPTIONAL = (
    *("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "triton", "hypothesis", "pytest"),
    *("grpc", "tritonclient", "uvicorn", "uvloop", "ray", "opentelemetry"),
)

# Kernels in Triton's language and what launches them: they are that package's own code, and loaded by whoever has it.
IN_TRITON = ("aps_deploy.plugins.triton.kernels", "aps_deploy.plugins.triton.torch_calls")


def _modules() -> Iterator[str]:
    folders = [ROOT / "aps_deploy", *(ROOT / name for name in BESIDE_THE_PACKAGE)]
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            yield ".".join(parts if parts[0] == "aps_deploy" else ("aps_deploy", *parts))
    yield "aps_deploy.cli"


MODULES = tuple(_modules())


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
    )


def test_every_folder_has_modules() -> None:
    for name in ("polyphase", "layers", "models", "runtimes", "verification", "export.engines", *BESIDE_THE_PACKAGE):
        assert f"aps_deploy.{name}" in MODULES


def test_every_module_imports_without_the_optional_packages() -> None:
    result = _run(
        """
        import importlib, sys
        optional, modules = sys.argv[1].split(","), sys.argv[2].split(",")
        for name in optional:
            sys.modules[name] = None  # an import of it raises ModuleNotFoundError
        for name in modules:
            try:
                importlib.import_module(name)
            except ImportError as error:
                print(f"{name}: {error}")
        """,
        ",".join(OPTIONAL),
        ",".join(name for name in MODULES if not name.startswith(IN_TRITON)),
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def test_modules_beside_the_package_are_one_object() -> None:
    result = _run(
        """
        import sys
        import aps_deploy.training, aps_deploy.export, aps_deploy.plugins, aps_deploy.cli
        assert not {"training", "export", "plugins", "cli"} & set(sys.modules)
        import aps_deploy
        assert aps_deploy.training is sys.modules["aps_deploy.training"]
        """
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "module",
    [
        "aps_deploy",
        "aps_deploy.cli",
        "aps_deploy.errors",
        "aps_deploy.export.command",
        "aps_deploy.export.engines",
        "aps_deploy.files",
        "aps_deploy.preprocessing",
        "aps_deploy.runtimes",
        "aps_deploy.verification.certificate",
        "aps_deploy.verification.judging",
        "aps_deploy.verification.junit",
        "aps_deploy.verification.report",
    ],
)
def test_import_is_light(module: str) -> None:
    result = _run("import importlib, sys; importlib.import_module(sys.argv[1]); print(*sys.modules)", module)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split()) & set(HEAVY)
    assert not loaded, f"import {module} loads {sorted(loaded)}"


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("export", "--help"), ("train", "--help"), ("serve", "--help")]
)
def test_help_is_light(arguments: tuple[str, ...]) -> None:
    result = _run(
        """
        import sys
        sys.argv[0] = "aps-deploy"
        from aps_deploy.cli import app
        try:
            app()
        finally:
            print("LOADED", *sys.modules)
        """,
        *arguments,
    )
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.rsplit("LOADED", 1)[1].split()) & set(HEAVY)
    assert not loaded, f"{' '.join(arguments)} loads {sorted(loaded)}"


def test_a_plain_prediction_waits_only_for_what_computes(tmp_path: Path) -> None:
    from aps_deploy.export import export_checkpoint
    from aps_deploy.packaged import packaged_images, packaged_models

    file = tmp_path / "model.onnx"
    export_checkpoint(next(iter(packaged_models())), file)
    image = min(packaged_images()["cifar10"].rglob("*.jpg"))
    result = _run(
        """
        import sys
        import numpy, onnxruntime
        needed = set(sys.modules)
        from aps_deploy.__main__ import main
        try:
            main()
        finally:
            print("LOADED", *(set(sys.modules) - needed))
        """,
        *("predict", str(file), str(image)),
    )
    assert result.returncode == 0, result.stderr
    printed, _, names = result.stdout.rpartition("LOADED")
    assert str(image) in printed
    loaded = set(names.split())
    assert "aps_deploy.predict" in loaded and "PIL.Image" in loaded
    waited_for = {
        name for name in loaded if name.split(".")[0] in (*HEAVY, *NOT_FOR_PREDICT) or name in NOT_FOR_PREDICT
    }
    assert not waited_for, f"predict loads {sorted(waited_for)}"
