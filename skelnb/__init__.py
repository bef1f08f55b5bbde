"""Self-supervised understanding of human skeleton motion."""

__version__ = "0.1.0"
