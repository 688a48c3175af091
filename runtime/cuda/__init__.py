"""CUDA without a framework: memory and streams by PyCUDA, graphs and kernels where their libraries are found."""
