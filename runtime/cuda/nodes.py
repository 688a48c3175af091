"""Where the operating system shows an NVIDIA GPU. Apart, because the doctor asks where not even NumPy loads."""

GPU_NODES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvhost-ctrl-gpu", "/dev/nvgpu")
"""Device files of NVIDIA's drivers, on cards and on Jetsons. A container may be given another GPU than number 0."""
