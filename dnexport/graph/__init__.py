"""Rewrites of ONNX graphs, one pass a file, and the one list that says which graph gets which (`passes_for`)."""
