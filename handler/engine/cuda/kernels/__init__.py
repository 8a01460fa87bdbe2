"""Triton kernels, one job each, beside the functions that launch them. Importing any of them imports Triton."""
