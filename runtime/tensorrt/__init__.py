"""TensorRT: engines built from a bundle on the device itself, kept in a cache, checked before they are used."""
