"""A verified file as a folder that other servers run: Triton's model repository, a compose file, a KServe manifest."""
