"""Which operator of an ONNX file does not move with the image: each run alone, on moved inputs, compared bit for bit."""
