"""What is measured: detection, throughput, and the simulations behind constants."""
