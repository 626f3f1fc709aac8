"""Trivet: a durable, leased work queue that three or five plain machines run together."""

__version__ = "0.1.0"
