"""Learning: the same stages, the same denoiser, the other direction."""
