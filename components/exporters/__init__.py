"""Exporters: ways to turn a causal language model into a graph for ONNX Runtime GenAI. One file each."""
