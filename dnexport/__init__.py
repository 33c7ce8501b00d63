"""Export, quantize, prove and measure DenseNets on the machines they will run on."""

__version__ = "0.1.0"
