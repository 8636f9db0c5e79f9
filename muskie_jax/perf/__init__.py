"""Measures and predicts speed, memory and network traffic."""
