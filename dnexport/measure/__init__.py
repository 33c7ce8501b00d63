"""Latency, accuracy and the machine they were measured on. Needs numpy and a session, no PyTorch."""
