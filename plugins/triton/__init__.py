"""The GPU kernels: polyphase selection, with its blur, forward and backward, for PyTorch and TensorRT, in Triton.

Nothing here imports triton before a kernel is wanted: `usage` says whether one can be, `torch_calls` launches them on
tensors, `ahead_of_time` compiles the same functions to PTX on a machine without a GPU.
"""
