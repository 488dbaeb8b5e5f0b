"""Segments of a run: one for every machine, version of the code, and start from a state."""

import json

import pytest

from training import provenance
from training.provenance import begin_segment, segments_of, segments_until

STEPS = {"damsm": 4, "gan": 6}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    move(monkeypatch)


def move(monkeypatch: pytest.MonkeyPatch, hardware: str = "a CPU, 2 cores", commit: str = "abc") -> None:
    monkeypatch.setattr(provenance, "hardware", lambda: hardware)
    monkeypatch.setattr(provenance, "working_commit", lambda: commit)


def first() -> list[provenance.Segment]:
    """The segments of a run that has trained for an hour."""
    return segments_until(begin_segment([], {"damsm": 0, "gan": 0}, exact=False), STEPS, 3600.0)


def test_a_new_run_has_one_segment() -> None:
    (segment,) = first()
    assert segment["steps"] == {"damsm": [0, 4], "gan": [0, 6]}
    assert segment["hours"] == 1.0
    assert (segment["commit"], segment["hardware"]) == ("abc", "a CPU, 2 cores")
    assert "note" not in segment
    assert json.loads(json.dumps(segment)) == segment


def test_a_run_resumed_ten_times_on_one_machine_still_has_one() -> None:
    segments, seconds = first(), 3600.0
    for gan in range(7, 17):
        seconds += 360
        segments = segments_until(begin_segment(segments, STEPS, exact=True), {"damsm": 4, "gan": gan}, seconds)
    (segment,) = segments
    assert segment["steps"] == {"damsm": [0, 4], "gan": [0, 16]}
    assert segment["hours"] == 2.0


@pytest.mark.parametrize("other", [{"hardware": "a GPU"}, {"commit": "def"}])
def test_other_hardware_or_code_begins_a_segment(monkeypatch: pytest.MonkeyPatch, other: dict[str, str]) -> None:
    before = first()
    move(monkeypatch, **other)
    segments = segments_until(begin_segment(before, STEPS, exact=True), {"damsm": 4, "gan": 9}, 5400.0)
    assert segments[:-1] == before
    assert segments[-1]["steps"] == {"damsm": [4, 4], "gan": [6, 9]}
    assert segments[-1]["hours"] == 0.5
    assert other.items() <= segments[-1].items()
    assert "note" not in segments[-1]


def test_a_state_begins_a_segment_even_on_the_same_machine() -> None:
    segments = begin_segment(first(), STEPS, exact=False)
    assert len(segments) == 2
    assert segments[-1]["note"] == "fresh optimizer moments"
    resumed = begin_segment(segments, {"damsm": 4, "gan": 8}, exact=True)
    assert resumed == segments


def test_a_run_from_before_segments_has_one_of_unknown_hardware() -> None:
    old = {"commit": "old", "steps": STEPS, "hours": 0.5, "versions": {"torch": "2.14.1"}}
    (segment,) = segments_of(old)
    assert segment == {"commit": "old", "torch": "2.14.1", "steps": {"damsm": [0, 4], "gan": [0, 6]}, "hours": 0.5}
    assert segments_of(old | {"segments": first()}) == first()
    assert len(begin_segment([segment], STEPS, exact=True)) == 2


def test_hardware_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    provenance.hardware.cache_clear()
    assert provenance.hardware().endswith(" cores")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H100")
    provenance.hardware.cache_clear()
    assert provenance.hardware().startswith("NVIDIA H100, ")
    provenance.hardware.cache_clear()
