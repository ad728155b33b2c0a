"""Fused recurrent kernels for CPU and GPU, each with a fallback in torch's operators."""
