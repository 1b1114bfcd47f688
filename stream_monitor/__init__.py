"""Online drift detection on Kafka streams of model predictions."""

__version__ = "0.1.0"
