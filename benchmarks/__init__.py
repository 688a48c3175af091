"""Latency and quality, measured beside peers."""
