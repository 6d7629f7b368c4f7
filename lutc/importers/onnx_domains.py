"""Operator domains in ONNX files."""

LUTC_DOMAIN = "lutc"
STANDARD_DOMAINS = ("", "ai.onnx")
