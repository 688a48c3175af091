"""What camscribe is measured beside. Peers may need PyTorch; nothing else of the package imports them."""
