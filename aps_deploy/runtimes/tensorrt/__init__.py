"""TensorRT and TensorRT for RTX: finding the toolkits, reading plans, running them. Importing this imports neither."""
