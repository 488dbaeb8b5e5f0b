"""TensorRT and TensorRT for RTX: engines built from a bundle's ONNX graphs, with a record that proves their precision.

Usable with the runtime alone: neither building nor running needs PyTorch or ONNX.
"""
