"""Which operator of an ONNX file does not move with the image: each runs alone, on moved inputs, bit for bit."""
