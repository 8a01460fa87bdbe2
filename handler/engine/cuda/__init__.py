"""The CUDA path: steps launched ahead, replayed graphs, paged attention, sampling on the device."""
