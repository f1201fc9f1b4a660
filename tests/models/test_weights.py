"""Other people's weights, our checkpoints, and files that are neither."""

from __future__ import annotations

import argparse
import errno
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor

from aps_deploy.errors import ApsError, InputError
from aps_deploy.files import sha256_of
from aps_deploy.models import (
    create_model,
    detect_layout,
    import_weights,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from aps_deploy.models.weights import read_tensors
from aps_deploy.preprocessing import CIFAR10, Preprocessing
from tests.models import golden


def record(name: str) -> dict[str, Any]:
    return next(r for r in golden.RECORDS if r["name"] == name)


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_networks_load_and_compute_the_same(depth: int, tmp_path: Path) -> None:
    torch.manual_seed(depth)
    theirs = getattr(torchvision.models, f"resnet{depth}")().eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    result = import_weights(tmp_path / "resnet.pth", tmp_path / "ours.safetensors")
    assert result.arguments["name"] == f"resnet{depth}" and result.arguments["padding"] == "zeros"
    ours = load_checkpoint(tmp_path / "ours.safetensors")
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def antialiased_keys(name: str, pool: str) -> dict[str, Tensor]:
    """Return random weights of one of our LPF networks under the keys of antialiased-cnns."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, padding="zeros", pool_only=pool == "maxpool.1.filt")
    state: dict[str, Tensor] = {}
    filt = torch.ones(1, 1, model.spec.filter_size, model.spec.filter_size)
    nested = "conv3" if model.spec.bottleneck else "conv2"
    strided = [f"layer{i}.0" for i in (2, 3, 4)]
    for key, value in model.state_dict().items():
        block = key.rsplit(".", 2)[0]
        if block in strided and key == f"{block}.{nested}.weight":
            key = f"{block}.{nested}.1.weight"
            state[f"{block}.{nested}.0.filt"] = filt
        for position in ("1", "0"):
            for stride_block in strided:
                prefix = f"{stride_block}.downsample."
                if key.startswith(f"{prefix}{position}."):
                    key = f"{prefix}{int(position) + 1}." + key.removeprefix(f"{prefix}{position}.")
                    break
            else:
                continue
            break
        state[key] = value
    for block in strided:
        state[f"{block}.downsample.0.filt"] = filt
    state[pool] = filt
    if pool == "maxpool.0.filt":
        state["maxpool.2.filt"] = filt
    return state


@pytest.mark.parametrize("name", ["resnet18_lpf4", "resnet50_lpf3"])
@pytest.mark.parametrize(("pool", "pool_only"), [("maxpool.1.filt", True), ("maxpool.0.filt", False)])
def test_antialiased_cnns_are_detected_by_their_keys(name: str, pool: str, pool_only: bool, tmp_path: Path) -> None:
    state = antialiased_keys(name, pool)
    assert detect_layout(state) == "antialiased-cnns"
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "a.pth.tar")
    result = import_weights(tmp_path / "a.pth.tar", tmp_path / "a.safetensors")
    assert result.arguments["name"] == name
    assert result.arguments["pool_only"] is pool_only
    assert result.arguments["padding"] == "zeros"
    with torch.inference_mode():
        assert load_checkpoint(result.path)(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize("wrap", ["plain", "module", "state_dict", "model"])
@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("cifar-resnet20_aps-f3-l2-pool0-32", "resnet20_aps3"),
        ("cifar-resnet20-f1-l2-pool0-32", "resnet20"),
        ("cifar-resnet50_aps-f3-l2-pool0-32", "cifar_resnet50_aps3"),
        ("imagenet-resnet18_aps-f1-l2-pool0-64", "resnet18_aps1"),
        ("imagenet-resnet18_aps-f3-l2-pool1-64", "resnet18_aps3"),
        ("imagenet-resnet18_lpf-f3-l2-pool0-64", "resnet18_lpf3"),
    ],
)
def test_authors_checkpoints_are_detected(name: str, arch: str, wrap: str, tmp_path: Path) -> None:
    rec = record(name)
    state: Any = golden.state_dict(rec)
    if wrap != "plain":
        state = {f"module.{key}": value for key, value in state.items()}
    if wrap in ("state_dict", "model"):
        # As their training scripts write it, with a NumPy scalar among the numbers.
        state = {
            "epoch": 250,
            "arch": rec["arch"],
            wrap: state,
            "best_acc1": np.float64(93.1),
            "optimizer": {"lr": 0.1},
        }
    torch.save(state, tmp_path / "checkpoint.pth.tar")
    result = import_weights(tmp_path / "checkpoint.pth.tar", tmp_path / "ours.safetensors", class_names=None)
    assert result.arguments["name"] == arch
    assert result.arguments["padding"] == "circular"
    assert result.layout == "authors"
    if arch == "resnet18_aps3":
        assert result.arguments["pool_only"] is True
    assert (result.note is not None) == (rec["family"] == "cifar" and "_" in rec["arch"])


def test_authors_lpf_weights_of_cifar_take_their_name(tmp_path: Path) -> None:
    rec = record("cifar-resnet20_lpf-f3-l2-pool0-32")
    torch.save(golden.state_dict(rec), tmp_path / "lpf.pth")
    result = import_weights(tmp_path / "lpf.pth", tmp_path / "lpf.safetensors", arch="resnet20_lpf3")
    assert result.arguments["name"] == "resnet20_lpf3" and result.note is None


def test_weights_from_before_batches_were_counted(tmp_path: Path) -> None:
    peer = torchvision.models.resnet18()
    old = {key: value for key, value in peer.state_dict().items() if not key.endswith("num_batches_tracked")}
    model = create_model("resnet18", padding="zeros")
    assert load_weights(model, old).num_tensors == len(old)
    assert torch.equal(model.state_dict()["layer3.1.bn2.running_var"], peer.layer3[1].bn2.running_var)
    del old["bn1.weight"]
    with pytest.raises(InputError, match=r"bn1\.weight is missing"):
        load_weights(model, old)


def test_a_file_of_any_other_kind_is_one_sentence(tmp_path: Path) -> None:
    for first in range(256):  # to the unpickler every first byte is another instruction, "c" one that names code
        (tmp_path / "weights.pth").write_bytes(bytes([first]) + b"rror: file not found\n" * 3)
        with pytest.raises(InputError, match=r"is not a PyTorch checkpoint, or is corrupt|contains pickled code"):
            read_tensors(tmp_path / "weights.pth")


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    """Every kind of damage to a legacy file, whose pickle has no checksum, is refused in words or still loads."""
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.arange(6.0)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[generator.integers(len(whole))] = generator.integers(256)
        path.write_bytes(bytes(damaged[: generator.integers(1, len(whole) + 1)]))
        try:
            read_tensors(path)
        except InputError:
            refused += 1
    assert refused > 200


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    model = create_model("resnet20_aps3", num_classes=3, criterion="l1").eval()
    preprocessing = Preprocessing(16, 20, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    names = ["a", "b", "c"]
    path = save_checkpoint(
        tmp_path / "m.safetensors", model, preprocessing=preprocessing, class_names=names, training={"seed": 4}
    )
    again = load_checkpoint(path)
    x = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))
    assert not again.training
    assert (again.preprocessing, again.class_names, again.arguments) == (
        preprocessing,
        ("a", "b", "c"),
        model.arguments,
    )
    assert again.checkpoint.sha256 == sha256_of(path) and again.checkpoint.training == {"seed": 4}
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize(
    "document",
    ["{", "[]", '{"format": 1}', '{"format": 1, "model": {"name": "resnet20", "wings": 2}}', '{"format": 9}'],
)
def test_damaged_or_newer_metadata_is_one_sentence(document: str, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "m.safetensors", create_model("resnet20"), preprocessing=CIFAR10)
    save_file(load_file(path), path, metadata={"aps_deploy": document})
    with pytest.raises(InputError, match=r"damaged, or was written by a newer version|this version reads 1"):
        load_checkpoint(path)


def test_what_needs_no_import_is_refused(tmp_path: Path) -> None:
    ours = save_checkpoint(tmp_path / "m.safetensors", create_model("resnet20_aps3"), preprocessing=CIFAR10)
    with pytest.raises(InputError, match="is a checkpoint of aps-deploy already"):
        import_weights(ours, tmp_path / "again.safetensors")
    torch.save(create_model("resnet20").state_dict(), tmp_path / "last.pt")
    shutil.copyfile(ours, tmp_path / "last.safetensors")
    with pytest.raises(InputError, match=r"training state of a run; its network is .*last\.safetensors"):
        import_weights(tmp_path / "last.pt", tmp_path / "again.safetensors")
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        save_checkpoint(tmp_path / "m.pt", create_model("resnet20"), preprocessing=CIFAR10)
    save_file(create_model("resnet20").state_dict(), tmp_path / "plain.safetensors")
    before = (tmp_path / "plain.safetensors").read_bytes()
    with pytest.raises(InputError, match="is the source itself"):
        import_weights(tmp_path / "plain.safetensors", tmp_path / "plain.safetensors")
    assert (tmp_path / "plain.safetensors").read_bytes() == before
    (tmp_path / "f.onnx").write_bytes(b"")
    with pytest.raises(InputError, match="is an exported file"):
        load_checkpoint(tmp_path / "f.onnx")
    with pytest.raises(InputError, match="is a folder"):
        load_checkpoint(tmp_path)


def test_half_precision_on_disk_is_widened_on_loading(tmp_path: Path) -> None:
    model = create_model("resnet20").eval()
    whole = save_checkpoint(tmp_path / "w.safetensors", model, preprocessing=CIFAR10)
    half = save_checkpoint(tmp_path / "h.safetensors", model, preprocessing=CIFAR10, dtype=torch.float16)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    again = load_checkpoint(half)
    assert all(p.dtype == torch.float32 for p in again.parameters())
    assert torch.equal(again.conv1.weight, model.conv1.weight.half().float())


def test_a_full_disk_keeps_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("resnet20")
    path = save_checkpoint(tmp_path / "m.safetensors", model, preprocessing=CIFAR10)
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ApsError, match="the disk is full; free some space"):
        save_checkpoint(path, create_model("resnet20_aps3"), preprocessing=CIFAR10)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_class_names_must_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 class names do not fit a network of 10"):
        save_checkpoint(
            tmp_path / "m.safetensors", create_model("resnet20"), preprocessing=CIFAR10, class_names=["a", "b"]
        )
    assert list(tmp_path.iterdir()) == []


class Evil:
    """Runs code when unpickled carelessly."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_bytes(b""), "corrupt"),
        (lambda p: p.write_bytes(b"not a checkpoint" * 10), "corrupt"),
        (lambda p: p.write_bytes(pickle.dumps({"state_dict": Evil()})), "pickled code|corrupt"),
        (lambda p: torch.save({"state_dict": Evil()}, p), "contains pickled code"),
        (lambda p: torch.save({"args": argparse.Namespace(a=1), "state_dict": {}}, p), "contains pickled code"),
        (lambda p: torch.save([1, 2, 3], p), "holds no state dict"),
        (lambda p: torch.save({"a": torch.zeros(3)}, p), "not of a ResNet"),
        (lambda p: torch.save(torchvision.models.mobilenet_v2().state_dict(), p), "not of a ResNet"),
    ],
)
def test_unreadable_files(write: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.pth"
    write(path)
    with pytest.raises(InputError, match=message):
        import_weights(path, tmp_path / "out.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pth"]
    assert "code ran" not in capsys.readouterr().out


def test_truncated_and_foreign_safetensors(tmp_path: Path) -> None:
    model = create_model("resnet20")
    path = save_checkpoint(tmp_path / "m.safetensors", model, preprocessing=CIFAR10)
    (tmp_path / "short.safetensors").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_checkpoint(tmp_path / "short.safetensors")
    torch.save(model.state_dict(), tmp_path / "foreign.pth")
    with pytest.raises(InputError, match="aps-deploy import"):
        load_checkpoint(tmp_path / "foreign.pth")
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(tmp_path / "absent.safetensors")


def test_weights_that_do_not_fit_change_nothing() -> None:
    model = create_model("resnet20")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"do not fit resnet20: .* and \d+ more differences"):
        load_weights(model, create_model("resnet56").state_dict())
    state = golden.state_dict(record("cifar-resnet20_aps-f3-l2-pool0-32"))
    with pytest.raises(InputError, match=r"blur filters have size \[3\], not 5"):
        load_weights(create_model("resnet20_aps5"), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
