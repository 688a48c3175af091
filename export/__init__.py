"""From a checkpoint to a bundle of ONNX graphs, with the parity proof against PyTorch."""
