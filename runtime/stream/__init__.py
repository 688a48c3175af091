"""Captions as a stream: sources of frames, the loop that captions the newest one, and sinks for what comes out."""
