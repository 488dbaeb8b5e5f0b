"""What every data set yields: a picture with its captions."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Example(NamedTuple):
    """One picture of a data set and everything that may be said of it.

    `image` is uint8 (R, R, 3), RGB; `captions` holds all captions of the picture; `key` names the picture within all
    data sets and never changes ("synthbirds/train/000123"). Pictures of one `group` have captions that describe the
    group, such as a class, so that each fits all of them; empty where the captions describe the picture.
    """

    image: NDArray[np.uint8]
    captions: tuple[str, ...]
    key: str
    group: str = ""
