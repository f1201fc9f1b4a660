"""The page in a browser: what a person does on it, and what the server is asked for then."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aps_deploy.serving.model import ServedModel
from tests.serving.playground import networks
from tests.serving.playground.browser import Page, browsing, chromium
from tests.serving.support import Running, running, starting

pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no Chromium here (Debian: apt install chromium)")

SIDE = networks.LARGEST_SIDE
ANSWERED = "[...document.querySelectorAll('.card')].filter((card) => card.querySelector('strong')).length"

IS_SETTLED = "document.querySelector('#cards').getAttribute('aria-busy') === 'false'"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def file(tmp_path: Path, png: bytes) -> Path:
    path = tmp_path / "noise.png"
    path.write_bytes(png)
    return path


@pytest.fixture
def page(tab: Page, pages: Running, file: Path) -> Page:
    """The page with the picture of noise, unshifted and answered."""
    tab.problems.clear()
    tab.addresses.clear()
    tab.open(pages.where.url)
    tab.wait(f"{ANSWERED} === 3")
    tab.choose_file("#file", file)
    tab.wait(f"document.querySelector('#picture-name').textContent === 'noise.png' && {IS_SETTLED} && {ANSWERED} === 3")
    return tab


def card(page: Page, name: str, part: str = "") -> str:
    """Return the text of a model's card, or of the part that a selector names; empty where there is none."""
    found = f"[...document.querySelectorAll('.card')].find((card) => card.querySelector('h2').textContent === '{name}')"
    inner = f".querySelector('{part}')?" if part else ""
    return str(page.run(f"{found}{inner}.innerText ?? ''"))


def answer(page: Page, name: str) -> str:
    return card(page, name, "strong")


def settle(page: Page, shift: str) -> None:
    """Wait until every model answered the shift in these words, as told to a screen reader."""
    page.wait(f"document.querySelector('#said').textContent.startsWith('{shift}.')")


def test_what_one_sees_first(page: Page, pages: Running) -> None:
    assert answer(page, "corner") == networks.corner_colour((0, 0))
    assert "Not ready" in card(page, "broken") and "not an ONNX file" in card(page, "broken")
    assert page.run("document.querySelectorAll('#samples button').length") == 10
    assert "16 × 16 pixels" in card(page, "largest") and "8 × 8 pixels" in card(page, "corner")
    assert "each moves by the same number of its own pixels" in page.run("document.body.innerText")
    assert page.problems == []
    assert all(address.startswith((pages.where.url, "blob:", "about:")) for address in page.addresses)


