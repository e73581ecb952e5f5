"""Noisy latent + Conditioning -> clean estimate: attention, blocks, U-Net, denoiser."""
