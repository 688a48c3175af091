"""What ships on the device: bundles, executors, beam search, cameras and the command line.

Imports neither torch, onnx, tensorrt nor pycuda; an executor imports its own library when it is made.
"""
