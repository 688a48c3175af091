"""PyTorch side: data, models, losses, training loops, caption and image metrics."""
