"""What the installed product runs: numpy and ONNX Runtime, no torch."""
