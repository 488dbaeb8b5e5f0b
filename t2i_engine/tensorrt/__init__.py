"""TensorRT and TensorRT for RTX: engines built from a bundle's ONNX graphs, with records that prove their precision.

Part of the runtime: neither building nor running an engine needs PyTorch or ONNX.
"""
