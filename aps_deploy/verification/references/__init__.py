"""What a file is compared with: a checkpoint, another ONNX file, saved answers, or nothing at all."""
