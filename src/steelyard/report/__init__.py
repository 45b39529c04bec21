"""Placeholder until this folder is described."""
