"""From a lowered graph to an engine that is proved and measured: on the host, and on the device without PyTorch."""
