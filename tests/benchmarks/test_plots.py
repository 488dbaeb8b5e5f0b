import itertools
import re

from benchmarks.plots import Axis, Guide, chart


def test_names_of_close_guides_do_not_overlap() -> None:
    across, up = Axis("x", 1, 100, logarithmic=True), Axis("y", 1, 1000, logarithmic=True)
    guides = [Guide(f"{name} limit", [(1, rate), (100, rate)]) for name, rate in (("a", 160), ("b", 161), ("c", 900))]
    svg = chart("Roofline", across, up, [], {}, guides).svg
    heights = sorted(float(y) for y in re.findall(r'y="([\d.]+)">\w limit<', svg))
    assert len(heights) == 3
    assert min(high - low for low, high in itertools.pairwise(heights)) >= 9.5  # the height of a name
