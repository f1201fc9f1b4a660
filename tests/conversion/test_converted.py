"""A converted network behaves like one of the registry: options, sizes, forced choices, training, compilation."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import aps_deploy
from aps_deploy.conversion.operators import _DEPENDENT, _INDEPENDENT
from aps_deploy.errors import ApsError, InputError
from aps_deploy.export import export_onnx
from aps_deploy.verification import verify
from tests.conversion.support import short_network


@pytest.mark.parametrize("family", ["resnet", "convnext"])
@pytest.mark.parametrize(
    "options",
    [{"filter_size": 3}, {"filter_size": 6, "criterion": "max"}, {"criterion": "l1"}, {"criterion": "l2_min"}],
)
def test_every_option_keeps_the_property(family: str, options: dict[str, object]) -> None:
    model = aps_deploy.convert(short_network(family), **options)  # type: ignore[arg-type]
    side = max(64, model.min_size)
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits, chosen = model.forward_with_selection(images)
        moved, chosen_then = model.forward_with_selection(torch.roll(images, (3, 14), (2, 3)))
    assert chosen.tolist() != chosen_then.tolist()
    torch.testing.assert_close(moved, logits, rtol=1e-4, atol=1e-5)
    assert model.arguments["criterion"] == options.get("criterion", "l2")
    assert model.spec.filter_size == options.get("filter_size", 1)


def test_a_blur_is_felt_by_the_shortcut_as_well() -> None:
    plain = aps_deploy.convert(short_network("resnet"))
    blurred = aps_deploy.convert(short_network("resnet"), filter_size=5)
    images = torch.ones(1, 3, 64, 64)  # a constant map is its own blur
    forced = torch.zeros(1, 5, dtype=torch.int64)
    with torch.inference_mode():
        torch.testing.assert_close(
            blurred.forward_with_selection(images, forced)[0], plain.forward_with_selection(images, forced)[0]
        )
    assert sum(module.filter_size == 5 for module in blurred.modules() if hasattr(module, "filter_size")) == 8


def test_forced_choices_and_trace_agree() -> None:
    model = aps_deploy.convert(short_network("densenet"))
    images = torch.randn(2, 3, 64, 64)
    trace = model.trace_selections(images)
    assert trace.scores.shape == (2, 5, 4)
    with torch.inference_mode():
        logits, indices = model.forward_with_selection(images, trace.indices)
    assert torch.equal(logits, trace.logits)
    assert torch.equal(indices, trace.chosen)
    with pytest.raises(InputError, match="makes 5 selections"):
        model.forward_with_selection(images, torch.zeros(2, 6, dtype=torch.int64))


@pytest.mark.parametrize("family", ["mobilenet_v3", "densenet", "resnet"])
def test_no_output_is_overwritten(family: str) -> None:
    """The search for a faulty layer keeps each module's output by a hook."""
    model = aps_deploy.convert(short_network(family))
    kept: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    for path, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(
                lambda _, __, output, path=path: (
                    kept.append((path, output, output.clone())) if isinstance(output, torch.Tensor) else None
                )
            )
    with torch.inference_mode():
        model(torch.randn(1, 3, 64, 64))
    assert len(kept) > 20
    assert [path for path, output, then in kept if not torch.equal(output, then)] == []


def test_sizes() -> None:
    model = aps_deploy.convert(short_network("convnext"))
    assert (model.size_divisor, model.min_size, model.shift_step) == (32, 96, 1)
    with pytest.raises(InputError, match=r"both sides must be multiples of 32 and at least 96; .* 128x96"):
        model.spec.check_size(100, 64)
    with pytest.raises(InputError, match=r"_sampler: a 25x25 map cannot be split"):
        model(torch.zeros(1, 3, 100, 100))


def test_a_new_head_has_the_classes_of_the_old_one() -> None:
    model = aps_deploy.convert(short_network("vgg"), head="gap")
    assert model.report.new_head == 5
    assert "new classifier of 5 classes, not trained" in str(model.report)
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith("gap_head.")}
    original = short_network("vgg").state_dict()
    assert set(kept) == {key for key in original if key.startswith("features.")}
    assert all(torch.equal(value, original[key]) for key, value in kept.items())


def test_gradients_reach_every_parameter() -> None:
    model = aps_deploy.convert(short_network("mobilenet_v3")).train()
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_copies_are_independent_and_compile_whole() -> None:
    model = aps_deploy.convert(short_network("resnext"))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.fc.bias.add_(1.0)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.equal(compiled(images), model(images))
        torch.testing.assert_close(twin(images) - 1.0, model(images))


@pytest.mark.slow
def test_half_precision_where_only_the_classifier_is_pooled(tmp_path: Path) -> None:
    model = aps_deploy.convert(short_network("densenet"))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    export_onnx(model, tmp_path / "d.onnx", image_size=64, precision="fp16")
    assert verify(tmp_path / "d.onnx", model, images.numpy(), shifts=4, precision="fp16").passed
    model = aps_deploy.convert(short_network("mobilenet_v3"))
    with pytest.raises(ApsError, match="fp16 is written for networks whose pooled values only the classifier reads"):
        export_onnx(model, tmp_path / "m.onnx", image_size=64, precision="fp16")
    assert not (tmp_path / "m.onnx").exists()


class _UsesFunctions(nn.Module):
    """Dropout, an average pool rounded up and a mean as functions; one convolution called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.same = nn.Conv2d(6, 6, 3, padding=1)
        self.shortcut = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        self.down = nn.Conv2d(6, 6, 1, stride=2)
        self.fc = nn.Linear(12, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = nn.functional.dropout(nn.functional.silu(self.stem(images)), 0.5, self.training)
        x = self.same(self.same(x))
        x = torch.cat([self.shortcut(x), self.down(x)], dim=1)
        return self.fc(x.mean([2, 3]).view(x.size(0), -1))


def test_functions_and_shared_modules() -> None:
    torch.manual_seed(0)
    model = aps_deploy.convert(_UsesFunctions().eval())
    assert [entry.followers for entry in model.report.sampled] == [(), ("down",)]
    assert model.report.position_dependent == ("the forward pass (silu): silu",)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(torch.roll(images, (5, 2), (2, 3))), model(images))
        torch.manual_seed(1)
        assert not torch.equal(model.train()(images), model(images))  # dropout follows the mode


# The table of activations is a measurement; here it is repeated where it was seen to differ.
SIZES = [(2, 2), (5, 3), (7, 7), (9, 7), (14, 14), (18, 22)]


def _is_independent(activation: nn.Module) -> bool:
    generator = torch.Generator().manual_seed(0)
    for height, width in SIZES:
        for channels in (3, 16, 17, 24):
            x = 3 * torch.randn(2, channels, height, width, generator=generator)
            for shift in ((1, 0), (0, 1), (1, 2)):
                moved = activation(torch.roll(x, shift, (2, 3)))
                if not torch.equal(moved, torch.roll(activation(x), shift, (2, 3))):
                    return False
    return True


@pytest.mark.parametrize("kind", _INDEPENDENT)
def test_activations_that_do_not_know_where_a_pixel_is(kind: type[nn.Module]) -> None:
    assert _is_independent(kind())


def test_some_activations_do_know() -> None:
    assert not all(_is_independent(kind()) for kind in _DEPENDENT)
