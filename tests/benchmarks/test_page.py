"""The page's plots: legible, themed, and with a tooltip for each mark."""

import itertools
import re
from dataclasses import replace

from benchmarks.benchmark import Outcome
from benchmarks.page import as_html
from benchmarks.report import Roofline
from benchmarks.tables import as_markdown, verdict


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


def test_devices_are_told_apart(outcome: Outcome) -> None:
    report = outcome.report
    cases = [replace(one, case=replace(one.case, device="cuda")) for one in report.cases]
    exact = [replace(one, device="cuda", differences=replace(one.differences, psnr=51.5)) for one in report.static]
    both = replace(report, cases=(*report.cases, *cases), static=(*report.static, *exact))
    assert len(re.findall(r"At batch 1 with 1 thread on (cpu|cuda), the fastest target is", verdict(both))) == 2
    assert re.search(r"on cuda, the fastest target is \S+ \([\d.]+ ms per request, PSNR 51.5 dB\)", verdict(both))
    text = as_markdown(both)
    summary = [line for line in text.partition("## Latency")[0].splitlines() if line.startswith("| onnx (cuda) |")]
    assert len(summary) == 2
    assert all(line.endswith("| 51.5 |") for line in summary)
    assert re.findall(r"<h3>Latency of whole requests(.*)</h3>", as_html(both)) == [" on cpu", " on cuda"]
