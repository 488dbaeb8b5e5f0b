"""What a model's data say about its use, however the model came to learn from them."""

import pytest

from t2i_engine.provenance import data_terms

CUB = {"dataset": {"source": "cub:birds"}}
OWN = {"dataset": {"source": "folder:flowers"}}


@pytest.mark.parametrize("source", ["cub:birds", "cub+attributes:cub"])
def test_cub_is_for_research_whatever_its_folder_is_called(source: str) -> None:
    terms = data_terms({"dataset": {"source": source}})
    assert terms is not None
    for part in ("research only, not under Apache-2.0", "CUB-200-2011", "Flickr", "Wah et al.", "Reed et al."):
        assert part in terms


def test_nothing_is_claimed_of_other_data() -> None:
    assert data_terms({}) is None
    for dataset in ({"source": "folder:flowers"}, {"source": "synthbirds"}, {}, "cub"):
        assert data_terms({"dataset": dataset}) is None


def test_terms_outlive_packing_and_further_training_on_other_data() -> None:
    terms = data_terms(CUB)
    assert terms
    assert data_terms({"dataset": {"source": "packed:p", "origin": "cub:birds"}}) == terms
    assert data_terms(OWN | {"initial": OWN | {"initial": CUB}}) == terms


def test_terms_of_several_data_sets_are_each_told_once() -> None:
    coco = {"dataset": {"source": "coco:coco"}}
    alone = [data_terms(one) or "" for one in (coco, CUB)]
    assert data_terms(coco | {"initial": CUB | {"initial": coco}}) == "; ".join(alone)
    assert "Flickr" in alone[0]
