"""In which layer of a file the error is made: each layer against the reference's, driven by the file's own maps."""
