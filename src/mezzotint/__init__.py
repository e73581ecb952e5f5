"""Mezzotint: one package for the whole life of a text-to-image latent diffusion model."""

__version__ = "0.1.0"
