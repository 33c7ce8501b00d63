"""The networks in PyTorch: build, load, train, export."""
