"""rhlens."""
