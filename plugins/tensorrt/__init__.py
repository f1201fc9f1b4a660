"""The GPU kernels as TensorRT plugins, compiled ahead of time into the engine."""
