"""The int8 decoder in C for CPUs with AVX-512 VNNI or AVX2. See src/pilotlight.h for what it computes and how."""
