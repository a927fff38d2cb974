from __future__ import annotations

import base64
import re
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from hf_emktd.distillation.kernels import TokenKernel
from hf_emktd.report.page import visible
from hf_emktd.report.pictures import gradient, heat_map, to_data_uri, to_svg
from hf_emktd.report.shown_clips import gram_maps, mask_strips

PURPLE, YELLOW = (68, 1, 84), (253, 231, 36)  # the ends of viridis


def opened(uri: str) -> Image.Image:
    assert uri.startswith("data:image/png;base64,")
    return Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")


def drawn() -> Figure:
    figure = Figure()
    figure.subplots().plot([0, 1], [1, 0], "ko-", label="a < b")
    return figure


def test_a_figure_follows_the_page():
    svg = to_svg(drawn(), "one")
    assert svg.startswith("<svg") and "currentColor" in svg and "#000000" not in svg
    assert not re.search(r"<(metadata|script|image)\b", svg) and 'height="' not in svg.partition(">")[0]
    assert svg == to_svg(drawn(), "one")


def test_figures_of_a_page_share_no_id():
    ids = [set(re.findall(r'\bid="([^"]+)"', to_svg(drawn(), name))) for name in ("one", "two")]
    assert ids[0] and not ids[0] & ids[1]
    svg = to_svg(drawn(), "one")
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= ids[0]


def test_a_heat_map_runs_from_low_to_high():
    image = opened(to_data_uri(heat_map(np.array([[0.5, 1.0], [2.0, 0.0]]), 0.5, 1.0, "viridis")))
    assert [image.getpixel(place) for place in ((0, 0), (1, 0), (0, 1), (1, 1))] == [PURPLE, YELLOW, YELLOW, PURPLE]
    assert heat_map(np.eye(400), 0, 1, "viridis").size == (192, 192)
    assert heat_map(np.ones((2, 2)), 1, 1, "viridis").convert("RGB").getpixel((0, 0)) == PURPLE
    assert gradient("viridis").startswith("#440154, ") and gradient("viridis").endswith("#fde725")


def test_gram_matrices_of_a_clip():
    student, teacher = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    maps = gram_maps("audio", student, teacher, TokenKernel("linear"))
    assert (maps.tokens, maps.low, maps.high, maps.largest) == (2, 0.0, 1.0, 1.0)
    assert [opened(maps.student).getpixel((x, 0)) for x in (0, 1)] == [YELLOW, PURPLE]
    assert [opened(maps.teacher).getpixel((x, 0)) for x in (0, 1)] == [YELLOW, YELLOW]


def test_masks_over_frames():
    frame = BytesIO()
    Image.new("RGB", (16, 16), (10, 200, 30)).save(frame, "PNG")
    labels = torch.stack([torch.ones(8, 8), torch.full((8, 8), -100)]).long()
    logits = {"teacher": torch.full((2, 16, 16), 4.0), "student": torch.full((2, 8, 8), -4.0)}
    strips = mask_strips([frame.getvalue()] * 2, labels, logits)
    assert list(strips) == ["ground truth", "teacher", "student"]
    # 128 pixels, a gap of 4, 128 pixels
    pixels = {title: [opened(uri).getpixel((x, 64)) for x in (64, 196)] for title, uri in strips.items()}
    plain = (10, 200, 30)
    assert pixels["student"] == [plain, plain] and pixels["ground truth"][1] == plain
    assert pixels["ground truth"][0] == pixels["teacher"][0] == pixels["teacher"][1] != plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc é 狗", "a\tb\nc é 狗"),
        ("\x1b[31mred\x00\x7f\x9b", "?[31mred???"),
        ("evil\u202egpj.exe\u2066", "evil?gpj.exe?"),
        ("file\udcff", "file?"),
    ],
)
def test_what_cannot_be_seen_is_marked(text, shown):
    assert visible(text) == shown.replace("?", "\N{REPLACEMENT CHARACTER}")
