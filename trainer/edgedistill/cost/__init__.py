"""What a student will cost on a board, from its kernels alone: latency, memory, size.  No torch."""
