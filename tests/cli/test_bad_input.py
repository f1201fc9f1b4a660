"""Bad input gives one sentence and its exit code, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import Result

from aps_deploy.errors import ApsError, InputError
from tests.cli.conftest import Invoke


class RunsCode:
    """Unpickling this creates a file: what a hostile checkpoint would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


def is_one_sentence(result: Result, *words: str, exit_code: int = 2) -> None:
    """Assert that the command refused with one line on stderr that holds ``words``, and printed nothing else."""
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    for word in words:
        assert word in line, line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for outputs."""
    path = tmp_path / "outputs"
    path.mkdir()
    return path


@pytest.fixture
def corrupt(tmp_path: Path, checkpoint: Path) -> Path:
    """The first half of a checkpoint."""
    path = tmp_path / "corrupt.safetensors"
    path.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    return path


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A safetensors file of something else."""
    path = tmp_path / "foreign.safetensors"
    save_file({"embedding.weight": torch.zeros(4, 4)}, path)
    return path


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what fills the disk: from its call on, nothing more is written to it."""

    def fill() -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)

    return fill


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("trian",),
            ("train", "--no-such-option"),
            ("train", "--epochs", "many"),
            ("train", "--recipe", "unknown"),
            ("export", "model.safetensors"),
            ("export", "model.safetensors", "-o", "x.onnx", "--polyphase", "loop"),
            ("predict", "model.onnx"),
            ("predict", "model.onnx", "x.png", "--top-k", "0"),
            ("verify", "model.onnx", "--data", "images", "--image-size", str(10**11)),
            ("verify", "model.onnx", "--data", "images", "--resize", str(10**11)),
            ("export", "model.safetensors", "-o", "x.onnx", "--image-size", str(10**11)),
            ("verify", "model.onnx", "--data", "images"),
        ],
    )
    def test_is_refused_without_a_traceback(self, invoke: Invoke, arguments: tuple[str, ...]) -> None:
        result = invoke(*arguments)
        is_one_sentence(result)

    def test_the_value_is_named(self, invoke: Invoke) -> None:
        message = invoke("export", "model.safetensors", "-o", "x.onnx", "--opset", "12").stderr
        assert message.startswith("Error: Invalid value '12' for '--opset': ")
        assert "20" in message
        assert message.endswith("; see aps-deploy export --help.\n")

    def test_a_misspelt_verb_gets_a_hint(self, invoke: Invoke) -> None:
        assert "verify" in invoke("verfy").stderr


class TestEdge:
    """What the group of commands does with whatever a command raises."""

    @pytest.fixture
    def raising(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
        def patch(error: BaseException) -> None:
            def list_models(pattern: str) -> list[str]:
                raise error

            monkeypatch.setattr("aps_deploy.models.list_models", list_models)

        return patch

    @pytest.mark.parametrize(("error", "exit_code"), [(ApsError("it broke."), 1), (InputError("it is bad."), 2)])
    def test_errors_become_exit_codes(
        self, invoke: Invoke, raising: Callable[[BaseException], None], error: ApsError, exit_code: int
    ) -> None:
        raising(error)
        is_one_sentence(invoke("models"), str(error), exit_code=exit_code)

    @pytest.mark.parametrize(
        ("kind", "code", "name", "exit_code"),
        [
            (PermissionError, errno.EACCES, "input", 2),
            (IsADirectoryError, errno.EISDIR, "", 2),
            (FileNotFoundError, errno.ENOENT, "output", 2),
            (PermissionError, errno.EACCES, "output", 1),
            (OSError, errno.EIO, "input", 1),
        ],
    )
    def test_a_file_the_system_refuses(
        self,
        invoke: Invoke,
        raising: Callable[[BaseException], None],
        tmp_path: Path,
        kind: type[OSError],
        code: int,
        name: str,
        exit_code: int,
    ) -> None:
        (tmp_path / "input").touch()
        path, reason = str(tmp_path / name), os.strerror(code)
        raising(kind(code, reason, path))
        is_one_sentence(invoke("models"), path, reason, exit_code=exit_code)

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (MemoryError(), "there is not enough memory; give fewer or smaller images"),
            (MemoryError("Unable to allocate 71.5 GiB"), "memory (Unable to allocate 71.5 GiB); give fewer"),
            (
                RuntimeError(
                    "[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 92 GB."
                ),
                "memory (you tried to allocate 92 GB); give fewer",
            ),
        ],
    )
    def test_no_memory(
        self, invoke: Invoke, raising: Callable[[BaseException], None], error: Exception, said: str
    ) -> None:
        raising(error)
        is_one_sentence(invoke("models"), said, exit_code=1)

    def test_an_interrupt_is_130(self, invoke: Invoke, raising: Callable[[BaseException], None]) -> None:
        raising(KeyboardInterrupt())
        result = invoke("models")
        assert result.exit_code == 130
        assert result.stderr == "Interrupted.\n"

    def test_a_bug_keeps_its_traceback(self, invoke: Invoke, raising: Callable[[BaseException], None]) -> None:
        raising(ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            invoke("models")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_inputs_without_permission(self, invoke: Invoke, checkpoint: Path, images: Path, tmp_path: Path) -> None:
        locked = tmp_path / "locked.safetensors"
        locked.write_bytes(checkpoint.read_bytes())
        locked.chmod(0)
        for arguments in (("predict", locked, images), ("export", locked, "-o", tmp_path / "x.onnx")):
            is_one_sentence(invoke(*arguments), str(locked))

    @pytest.mark.parametrize(
        "arguments",
        [
            ("predict", "FOLDER.safetensors", "IMAGE"),
            ("predict", "FOLDER.onnx", "IMAGE"),
            ("evaluate", "FOLDER.onnx", "--data", "IMAGES"),
            ("export", "FOLDER.safetensors", "-o", "OUT/x.onnx"),
            ("import", "FOLDER.safetensors", "-o", "OUT/x.safetensors"),
            ("import", "FOLDER.pth", "-o", "OUT/x.safetensors"),
            ("verify", "FOLDER.onnx", "--reference", "CHECKPOINT", "--data", "IMAGES"),
            ("train", "--arch", "resnet20", "--data", "IMAGES", "--weights", "FOLDER.pth", "--out-dir", "OUT/run"),
            ("train", "--resume", "--out-dir", "IMAGE"),
        ],
    )
    def test_folders_in_place_of_files(
        self,
        invoke: Invoke,
        checkpoint: Path,
        images: Path,
        folder: Path,
        tmp_path: Path,
        arguments: tuple[str, ...],
    ) -> None:
        names = {
            "IMAGES": images,
            "IMAGE": images / "test" / "cat" / "0.png",
            "CHECKPOINT": checkpoint,
            "OUT": folder,
            "FOLDER": tmp_path / "a-folder",
        }
        words = []
        for word in arguments:
            for name, path in names.items():
                if word.startswith(name) and not word.startswith(f"{name}S"):
                    word = word.replace(name, str(path), 1)
                    break
            words.append(word)
            if "a-folder" in word:
                Path(word).mkdir()
        is_one_sentence(invoke(*words))
        assert not list(folder.iterdir())


class TestTrain:
    def test_no_architecture(self, invoke: Invoke, images: Path, folder: Path) -> None:
        is_one_sentence(invoke("train", "--data", images, "--out-dir", folder / "run"), "--arch", "aps-deploy models")

    def test_unknown_architecture(self, invoke: Invoke, images: Path, folder: Path) -> None:
        result = invoke("train", "--arch", "resnet20_abs3", "--data", images, "--out-dir", folder / "run")
        is_one_sentence(result, "resnet20_abs3", "resnet20_aps3")
        assert not list(folder.iterdir())

    def test_missing_data(self, invoke: Invoke, folder: Path) -> None:
        missing = folder / "nothing"
        result = invoke("train", "--arch", "resnet20", "--data", missing, "--out-dir", folder / "run")
        is_one_sentence(result, str(missing))
        assert not list(folder.iterdir())

    def test_odd_size(self, invoke: Invoke, images: Path, folder: Path) -> None:
        result = invoke(
            *("train", "--arch", "resnet20_aps3", "--data", images, "--out-dir", folder / "run"), "--image-size", "30"
        )
        is_one_sentence(result, "30", "32")
        assert not list(folder.iterdir())

    def test_output_folder_in_use(self, invoke: Invoke, images: Path, folder: Path) -> None:
        (folder / "precious.txt").write_text("mine")
        is_one_sentence(
            invoke("train", "--arch", "resnet20", "--data", images, "--out-dir", folder), str(folder), "--out-dir"
        )
        assert [path.name for path in folder.iterdir()] == ["precious.txt"]

    def test_nothing_to_resume(self, invoke: Invoke, folder: Path) -> None:
        is_one_sentence(invoke("train", "--resume", "--out-dir", folder), str(folder))

    def test_values_out_of_range(self, invoke: Invoke, images: Path, folder: Path) -> None:
        result = invoke(
            *("train", "--arch", "resnet20", "--data", images, "--out-dir", folder / "run"), "--label-smoothing", "2"
        )
        is_one_sentence(result, "--label-smoothing", "2")

    def test_full_disk_leaves_the_last_checkpoint(
        self, invoke: Invoke, images: Path, folder: Path, full_disk: Callable[[], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from aps_deploy.training import loop

        original, epochs = loop.append_metrics, []

        def filling(path: Path, record: dict[str, object]) -> None:
            original(path, record)
            epochs.append(record["epoch"])
            if len(epochs) == 2:
                full_disk()

        monkeypatch.setattr(loop, "append_metrics", filling)
        run = folder / "run"
        arguments = ("--arch", "resnet20", "--recipe", "fast", "--data", images, "--epochs", "2", "--out-dir", run)
        result = invoke("train", *arguments)
        assert result.exit_code == 1 and result.stdout == ""
        error = result.stderr.splitlines()[-1]
        assert error.startswith(f"Error: cannot write {run}") and "disk is full" in error
        assert "Traceback" not in result.output
        monkeypatch.undo()
        for name in ("best.safetensors", "last.safetensors"):
            with safe_open(run / name, framework="pt") as handle:
                assert json.loads(handle.metadata()["aps_deploy"])["training"]["epochs"] == 1
        assert not list(run.glob(".*")), "temporary files are left behind"
        assert "2 of 2 epochs" in invoke("train", "--resume", "--out-dir", run).stdout

    def test_full_disk_from_the_start(
        self, invoke: Invoke, images: Path, folder: Path, full_disk: Callable[[], None]
    ) -> None:
        full_disk()
        run = folder / "run"
        result = invoke("train", "--arch", "resnet20", "--recipe", "fast", "--data", images, "--out-dir", run)
        assert result.exit_code == 1 and "disk is full" in result.stderr.splitlines()[-1]
        assert not list(run.iterdir()), "the same command works once there is space"

    def test_truncated_image_met_by_a_loader_process(self, invoke: Invoke, folder: Path, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            (tmp_path / "data" / "train" / name).mkdir(parents=True)
            for number in range(2):
                noise = Image.effect_noise((100, 100), 80).convert("RGB")
                noise.save(tmp_path / "data" / "train" / name / f"{number}.png")
        broken = tmp_path / "data" / "train" / "dog" / "1.png"
        whole = broken.read_bytes()
        broken.write_bytes(whole[: len(whole) // 2])
        run = ("--out-dir", folder / "run")
        result = invoke(
            *("train", "--arch", "resnet20", "--recipe", "fast", "--data", tmp_path / "data", *run),
            *("--image-size", "100", "--workers", "1", "--batch-size", "2", "--epochs", "1"),
        )
        assert result.exit_code == 2 and result.stdout == ""
        # The run has begun and said so.
        begun, error = result.stderr.splitlines()
        assert begun.startswith("network resnet20 with recipe fast")
        assert error.startswith(f"Error: image {broken} cannot be read")
        broken.write_bytes(whole)
        assert invoke("train", "--resume", *run).exit_code == 0


class TestImport:
    def test_missing_file(self, invoke: Invoke, folder: Path) -> None:
        is_one_sentence(invoke("import", folder / "no.pt", "-o", folder / "x.safetensors"), "no.pt")

    def test_pickled_code_is_never_run(self, invoke: Invoke, folder: Path, tmp_path: Path) -> None:
        hostile, proof = tmp_path / "hostile.pt", tmp_path / "ran"
        torch.save({"state_dict": RunsCode(proof)}, hostile)
        is_one_sentence(invoke("import", hostile, "-o", folder / "x.safetensors"), "hostile.pt", "code")
        assert not proof.exists()
        assert not list(folder.iterdir())

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint", bytes(range(256)) * 8])
    def test_not_a_checkpoint(self, invoke: Invoke, folder: Path, tmp_path: Path, content: bytes) -> None:
        source = tmp_path / "noise.pt"
        source.write_bytes(content)
        is_one_sentence(invoke("import", source, "-o", folder / "x.safetensors"), "noise.pt")
        assert not list(folder.iterdir())

    def test_weights_of_another_network(self, invoke: Invoke, folder: Path, foreign: Path) -> None:
        is_one_sentence(invoke("import", foreign, "-o", folder / "x.safetensors"))
        assert not list(folder.iterdir())

    def test_class_names_that_do_not_fit(self, invoke: Invoke, checkpoint: Path, folder: Path, tmp_path: Path) -> None:
        names = tmp_path / "names.txt"
        names.write_text("only\ntwo\n")
        plain = tmp_path / "plain.safetensors"
        save_file(load_file(checkpoint), plain)
        result = invoke("import", plain, "-o", folder / "x.safetensors", "--class-names", names)
        is_one_sentence(result, "2", "3")
        assert not list(folder.iterdir())

    def test_output_over_the_source(self, invoke: Invoke, checkpoint: Path, folder: Path) -> None:
        source = folder / "weights.safetensors"
        save_file(load_file(checkpoint), source)
        before = source.read_bytes()
        is_one_sentence(invoke("import", source, "-o", source), str(source), "another name")
        assert source.read_bytes() == before and list(folder.iterdir()) == [source]

    @pytest.mark.parametrize("name", ["model.pt", "model", "model.onnx"])
    def test_output_of_another_kind(
        self, invoke: Invoke, checkpoint: Path, folder: Path, tmp_path: Path, name: str
    ) -> None:
        source = tmp_path / "weights.safetensors"
        save_file(load_file(checkpoint), source)
        is_one_sentence(invoke("import", source, "-o", folder / name), str(folder / name), "model.safetensors")
        assert not list(folder.iterdir())


class TestExport:
    def test_missing_checkpoint(self, invoke: Invoke, folder: Path) -> None:
        is_one_sentence(invoke("export", "no.safetensors", "-o", folder / "x.onnx"), "no.safetensors")

    def test_corrupt_checkpoint(self, invoke: Invoke, folder: Path, corrupt: Path) -> None:
        is_one_sentence(invoke("export", corrupt, "-o", folder / "x.onnx"), "corrupt.safetensors")
        assert not list(folder.iterdir())

    def test_foreign_checkpoint(self, invoke: Invoke, folder: Path, foreign: Path) -> None:
        is_one_sentence(invoke("export", foreign, "-o", folder / "x.onnx"), "foreign.safetensors", "aps-deploy import")

    def test_size_the_network_cannot_take(self, invoke: Invoke, folder: Path, checkpoint: Path) -> None:
        result = invoke("export", checkpoint, "-o", folder / "x.onnx", "--image-size", "33")
        is_one_sentence(result, "33", "36")
        assert not list(folder.iterdir())

    @pytest.mark.parametrize("engine", ["trt", "trt-rtx"])
    def test_an_engine_is_no_onnx_file(self, invoke: Invoke, folder: Path, checkpoint: Path, engine: str) -> None:
        result = invoke("export", checkpoint, "-o", folder / "x.onnx", "--engine", engine)
        is_one_sentence(result, "an engine's name ends in .plan", "x.plan")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--precision", "int8"), ("int8", "--calibration DIR", "cifar10")),
            (("--precision", "int8", "--calibration", "nowhere"), ("nowhere is not a folder", "cifar10")),
            (("--precision", "int8", "--calibration", "EMPTY"), ("no images",)),
            (("--precision", "int8", "--calibration", "TEST"), ("6 images, too few", "at least 32")),
            (("--precision", "fp16", "--calibration", "TEST"), ("--calibration is for int8", "fp16")),
            (("--calibration-method", "entropy"), ("--calibration-method is for int8", "fp32")),
            (("--precision", "bf16", "--opset", "20"), ("opset 20", "bf16", "22")),
        ],
    )
    def test_precisions(
        self,
        invoke: Invoke,
        folder: Path,
        tmp_path: Path,
        checkpoint: Path,
        images: Path,
        arguments: tuple[str, ...],
        words: tuple[str, ...],
    ) -> None:
        empty = tmp_path / "empty"
        empty.mkdir(exist_ok=True)
        given = [str({"TEST": images / "test", "EMPTY": empty}.get(word, word)) for word in arguments]
        is_one_sentence(invoke("export", checkpoint, "-o", folder / "x.onnx", *given), *words)
        assert not list(folder.iterdir())

    def test_unknown_precision(self, invoke: Invoke, folder: Path, checkpoint: Path) -> None:
        result = invoke("export", checkpoint, "-o", folder / "x.onnx", "--precision", "fp8")
        assert result.exit_code == 2 and "fp8" in result.stderr and "bf16" in result.stderr
        assert not list(folder.iterdir())

    @pytest.mark.parametrize("name", ["missing/x.onnx", "x.plan", "."])
    def test_output_that_cannot_be(self, invoke: Invoke, folder: Path, checkpoint: Path, name: str) -> None:
        is_one_sentence(invoke("export", checkpoint, "-o", folder / name), str(folder))
        assert not list(folder.iterdir())

    def test_a_document_of_somebody_else_beside_it(self, invoke: Invoke, folder: Path, checkpoint: Path) -> None:
        foreign = folder / "x.json"
        foreign.write_text('{"mine": true}')
        is_one_sentence(invoke("export", checkpoint, "-o", folder / "x.onnx"), str(foreign))
        assert list(folder.iterdir()) == [foreign] and foreign.read_text() == '{"mine": true}'

    @pytest.mark.parametrize(
        "damage",
        [
            lambda text: text[: len(text) // 2],
            lambda text: "[]",
            lambda text: text.replace('"preprocessing"', '"processing"'),
            lambda text: text.replace('"resnet20_aps3"', '"resnet21_aps3"'),
            lambda text: text.replace('"resnet20_aps3"', "20"),
            lambda text: text.replace('"format": 1', '"format": 99'),
        ],
        ids=["half", "list", "no-preprocessing", "no-such-network", "number", "format"],
    )
    @pytest.mark.parametrize("verb", ["export", "predict"])
    def test_damaged_metadata(
        self,
        invoke: Invoke,
        folder: Path,
        checkpoint: Path,
        images: Path,
        tmp_path: Path,
        verb: str,
        damage: Callable[[str], str],
    ) -> None:
        with safe_open(checkpoint, framework="pt") as handle:
            text = handle.metadata()["aps_deploy"]
        assert damage(text) != text
        damaged = tmp_path / "damaged.safetensors"
        save_file(load_file(checkpoint), damaged, metadata={"aps_deploy": damage(text)})
        rest = ("-o", folder / "x.onnx") if verb == "export" else (images / "test" / "cat" / "0.png",)
        is_one_sentence(invoke(verb, damaged, *rest))
        assert not list(folder.iterdir())

    def test_full_disk_leaves_the_old_file(
        self, invoke: Invoke, folder: Path, checkpoint: Path, full_disk: Callable[[], None]
    ) -> None:
        target = folder / "x.onnx"
        target.write_bytes(b"older")
        full_disk()
        is_one_sentence(invoke("export", checkpoint, "-o", target), "disk is full", exit_code=1)
        assert [path.name for path in folder.iterdir()] == ["x.onnx"]
        assert target.read_bytes() == b"older"


class TestPredict:
    def test_missing_model(self, invoke: Invoke, images: Path) -> None:
        is_one_sentence(invoke("predict", "no.onnx", images), "no.onnx")

    def test_truncated_image(self, invoke: Invoke, checkpoint: Path, images: Path, tmp_path: Path) -> None:
        whole = (images / "test" / "cat" / "0.png").read_bytes()
        truncated = tmp_path / "truncated.png"
        truncated.write_bytes(whole[: len(whole) // 2])
        is_one_sentence(invoke("predict", checkpoint, truncated), "truncated.png")

    def test_missing_image(self, invoke: Invoke, checkpoint: Path) -> None:
        is_one_sentence(invoke("predict", checkpoint, "no.png"), "no.png")

    def test_file_without_preprocessing(self, invoke: Invoke, foreign_onnx: Path, images: Path) -> None:
        result = invoke("predict", foreign_onnx, images / "test" / "cat" / "0.png")
        is_one_sentence(result, "foreign.onnx", "--preprocessing")

    def test_not_an_onnx_file(self, invoke: Invoke, images: Path, tmp_path: Path) -> None:
        noise = tmp_path / "noise.onnx"
        noise.write_bytes(b"not an onnx file")
        is_one_sentence(invoke("predict", noise, images / "test" / "cat" / "0.png"), "noise.onnx")

    def test_unknown_runtime(self, invoke: Invoke, checkpoint: Path, images: Path) -> None:
        is_one_sentence(
            invoke("predict", checkpoint, images / "test" / "cat", "--runtime", "tflite"), "tflite", "torch"
        )


class TestVerify:
    def test_missing_data(self, invoke: Invoke, onnx_file: Path, checkpoint: Path, tmp_path: Path) -> None:
        missing = tmp_path / "nothing"
        is_one_sentence(invoke("verify", onnx_file, "--reference", checkpoint, "--data", missing), str(missing))

    def test_empty_data(self, invoke: Invoke, onnx_file: Path, checkpoint: Path, tmp_path: Path) -> None:
        is_one_sentence(invoke("verify", onnx_file, "--reference", checkpoint, "--data", tmp_path), "no images")

    def test_corrupt_reference(self, invoke: Invoke, onnx_file: Path, corrupt: Path, images: Path) -> None:
        result = invoke("verify", onnx_file, "--reference", corrupt, "--data", images / "test")
        is_one_sentence(result, "corrupt.safetensors")

    @pytest.mark.parametrize("shifts", ["0", "some", "-1"])
    def test_unknown_shifts(
        self, invoke: Invoke, onnx_file: Path, checkpoint: Path, images: Path, shifts: str, tmp_path: Path
    ) -> None:
        certificate = tmp_path / "c.json"
        data = ("--reference", checkpoint, "--data", images / "test", "-o", certificate)
        is_one_sentence(invoke("verify", onnx_file, *data, "--shifts", shifts), shifts)
        assert not certificate.exists()

    def test_unknown_gate(self, invoke: Invoke, onnx_file: Path, checkpoint: Path, images: Path) -> None:
        data = ("--reference", checkpoint, "--data", images / "test")
        is_one_sentence(
            invoke("verify", onnx_file, *data, "--gate", "top1_consistancy=95"), "top1_consistancy", "top1_consistency"
        )

    @pytest.mark.parametrize("missing", ["FILE", "--data"])
    def test_what_a_measurement_needs(self, invoke: Invoke, missing: str, folder: Path) -> None:
        words = {"FILE": ("no.onnx",), "--reference": ("--reference", "x"), "--data": ("--data", folder)}
        given = [word for name, pair in words.items() if name != missing for word in pair]
        is_one_sentence(invoke("verify", *given), f"{missing} is missing", "--from")

    @pytest.mark.parametrize(
        ("words", "shown"),
        [
            (("--reference", "x", "--load-reference", "y.npz"), "both name a reference"),
            (("--load-reference", "y.safetensors"), "ending in .npz"),
            (("--load-reference", "y.npz"), "y.npz does not exist"),
            (("--save-reference", "y.npz"), "needs a reference"),
            (("--reference", "CHECKPOINT", "--save-reference", "y.zip"), "must end in .npz"),
            (("--mean", "1,2"), "--mean is '1,2'"),
        ],
    )
    def test_references_that_do_not_fit(
        self, invoke: Invoke, words: tuple[str, ...], shown: str, onnx_file: Path, checkpoint: Path, images: Path
    ) -> None:
        given = [str(checkpoint) if word == "CHECKPOINT" else word for word in words]
        is_one_sentence(invoke("verify", onnx_file, "--data", images / "test", *given), shown)

    def test_without_a_file_only_the_reference_is_run(
        self, invoke: Invoke, checkpoint: Path, images: Path, folder: Path
    ) -> None:
        given = ("--reference", checkpoint, "--data", images / "test", "--save-reference", folder / "a.npz")
        is_one_sentence(invoke("verify", *given, "--shifts", "all"), "so --shifts does not fit it")
        assert list(folder.iterdir()) == []

    def test_a_file_that_says_nothing_of_its_input(self, invoke: Invoke, foreign_onnx: Path, images: Path) -> None:
        is_one_sentence(invoke("verify", foreign_onnx, "--data", images / "test"), "--preprocessing", "--mean")

    @pytest.mark.parametrize(
        ("words", "shown"),
        [
            (("no.onnx",), "FILE"),
            (("--data", "x"), "--data"),
            (("--shifts", "group"), "--shifts"),
            (("--worst-case", "w.npz"), "--worst-case"),
            (("-b", "3"), "--batch-size"),
        ],
    )
    def test_what_does_not_fit_a_saved_certificate(
        self, invoke: Invoke, words: tuple[str, ...], shown: str, folder: Path
    ) -> None:
        is_one_sentence(invoke("verify", "--from", folder / "c.json", *words), f"so {shown} does not fit it")

    @pytest.mark.parametrize(
        "text",
        [
            None, "", "{}", "[]", "null", "not json", '{"certificate_version": 1}', '{"certificate_version": 2}',
            '{"certificate_version": 2, "passed": true, "checks": []}', "\udcff",
        ],
    )  # fmt: skip
    def test_no_certificate_to_judge(self, invoke: Invoke, text: str | None, folder: Path) -> None:
        source, report = folder / "c.json", folder / "r.html"
        if text is not None:
            source.write_bytes(text.encode("utf-8", "surrogateescape"))
        is_one_sentence(invoke("verify", "--from", source, "--report", report), "c.json")
        assert not report.exists()

    @pytest.mark.parametrize("words", [("--gates", "none.toml"), ("--gate", "top1_consistency")])
    def test_limits_that_cannot_be_read(self, invoke: Invoke, words: tuple[str, ...], folder: Path) -> None:
        is_one_sentence(invoke("verify", "--from", folder / "c.json", *words), words[1])

    def test_a_folder_of_limits(self, invoke: Invoke, folder: Path) -> None:
        is_one_sentence(invoke("verify", "--from", folder / "c.json", "--gates", folder), str(folder))

    def test_full_disk_leaves_the_old_certificate(
        self,
        invoke: Invoke,
        onnx_file: Path,
        checkpoint: Path,
        images: Path,
        folder: Path,
        full_disk: Callable[[], None],
    ) -> None:
        certificate = folder / "certificate.json"
        data = ("--reference", checkpoint, "--data", images / "test", "--images", "2", "--shifts", "1")
        assert invoke("verify", onnx_file, *data, "-o", certificate).exit_code == 0
        older = certificate.read_bytes()
        full_disk()
        result = invoke("verify", onnx_file, *data, "-o", certificate)
        is_one_sentence(result, str(certificate), "disk is full", exit_code=1)
        assert certificate.read_bytes() == older and list(folder.iterdir()) == [certificate]


class TestEvaluate:
    def test_missing_model(self, invoke: Invoke, images: Path) -> None:
        is_one_sentence(invoke("evaluate", "no.onnx", "--data", images), "no.onnx")

    def test_missing_data(self, invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
        missing = tmp_path / "nothing"
        is_one_sentence(invoke("evaluate", checkpoint, "--data", missing), str(missing))

    def test_split_that_is_not_there(self, invoke: Invoke, checkpoint: Path, images: Path) -> None:
        is_one_sentence(invoke("evaluate", checkpoint, "--data", images, "--split", "val"), "val", "test")

    def test_classes_the_network_does_not_have(self, invoke: Invoke, checkpoint: Path, tmp_path: Path) -> None:
        (tmp_path / "fox").mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / "fox" / "0.png")
        is_one_sentence(invoke("evaluate", checkpoint, "--data", tmp_path), "fox")

    def test_pickled_checkpoint(self, invoke: Invoke, images: Path, tmp_path: Path) -> None:
        hostile, proof = tmp_path / "hostile.pt", tmp_path / "ran"
        torch.save({"state_dict": RunsCode(proof)}, hostile)
        is_one_sentence(invoke("evaluate", hostile, "--data", images), "hostile.pt", "aps-deploy import")
        assert not proof.exists()


class TestDemo:
    def test_output_folder_of_somebody_else(self, invoke: Invoke, folder: Path) -> None:
        (folder / "precious.txt").write_text("mine")
        is_one_sentence(invoke("demo", "--out-dir", folder), str(folder), "--out-dir")
        assert [path.name for path in folder.iterdir()] == ["precious.txt"]
