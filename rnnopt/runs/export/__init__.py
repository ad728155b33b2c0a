"""Trained models for other programs: ONNX, TorchScript, safetensors."""
