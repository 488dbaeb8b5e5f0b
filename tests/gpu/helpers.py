"""What the tests on a GPU share. Their only skip is that there is no GPU: what is missing on one is a failure."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from t2i_engine.backends import find_backend
from t2i_engine.backends.base import NO_GPU, Runner, cuda_device_count
from t2i_engine.bundle import Bundle
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Format
from t2i_engine.parity import Case, OpenFormat, compare
from t2i_engine.picture_reference import read_picture_reference, sentence_reach
from t2i_engine.reference import read_reference

CUDA = "cuda"
BATCHES = (1, 4, 16)
NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(cuda_device_count() == 0, reason=NO_GPU)]


def open_runners(bundle: Bundle, row: Format) -> dict[str, Runner]:
    """A runner on the GPU for each graph. Fails where the bundle lacks the format."""
    assert row in bundle.formats, f"{row.name} was left out of the bundle: {bundle.manifest.rejected}"
    backend = find_backend(row.backend)
    return {graph: backend.open_runner(bundle, row, graph, CUDA, None) for graph in (TEXT_ENCODER, GENERATOR)}


def reference_cases(bundle: Bundle) -> Iterator[Case]:
    """The bundle's reference, in batches of other sizes: repeated, or its first part."""
    for case in read_reference(bundle).cases():
        yield case
        for batch in BATCHES:
            feeds, expected = (
                {name: np.resize(array, (batch, *array.shape[1:])) for name, array in arrays.items()}
                for arrays in (case.feeds, case.expected)
            )
            yield replace(case, name=f"{case.name}, as a batch of {batch}", feeds=feeds, expected=expected)


def assert_parity(bundle: Bundle, row: Format, runners: dict[str, Runner]) -> None:
    """Compares runners with the bundle's reference, three times: CUDA graphs are warmed up, captured and replayed."""
    opened = OpenFormat(row, runners)
    pictures = read_picture_reference(bundle) if row.judged_by_pictures else None
    reach = sentence_reach(pictures)
    for _ in range(3):
        findings = compare([opened], reference_cases(bundle), "the bundle's reference", sentence_reach=reach)
        for found in [*findings, *(pictures.judge(opened, bundle.sizes, "fp32's pictures") if pictures else [])]:
            assert found.ok, str(found)
