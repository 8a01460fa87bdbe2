/* The kernels once more, in the plain C of simd_plain.h. */
#pragma GCC target("f16c,fma")
#define PL_ISA plain
#define PL_INLINE static inline /* inlined everywhere it takes long to compile, and speed is no matter here */
#define PL_SIMD "simd_plain.h"

#include "attention.c"
#include "decoder.c"
#include "matmul.c"
#include "rows.c"
#include "team.c"
