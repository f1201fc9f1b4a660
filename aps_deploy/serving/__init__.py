"""The inference server: Open Inference Protocol v2 over HTTP and gRPC, in one process."""
