"""echo-stream: says, within seconds and with evidence, when a machine no longer sounds normal."""

__version__ = "0.1.0"
