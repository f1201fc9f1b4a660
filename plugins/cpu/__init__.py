"""The CPU kernels: polyphase selection, with its blur, in one pass over memory; in C, for ONNX Runtime and PyTorch."""
