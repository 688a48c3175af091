"""Super-resolution: generators, discriminator, paired degradations, and their training."""
