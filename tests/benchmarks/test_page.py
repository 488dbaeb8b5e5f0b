"""The page's plots: legible, themed, and with a tooltip for each mark."""

import itertools
import re
from dataclasses import replace

from benchmarks.benchmark import Outcome
from benchmarks.page import as_html
from benchmarks.report import Roofline


def test_names_of_close_guides_do_not_overlap(outcome: Outcome) -> None:
    roofline = Roofline("cpu", 1, fp32=160, bf16=161, fp16=None, int8=900, bandwidth=1e3)
    page = as_html(replace(outcome.report, rooflines=(roofline,)))
    heights = sorted(float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>(?:fp32|bf16|int8) \d+<', page))
    assert len(heights) == 3
    assert min(high - low for low, high in itertools.pairwise(heights)) >= 9.5  # the height of a name


def test_plots_take_their_colours_from_the_page_and_have_tooltips(outcome: Outcome) -> None:
    plots = re.findall(r"<svg.*?</svg>", as_html(outcome.report), re.DOTALL)
    assert len(plots) >= 4
    for plot in plots:
        assert "var(--c0)" in plot
        assert not re.search(r"#(?!m)[0-9a-f]{6}\b", plot)  # #m… refers to a marker's shape
    assert "<title>onnx: 1, " in plots[-1]