def test_the_canvas_shows_what_the_network_reads(page: Page) -> None:
    page.run("document.querySelector('#stage').focus()")
    page.press("ArrowRight")
    page.press("ArrowDown", shift=True)
    settle(page, "1 px right, 8 px down")
    url = page.run("document.querySelector('#canvas').toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        shown = np.asarray(image.convert("RGB"))
    assert (shown == np.roll(np.asarray(networks.picture()), (8, 1), axis=(0, 1))).all()


def test_a_shift_is_that_of_the_input_tensor(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the models are given is numpy's roll of the prepared picture, bit for bit, as `verify` shifts."""
    seen: list[tuple[str, Any]] = []
    submit = ServedModel.submit

    def remember(model: ServedModel, tensors: dict[str, Any], **arguments: Any) -> Any:
        seen.append((model.name, tensors["images"]))
        return submit(model, tensors, **arguments)

    monkeypatch.setattr(ServedModel, "submit", remember)
    page.run("document.querySelector('#stage').focus()")
    for key in ("ArrowLeft", "ArrowUp", "ArrowUp"):
        page.press(key)
    settle(page, "1 px left, 2 px up")
    last = dict(seen)
    for name, side in (("corner", 8), ("largest", 16)):
        prepared = networks.preprocessing(side).apply(networks.picture())[np.newaxis]
        expected = np.roll(prepared, (-2, -1), axis=(2, 3)).astype(last[name].dtype)
        assert last[name].tobytes() == expected.tobytes()


def test_keys_and_changed_answers(page: Page) -> None:
    first = networks.corner_colour((0, 0))
    page.run("document.querySelector('#stage').focus()")
    changed = 0
    for right in range(1, 6):
        page.press("ArrowRight")
        settle(page, f"{right} px right")
        colour = networks.corner_colour((right, 0))
        changed += colour != first
        assert answer(page, "corner") == colour
        assert card(page, "corner", ".badge") == ("as unshifted" if colour == first else f"changed, was {first}")
        assert "as unshifted" in card(page, "largest")
    assert changed > 0, "the picture is to be one whose corner changes"
    assert f"at {changed} ({100 * changed / 5:.1f} %)" in card(page, "corner")
    assert "Promises nothing" in card(page, "corner")
    assert "Promise broken at 5 shifts" in card(page, "liar")
    assert "Kept: not one bit" in card(page, "largest") and "at 5 of 5" in card(page, "largest")
    # Both networks that read the corner are listed, one after the other.
    assert page.run("document.querySelectorAll('#changes li').length") == 2 * changed
    counts = page.run("[...document.querySelectorAll('.strip .number')].map((count) => count.textContent)")
    assert counts == [f"{changed} changed", "0 changed", f"{changed} changed"]
    page.press("Home")
    settle(page, "not shifted")
    # A changed answer brings its shift back.
    page.run("document.querySelector('#changes li:last-child button').click()")
    page.wait("document.querySelector('#said').textContent.includes('changed')")
    assert page.problems == []


def test_dragging(page: Page) -> None:
    box = page.run("(({x, y, width}) => [x, y, width])(document.querySelector('#stage').getBoundingClientRect())")
    x, y, width = box
    start = (x + width / 2, y + width / 2)
    page.drag(start, (start[0] + 3.2 * width / SIDE, start[1] - 5.1 * width / SIDE))
    settle(page, "3 px right, 5 px up")
    assert answer(page, "corner") == networks.corner_colour((3, -5))


def test_playing_tries_the_smallest_shifts_first(page: Page) -> None:
    page.run("document.querySelector('#stage').focus()")
    page.press(" ")
    page.wait("document.querySelector('#play').getAttribute('aria-pressed') === 'true'")
    page.wait("/(2[4-9]|[3-9]\\d|1\\d\\d) of 255/.test(document.querySelector('#cards').innerText)")
    page.press(" ")
    page.wait("document.querySelector('#play').getAttribute('aria-pressed') === 'false'")
    offsets = page.run(
        """(async () => {
            const { spiral } = await import('/playground/shifts.js');
            const seen = [[0, 0]];
            for (let step = 1; step < 49; step += 1) {
                const { right, down } = spiral(...seen.at(-1));
                seen.push([right, down]);
            }
            return seen;
        })()"""
    )
    assert {tuple(offset) for offset in offsets} == {(right, down) for right in range(-3, 4) for down in range(-3, 4)}
    steps = np.abs(np.diff(offsets, axis=0)).sum(axis=1)
    assert (steps == 1).all()
    assert page.problems == []


def test_rolling_is_numpys(page: Page) -> None:
    values = np.arange(2 * 3 * 4 * 6, dtype="<f2").reshape(2, 3, 4, 6)
    for right, down in ((0, 0), (1, 0), (-1, 2), (13, -9)):
        rolled = page.run(
            f"""(async () => {{
                const {{ roll }} = await import('/playground/tensors.js');
                const bytes = Uint8Array.from({list(values.tobytes())});
                const tensor = {{ bytes, datatype: 'FP16', shape: [2, 3, 4, 6] }};
                return [...roll(tensor, {{ right: {right}, down: {down} }}).bytes];
            }})()"""
        )
        assert bytes(rolled) == np.roll(values, (down, right), axis=(2, 3)).tobytes()


def test_half_precision_is_read_as_numpy_does(page: Page) -> None:
    bits = np.concatenate([np.arange(0, 0x7C01, 31), np.arange(0x8000, 0xFC01, 37), [0x7C00, 0xFC00]]).astype("<u2")
    read = page.run(
        f"""(async () => {{
            const {{ halfToNumber }} = await import('/playground/tensors.js');
            return {bits.tolist()}.map(halfToNumber).map(String);
        }})()"""
    )
    numbers = [float(text.replace("Infinity", "inf")) for text in read]
    assert numbers == bits.view("<f2").astype(float).tolist()


def test_what_is_no_picture(page: Page, tmp_path: Path) -> None:
    text = tmp_path / "letter.png"
    text.write_text("Dear Sir")
    page.choose_file("#file", text)
    page.wait(f"!document.querySelector('#alert').hidden && {IS_SETTLED}")
    assert "None of the models takes this picture" in page.run("document.querySelector('#alert').textContent")
    assert "cannot be read" in card(page, "corner") and answer(page, "corner") == ""
    assert page.run("document.querySelector('#play').disabled")


def test_a_token_is_asked_for(tab: Page, tmp_path: Path) -> None:
    repository = networks.write_repository(tmp_path / "models")
    with running(repository / "corner" / "1" / "model.onnx", token="sesame") as server:
        tab.open(server.where.url)
        tab.wait("document.activeElement.id === 'token'")
        assert ANSWERED and tab.run(ANSWERED) == 0
        for given, is_right in (("wrong", False), ("sesame", True)):
            tab.run(f"document.querySelector('#token').value = '{given}'")
            tab.press("Enter")
            tab.wait(f"{ANSWERED} === 1" if is_right else "!document.querySelector('#alert').hidden")
            assert tab.run("document.querySelector('#token-form').hidden") is is_right
            assert tab.run("document.querySelector('#alert').hidden") is is_right
        assert tab.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0


def test_a_server_that_stops_says_so_on_the_page(tab: Page, tmp_path: Path) -> None:
    repository = networks.write_repository(tmp_path / "models")
    with starting(repository / "corner" / "1" / "model.onnx") as (server, thread):
        tab.open(server.where.url)
        tab.wait(f"{ANSWERED} === 1")
        server.stopping.ask()
        thread.join(60)
        tab.run("document.querySelector('#stage').focus()")
        tab.press("ArrowLeft")
        tab.wait("document.querySelector('#alert').textContent.includes('does not answer')")
        tab.wait(f"{ANSWERED} === 0")  # an answer to another shift would mislead


def test_keyboard_alone(page: Page) -> None:
    """Everything can be reached by Tab, and what is reached is marked."""
    page.run("document.activeElement.blur()")
    reached = []
    for _ in range(5):
        page.press("Tab")
        outline = "getComputedStyle(document.activeElement.id === 'file' ? document.querySelector('.button')"
        assert page.run(f"{outline} : document.activeElement).outlineStyle") == "solid"
        reached.append(page.run("document.activeElement.id || document.activeElement.title"))
    assert reached == ["stage", "play", "back", "file", "truck"]
    page.press("Enter")
    page.wait("document.querySelector('#picture-name').textContent === 'truck'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_sizes_and_schemes(page: Page, tmp_path: Path, width: int, scheme: str) -> None:
    page.show_as(width=width, height=800, scheme=scheme)
    assert page.run("document.documentElement.scrollWidth") <= width
    page.run("document.querySelector('#stage').focus()")
    page.press("ArrowRight")
    settle(page, "1 px right")
    page.run("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
    page.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        assert width - 20 < image.width <= width  # without a scroll bar
        red, green, blue = image.convert("RGB").getpixel((2, 2))
    assert (min(red, green, blue) > 200) if scheme == "light" else (max(red, green, blue) < 60)
    contrasts = page.run(CONTRASTS)
    assert len(contrasts) >= 10 and min(contrasts) >= 4.5, contrasts


# WCAG's contrast of every text with the nearest background that is painted behind it.
CONTRASTS = """
(() => {
    const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = (colour) => {
        const [red, green, blue] = channels(colour).slice(0, 3).map((value) => {
            const share = value / 255;
            return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const behind = (element) => {
        const colour = getComputedStyle(element).backgroundColor;
        return channels(colour)[3] === 0 ? behind(element.parentElement) : colour;
    };
    return [...document.querySelectorAll('h1, h2, .hint, .badge, .number, dt, dd, .promise, .problem, .legend')]
        .filter((element) => element.textContent.trim() && element.offsetParent !== null)
        .map((element) => {
            const [one, other] = [luminance(getComputedStyle(element).color), luminance(behind(element))];
            return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        });
})()
"""
