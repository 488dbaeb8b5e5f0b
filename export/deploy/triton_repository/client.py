"""Draws a picture with Triton.

pip install "tritonclient[grpc]" pillow
python client.py "a yellow bird" --seed 7
"""

import argparse
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

MODEL = "BUNDLE"


def draw(url: str, caption: str, seed: int, truncation: float) -> Any:  # noqa: ANN401
    """The picture of a caption and a seed: uint8 (R, R, 3). Raises `InferenceServerException`."""
    inputs = []
    for name, datatype, value in (
        ("CAPTION", "BYTES", np.array([[caption.encode()]], object)),
        ("SEED", "UINT32", np.array([[seed]], np.uint32)),
        ("TRUNCATION", "FP64", np.array([[truncation]], np.float64)),
    ):
        tensor = triton.InferInput(name, value.shape, datatype)
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    with triton.InferenceServerClient(url) as client:
        return client.infer(MODEL, inputs).as_numpy("PIXELS")[0]


def main() -> None:
    """Parses the arguments, draws, and writes the picture."""
    parser = argparse.ArgumentParser(description=f"Draw a picture with Triton's model {MODEL}.")
    parser.add_argument("caption")
    parser.add_argument("--seed", type=int, default=0, help="0 to 4294967295")
    parser.add_argument("--truncation", type=float, default=1.0, help="above 0, at most 1")
    parser.add_argument("--out", default="picture.png")
    parser.add_argument("--url", default="localhost:8001", help="address of Triton's gRPC service")
    parser.add_argument("--compare", metavar="PICTURE", help="report by how much this picture differs")
    arguments = parser.parse_args()
    try:
        pixels = draw(arguments.url, arguments.caption, arguments.seed, arguments.truncation)
    except (InferenceServerException, OverflowError) as error:  # OverflowError: a seed that is out of range
        sys.exit(f"Error: {error}")
    Image.fromarray(pixels).save(arguments.out)
    print(arguments.out)
    if arguments.compare:
        off = np.abs(pixels.astype(int) - np.asarray(Image.open(arguments.compare)))
        print(f"differs from {arguments.compare} by {off.max()} levels of 255 at most, {off.mean():.2f} on average")


if __name__ == "__main__":
    main()
