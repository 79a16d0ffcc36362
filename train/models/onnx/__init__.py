"""ONNX files: read as black boxes, and written from networks here."""
