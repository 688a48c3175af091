"""The web page of a stream: its picture and captions for browsers, and the same for programs."""
